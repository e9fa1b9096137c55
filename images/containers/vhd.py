"""VHD: the footer of a fixed disk, and the disk before it (Microsoft, Virtual Hard Disk Image Format Specification 1.0)."""

from collections.abc import Iterator
from struct import Struct

from images.block import BlockDevice, SliceDevice
from images.errors import ContainerError, UnsupportedFormat
from images.sparse import extents

COOKIE = b"conectix"
FOOTER_SIZE = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
# Cookie, Features, Version, Data Offset, Time Stamp, Creator Application/Version/Host OS, Original Size, Current Size,
# Cylinders, Heads, Sectors, Disk Type, Checksum, Unique Id, Saved State
FOOTER = Struct(">8sIIQI4sI4sQQHBBII16sB")
VERSION = 0x00010000
CHECKSUM_OFFSET = 64


def checksum(footer: bytes | bytearray) -> int:
    """The one's complement of the sum of all bytes, the checksum's own taken as zero."""
    own = footer[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4]
    return ~(sum(footer) - sum(own)) & 0xFFFFFFFF


class VhdDevice(SliceDevice):
    """The disk in a fixed VHD: a read-only BlockDevice."""

    def __init__(self, file: BlockDevice) -> None:
        """Raises UnsupportedFormat for dynamic and differencing disks, ContainerError for a damaged footer."""
        if file.size < 2 * FOOTER_SIZE:
            raise ContainerError(f"VHD: the file has {file.size} bytes, wanted a disk and a footer of {FOOTER_SIZE}")
        raw = file.read(file.size - FOOTER_SIZE, FOOTER_SIZE)
        at_start = file.read(0, len(COOKIE)) == COOKIE
        if raw[: len(COOKIE)] != COOKIE:
            where = "only at its start: it was cut off" if at_start else "nowhere"
            raise ContainerError(f"VHD: the footer's cookie {COOKIE.decode()!r} is {where}")
        fields = FOOTER.unpack_from(raw)
        if fields[2] >> 16 != VERSION >> 16:
            raise ContainerError(f"VHD: version {fields[2]:#x}, wanted {VERSION:#x}")
        if fields[14] != (wanted := checksum(raw)):
            raise ContainerError(f"VHD: the footer's checksum is {fields[14]:#010x}, its bytes give {wanted:#010x}")
        kind: int = fields[13]
        if kind != FIXED:
            name = {DYNAMIC: "a dynamic", DIFFERENCING: "a differencing"}.get(kind, f"an unknown ({kind}) kind of")
            raise UnsupportedFormat(f"VHD: {name} disk, only fixed ones are read")
        size: int = fields[9]
        if size != file.size - FOOTER_SIZE:
            raise ContainerError(f"VHD: Current Size is {size}, the file has {file.size - FOOTER_SIZE} before the footer")
        super().__init__(file, 0, size, block_size=512)
        self.creator = fields[5].decode("ascii", "replace")

    @property
    def read_only(self) -> bool:
        """Always: the footer's timestamp would have to change, too."""
        return True

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse."""
        for offset, size in extents(self.base):
            if offset < self.size:
                yield offset, min(size, self.size - offset)
