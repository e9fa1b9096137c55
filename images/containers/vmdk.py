"""VMDK sparse extents, streamOptimized among them, read as a disk (VMware, Virtual Disk Format 5.0)."""

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from struct import Struct, unpack_from

from images.block import BlockDevice, check_range
from images.errors import ContainerError, UnsupportedFormat, WriteProtected

MAGIC = b"KDMV"
SECTOR = 512
# SparseExtentHeader: magicNumber, version, flags, capacity, grainSize, descriptorOffset, descriptorSize, numGTEsPerGT,
# rgdOffset, gdOffset, overHead, uncleanShutdown, the four characters, compressAlgorithm
HEADER = Struct("<4sIIQQQQIQQQB4sH")
VALID_NEWLINE, REDUNDANT, ZERO_GRAINS = 0x1, 0x2, 0x4
COMPRESSED, MARKERS = 0x10000, 0x20000
GD_AT_END = 0xFFFFFFFFFFFFFFFF
NEWLINES = b"\n \r\n"
DEFLATE = 1
MARKER = Struct("<QII")  # val, size, type; a grain's data begin where the type would be
GRAIN_MARKER = Struct("<QI")
EOS, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = 0, 1, 2, 3
TABLE_ENTRIES = 512
MOST_SECTORS = (64 << 40) // SECTOR
_MOST_TABLES = 1 << 22
_CACHED = 32


class VmdkDevice:
    """The disk in one self-contained sparse extent: a read-only BlockDevice."""

    read_only = True
    block_size = SECTOR

    def __init__(self, file: BlockDevice) -> None:
        """Reads the header and the grain directory of `file`.

        Raises UnsupportedFormat for a kind that is not read, ContainerError for tables that cannot be.
        """
        self.file = file
        header = self._header(0)
        if header[9] == GD_AT_END:
            header = self._footer()
        (_, _, flags, capacity, grain, self._descriptor_at, self._descriptor_sectors, per_table, *_) = header
        directory, algorithm = header[9], header[13]
        _check("capacity", capacity, 0 < capacity <= MOST_SECTORS, f"1 to {MOST_SECTORS} sectors")
        _check("grainSize", grain, 8 <= grain <= 2048 and grain.bit_count() == 1, "a power of two from 8 to 2048")
        _check("numGTEsPerGT", per_table, per_table == TABLE_ENTRIES, f"{TABLE_ENTRIES}")
        self.compressed = bool(flags & COMPRESSED)
        if self.compressed and (algorithm != DEFLATE or not flags & MARKERS):
            raise UnsupportedFormat(
                f"VMDK: compression {algorithm} with flags {flags:#x}, only deflate with markers is read"
            )
        self._zero_grains = bool(flags & ZERO_GRAINS)
        self.size: int = capacity * SECTOR
        self.grain_size: int = grain * SECTOR
        tables = -(-capacity // (grain * per_table))
        _check("capacity", capacity, tables <= _MOST_TABLES, f"at most {_MOST_TABLES} grain tables")
        where = directory * SECTOR
        if not SECTOR <= where <= file.size - 4 * tables:
            raise ContainerError(
                f"VMDK: a grain directory of {tables} tables at sector {directory} is outside the file"
            )
        self._directory = unpack_from(f"<{tables}I", file.read(where, 4 * tables))
        used = [entry for entry in self._directory if entry]
        for entry in used:
            if not 0 < entry * SECTOR <= file.size - 4 * TABLE_ENTRIES:
                raise ContainerError(f"VMDK: a grain table at sector {entry} is outside the file of {file.size} bytes")
        if len(set(used)) != len(used):
            raise ContainerError("VMDK: two places of the grain directory name the same grain table")
        self._tables: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._grains: OrderedDict[int, bytes] = OrderedDict()

    def descriptor(self) -> dict[str, str]:
        """The embedded text's settings; empty if there is none that can be read."""
        start, size = self._descriptor_at * SECTOR, self._descriptor_sectors * SECTOR
        if not start or size > 1 << 16 or start + size > self.file.size:
            return {}
        text = self.file.read(start, size).partition(b"\0")[0].decode("utf-8", "replace")
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
        return {name.strip(): value.strip().strip('"') for name, _, value in pairs}

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read(). Raises ContainerError for grains that lie elsewhere or do not unpack."""
        check_range(self, offset, count)
        parts = []
        end = offset + count
        while offset < end:
            index, start = divmod(offset, self.grain_size)
            size = min(end - offset, self.grain_size - start)
            parts.append(self._grain(index, start, size))
            offset += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse: the grains that are in the file."""
        for number, where in enumerate(self._directory):
            if where:
                for entry, sector in enumerate(self._table(number)):
                    offset = (number * TABLE_ENTRIES + entry) * self.grain_size
                    if self._present(sector) and offset < self.size:
                        yield offset, min(self.grain_size, self.size - offset)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Refused."""
        raise WriteProtected("VMDK images are only read here; make a raw one to write to")

    def flush(self) -> None:
        """Nothing to do."""

    def _header(self, offset: int) -> tuple[int, ...]:
        if not 0 <= offset <= self.file.size - SECTOR:
            raise ContainerError(f"VMDK: the file of {self.file.size} bytes has no room for a header at {offset}")
        fields = HEADER.unpack_from(self.file.read(offset, SECTOR))
        if fields[0] != MAGIC:
            raise ContainerError(f"VMDK: magic {fields[0].hex()} at {offset}, wanted {MAGIC.hex()}")
        _check("version", fields[1], 1 <= fields[1] <= 3, "1 to 3")
        if fields[2] & VALID_NEWLINE and fields[12] != NEWLINES:
            raise ContainerError("VMDK: its line ends were converted: it was copied as text")
        return fields

    def _footer(self) -> tuple[int, ...]:
        """The header that stands at the end of a streamed file, with the directory's place in it."""
        start = self.file.size // SECTOR * SECTOR - 3 * SECTOR
        if start < SECTOR:
            raise ContainerError(f"VMDK: {self.file.size} bytes have no room for the footer")
        _, size, kind = MARKER.unpack_from(self.file.read(start, SECTOR))
        if size or kind != FOOTER:
            raise ContainerError("VMDK: no footer at the end of the file: it was cut off")
        fields = self._header(start + SECTOR)
        if fields[9] == GD_AT_END:
            raise ContainerError("VMDK: the footer does not say where the grain directory is")
        return fields

    def _table(self, number: int) -> tuple[int, ...]:
        table = self._tables.get(number)
        if table is None:
            raw = self.file.read(self._directory[number] * SECTOR, 4 * TABLE_ENTRIES)
            table = self._tables[number] = unpack_from(f"<{TABLE_ENTRIES}I", raw)
            if len(self._tables) > _CACHED:
                self._tables.popitem(last=False)
        return table

    def _present(self, sector: int) -> bool:
        return sector > 1 or (sector == 1 and not self._zero_grains)

    def _grain(self, index: int, start: int, size: int) -> bytes:
        number, entry = divmod(index, TABLE_ENTRIES)
        if not self._directory[number]:
            return bytes(size)
        sector = self._table(number)[entry]
        if not self._present(sector):
            return bytes(size)
        if self.compressed:
            return self._unpacked(index, sector)[start : start + size]
        where = sector * SECTOR
        if where + self.grain_size > self.file.size and where + start + size > self.file.size:
            raise ContainerError(
                f"VMDK: grain {index} at sector {sector} is outside the file of {self.file.size} bytes"
            )
        return self.file.read(where + start, size)

    def _unpacked(self, index: int, sector: int) -> bytes:
        grain = self._grains.get(index)
        if grain is not None:
            return grain
        where = sector * SECTOR
        if where + GRAIN_MARKER.size > self.file.size:
            raise ContainerError(
                f"VMDK: grain {index} at sector {sector} is outside the file of {self.file.size} bytes"
            )
        lba, size = GRAIN_MARKER.unpack(self.file.read(where, GRAIN_MARKER.size))
        if lba * SECTOR != index * self.grain_size:
            raise ContainerError(f"VMDK: the marker at sector {sector} is of LBA {lba}, the tables say grain {index}")
        if not 0 < size <= 2 * self.grain_size or where + GRAIN_MARKER.size + size > self.file.size:
            raise ContainerError(f"VMDK: grain {index} has {size} compressed bytes, wanted 1 to {2 * self.grain_size}")
        unpack = zlib.decompressobj()
        try:
            grain = unpack.decompress(self.file.read(where + GRAIN_MARKER.size, size), self.grain_size)
        except zlib.error as error:
            raise ContainerError(f"VMDK: grain {index} does not unpack: {error}") from None
        left = min(self.grain_size, self.size - index * self.grain_size)
        if len(grain) < left:
            raise ContainerError(f"VMDK: grain {index} unpacks to {len(grain)} bytes, wanted {self.grain_size}")
        self._grains[index] = grain
        if len(self._grains) > _CACHED:
            self._grains.popitem(last=False)
        return grain


def _check(field: str, value: int, good: bool, wanted: str) -> None:
    if not good:
        raise ContainerError(f"VMDK: {field} is {value}, wanted {wanted}")
