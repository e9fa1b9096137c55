"""`from sev import ...`: the example in docs/library.md runs as it stands, and what is named is there, lazily."""

import re
import subprocess
import sys
from pathlib import Path

import sev
from sev.platform import Platform

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "library.md"


def _python(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _example() -> str:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(example)


def test_the_example_of_the_documentation(real_pairs: list[Path], real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    for root in (real_data / "roots").glob("*.der"):
        (folder / root.name).write_bytes(root.read_bytes())
    for pair in real_pairs:
        (folder / f"{pair.name}.bin").write_bytes((pair / "report.bin").read_bytes())
        (folder / f"{pair.name}.der").write_bytes((pair / "vek.der").read_bytes())
    lines = _python(_example(), tmp_path).splitlines()
    assert len(lines) == len(real_pairs)
    refused = [line for line in lines if " False " in line]
    assert len(refused) == 2
    assert "DEBUG" in refused[0] and "VLEK expired" in refused[1]


def test_the_example_without_real_reports(milan: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    for certificate in milan.certificates():
        (folder / f"{certificate.kind}.der").write_bytes(certificate.der)
    (folder / "one.bin").write_bytes(milan.sign_report(milan.report().encode()))
    (line,) = _python(_example(), tmp_path).splitlines()
    assert line.startswith("one.bin False this is an emulated platform's report")


def test_all_names_are_there_and_cheap(tmp_path: Path) -> None:
    for name in sev.__all__:
        assert getattr(sev, name).__name__ == name
    program = """
import sys
from sev import Report, Tcb
heavy = [name for name in ("cryptography", "asn1crypto", "httpx", "cvmboot", "machine", "uefi") if name in sys.modules]
assert not heavy, heavy
import sev.verifier
from sev import verify, Verifier
assert callable(verify) and Verifier is sev.verifier.Verifier
"""
    _python(program, tmp_path)


def test_every_object_of_the_document_is_exported() -> None:
    named = set(re.findall(r"`([A-Z][a-z]\w+|[a-z]+_[a-z]+|verify|appraise)[`(.]", DOCUMENT.read_text()))
    assert {"Verifier", "Report", "verify", "appraise", "read_evidence"} <= named
    assert named <= {*sev.__all__, "to_json"}, named
