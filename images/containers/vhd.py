"""VHD read as a disk, fixed or dynamic (Microsoft, Virtual Hard Disk Image Format Specification 1.0)."""

from array import array
from collections.abc import Iterator
from struct import Struct

from images.block import BlockDevice, SliceDevice, check_range
from images.errors import ContainerError, UnsupportedFormat, WriteProtected
from images.sparse import extents

COOKIE = b"conectix"
FOOTER_SIZE = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
# Cookie, Features, Version, Data Offset, Time Stamp, Creator Application/Version/Host OS, Original Size, Current Size,
# Cylinders, Heads, Sectors, Disk Type, Checksum, Unique Id, Saved State
FOOTER = Struct(">8sIIQI4sI4sQQHBBII16sB")
VERSION = 0x00010000
CHECKSUM_OFFSET = 64
DYNAMIC_COOKIE = b"cxsparse"
DYNAMIC_SIZE = 1024
# Cookie, Data Offset, Table Offset, Header Version, Max Table Entries, Block Size, Checksum
DYNAMIC_HEADER = Struct(">8sQQIIII")
DYNAMIC_CHECKSUM_OFFSET = 36
MOST_SIZE = 2040 << 30
_UNUSED = 0xFFFFFFFF


def checksum(raw: bytes | bytearray, at: int = CHECKSUM_OFFSET) -> int:
    """The one's complement of the sum of all bytes, the checksum's own, which stands at `at`, taken as zero."""
    return ~(sum(raw) - sum(raw[at : at + 4])) & 0xFFFFFFFF


class VhdDevice(SliceDevice):
    """The disk in a fixed VHD: a read-only BlockDevice."""

    kind = "fixed"

    def __init__(self, file: BlockDevice, size: int) -> None:
        """`size`: the footer's Current Size. Raises ContainerError if the file has another."""
        if size != file.size - FOOTER_SIZE:
            raise ContainerError(
                f"VHD: Current Size is {size}, the file has {file.size - FOOTER_SIZE} bytes before its footer"
            )
        super().__init__(file, 0, size, block_size=512)

    @property
    def read_only(self) -> bool:
        """Always: the image is only read here."""
        return True

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse."""
        for offset, size in extents(self.base):
            if offset < self.size:
                yield offset, min(size, self.size - offset)


class DynamicVhdDevice:
    """The disk in a dynamic VHD: a read-only BlockDevice."""

    kind = "dynamic"
    read_only = True
    block_size = 512

    def __init__(self, file: BlockDevice, size: int, header_at: int) -> None:
        """`size`: the footer's Current Size; `header_at`: its Data Offset. Raises ContainerError."""
        self.file = file
        self.size = size
        if not FOOTER_SIZE <= header_at <= file.size - DYNAMIC_SIZE:
            raise ContainerError(f"VHD: a dynamic disk header at {header_at} is outside the file of {file.size} bytes")
        raw = file.read(header_at, DYNAMIC_SIZE)
        cookie, _, table_at, _, entries, self._block, given = DYNAMIC_HEADER.unpack_from(raw)
        if cookie != DYNAMIC_COOKIE:
            raise ContainerError(f"VHD: the dynamic disk header's cookie is {cookie!r}, wanted {DYNAMIC_COOKIE!r}")
        if given != (wanted := checksum(raw, DYNAMIC_CHECKSUM_OFFSET)):
            raise ContainerError(f"VHD: the dynamic header's checksum is {given:#010x}, its bytes give {wanted:#010x}")
        if not 1 << 16 <= self._block <= 1 << 28 or self._block.bit_count() != 1:
            raise ContainerError(f"VHD: Block Size is {self._block}, wanted a power of two from 64 KiB to 256 MiB")
        needed = -(-size // self._block)
        if entries < needed or not FOOTER_SIZE <= table_at <= file.size - 4 * needed:
            raise ContainerError(f"VHD: a table of {entries} blocks at {table_at}, wanted {needed} within the file")
        self._table = array("I", file.read(table_at, 4 * needed))
        self._table.byteswap()
        self._bitmap = -(-self._block // 512 // 8 // 512) * 512
        used = [sector for sector in self._table if sector != _UNUSED]
        if any(not 0 < sector * 512 <= file.size - self._bitmap for sector in used) or len(set(used)) != len(used):
            raise ContainerError("VHD: a block lies outside the file, or two blocks are the same")

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read(). Raises ContainerError for a block that the file does not have."""
        check_range(self, offset, count)
        parts = []
        end = offset + count
        while offset < end:
            index, start = divmod(offset, self._block)
            size = min(end - offset, self._block - start)
            where = self._table[index] * 512 + self._bitmap + start
            if self._table[index] == _UNUSED:
                parts.append(bytes(size))
            elif where + size > self.file.size:
                raise ContainerError(f"VHD: block {index} ends outside the file of {self.file.size} bytes")
            else:
                parts.append(self.file.read(where, size))
            offset += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse: the blocks that are in the file."""
        for index, sector in enumerate(self._table):
            if sector != _UNUSED:
                yield index * self._block, min(self._block, self.size - index * self._block)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Refused."""
        raise WriteProtected("VHD images are only read here; make a raw one to write to")

    def flush(self) -> None:
        """Nothing to do."""


def open_vhd(file: BlockDevice) -> VhdDevice | DynamicVhdDevice:
    """The disk that the footer of `file` tells of.

    Raises UnsupportedFormat for differencing disks, ContainerError for a damaged footer.
    """
    if file.size < 2 * FOOTER_SIZE:
        raise ContainerError(f"VHD: the file has {file.size} bytes, wanted a disk and a footer of {FOOTER_SIZE}")
    raw = file.read(file.size - FOOTER_SIZE, FOOTER_SIZE)
    if raw[: len(COOKIE)] != COOKIE:
        raise ContainerError("VHD: the footer is not at the end of the file: it was cut off")
    fields = FOOTER.unpack_from(raw)
    version, data_at, size, kind, given = fields[2], fields[3], fields[9], fields[13], fields[14]
    if version >> 16 != VERSION >> 16:
        raise ContainerError(f"VHD: version {version:#x}, wanted {VERSION:#x}")
    if given != (wanted := checksum(raw)):
        raise ContainerError(f"VHD: the footer's checksum is {given:#010x}, its bytes give {wanted:#010x}")
    if not 0 < size <= MOST_SIZE or size % 512:
        raise ContainerError(f"VHD: Current Size is {size}, wanted sectors of 512 bytes, at most {MOST_SIZE}")
    if kind == FIXED:
        return VhdDevice(file, size)
    if kind == DYNAMIC:
        return DynamicVhdDevice(file, size, data_at)
    name = "a differencing disk" if kind == DIFFERENCING else f"a disk of kind {kind}"
    raise UnsupportedFormat(f"VHD: {name}, only fixed and dynamic ones are read")
