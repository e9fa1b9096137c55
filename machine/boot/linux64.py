"""Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode, RSI at boot_params."""

import struct
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.boot.memory_map import COMMAND_LINE, GDT, memory_map
from machine.msr import EFER
from machine.paging import EFER_LMA, EFER_LME, IdentityMap

if TYPE_CHECKING:
    from machine.computer import Computer

BOOT_PARAMS, PAGE_TABLES, STACK = 0x7000, 0x2_0000, 0x8_0000
_E820_ENTRIES, _E820_TABLE = 0x1E8, 0x2D0
_E820 = struct.Struct("<QQI")
_HEADER = (  # offset, format, value: the fields of setup_header that a loader fills in
    *((0x1FE, "<H", 0xAA55), (0x202, "<I", 0x5372_6448), (0x210, "<B", 0xFF), (0x230, "<I", 0x100_0000)),
    (0x228, "<I", COMMAND_LINE),
)
_COMMAND_LINE_SIZE = 0x238
_ACPI_RSDP = 0x70
_CODE, _DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
_CODE_SELECTOR, _DATA_SELECTOR = 0x10, 0x18
_CR0, _CR4 = 0x8000_0011, 0x20


def enter(computer: "Computer", entry: int, command_line: bytes = b"", rsdp: int = 0) -> None:
    """Point the first CPU at 64-bit code at `entry`. `command_line` is at most LONGEST_COMMAND_LINE bytes, without a NUL.

    `rsdp` is the address of the root of ACPI's tables, 0 if there are none.
    """
    memory = computer.memory
    params = bytearray(4096)
    for offset, form, value in _HEADER:
        struct.pack_into(form, params, offset, value)
    struct.pack_into("<I", params, _COMMAND_LINE_SIZE, len(command_line))
    struct.pack_into("<Q", params, _ACPI_RSDP, rsdp)
    ranges = memory_map(memory)
    params[_E820_ENTRIES] = len(ranges)
    for number, entry_ in enumerate(ranges):
        _E820.pack_into(params, _E820_TABLE + _E820.size * number, *entry_)
    memory.write(BOOT_PARAMS, params)
    memory.write(COMMAND_LINE, command_line + b"\0")
    memory.write(GDT, struct.pack("<4Q", 0, 0, _CODE, _DATA))
    tables = IdentityMap(memory, PAGE_TABLES, memory.end)
    cpu = computer.engine.cpus[0]
    cpu.set_table("gdtr", GDT, 4 * 8 - 1)
    cpu.write_msr(EFER, EFER_LME | EFER_LMA)
    cpu.set(reg.CR3, tables.base)
    cpu.set(reg.CR4, _CR4)
    cpu.set(reg.CR0, _CR0)
    cpu.set(reg.CS, _CODE_SELECTOR)
    for register in (reg.DS, reg.ES, reg.SS):
        cpu.set(register, _DATA_SELECTOR)
    cpu.set(reg.RFLAGS, 2)
    for register in reg.GENERAL[:16]:
        cpu.set(register, 0)
    cpu.set(reg.RSP, STACK)
    cpu.set(reg.RSI, BOOT_PARAMS)
    cpu.set(reg.RIP, entry)
