"""What the tests of batches share: an emulated chip, its certificates in a file, reports, and the real command."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_batch import PATIENCE, Run

from sev.platform import Platform


@pytest.fixture(scope="session")
def turin(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """An emulated Turin."""
    return Platform.new(tmp_path_factory.mktemp("platforms") / "turin", "turin")


@pytest.fixture(scope="session")
def roots(turin: Platform, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options that trust it and have its certificates at hand, as a verifier elsewhere would."""
    folder = tmp_path_factory.mktemp("certificates")
    for certificate in turin.certificates():
        (folder / f"{certificate.kind}.der").write_bytes(certificate.der)
    ark = turin.authority().certificates["ARK"]
    (folder / "ark.der").write_bytes(ark.der)
    return "--trust-root", str(folder / "ark.der"), "--certs", str(folder)


@pytest.fixture(scope="session")
def signed(turin: Platform) -> Callable[[int], bytes]:
    """A report whose REPORT_DATA is a number."""
    reports: dict[int, bytes] = {}

    def make(number: int) -> bytes:
        if number not in reports:
            data = number.to_bytes(64, "big")
            reports[number] = turin.sign_report(turin.report(report_data=data).encode())
        return reports[number]

    return make


@pytest.fixture(scope="session")
def many(signed: Callable[[int], bytes]) -> Callable[[Path, int], Path]:
    """Write JSON lines with so many records, of a few different reports; every tenth was changed."""

    def write(path: Path, count: int) -> Path:
        texts = [base64.b64encode(signed(number)).decode() for number in range(9)]
        bad = bytearray(signed(9))
        bad[0x90] ^= 1
        texts.append(base64.b64encode(bad).decode())
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({"id": f"host-{number}", "evidence": texts[number % 10]}) + "\n")
        return path

    return write


@pytest.fixture
def words(tmp_path: Path) -> Callable[..., list[str]]:
    """The words of `attest verify --batch`, offline, with a cache of the test's own."""

    def make(source: object, *more: object) -> list[str]:
        command = [sys.executable, "-m", "cvmboot", "attest", "verify", "--batch", str(source)]
        return [*command, "--offline", "--cache", str(tmp_path / "cache"), "--jobs", "2", *map(str, more)]

    return make


@pytest.fixture
def batch(words: Callable[..., list[str]]) -> Run:
    """Run it to its end."""

    def run(source: object, *more: object, typed: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words(source, *more), input=typed, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    return run
