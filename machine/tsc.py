"""The time-stamp counter of each processor: the clock's, and what the guest has put it ahead by (Intel SDM volume 3, 18.17).

With IA32_TSC_ADJUST Linux sees that nobody has meddled with the counters, and trusts them: without it, it holds them against
its ticks while it starts, of which an emulator under load loses many, and gives the TSC up for the ACPI timer.
"""

from typing import TYPE_CHECKING

from machine.msr import TSC, TSC_ADJUST, MsrTable

if TYPE_CHECKING:
    from machine.clock import Clock
    from machine.cpu import Cpu

_MASK = (1 << 64) - 1


class TimeStampCounters:
    """Registers IA32_TIME_STAMP_COUNTER and IA32_TSC_ADJUST. Neither INIT nor a start-up changes them."""

    def __init__(self, clock: "Clock", msrs: MsrTable, cpus: int) -> None:
        self._clock = clock
        self._msrs = msrs
        self._ahead = [0] * cpus
        msrs.register(TSC, self.read, self._write)
        msrs.register(TSC_ADJUST, self._read_adjustment, self._adjust)

    def read(self, cpu: "Cpu") -> int:
        """A processor's counter: 64 bits."""
        return self._clock.tsc() + self._ahead[cpu.index] & _MASK

    def _write(self, cpu: "Cpu", value: int) -> bool:
        """IA32_TSC_ADJUST moves along (18.17.3)."""
        return self._adjust(cpu, value - self._clock.tsc())

    def _read_adjustment(self, cpu: "Cpu") -> int:
        return self._ahead[cpu.index] & _MASK

    def _adjust(self, cpu: "Cpu", value: int) -> bool:
        ahead = (value & _MASK) - (value << 1 & 1 << 64)
        self._ahead[cpu.index] = ahead
        if self._msrs.apic is not None:
            self._msrs.apic.local_apics[cpu.index].timer.shift_tsc(ahead)
        return True
