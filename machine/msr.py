"""Model-specific registers: which are kept by the engine, which by a device, and what the rest answers.

An MSR that nobody knows reads 0 and swallows writes, as QEMU and OVMF's guests see it: firmware-era programs probe freely.
AMD64 APM volume 2, appendix A.
"""

from collections.abc import Callable

from machine.cpu import Cpu
from machine.interrupts.controller import InterruptController
from machine.paging import EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE

TSC, TSC_ADJUST, PATCH_LEVEL, MTRR_CAP, PAT, MTRR_DEFAULT = 0x10, 0x3B, 0x8B, 0xFE, 0x277, 0x2FF
EFER, TSC_AUX, HWCR = 0xC000_0080, 0xC000_0103, 0xC001_0015
_ENGINE = frozenset(
    (0x174, 0x175, 0x176, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, *range(0xC000_0100, 0xC000_0103))
)
_STORED = {
    MTRR_CAP: 0x508,
    PAT: 0x0007_0406_0007_0406,
    MTRR_DEFAULT: 0xC06,
    TSC_AUX: 0,
    HWCR: 1 << 24,  # TscFreqSel: the TSC counts at the frequency of P-state 0, which Linux insists on
}
_READ_ONLY = frozenset((MTRR_CAP,))
_APIC = frozenset((0x1B, 0x6E0, *range(0x800, 0x900)))
_EFER_BITS = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | 1 << 14

Read = Callable[[Cpu], int | None]
Write = Callable[[Cpu, int], bool]


class MsrTable:
    """The MSRs of a machine's CPUs. None from a read or False from a write means #GP."""

    def __init__(self, cpus: int) -> None:
        self._handlers: dict[int, tuple[Read, Write]] = {}
        self.apic: InterruptController | None = None
        self._stored: list[dict[int, int]] = [dict(_STORED) for _ in range(cpus)]

    def register(self, index: int, read: Read, write: Write) -> None:
        """Give MSR `index` to a device or an emulation."""
        self._handlers[index] = (read, write)

    def read(self, cpu: Cpu, index: int) -> int | None:
        """The value of an MSR."""
        found = self._handlers.get(index)
        if found is not None:
            return found[0](cpu)
        if self.apic is not None and index in _APIC:
            return self.apic.read_msr(cpu, index)
        if index in _ENGINE or index == EFER:
            return cpu.read_msr(index)
        return self._stored[cpu.index].get(index, 0)

    def write(self, cpu: Cpu, index: int, value: int) -> bool:
        """Write an MSR."""
        found = self._handlers.get(index)
        if found is not None:
            return found[1](cpu, value)
        if self.apic is not None and index in _APIC:
            return self.apic.write_msr(cpu, index, value)
        if index == EFER:
            if value & ~_EFER_BITS:
                return False
            cpu.write_msr(index, (value & ~EFER_LMA) | (cpu.read_msr(index) & EFER_LMA))
        elif index in _ENGINE:
            cpu.write_msr(index, value)
        elif index in _READ_ONLY:
            return False
        elif index in _STORED or 0x200 <= index <= 0x2FF:
            self._stored[cpu.index][index] = value
        return True

    def save(self) -> list[dict[int, int]]:
        """The stored values of each CPU."""
        return [dict(values) for values in self._stored]

    def load(self, state: list[dict[int, int]]) -> None:
        """Put back what `save` gave."""
        self._stored = [dict(values) for values in state]
