"""Fixtures for Compute Engine; conftest.py imports them."""

import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gce_run import Runner
from strict_gce.server import Server

from cloud.source import Source

ROOT = Path(__file__).parents[2]
PATIENCE = 100


@pytest.fixture(scope="session")
def google_server() -> Iterator[Server]:
    """The stand-in for Google Cloud: one for all tests of a process."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def google(google_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Google Cloud as on the first day, in this process's and its children's environment."""
    google_server.reset()
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    for name, value in google_server.environment(tmp_path / "key.json").items():
        monkeypatch.setenv(name, value)
    return google_server


@pytest.fixture(scope="session")
def small_source() -> Source:
    """A disk of 1 GiB with a small application."""
    from cvmboot.deploy_image import source_of

    return source_of(ROOT / "samples" / "built" / "hello.efi")


@pytest.fixture
def gce(google: Server, small_source: Source, state: Path) -> Runner:
    """Someone who deploys on Compute Engine, where nothing takes long, from this process."""
    google.world.looks_until_done = 1
    return Runner(google, small_source, state)


@pytest.fixture
def cvmboot_process(state: Path) -> "Callable[..., subprocess.CompletedProcess[str]]":
    """Run the command line to its end in a process of its own, with this test's journal."""

    def run(*words: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cvmboot", *map(str, words), "--state", str(state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=ROOT)

    return run


@pytest.fixture(scope="session")
def certificate() -> bytes:
    """DER of an X.509 certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=3650))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
