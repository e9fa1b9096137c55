"""A disk that a BIOS boots an ELF unikernel from: boot record and stage of ours, the load plan, the program's segments."""

from importlib.resources import files
from struct import pack

from images.bios.plan import COMMAND_LINE_LIMIT, LINUX64, MAGIC, MOST_SEGMENTS, PLAN, PLAN_AT, PVH, SEGMENT
from images.errors import UnfitInput
from images.mosaic import Mosaic
from loader.elf_program import ElfProgram

SECTOR = 512
FIRST_SECTOR = 2048
"""Where the partition with the program begins: at 1 MiB, as on other disks."""
PARTITION_TYPE = 0xDA  # "non-FS data"
_ALIGNMENT = 4096
_SIGNATURE_AT, _TABLE_AT = 440, 446
_ONE_MEGABYTE, _FOUR_GIGABYTES = 1 << 20, 1 << 32


class BiosDisk(Mosaic):
    """A read-only BlockDevice with one partition; `entry` is "pvh" or "linux64", `top` the end of what is loaded."""

    def __init__(self, data: bytes, size: int, identity: bytes, command_line: str = "") -> None:
        """`data` is the ELF file; `size` of the disk in bytes; `identity` gives the disk's signature of 4 bytes.

        Raises LoaderError for no such program, UnfitInput for one that the stage cannot load, or too small a disk.
        """
        super().__init__(size, SECTOR)
        program = ElfProgram(data)
        self.entry = "pvh" if program.pvh_entry is not None else "linux64"
        self.top = max(segment.address + segment.memory_size for segment in program.segments)
        entry = program.pvh_entry if program.pvh_entry is not None else program.entry
        _check(program, entry, self.top)
        text = _command_line(command_line)
        plan = bytearray(PLAN.pack(MAGIC, PVH if self.entry == "pvh" else LINUX64, len(program.segments), entry))
        place = FIRST_SECTOR * SECTOR
        for offset, address, file_size, memory_size in program.segments:
            plan += SEGMENT.pack(place // SECTOR, address, file_size, memory_size)
            if place + file_size > size:
                raise UnfitInput(f"the program does not fit on a disk of {size} bytes; give a larger --size")
            # The last piece's memory must not hold the whole file again: it is read from `data` in place.
            self.place(place, file_size, lambda start, count, at=offset: data[at + start : at + start + count])  # type: ignore[misc]
            place += -(-file_size // _ALIGNMENT) * _ALIGNMENT
        plan = plan.ljust(PLAN.size + MOST_SEGMENTS * SEGMENT.size, b"\0") + text
        stage = bytearray(stage_bytes())
        stage[PLAN_AT : PLAN_AT + len(plan)] = plan
        stage[_SIGNATURE_AT : _SIGNATURE_AT + 4] = identity[:4]
        stage[_TABLE_AT : _TABLE_AT + 16] = _partition(size)
        stage[510:512] = b"\x55\xaa"
        self.place_bytes(0, bytes(stage))


def stage_bytes() -> bytes:
    """The built stage: the boot record without partition table and signature, then the other sectors."""
    return (files("images.bios") / "stage.bin").read_bytes()


def _check(program: ElfProgram, entry: int, top: int) -> None:
    if len(program.segments) > MOST_SEGMENTS:
        raise UnfitInput(
            f"the program has {len(program.segments)} segments to load, the BIOS stage takes {MOST_SEGMENTS}"
        )
    if program.segments[0].address < _ONE_MEGABYTE or top > _FOUR_GIGABYTES:
        raise UnfitInput(
            f"the program wants memory from {program.segments[0].address:#x} to {top:#x}; "
            "the BIOS stage loads between 1 MiB and 4 GiB: link it there"
        )
    if program.pvh_entry is None and not program.is_64:
        raise UnfitInput(
            "a 32-bit program without a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY); the BIOS stage would not know how to enter it"
        )
    if not program.holds(entry):
        raise UnfitInput(f"the entry point {entry:#x} is in no segment that comes from the file")


def _command_line(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > COMMAND_LINE_LIMIT or b"\0" in raw:
        raise UnfitInput(f"a command line of {len(raw)} bytes, at most {COMMAND_LINE_LIMIT} fit, none of them zero")
    return raw.ljust(COMMAND_LINE_LIMIT + 1, b"\0")


def _partition(size: int) -> bytes:
    """An active record over all but the first MiB; some BIOSes boot no disk without one."""
    blocks = min(size // SECTOR - FIRST_SECTOR, 0xFFFFFFFF)
    return pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", PARTITION_TYPE, b"\xfe\xff\xff", FIRST_SECTOR, blocks)
