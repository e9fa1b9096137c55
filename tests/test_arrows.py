"""The import arrows of docs/ARCHITECTURE.md: who may know whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "loader": set(),
    "machine": set(),
    "images": {"loader"},
    "uefi": {"machine", "loader", "images"},
    "sev": set(),
    "sev/guest": {"machine", "sev"},
    "cloud": {"images"},
    "cvmboot": {"cloud", "machine", "loader", "images", "sev", "uefi"},
}


def _imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_it_may_know(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    inner = [ROOT / name for name in MAY_IMPORT if name.startswith(f"{package}/")]
    files = [f for f in sorted((ROOT / package).rglob("*.py")) if not any(f.is_relative_to(part) for part in inner)]
    assert files
    wrong = {
        str(file.relative_to(ROOT)): bad for file in files if (bad := (_imports(file) & set(MAY_IMPORT)) - allowed)
    }
    assert not wrong
