"""What the tests of clouds import: how the command line is called, and what it came to.

Not in conftest.py: of several files of that name, one that runs later may find another.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cvmboot"]
SMALL_DISK = ("--size", "70M")
"""A disk of 1 GiB takes a second to hash; no test needs one."""


@dataclass
class Ran:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """Of standard error: where a refusal stands."""
        return self.err.rstrip("\n").rpartition("\n")[2]


Command = Callable[..., Ran]


def needs(tool: str) -> str:
    """The path of a tool; skips the test without it."""
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    return path


def succeeded(ran: Ran) -> Ran:
    """The same, of a command that did what it was to do."""
    assert ran.status == 0, ran.err
    return ran
