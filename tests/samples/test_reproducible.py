"""The built samples are what their sources give: rebuilt with the recorded compiler, every byte is the same."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
RECORD = json.loads((SAMPLES / "BUILD.json").read_text())
TOOLS = {"compiler": "clang-14", "linker": "lld-link-14"}


def need_tool(role: str) -> None:
    """Skips unless the tool of that role is installed in the very version that BUILD.json records."""
    tool = TOOLS[role]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed; the samples were built with {RECORD[role]}")
    version = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    if version.strip() != RECORD[role]:
        pytest.skip(f"{tool} here is {version.strip()!r}; the samples were built with {RECORD[role]!r}")


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.e[fl][fi]"))}


def test_built_files_are_the_recorded_ones() -> None:
    assert digests(SAMPLES / "built") == RECORD["files"]


def test_sources_give_the_built_files(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for role in TOOLS:
        need_tool(role)
    command = ["make", "-C", str(SAMPLES), f"OUT={tmp_path}/built", f"OBJECTS={tmp_path}/objects"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    assert digests(tmp_path / "built") == RECORD["files"]
