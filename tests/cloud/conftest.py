"""What the tests of the clouds share: the stand-in for AWS, the command line, an application."""

import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clouds import COMMAND, ROOT, SMALL_DISK, Command, Ran, needs
from gce_fixtures import certificate, cvmboot_process, gce, google, google_server, small_source  # noqa: F401

if TYPE_CHECKING:
    from strict_aws.server import Server
    from strict_aws.world import World


@pytest.fixture(scope="session")
def aws_server() -> "Iterator[Server]":
    """The stand-in for AWS: one for all tests of a process."""
    pytest.importorskip("moto")
    from strict_aws.server import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _service_models_are_read_once() -> "Iterator[None]":
    """Each command opens an AWS session of its own, and each session parses a megabyte of JSON anew: not in tests."""
    import botocore.session
    from botocore.loaders import create_loader

    loader = create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session.botocore.loaders, "create_loader", lambda *_: loader)
        yield


@pytest.fixture
def world(aws_server: "Server", monkeypatch: pytest.MonkeyPatch) -> "World":
    """AWS as on the first day, in this process's and its children's environment."""
    from strict_aws.server import environment
    from strict_aws.world import WORLD

    aws_server.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(aws_server.address).items():
        monkeypatch.setenv(name, value)
    return WORLD


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of the journal."""
    return tmp_path / "state"


@pytest.fixture
def deploy(state: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `cvmboot deploy ...` with a journal of its own, in this process: main() is what the installed script calls.

    Applications become small disks, and nobody waits long.
    """
    from cloud import wait

    monkeypatch.setattr(wait, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(wait, "LONGEST_PAUSE", 0.1)

    def run(*words: object) -> Ran:
        from cvmboot.cli import main

        if words[0] in ("ec2", "gce") and str(words[1]).endswith((".efi", ".elf")) and "--size" not in words:
            words = (*words, *SMALL_DISK)
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["deploy", *map(str, words), "--state", str(state)])
        out.flush()
        return Ran(status, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]

    return run


@pytest.fixture
def deploy_process(state: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """The same in a process of its own, started and not waited for."""

    def run(*words: object) -> "subprocess.Popen[str]":
        command = [*COMMAND, "deploy", *map(str, words), "--state", str(state)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


@pytest.fixture
def application() -> Path:
    """A small EFI application."""
    return ROOT / "samples" / "built" / "hello.efi"


@pytest.fixture
def tool() -> Callable[[str], str]:
    """needs(), for who does not import."""
    return needs
