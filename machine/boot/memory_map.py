"""The memory map that a guest without firmware gets (types: ACPI 6.5, table 15.4), and where the monitor's own things lie."""

from machine.memory import HIGH_START, PhysicalMemory

RAM, RESERVED = 1, 2
EBDA, ONE_MIB = 0x9_FC00, 0x10_0000

GDT, START_INFO, MAP, COMMAND_LINE = 0x9_0000, 0x9_0100, 0x9_0200, 0x9_1000
"""Below the BIOS data area, where unikernels' own tables (TamaGo: up to 0xe000) do not reach."""

LONGEST_COMMAND_LINE = 4095
"""Bytes, without the NUL."""


def memory_map(memory: PhysicalMemory) -> list[tuple[int, int, int]]:
    """(address, size, type) of each range, in order."""
    ranges = [(0, EBDA, RAM), (EBDA, ONE_MIB - EBDA, RESERVED), (ONE_MIB, memory.low_size - ONE_MIB, RAM)]
    if memory.high_size:
        ranges.append((HIGH_START, memory.high_size, RAM))
    return ranges
