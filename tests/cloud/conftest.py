"""What the tests of the clouds share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "cvmboot"]
PATIENCE = 100

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def aws_server() -> "Iterator[Server]":  # type: ignore[name-defined]  # noqa: F821
    """The stand-in for AWS: one for all tests of a process."""
    from strict_aws.server import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture
def world(aws_server: "Server", monkeypatch: pytest.MonkeyPatch) -> "World":  # type: ignore[name-defined]  # noqa: F821
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
def cvmboot(state: Path) -> Run:
    """Run the command line to its end, with a journal of its own."""

    def run(*words: object, **options: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *map(str, words), "--state", str(state)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def application() -> Path:
    """A small EFI application."""
    return Path(__file__).parents[2] / "samples" / "built" / "hello.efi"


def needs(tool: str) -> str:
    """The path of a tool; skips the test without it."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path
