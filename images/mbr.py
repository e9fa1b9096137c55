"""The legacy master boot record: four primary partitions, or the sign that a GPT follows (UEFI 2.10, 5.2)."""

from struct import unpack_from

from images.errors import PartitionError

SIZE = 512
GPT_PROTECTIVE = 0xEE
EFI_SYSTEM_PARTITION = 0xEF
EXTENDED = frozenset({0x05, 0x0F, 0x85})


class MbrPartition:
    """One partition record (UEFI 2.10, table 5.2), in the blocks of the disk."""

    __slots__ = ("active", "blocks", "first_lba", "number", "type")

    def __init__(self, number: int, raw: bytes) -> None:
        """`number` counts from 1; `raw` is the record's 16 bytes."""
        self.number = number
        self.active = raw[0] == 0x80
        self.type = raw[4]
        self.first_lba: int
        self.blocks: int
        self.first_lba, self.blocks = unpack_from("<II", raw, 8)


class Mbr:
    """The partitions that a disk's first 512 bytes tell."""

    __slots__ = ("partitions", "problems", "protective", "signature")

    def __init__(self, sector: bytes, blocks: int) -> None:
        """`blocks`: how many the disk has. Raises PartitionError if the signature 55 AA is missing."""
        if len(sector) < SIZE or sector[510:512] != b"\x55\xaa":
            raise PartitionError(f"MBR: signature {sector[510:512].hex() or 'missing'}, wanted 55aa")
        self.signature: bytes = sector[440:444]
        self.problems: list[str] = []
        self.partitions: list[MbrPartition] = []
        self.protective = False
        for number in range(1, 5):
            raw = sector[446 + 16 * (number - 1) :][:16]
            partition = MbrPartition(number, raw)
            if partition.type == 0 or partition.blocks == 0:
                continue
            if partition.type == GPT_PROTECTIVE:
                self.protective = True
            elif raw[0] not in {0, 0x80}:
                self.problems.append(f"MBR partition {number}: boot indicator 0x{raw[0]:02x}, wanted 0x00 or 0x80")
            elif partition.first_lba == 0 or partition.first_lba + partition.blocks > blocks:
                self.problems.append(
                    f"MBR partition {number}: {partition.blocks} blocks at {partition.first_lba}, the disk has {blocks}"
                )
            elif any(_overlap(partition, other) for other in self.partitions):
                self.problems.append(f"MBR partition {number} overlaps another")
            else:
                self.partitions.append(partition)


def _overlap(one: MbrPartition, other: MbrPartition) -> bool:
    return one.first_lba < other.first_lba + other.blocks and other.first_lba < one.first_lba + one.blocks
