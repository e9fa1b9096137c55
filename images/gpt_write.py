"""Writes a GUID partition table, its backup and the protective MBR, the same bytes each time (UEFI 2.10, 5.3)."""

from struct import pack
from zlib import crc32

from images.block import BlockDevice
from images.errors import PartitionError
from images.gpt import ENTRY, HEADER, REVISION, SIGNATURE
from images.mbr import GPT_PROTECTIVE

ENTRY_COUNT = 128
NAME_LIMIT = 36  # UTF-16 units
_HEADER_BYTES = 92
_ALIGNMENT = 1 << 20


class NewPartition:
    """A partition to be written. LBAs in the device's blocks, both inclusive; GUIDs as the 16 bytes on disk."""

    __slots__ = ("attributes", "first_lba", "last_lba", "name", "type_guid", "unique_guid")

    def __init__(
        self,
        first_lba: int,
        last_lba: int,
        *,
        type_guid: bytes,
        unique_guid: bytes,
        name: str = "",
        attributes: int = 0,
    ) -> None:
        """Raises PartitionError for a name of more than 36 UTF-16 units or a GUID of another size."""
        if len(type_guid) != 16 or len(unique_guid) != 16:
            raise PartitionError(f"GUIDs of {len(type_guid)} and {len(unique_guid)} bytes, wanted 16")
        if len(name.encode("utf-16-le", "surrogatepass")) > NAME_LIMIT * 2:
            raise PartitionError(f"{name!r}: a partition name has at most {NAME_LIMIT} UTF-16 units")
        self.first_lba = first_lba
        self.last_lba = last_lba
        self.type_guid = type_guid
        self.unique_guid = unique_guid
        self.name = name
        self.attributes = attributes

    def pack(self) -> bytes:
        """The entry's 128 bytes."""
        name = self.name.encode("utf-16-le", "surrogatepass")
        return ENTRY.pack(self.type_guid, self.unique_guid, self.first_lba, self.last_lba, self.attributes, name)


def usable_range(size: int, block_size: int) -> tuple[int, int]:
    """(first, last) LBA that partitions of a disk of `size` bytes may use. Raises PartitionError if there are none."""
    blocks = size // block_size
    table = -(-ENTRY_COUNT * ENTRY.size // block_size)
    first, last = 2 + table, blocks - 2 - table
    if last < first:
        raise PartitionError(f"a disk of {size} bytes has no room for a GPT in blocks of {block_size}")
    return first, last


def first_aligned(block_size: int) -> int:
    """The LBA at 1 MiB, where the first partition of a disk usually starts."""
    return _ALIGNMENT // block_size


def write_gpt(device: BlockDevice, disk_guid: bytes, partitions: list[NewPartition]) -> None:
    """Writes MBR, both headers and both entry arrays; the partitions' own blocks are left alone.

    Raises PartitionError if partitions overlap, lie outside the usable blocks, or are more than 128.
    """
    block = device.block_size
    blocks = device.size // block
    first, last = usable_range(device.size, block)
    if len(partitions) > ENTRY_COUNT:
        raise PartitionError(f"{len(partitions)} partitions, the table holds {ENTRY_COUNT}")
    if len(disk_guid) != 16:
        raise PartitionError(f"disk GUID of {len(disk_guid)} bytes, wanted 16")
    end = first - 1
    for part in sorted(partitions, key=lambda part: part.first_lba):
        if not end < part.first_lba <= part.last_lba <= last:
            raise PartitionError(f"partition at LBA {part.first_lba} to {part.last_lba}: free are {end + 1} to {last}")
        end = part.last_lba
    entries = b"".join(part.pack() for part in partitions).ljust(ENTRY_COUNT * ENTRY.size, b"\0")
    table_blocks = first - 2

    def header(mine: int, other: int, entries_lba: int) -> bytes:
        def with_crc(crc: int) -> bytes:
            return HEADER.pack(
                SIGNATURE, REVISION, _HEADER_BYTES, crc, 0, mine, other, first, last, disk_guid,
                entries_lba, ENTRY_COUNT, ENTRY.size, crc32(entries),
            )  # fmt: skip

        return with_crc(crc32(with_crc(0))).ljust(block, b"\0")

    device.write(0, _protective_mbr(blocks).ljust(block, b"\0"))
    device.write(block, header(1, blocks - 1, 2))
    padded = entries.ljust(table_blocks * block, b"\0")
    device.write(2 * block, padded)
    device.write((blocks - 1 - table_blocks) * block, padded)
    device.write((blocks - 1) * block, header(blocks - 1, 1, blocks - 1 - table_blocks))


def _protective_mbr(blocks: int) -> bytes:
    """UEFI 2.10, table 5.3: one record over the whole disk, as far as 32 bits can say."""
    length = min(blocks - 1, 0xFFFFFFFF)
    record = pack("<B3sB3sII", 0, b"\x00\x02\x00", GPT_PROTECTIVE, b"\xff\xff\xff", 1, length)
    return bytes(446) + record + bytes(48) + b"\x55\xaa"
