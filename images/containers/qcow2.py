"""qcow2, versions 2 and 3, read as a disk (QEMU, docs/interop/qcow2.txt). No backing file is ever opened."""

import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from struct import Struct, unpack_from

from images.block import BlockDevice, check_range
from images.errors import ContainerError, UnsupportedFormat, WriteProtected

MAGIC = b"QFI\xfb"
# magic, version, backing_file_offset, backing_file_size, cluster_bits, size, crypt_method, l1_size, l1_table_offset,
# refcount_table_offset, refcount_table_clusters, nb_snapshots, snapshots_offset
HEADER = Struct(">4sIQIIQIIQQIIQ")
# incompatible_features, compatible_features, autoclear_features, refcount_order, header_length
HEADER_V3 = Struct(">QQQII")
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET_MASK = 0x00FFFFFFFFFFFE00
ZERO_FLAG = 1
MOST_SIZE = 64 << 40
MOST_L1_BYTES = 32 << 20
_ENCRYPTION = {1: "AES", 2: "LUKS"}
# Bit 0 (dirty) and 1 (corrupt) are about refcounts, which reading does not need; the file is refused all the same.
_INCOMPATIBLE = {
    0: "it was not closed properly; repair it with qemu-img check -r all",
    1: "it is marked corrupt; repair it with qemu-img check -r all",
    2: "its data are in another file; convert it with qemu-img convert -O raw",
    3: "it is compressed otherwise than with zlib; convert it with qemu-img convert -O raw",
    4: "it has extended L2 entries; convert it with qemu-img convert -O raw",
}
_CACHED_TABLES, _CACHED_CLUSTERS = 16, 16


class Qcow2Device:
    """The disk in a qcow2 file without a backing file: a read-only BlockDevice."""

    read_only = True
    block_size = 512

    def __init__(self, file: BlockDevice) -> None:
        """Reads the header and the L1 table of `file`.

        Raises UnsupportedFormat for what is not read (a backing file, encryption, features), ContainerError.
        """
        self.file = file
        if file.size < HEADER.size:
            raise ContainerError(f"qcow2: the file has {file.size} bytes, wanted a header of {HEADER.size}")
        fields = HEADER.unpack(file.read(0, HEADER.size))
        magic, version, backing, _, bits, size, crypt, l1_size, l1_offset, *_ = fields
        if magic != MAGIC:
            raise ContainerError(f"qcow2: magic {magic.hex()}, wanted {MAGIC.hex()}")
        if version not in {2, 3}:
            raise UnsupportedFormat(f"qcow2: version {version}, only 2 and 3 are read; convert it with qemu-img")
        if version == 3:
            self._check_features()
        if backing:
            raise UnsupportedFormat(
                "qcow2: it has a backing file, and no other files are opened; make it whole with qemu-img convert -O raw"
            )
        if crypt:
            raise UnsupportedFormat(f"qcow2: it is encrypted ({_ENCRYPTION.get(crypt, crypt)})")
        _check("cluster_bits", bits, 9 <= bits <= 21, "9 to 21")
        _check("size", size, size <= MOST_SIZE, f"at most {MOST_SIZE}")
        self.version: int = version
        self.size: int = size
        self.cluster_size: int = 1 << bits
        self._bits: int = bits
        self._entries = self.cluster_size // 8
        needed = -(-size // (self.cluster_size * self._entries))
        _check("l1_size", l1_size, needed <= l1_size <= MOST_L1_BYTES // 8, f"{needed} to {MOST_L1_BYTES // 8}")
        if l1_offset % self.cluster_size or not 0 < l1_offset <= file.size - 8 * needed:
            raise ContainerError(f"qcow2: an L1 table at {l1_offset} is not aligned, or outside the {file.size} bytes")
        self._l1 = array("Q", [0]) * needed
        for index, (entry,) in enumerate(Struct(">Q").iter_unpack(file.read(l1_offset, 8 * needed))):
            self._l1[index] = self._table_offset(entry)
        used = [offset for offset in self._l1 if offset]
        if len(set(used)) != len(used):
            raise ContainerError("qcow2: two L1 entries name the same L2 table")
        self._tables: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._clusters: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read(). Raises ContainerError for clusters that lie elsewhere or do not unpack."""
        check_range(self, offset, count)
        parts = []
        end = offset + count
        while offset < end:
            index, start = divmod(offset, self.cluster_size)
            size = min(end - offset, self.cluster_size - start)
            parts.append(self._cluster(index, start, size))
            offset += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse: the clusters that have data."""
        for number, where in enumerate(self._l1):
            if where:
                for index, entry in enumerate(self._table(number), number * self._entries):
                    offset = index * self.cluster_size
                    if _has_data(entry) and offset < self.size:
                        yield offset, min(self.cluster_size, self.size - offset)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Refused."""
        raise WriteProtected("qcow2 images are only read here; make a raw one to write to")

    def flush(self) -> None:
        """Nothing to do."""

    def _check_features(self) -> None:
        if self.file.size < HEADER.size + HEADER_V3.size:
            raise ContainerError(f"qcow2: the file has {self.file.size} bytes, wanted a header of version 3")
        raw = self.file.read(HEADER.size, HEADER_V3.size)
        incompatible, _, _, refcount_order, length = HEADER_V3.unpack(raw)
        for bit in range(64):
            if incompatible >> bit & 1:
                reason = _INCOMPATIBLE.get(bit, f"it has the unknown feature {bit}; convert it with qemu-img")
                raise UnsupportedFormat(f"qcow2: {reason}")
        _check("refcount_order", refcount_order, refcount_order <= 6, "0 to 6")
        _check(
            "header_length", length, length >= HEADER.size + HEADER_V3.size, f"{HEADER.size + HEADER_V3.size} or more"
        )

    def _table_offset(self, entry: int) -> int:
        offset = entry & OFFSET_MASK
        if offset % self.cluster_size or offset > self.file.size - self.cluster_size:
            raise ContainerError(
                f"qcow2: an L2 table at {offset} is not aligned, or outside the {self.file.size} bytes"
            )
        return offset

    def _table(self, number: int) -> tuple[int, ...]:
        table = self._tables.get(number)
        if table is None:
            table = unpack_from(f">{self._entries}Q", self.file.read(self._l1[number], self.cluster_size))
            self._tables[number] = table
            if len(self._tables) > _CACHED_TABLES:
                self._tables.popitem(last=False)
        return table

    def _cluster(self, index: int, start: int, size: int) -> bytes:
        number, inside = divmod(index, self._entries)
        entry = self._table(number)[inside] if self._l1[number] else 0
        if not _has_data(entry):
            return bytes(size)
        if entry & COMPRESSED:
            return self._unpacked(index, entry)[start : start + size]
        offset = entry & OFFSET_MASK
        if offset % self.cluster_size:
            raise ContainerError(f"qcow2: cluster {index} at {offset} is not aligned to {self.cluster_size}")
        # The last cluster of a file may be cut short where its disk ends.
        if offset + start + size > self.file.size:
            raise ContainerError(f"qcow2: cluster {index} at {offset} is outside the file of {self.file.size} bytes")
        return self.file.read(offset + start, size)

    def _unpacked(self, index: int, entry: int) -> bytes:
        cluster = self._clusters.get(index)
        if cluster is not None:
            return cluster
        split = 62 - (self._bits - 8)
        offset = entry & (1 << split) - 1
        sectors = (entry & ~(COPIED | COMPRESSED)) >> split
        end = (offset // 512 + sectors + 1) * 512
        if not offset < self.file.size:
            raise ContainerError(f"qcow2: compressed cluster {index} at {offset} is outside the file")
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            packed = self.file.read(offset, min(end, self.file.size) - offset)
            cluster = unpack.decompress(packed, self.cluster_size)
        except zlib.error as error:
            raise ContainerError(f"qcow2: cluster {index} does not unpack: {error}") from None
        if len(cluster) != self.cluster_size:
            raise ContainerError(f"qcow2: cluster {index} unpacks to {len(cluster)} bytes, wanted {self.cluster_size}")
        self._clusters[index] = cluster
        if len(self._clusters) > _CACHED_CLUSTERS:
            self._clusters.popitem(last=False)
        return cluster


def _has_data(entry: int) -> bool:
    """Whether an L2 entry names data; without a backing file all others read as zeros."""
    if entry & COMPRESSED:
        return True
    return bool(entry & OFFSET_MASK) and not entry & ZERO_FLAG


def _check(field: str, value: int, good: bool, wanted: str) -> None:
    if not good:
        raise ContainerError(f"qcow2: {field} is {value}, wanted {wanted}")
