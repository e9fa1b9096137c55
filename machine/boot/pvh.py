"""PVH direct boot (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h): 32-bit protected mode, EBX at hvm_start_info."""

import struct
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.boot.memory_map import COMMAND_LINE, GDT, MAP, START_INFO, memory_map
from machine.msr import EFER

if TYPE_CHECKING:
    from machine.computer import Computer

MAGIC = 0x336E_C578
_START_INFO = struct.Struct(
    "<IIIIQQQQII"
)  # magic, version, flags, modules, list, command line, RSDP, map, entries, reserved
_MAP_ENTRY = struct.Struct("<QQII")  # address, size, type, reserved
_VERSION = 1

_NULL, _CODE, _DATA, _TSS = 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067
_CODE_SELECTOR, _DATA_SELECTOR, _TSS_SELECTOR = 0x08, 0x10, 0x18
_CR0_PE_ET, _CR0_PG, _CR4_PAE = 0x11, 1 << 31, 1 << 5


def enter(computer: "Computer", entry: int, command_line: bytes = b"", rsdp: int = 0) -> None:
    """Point the first CPU at 32-bit code at `entry`. `command_line` is at most LONGEST_COMMAND_LINE bytes, without a NUL.

    `rsdp` is the address of the root of ACPI's tables, 0 if there are none.
    """
    memory = computer.memory
    memory.write(GDT, struct.pack("<4Q", _NULL, _CODE, _DATA, _TSS))
    ranges = memory_map(memory)
    memory.write(MAP, b"".join(_MAP_ENTRY.pack(address, size, kind, 0) for address, size, kind in ranges))
    memory.write(COMMAND_LINE, command_line + b"\0")
    line = COMMAND_LINE if command_line else 0
    memory.write(START_INFO, _START_INFO.pack(MAGIC, _VERSION, 0, 0, 0, line, rsdp, MAP, len(ranges), 0))
    cpu = computer.engine.cpus[0]
    cpu.set_table("gdtr", GDT, 4 * 8 - 1)
    # The engine is in long mode, and leaves it as a processor does: through a state that has paging.
    cpu.set(reg.CR4, _CR4_PAE)
    cpu.set(reg.CR0, _CR0_PG | _CR0_PE_ET)
    cpu.set(reg.CR0, _CR0_PE_ET)
    cpu.write_msr(EFER, 0)
    cpu.set(reg.CS, _CODE_SELECTOR)
    for register in (reg.DS, reg.ES, reg.SS):
        cpu.set(register, _DATA_SELECTOR)
    cpu.set_table("tr", 0, 0x67, _TSS_SELECTOR)
    cpu.set(reg.CR4, 0)
    cpu.set(reg.RFLAGS, 2)
    for register in reg.GENERAL[:16]:
        cpu.set(register, 0)
    cpu.set(reg.RBX, START_INFO)
    cpu.set(reg.RIP, entry)
