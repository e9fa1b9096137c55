"""`cvmboot attest` and `cvmboot platform`, as a person runs them."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from sev.platform import Platform

COMMAND = [sys.executable, "-m", "cvmboot"]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def _cvmboot(*words: object, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*COMMAND, *map(str, words)], input=typed, capture_output=True, timeout=60, check=False)


@pytest.fixture
def report(turin: Platform, tmp_path: Path) -> Path:
    """A signed report of the emulated Turin in a file."""
    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report(report_data=b"n" * 64).encode()))
    return file


def test_a_report_verifies_with_its_platform_only(
    report: Path, turin: Platform, milan: Platform, tmp_path: Path
) -> None:
    done = _cvmboot("attest", "verify", report, "--platform", turin.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"VERIFIED (EMULATED: VCEK Turin)\n")
    assert _cvmboot("attest", "verify", report).returncode == 5
    exported = tmp_path / "certificates.pem"
    assert _cvmboot("platform", "export", turin.folder, "-o", exported).returncode == 0
    for words in ((), ("--platform", milan.folder)):
        done = _cvmboot("attest", "verify", report, "--certs", exported, *words)
        assert done.returncode == 4
        assert b"this is an emulated platform's report" in done.stdout
        assert b"EMULATED" in done.stdout
    changed = bytearray(report.read_bytes())
    changed[0x90] ^= 1
    done = _cvmboot("attest", "verify", "-", "--platform", turin.folder, typed=bytes(changed))
    assert done.returncode == 4
    assert done.stdout.startswith(b"NOT VERIFIED: the VCEK did not sign this report, or the report was changed\n")


def test_the_verdict_as_json(report: Path, turin: Platform) -> None:
    done = _cvmboot("attest", "verify", report, "--platform", turin.folder, "--json")
    verdict = json.loads(done.stdout)
    assert (verdict["verified"], verdict["status"], verdict["emulated"]) == (True, 0, True)
    outcomes = {check["name"]: check["outcome"] for check in verdict["checks"]}
    assert outcomes["signature"] == outcomes["chain"] == outcomes["hwid"] == "passed"
    assert outcomes["revocation"] == "skipped"
    assert outcomes["measurement"] == "not asked"


def test_policy_has_a_status_of_its_own(turin: Platform, tmp_path: Path) -> None:
    file = tmp_path / "debug.bin"
    file.write_bytes(turin.sign_report(turin.report(policy=0xB0000, vmpl=1).encode()))
    done = _cvmboot("attest", "verify", file, "--platform", turin.folder)
    assert done.returncode == 7
    assert b"DEBUG" in done.stdout.splitlines()[0]
    words = ("--allow", "debug", "--allow", "vmpl")
    assert _cvmboot("attest", "verify", file, "--platform", turin.folder, *words).returncode == 0


def test_mistakes_have_their_status_and_one_line(report: Path, turin: Platform, tmp_path: Path) -> None:
    nothing = tmp_path / "zeros.bin"
    nothing.write_bytes(bytes(1184))
    text = tmp_path / "text"
    text.write_text("hello.")
    for status, words in (
        (3, ("attest", "verify", nothing)),
        (3, ("attest", "verify", text)),
        (3, ("attest", "show", nothing)),
        (3, ("attest", "verify", report, "--certs", text)),
        (1, ("attest", "verify", tmp_path / "missing")),
        (3, ("attest", "verify", tmp_path)),
        (1, ("attest", "verify", report, "--platform", tmp_path)),
        (1, ("platform", "new", turin.folder)),
        (1, ("platform", "show", tmp_path)),
        (1, ("platform", "export", turin.folder, "-o", tmp_path)),
        (2, ("attest", "verify")),
        (2, ("attest", "verify", report, "--at", "yesterday")),
        (2, ("attest", "verify", report, "--at", "0001-01-01T00:00:00+14:00")),
        (2, ("attest", "verify", report, "--allow", "all")),
        (2, ("platform", "new", tmp_path / "x", "--product", "rome")),
        (2, ("platform", "new", tmp_path / "x", "--tcb", "fmcSPL")),
        (2, ("platform", "new", tmp_path / "x", "--hwid", "xy")),
        (2, ("platform", "new", tmp_path / "x", "--firmware", "1.55")),
        (1, ("platform", "new", tmp_path / "x", "--hwid", "00")),
        (2, ("platform", "export", turin.folder, "--format", "pkcs12")),
        (2, ("platform", "kds", turin.folder, "--port", "70000")),
    ):
        done = _cvmboot(*words)
        assert done.returncode == status, (words, done)
        assert b"Traceback" not in done.stderr
        said = done.stderr + (done.stdout.splitlines()[0] + b"\n" if done.stdout else b"")
        assert said.count(b"\n") == 1, (words, said)


def test_an_expired_certificate_depends_on_the_time(report: Path, turin: Platform) -> None:
    done = _cvmboot("attest", "verify", report, "--platform", turin.folder, "--at", "2040-01-01")
    assert done.returncode == 5
    assert b"the VCEK expired" in done.stdout


def test_show_decodes_for_people_and_machines(report: Path) -> None:
    text = _cvmboot("attest", "show", report).stdout.decode()
    assert "fmcSPL=1 blSPL=3 teeSPL=2 snpSPL=6 ucodeSPL=117" in text
    assert "0x25 SMT_EN ECC_EN ALIAS_CHECK_COMPLETE" in text
    plain = json.loads(_cvmboot("attest", "show", report, "--json").stdout)
    assert plain["version"] == 5
    assert plain["report_data"] == "6e" * 64
    assert plain["cpuid"]["product"] == "Turin"
    assert plain["reported_tcb"]["ucodeSPL"] == 117


def test_real_reports_on_the_command_line(real_data: Path) -> None:
    wanted = {"milan-v2-vcek-377e6241": 7, "milan-v2-vlek-affb92f9": 5, "turin-v5-vcek-3f44a09b": 0}
    for name, status in wanted.items():
        pair = real_data / "pairs" / name
        words = ("--certs", real_data / "roots", "--certs", pair / "vek.der", "--certs", real_data / "crl")
        done = _cvmboot("attest", "verify", pair / "report.bin", *words, "--at", "2026-08-20")
        assert done.returncode == status, done.stdout
        assert done.stderr == b""
        assert b"EMULATED" not in done.stdout


def test_platforms_are_made_shown_and_exported(tmp_path: Path) -> None:
    folder = tmp_path / "milan"
    words = ("--product", "milan", "--tcb", "snpSPL=30", "--firmware", "1.55.99", "--vlek", "--csp-id", "CN=test")
    done = _cvmboot("platform", "new", folder, *words)
    assert done.returncode == 0, done.stderr
    plain = json.loads(_cvmboot("platform", "show", folder, "--json").stdout)
    assert plain["reported_tcb"] == "0400000000001edb"
    assert plain["firmware"] == [1, 55, 99]
    assert plain["load_vlek"] is True
    assert set(plain["certificates"]) == {"ARK", "ASK", "ASVK"}
    assert "CN=test" in _cvmboot("platform", "show", folder).stdout.decode()
    every = _cvmboot("platform", "export", folder).stdout
    assert every.count(b"BEGIN CERTIFICATE") == 5
    assert every.count(b"BEGIN X509 CRL") == 1
    assert b"PRIVATE" not in every
    table = _cvmboot("platform", "export", folder, "--format", "table").stdout
    assert table[:4].hex() == "a8074bc2"
    ark = _cvmboot("platform", "export", folder, "--format", "der", "--certificate", "ark").stdout
    seen = subprocess.run(
        ["openssl", "x509", "-inform", "der", "-noout", "-subject"], input=ark, capture_output=True, check=True
    )
    assert b"CN = ARK-Milan" in seen.stdout


def test_the_kds_serves_until_ctrl_c(turin: Platform) -> None:
    with subprocess.Popen(
        [*COMMAND, "platform", "kds", str(turin.folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/vcek/v1/Turin/cert_chain", timeout=20) as answer:
            assert answer.read().count(b"BEGIN CERTIFICATE") == 2
        port = address.rpartition(":")[2]
        taken = _cvmboot("platform", "kds", turin.folder, "--port", port)
        assert taken.returncode == 1
        assert f"port {port}".encode() in taken.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
