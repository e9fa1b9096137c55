"""`cvmboot deploy gce` as a person types it: output, exit status, the record, the journal, and what goes with them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clouds import ROOT
from strict_gce.server import Server
from strict_gce.signin import TOKEN_PREFIX

from cvmboot.cli import main

ZONE = ("--zone", "europe-west4-a")


@pytest.fixture
def here(state: Path, capsys: pytest.CaptureFixture[str]) -> "Here":
    return Here(state, capsys)


class Here:
    """The command line in this process."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._state, self._capsys = state, capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        self._capsys.readouterr()
        status = main([*map(str, words), "--state", str(self._state)])
        seen = self._capsys.readouterr()
        return status, seen.out, seen.err


def test_a_day_with_compute_engine(
    google: Server, cvmboot_process: Callable[..., Any], here: Here, application: Path, tmp_path: Path
) -> None:
    """One real process from file to console; then the others' view of it."""
    record = tmp_path / "app.json"
    done = cvmboot_process(
        "deploy", "gce", application, *ZONE, "--snp", "--max-run", "8h", "--console", "--record", record,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("cvmboot sample\r\nhello\r\n> ") or "hello\n> " in done.stdout
    assert "SEV-SNP: AMD Milan is in the zone" in done.stderr and "upload: " in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    plain = json.loads(record.read_text())
    assert plain["resources"]["instance"]["facts"]["snp"] is True
    assert plain["image"]["size"] == 1 << 30 and plain["options"]["max_run"] == 8 * 3600

    status, out, _ = here("deploy", "status", "--json")
    (run,) = json.loads(out)
    assert status == 0 and run["state"] == "complete" and run["run"] == plain["run"]
    assert {one["kind"] for one in run["resources"]} == {"instance", "image"}
    status, out, _ = here("deploy", "console", "hello", "--follow")
    assert status == 0 and "hello" in out
    status, out, _ = here("deploy", "gc", "--older-than", "0s")
    assert status == 0 and "no leftovers" in out
    status, out, _ = here("destroy", "hello")
    assert (status, google.world.left) == (0, []) and "destroyed, 2 resources deleted" in out
    assert here("deploy", "status")[1] == "no deployments\n"


def test_leftovers_are_shown_and_go_only_when_told(google: Server, here: Here, application: Path) -> None:
    google.world.operation_error["compute.instances.insert"] = {
        "code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "no room",
    }  # fmt: skip
    status, _, err = here("deploy", "gce", application, *ZONE, "--quiet")
    assert status == 1 and len(err.splitlines()) == 1
    assert "ZONE_RESOURCE_POOL_EXHAUSTED: no room; try another --zone" in err
    status, out, _ = here("deploy", "status")
    assert "unfinished" in out and "last error: " in out and "ZONE_RESOURCE_POOL_EXHAUSTED" in out
    assert "no leftovers" in here("deploy", "gc", "--older-than", "7d")[1]
    status, out, _ = here("deploy", "gc", "--older-than", "0s")
    assert "1 runs left over; --delete deletes them" in out and google.world.images
    assert here("deploy", "gc", "--older-than", "0s", "--delete")[0] == 0
    assert google.world.left == []


def test_a_dry_run_as_json(google: Server, here: Here, application: Path, state: Path) -> None:
    status, out, err = here("deploy", "gce", application, *ZONE, "--snp", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0 and not err and not state.exists() and not google.world.left
    assert [row["action"] for row in plan["steps"]] == ["create"] * 4
    assert {check["outcome"] for check in plan["checks"]} == {"ok"}


def test_an_elf_unikernel_goes_as_a_bios_image(google: Server, here: Here) -> None:
    unikernel = ROOT / "samples" / "built" / "unikernel_pvh.elf"
    status, _, err = here("deploy", "gce", unikernel, *ZONE, "--snp")
    assert status == 1 and "boots by BIOS, SEV-SNP needs UEFI: deploy an EFI application" in err
    assert here("deploy", "gce", unikernel, *ZONE, "--nic", "virtio")[0] == 0
    (image,) = google.world.bodies["compute.images.insert"]
    assert {one["type"] for one in image["guestOsFeatures"]} == {"GVNIC", "VIRTIO_SCSI_MULTIQUEUE"}
    (machine,) = google.world.bodies["compute.instances.insert"]
    assert "shieldedInstanceConfig" not in machine and machine["networkInterfaces"][0]["nicType"] == "VIRTIO_NET"


def test_secure_boot_keys_from_a_folder(
    google: Server, here: Here, application: Path, tmp_path: Path, certificate: bytes
) -> None:
    for name in ("PK", "KEK", "db"):
        (tmp_path / f"{name}.der").write_bytes(certificate)
    words = ("deploy", "gce", application, *ZONE, "--image-only", "--secure-boot-keys", tmp_path)
    status, _, err = here(*words)
    assert status == 1 and "the application is not signed" in err and not google.world.left
    assert here(*words, "--no-secure-boot")[0] == 0
    (sent,) = google.world.bodies["compute.images.insert"]
    assert set(sent["shieldedInstanceInitialState"]) == {"pk", "keks", "dbs"}


def test_nothing_secret_in_what_is_written(
    google: Server, here: Here, application: Path, state: Path, tmp_path: Path
) -> None:
    status, out, err = here("deploy", "gce", application, *ZONE, "--snp", "--record", tmp_path / "r")
    assert status == 0
    seen = out + err + "".join(path.read_text() for path in [*state.iterdir(), tmp_path / "r"])
    secrets = [*google.world.sessions, *google.sign_in._tokens]
    assert len(secrets) >= 2
    assert not [word for word in (*secrets, TOKEN_PREFIX, "PRIVATE KEY", "upload_id") if word in seen]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--nic", "e1000"), "--nic e1000: wanted gvnic or virtio"),
        (("--max-run", "soon"), "--max-run soon: wanted a number and a unit"),
        (("--max-run", "29s"), "--max-run of 29 seconds; wanted from 30s to 120d"),
        (("--max-run", "121d"), "wanted from 30s to 120d"),
        (("--image-only", "--snp"), "--image-only starts no machine"),
        (("--image-name", "My_Image"), "--image-name 'My_Image'; wanted lower-case letters"),
        (("--family", "x" * 64), "at most 63"),
        (("--guest-feature", "gvnic"), "--guest-feature 'gvnic'; wanted such as"),
        (("--name", "Big"), "--name 'Big'"),
    ],
)
def test_wrong_words_are_usage(
    google: Server, here: Here, application: Path, words: tuple[str, ...], wanted: str
) -> None:
    status, _, err = here("deploy", "gce", application, *ZONE, *words)
    assert status == 2 and wanted in err and len(err.splitlines()) == 1 and not google.world.calls


def test_googles_clients_are_imported_by_the_command_that_needs_them() -> None:
    """They take two seconds."""
    code = "import sys, cvmboot.commands, cloud.gce.provider; print([n for n in sys.modules if n in ('google', 'requests')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_zone_is_needed(google: Server, here: Here, application: Path) -> None:
    status, _, err = here("deploy", "gce", application)
    assert status == 2 and "--zone" in err


def test_a_journal_that_cannot_be_written_is_said_before_anything_is_made(
    google: Server, application: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    state = tmp_path / "file" / "runs"
    assert main(["deploy", "gce", str(application), *ZONE, "--quiet", "--state", str(state)]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "--state" in err and not google.world.left
