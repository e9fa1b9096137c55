"""Writes a streamOptimized VMDK, as VMware's OVF tools and Amazon's import take it (VMware, Virtual Disk Format 5.0)."""

import zlib
from array import array
from typing import BinaryIO

from images.block import BlockDevice
from images.containers.deflate import LEVEL
from images.containers.fingerprint import fingerprint
from images.containers.vmdk import (
    COMPRESSED,
    DEFLATE,
    EOS,
    FOOTER,
    GD_AT_END,
    GRAIN_DIRECTORY,
    GRAIN_MARKER,
    GRAIN_TABLE,
    HEADER,
    MAGIC,
    MARKER,
    MARKERS,
    NEWLINES,
    SECTOR,
    TABLE_ENTRIES,
    VALID_NEWLINE,
)
from images.sparse import Progress, nonzero_blocks

GRAIN = 64 * 1024
_VERSION = 3
_DESCRIPTOR_AT, _DESCRIPTOR_SECTORS = 1, 20
_OVERHEAD = 128  # sectors before the first grain
_COVERED = TABLE_ENTRIES * GRAIN  # bytes of disk for each grain table

_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID={cid:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "7"
"""


def write_vmdk(device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
    """Writes all of `device` to `file`, which need not be seekable; the device's size is a multiple of 64 KiB.

    The content id comes from the disk: the same disk gives the same file.
    """
    _VmdkWriter(device, file).write(progress)


class _VmdkWriter:
    """Position and tables of one file that is being written; only one grain table is in memory."""

    def __init__(self, device: BlockDevice, file: BinaryIO) -> None:
        self._device = device
        self._file = file
        self._sector = 0
        self._directory = array("I", bytes(4 * -(-device.size // _COVERED)))
        self._table = array("I", bytes(4 * TABLE_ENTRIES))
        self._current = 0

    def write(self, progress: Progress | None) -> None:
        device = self._device
        cid = int.from_bytes(fingerprint(device)[:4], "little") & 0xFFFFFFFE  # all ones would mean: no parent
        cylinders = min(65535, device.size // (255 * 63 * SECTOR))
        text = _DESCRIPTOR.format(cid=cid, sectors=device.size // SECTOR, cylinders=cylinders)
        self._put(self._header(GD_AT_END))
        self._put(text.encode().ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0"))
        self._put(bytes((_OVERHEAD - self._sector) * SECTOR))
        for offset, data in nonzero_blocks(device, GRAIN, progress):
            self._grain(offset, data)
        self._end_table()
        directory = self._marked(GRAIN_DIRECTORY, self._directory.tobytes())
        self._marked(FOOTER, self._header(directory))
        self._put(MARKER.pack(0, 0, EOS))

    def _grain(self, offset: int, data: bytes) -> None:
        number, inside = divmod(offset, _COVERED)
        if number != self._current:
            self._end_table()
            self._current = number
        self._table[inside // GRAIN] = self._sector
        packed = zlib.compress(data.ljust(GRAIN, b"\0"), LEVEL)
        self._put(GRAIN_MARKER.pack(offset // SECTOR, len(packed)) + packed)

    def _end_table(self) -> None:
        if any(self._table):
            self._directory[self._current] = self._marked(GRAIN_TABLE, self._table.tobytes())
            self._table = array("I", bytes(4 * TABLE_ENTRIES))

    def _marked(self, kind: int, data: bytes) -> int:
        """Writes a marker and the metadata after it; gives the sector of the metadata."""
        self._put(MARKER.pack(-(-len(data) // SECTOR), 0, kind))
        where = self._sector
        self._put(data)
        return where

    def _put(self, data: bytes) -> None:
        """Writes whole sectors."""
        self._file.write(data)
        self._file.write(bytes(-len(data) % SECTOR))
        self._sector += -(-len(data) // SECTOR)

    def _header(self, directory: int) -> bytes:
        flags = VALID_NEWLINE | COMPRESSED | MARKERS
        return HEADER.pack(
            MAGIC, _VERSION, flags, self._device.size // SECTOR, GRAIN // SECTOR, _DESCRIPTOR_AT, _DESCRIPTOR_SECTORS,
            TABLE_ENTRIES, 0, directory, _OVERHEAD, 0, NEWLINES, DEFLATE,
        ).ljust(SECTOR, b"\0")  # fmt: skip
