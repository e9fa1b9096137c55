"""The program that the boot record of a BIOS disk would load, as an ELF file: for a machine that has no BIOS to run the record.

Two kinds of records are known: ours, by its load plan, and that of TamaGo's tools (tamago-example, tools/mbr.s), by the data
that its code works with: a disk address packet for INT 13h (Enhanced Disk Drive specification 3.0, 3.2.1), and behind it the
program's place on the disk, sectors, address and entry point.
"""

from struct import Struct, pack, unpack_from
from typing import Final, NamedTuple

from images.bios.plan import PVH, read_load_plan
from images.block import BlockDevice
from images.errors import ContainerError, DeviceFailure

SECTOR: Final = 512
LARGEST: Final = 1 << 30
"""Bytes of a program in the file at most."""
_LOWEST, _END = 1 << 20, 1 << 32
_SIGNATURE: Final = b"\x55\xaa"
_TAMAGO_PACKET: Final = pack("<BBHHHQ", 0x10, 0, 64, 0, 0x1000, 200)
"""64 sectors at a time into the buffer at 0x10000, from sector 200 on."""
_TAMAGO_PLACE: Final = Struct("<QQQQ")  # first sector (not used by the code), sectors, address, entry
_CHUNK: Final = 64 * SECTOR
_HEADER: Final = Struct("<16sHHIQQQIHHHHHH")
_PROGRAM: Final = Struct("<IIQQQQQQ")
_PT_LOAD, _PT_NOTE = 1, 4
_PHYS32_ENTRY: Final = 18


class DiskProgram(NamedTuple):
    """`elf` is an executable for x86-64 that is entered as the boot record does it, `command_line` what that hands over."""

    elf: bytes
    command_line: str


def program_on(device: BlockDevice) -> DiskProgram | None:
    """What the boot record loads; None if it is of neither kind. ContainerError if that is not on the disk."""
    if device.size < 2 * SECTOR:
        return None
    record = device.read(0, SECTOR)
    if not record.endswith(_SIGNATURE):
        return None
    plan = read_load_plan(device)
    if plan is not None:
        segments = [(lba * SECTOR, address, size, room) for lba, address, size, room in plan.segments]
        return DiskProgram(_elf(device, segments, plan.entry, pvh=plan.mode == PVH), plan.command_line)
    at = record.find(_TAMAGO_PACKET)
    if at < 0 or at + len(_TAMAGO_PACKET) + _TAMAGO_PLACE.size > SECTOR:
        return None
    _, sectors, address, entry = _TAMAGO_PLACE.unpack_from(record, at + len(_TAMAGO_PACKET))
    (first,) = unpack_from("<Q", _TAMAGO_PACKET, 8)
    # Whole chunks are copied; the disk may end before the last one does.
    size = min(-(-sectors * SECTOR // _CHUNK) * _CHUNK, max(device.size - first * SECTOR, 0))
    if sectors * SECTOR > size:
        raise ContainerError(
            f"its boot record loads {sectors} sectors from {first} on, the disk has {device.size // SECTOR}"
        )
    return DiskProgram(_elf(device, [(first * SECTOR, address, size, size)], entry, pvh=True), "")


def _elf(device: BlockDevice, segments: list[tuple[int, int, int, int]], entry: int, *, pvh: bool) -> bytes:
    """An ELF file of `segments`: (offset on the disk, address, bytes in the file, bytes in memory). ContainerError."""
    for _, address, file_size, memory_size in segments:
        if not _LOWEST <= address <= address + memory_size <= _END or file_size > memory_size:
            raise ContainerError(f"its boot record loads {file_size} bytes to {address:#x}; wanted 1 MiB to 4 GiB")
    if not segments or sum(file_size for _, _, file_size, _ in segments) > LARGEST:
        raise ContainerError(f"its boot record loads nothing, or more than {LARGEST >> 20} MiB")
    note = pack("<III4sQ", 4, 8, _PHYS32_ENTRY, b"Xen\0", entry) if pvh else b""
    count = len(segments) + pvh
    at = _HEADER.size + count * _PROGRAM.size
    table, parts = b"", [note]
    if pvh:
        table = _PROGRAM.pack(_PT_NOTE, 4, at, 0, 0, len(note), len(note), 4)
    at += len(note)
    for offset, address, file_size, memory_size in segments:
        table += _PROGRAM.pack(_PT_LOAD, 7, at, address, address, file_size, memory_size, 1)
        try:
            parts.append(device.read(offset, file_size))
        except DeviceFailure as error:
            raise ContainerError(f"its boot record loads what is not there: {error}") from None
        at += file_size
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return _HEADER.pack(identity, 2, 62, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0) + table + b"".join(parts)
