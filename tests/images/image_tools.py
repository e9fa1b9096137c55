"""What the tests of images that are built share: sample disks, outside tools, the files that a disk holds."""

import os
import random
import shutil
import subprocess
from itertools import zip_longest
from pathlib import Path

import pytest

from images.block import BlockDevice
from images.disk import Disk
from images.fat import FatVolume
from images.mosaic import Mosaic
from images.sparse import nonzero_blocks

HELLO = Path(__file__).parents[2] / "samples" / "built" / "hello.efi"
MIB, GIB = 1 << 20, 1 << 30
ENVIRONMENT = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
    "MTOOLS_SKIP_CHECK": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips unless all of these programs are there."""
    missing = [tool for tool in tools if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def tool(*command: object, good: tuple[int, ...] = (0,)) -> str:
    """Runs a tool; gives what it said. Fails the test unless its status is one of `good`."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120
    )
    assert done.returncode in good, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def files_on(device: BlockDevice) -> dict[str, bytes]:
    """The files of a disk's EFI system partition by their paths."""
    return {path: entry.read(0, entry.size) for path, entry in FatVolume(Disk(device).esp()).walk() if not entry.is_dir}


def patchy_disk(size: int, pieces: list[tuple[int, int]], seed: int = 1) -> Mosaic:
    """A device of zeros with pieces (offset, size) of data in it, each partly random and partly of one letter."""
    disk = Mosaic(size)
    chance = random.Random(seed)
    for offset, count in pieces:
        disk.place_bytes(offset, (chance.randbytes(count // 2) + b"x" * count)[:count])
    return disk


def assert_same_disk(one: BlockDevice, other: BlockDevice) -> None:
    """The same size, and the same bytes where either has any; zeros are not read."""
    assert one.size == other.size
    for left, right in zip_longest(nonzero_blocks(one, 65536), nonzero_blocks(other, 65536)):
        assert left == right
