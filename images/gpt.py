"""The GUID partition table, read with its checks and its backup (UEFI 2.10, 5.3)."""

from bisect import bisect_left
from struct import Struct, unpack_from
from zlib import crc32

from images.block import BlockDevice
from images.errors import PartitionError

SIGNATURE = b"EFI PART"
REVISION = 0x00010000
HEADER = Struct("<8sIIIIQQQQ16sQIII")  # up to the entry array's CRC; HeaderSize may say more
ENTRY = Struct("<16s16sQQQ72s")
# A sane table has 128 entries of 128 bytes; what a hostile header may make us read is bounded.
MOST_ENTRY_BYTES = 1 << 22
UNUSED = bytes(16)
EFI_SYSTEM_PARTITION = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")


class GptPartition:
    """One entry of the partition entry array (UEFI 2.10, table 5.6)."""

    __slots__ = ("attributes", "first_lba", "last_lba", "name", "number", "type_guid", "unique_guid")

    def __init__(self, number: int, raw: bytes) -> None:
        """`number` counts from 1; `raw` is at least 128 bytes."""
        self.number = number
        self.type_guid: bytes
        self.unique_guid: bytes
        self.type_guid, self.unique_guid, first, last, attributes, name = ENTRY.unpack_from(raw)
        self.first_lba: int = first
        self.last_lba: int = last
        self.attributes: int = attributes
        self.name = name.decode("utf-16-le", "replace").partition("\0")[0]


class Gpt:
    """A valid table: its header's facts and its partitions in the order of their entries."""

    __slots__ = ("disk_guid", "entry_count", "first_usable", "from_backup", "last_usable", "partitions", "problems")

    def __init__(self, device: BlockDevice, header_lba: int) -> None:
        """Reads header and entries at `header_lba` of `device`. Raises PartitionError saying what is wrong."""
        block = device.block_size
        blocks = device.size // block
        if not 0 < header_lba < blocks:
            raise PartitionError(f"GPT header at LBA {header_lba}: the device has {blocks} blocks")
        raw = device.read(header_lba * block, block)
        (signature, revision, header_size, header_crc, _, my_lba, _, first, last, self.disk_guid, *array) = (
            HEADER.unpack_from(raw)
        )
        entries_lba, count, entry_size, entries_crc = array
        where = f"GPT header at LBA {header_lba}"
        if signature != SIGNATURE:
            raise PartitionError(f"{where}: signature {signature!r}, wanted {SIGNATURE!r}")
        if revision < REVISION or not HEADER.size <= header_size <= block:
            raise PartitionError(f"{where}: revision 0x{revision:x}, size {header_size}, wanted 0x10000, 92 to {block}")
        found = crc32(raw[:16] + bytes(4) + raw[20:header_size])
        if found != header_crc:
            raise PartitionError(f"{where}: CRC 0x{header_crc:08x}, the bytes give 0x{found:08x}")
        if my_lba != header_lba:
            raise PartitionError(f"{where}: says it is at LBA {my_lba}")
        if entry_size < ENTRY.size or entry_size % 8 or count * entry_size > MOST_ENTRY_BYTES:
            raise PartitionError(f"{where}: {count} entries of {entry_size} bytes, wanted 128 or so of 128 bytes")
        if not 0 < entries_lba < blocks or entries_lba * block + count * entry_size > device.size:
            raise PartitionError(f"{where}: {count} entries at LBA {entries_lba} lie outside the {blocks} blocks")
        table = device.read(entries_lba * block, count * entry_size)
        found = crc32(table)
        if found != entries_crc:
            raise PartitionError(f"{where}: CRC of the entries 0x{entries_crc:08x}, the bytes give 0x{found:08x}")
        self.entry_count: int = count
        self.first_usable: int = first
        self.last_usable: int = last
        self.from_backup = header_lba != 1
        self.problems: list[str] = []
        self.partitions: list[GptPartition] = []
        taken: list[tuple[int, int]] = []  # sorted (first, last): a hostile table has tens of thousands
        for number in range(1, count + 1):
            entry = table[(number - 1) * entry_size : number * entry_size]
            if entry[:16] != UNUSED:
                self._take(GptPartition(number, entry), blocks, taken)

    def _take(self, partition: GptPartition, blocks: int, taken: list[tuple[int, int]]) -> None:
        first, last = partition.first_lba, partition.last_lba
        if not 0 < first <= last < blocks or first < self.first_usable or last > self.last_usable:
            self.problems.append(
                f"partition {partition.number}: LBA {first} to {last}, "
                f"usable are {self.first_usable} to {min(self.last_usable, blocks - 1)}"
            )
            return
        place = bisect_left(taken, (first, 0))
        if (place and taken[place - 1][1] >= first) or (place < len(taken) and taken[place][0] <= last):
            self.problems.append(f"partition {partition.number}: LBA {first} to {last} overlap another partition")
            return
        taken.insert(place, (first, last))
        self.partitions.append(partition)


def has_gpt(device: BlockDevice) -> bool:
    """Whether a GPT signature stands in the first or last block, at the device's block size."""
    block = device.block_size
    if device.size < 3 * block:
        return False
    last = device.size // block - 1
    return any(device.read(lba * block, 8) == SIGNATURE for lba in (1, last))


def read_gpt(device: BlockDevice) -> Gpt:
    """The table in the first blocks, or else the backup in the last block or where the first header says.

    Raises PartitionError with what is wrong with the first one if none is valid.
    """
    block = device.block_size
    try:
        return Gpt(device, 1)
    except PartitionError as error:
        problem = error
    candidates = [device.size // block - 1]
    if device.size >= 2 * block and device.read(block, 8) == SIGNATURE:
        candidates.append(unpack_from("<Q", device.read(block, 40), 32)[0])
    for lba in candidates:
        try:
            gpt = Gpt(device, lba)
        except PartitionError:
            continue
        gpt.problems.insert(0, f"{problem}; the backup at LBA {lba} is used")
        return gpt
    raise problem


def guid_text(raw: bytes) -> str:
    """16 bytes as they are on disk as lower-case text (UEFI 2.10, appendix A: the first three fields little-endian)."""
    first, second, third = unpack_from("<IHH", raw)
    return f"{first:08x}-{second:04x}-{third:04x}-{raw[8:10].hex()}-{raw[10:16].hex()}"
