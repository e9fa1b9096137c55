"""The record of a deployment as a policy: which launch digest a report must have."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clouds import Command, Ran, succeeded

if TYPE_CHECKING:
    from strict_aws.world import World


def test_the_record_says_which_launch_digest_a_report_must_have(
    deploy: Command, application: Path, world: "World", tmp_path: Path, firmware: Callable[[], Path]
) -> None:
    from cvmboot.cli import main

    ovmf, record = firmware(), tmp_path / "record.json"
    succeeded(deploy("ec2", application, "--snp", "--record", record, "--ovmf", ovmf))
    plain = json.loads(record.read_text())
    assert plain["policy"]["measurement"] == [plain["launch_digest"]] and len(plain["launch_digest"]) == 96
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["measure", "--ovmf", str(ovmf), "--vmm", "ec2", "--vcpus", "2"]) == 0
    assert out.getvalue().strip() == plain["launch_digest"]
    checked = attest("policy", "check", record)
    assert checked.status == 0 and "asks for measurement" in checked.out


def attest(*words: object) -> Ran:
    from cvmboot.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["attest", *map(str, words)])
    return Ran(status, out.getvalue(), err.getvalue())


def record_with(folder: Path, policy: Any) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps({"schema": "cvmboot.deployment/1", "policy": policy}))
    return path


def test_a_report_is_verified_by_a_record_and_not_by_another_machines(tmp_path: Path) -> None:
    from cvmboot.cli import main

    report = tmp_path / "report.bin"
    assert main(["platform", "new", str(tmp_path / "chip")]) == 0
    measurement = emulated_report(tmp_path / "chip", report)
    words = ("verify", report, "--platform", tmp_path / "chip", "--policy")
    good = attest(*words, record_with(tmp_path, {"measurement": [measurement]}))
    assert good.status == 0 and "VERIFIED" in good.out, good.err
    other = attest(*words, record_with(tmp_path, {"measurement": ["00" * 48]}))
    assert other.status not in (0, 1, 2) and "VERIFIED" not in other.out.replace("NOT VERIFIED", "")


def emulated_report(chip: Path, file: Path) -> str:
    """Write a report of an emulated platform; gives its measurement as hex digits."""
    from sev.platform import Platform

    platform = Platform.load(chip)
    report = platform.report(measurement=bytes(range(48)))
    file.write_bytes(platform.sign_report(report.encode()))
    return bytes(range(48)).hex()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": "cvmboot.deployment/1", "policy": {}}', "names no launch digest"),
        ('{"schema": "cvmboot.deployment/9", "policy": {"measurement": ["00"]}}', "cvmboot.deployment/9"),
        ('{"schema": "cvmboot.deployment/1", "policy": {"measurement": ["00"]}}', "measurement"),
        ('{"schema": "cvmboot.deployment/1", "policy": {"measurement": ["00"], "x": 1}}', "x"),
        ("{", "neither a policy file"),
        ("{}", "neither a policy file"),
        ("{" * 10_000, "neither a policy file"),
    ],
)
def test_a_record_that_asks_for_nothing_is_no_policy(tmp_path: Path, text: str, words: str) -> None:
    record = tmp_path / "record.json"
    record.write_text(text)
    ran = attest("policy", "check", record)
    assert ran.status == 2 and words in ran.last_line and "\n" not in ran.last_line


@pytest.fixture
def firmware(tmp_path: Path) -> Callable[[], Path]:
    """A firmware image that SEV-SNP measures; skips where Debian's is missing."""

    def find() -> Path:
        for path in (Path("/usr/share/ovmf/OVMF.amdsev.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd")):
            if path.exists():
                return path
        pytest.skip("no OVMF with SEV metadata is installed")

    return find
