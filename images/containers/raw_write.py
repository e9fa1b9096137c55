"""Writes a raw image: the disk's bytes as they are, with holes in the file where they are zero."""

from typing import BinaryIO

from images.block import BlockDevice
from images.sparse import Progress, nonzero_runs


def write_raw(device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
    """Writes all of `device` to the start of an empty, seekable `file`. OSError where the host cannot."""
    file.truncate(device.size)
    for offset, data in nonzero_runs(device, progress=progress):
        file.seek(offset)
        file.write(data)
