"""Writes a qcow2 image of version 3, its clusters compressed or as they are (QEMU, docs/interop/qcow2.txt)."""

import zlib
from array import array
from struct import pack
from typing import BinaryIO

from images.block import BlockDevice
from images.containers.deflate import LEVEL
from images.containers.qcow2 import COMPRESSED, COPIED, HEADER, HEADER_V3, MAGIC
from images.sparse import Progress, nonzero_blocks

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
_ENTRIES = CLUSTER // 8
_COVERED = _ENTRIES * CLUSTER  # bytes of disk for each L2 table
_REFCOUNT_ORDER = 4  # 16 bits
_REFCOUNTS = CLUSTER // 2
_WINDOW_BITS = -12  # QEMU unpacks with a window of 4 KiB
_SPLIT = 62 - (CLUSTER_BITS - 8)  # where the sector count of a compressed cluster's L2 entry starts


def write_qcow2(device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
    """Writes all of `device` to an empty, seekable `file`, each cluster compressed if that makes it smaller."""
    _Qcow2Writer(device, file, True).write(progress)


def write_qcow2_plain(device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
    """Writes all of `device` to an empty, seekable `file`, clusters as they are."""
    _Qcow2Writer(device, file, False).write(progress)


class _Qcow2Writer:
    """Header, L1 table, then clusters and L2 tables as they come, refcounts at the end.

    In memory are the L1 table, one L2 table and two bytes for each cluster of the file.
    """

    def __init__(self, device: BlockDevice, file: BinaryIO, compress: bool) -> None:
        self._device = device
        self._file = file
        self._compress = compress
        self._l1 = array("Q", [0]) * -(-device.size // _COVERED)
        self._l2 = array("Q", [0]) * _ENTRIES
        self._current = 0
        self._refcounts = array("H")
        self._tail = 0  # where the next compressed cluster may begin; 0: in a fresh cluster

    def write(self, progress: Progress | None) -> None:
        header = self._allocate(1)
        l1_offset = self._allocate(max(1, -(-8 * len(self._l1) // CLUSTER)))
        for offset, data in nonzero_blocks(self._device, CLUSTER, progress):
            number, inside = divmod(offset, _COVERED)
            if number != self._current:
                self._end_table()
                self._current = number
            self._l2[inside // CLUSTER] = self._store(data.ljust(CLUSTER, b"\0"))
        self._end_table()
        table_offset, table_clusters = self._write_refcounts()
        self._at(l1_offset, _big_endian(self._l1))
        head = HEADER.pack(
            MAGIC,
            3,
            0,
            0,
            CLUSTER_BITS,
            self._device.size,
            0,
            len(self._l1),
            l1_offset,
            table_offset,
            table_clusters,
            0,
            0,
        )
        extensions = pack(">II", 0, 0)  # none
        self._at(header, head + HEADER_V3.pack(0, 0, 0, _REFCOUNT_ORDER, HEADER.size + HEADER_V3.size) + extensions)
        self._file.truncate(len(self._refcounts) * CLUSTER)

    def _store(self, data: bytes) -> int:
        """Puts a cluster of data into the file; gives its L2 entry."""
        if self._compress:
            deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOW_BITS)
            packed = deflate.compress(data) + deflate.flush()
            if len(packed) < CLUSTER:
                return self._store_packed(packed)
        offset = self._allocate(1)
        self._at(offset, data)
        return offset | COPIED

    def _store_packed(self, packed: bytes) -> int:
        end = len(self._refcounts) * CLUSTER
        offset = self._tail
        # It may run over into the next cluster if that one follows at once.
        if not offset or (offset // CLUSTER * CLUSTER + CLUSTER != end and len(packed) > -offset % CLUSTER):
            offset = end
        last = (offset + len(packed) - 1) // CLUSTER
        self._refcounts.extend([0] * (last + 1 - len(self._refcounts)))
        for cluster in range(offset // CLUSTER, last + 1):
            self._refcounts[cluster] += 1
        self._at(offset, packed)
        after = offset + len(packed)
        self._tail = after if after % CLUSTER else 0
        sectors = (after - 1) // 512 - offset // 512
        return COMPRESSED | sectors << _SPLIT | offset

    def _end_table(self) -> None:
        if any(self._l2):
            offset = self._allocate(1)
            self._at(offset, _big_endian(self._l2))
            self._l1[self._current] = offset | COPIED
            self._l2 = array("Q", [0]) * _ENTRIES

    def _write_refcounts(self) -> tuple[int, int]:
        """Refcount blocks and table, which count themselves; gives the table's offset and clusters."""
        used = len(self._refcounts)
        blocks = table = 0
        while True:
            total = used + blocks + table
            need = -(-total // _REFCOUNTS), -(-8 * blocks // CLUSTER)
            if need == (blocks, table):
                break
            blocks, table = need
        table_offset = self._allocate(table)
        blocks_offset = self._allocate(blocks)
        self._at(table_offset, pack(f">{blocks}Q", *(blocks_offset + n * CLUSTER for n in range(blocks))))
        counts = self._refcounts[:]
        counts.byteswap()
        self._at(blocks_offset, counts.tobytes())
        return table_offset, table

    def _allocate(self, count: int) -> int:
        """So many new clusters with a refcount of 1; gives the offset of the first."""
        offset = len(self._refcounts) * CLUSTER
        self._refcounts.extend([1] * count)
        return offset

    def _at(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)


def _big_endian(table: "array[int]") -> bytes:
    swapped = table[:]
    swapped.byteswap()
    return swapped.tobytes()
