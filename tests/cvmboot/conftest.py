"""What the tests of the front door share: the real command, and images for it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "cvmboot"]
SAMPLES = Path(__file__).parents[2] / "samples" / "built"
PATIENCE = 60

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def command() -> list[str]:
    """The words that start the command line."""
    return list(COMMAND)


@pytest.fixture
def cvmboot() -> Run:
    """Run the command line to its end, with bytes for standard input."""

    def run(*words: object, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [*COMMAND, *map(str, words)], input=typed, capture_output=True, timeout=PATIENCE, check=False
        )

    return run


@pytest.fixture
def image(tmp_path: Path) -> Callable[[bytes], Path]:
    """Make a file of an image's bytes."""

    def make(data: bytes) -> Path:
        path = tmp_path / "guest.efi"
        path.write_bytes(data)
        return path

    return make


@pytest.fixture
def sample() -> Callable[[str], Path]:
    """The path of a built sample."""
    return lambda name: SAMPLES / f"{name}.efi"


@pytest.fixture
def guest() -> Callable[[str], Path]:
    """The path of a real guest program; skips the test where there is none."""

    def find(name: str) -> Path:
        folder = os.environ.get("CVMBOOT_GUESTS")
        if not folder:
            pytest.skip("CVMBOOT_GUESTS is not set: no real guest programs here")
        path = Path(folder) / name
        if not path.is_file():
            pytest.skip(f"no {name} in CVMBOOT_GUESTS={folder}")
        return path

    return find
