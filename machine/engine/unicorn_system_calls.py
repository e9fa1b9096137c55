"""SYSCALL on a Unicorn CPU: the library's own does nothing but go on behind itself, so its work is done between two runs."""

from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Fault
from machine.msr import EFER
from machine.paging import EFER_SCE

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu

_STAR, _LSTAR, _SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0084


class SystemCalls:
    """SYSCALL of one CPU. `pending`: one has ended the run."""

    def __init__(self, cpu: "UnicornCpu") -> None:
        self._cpu = cpu
        self.pending = False

    def called(self, _uc: int, _user: int) -> None:
        """The library is at a SYSCALL."""
        self.pending = True
        self._cpu.stop_now()

    def enter(self) -> bool:
        """SYSCALL in long mode (AMD64 APM volume 3); RIP is behind the instruction. False, and #UD, if it is not enabled."""
        cpu = self._cpu
        self.pending = False
        returning = cpu.get(reg.RIP)
        if not cpu.read_msr(EFER) & EFER_SCE:
            cpu.set(reg.RIP, returning - 2)
            cpu.fault = Fault(6)
            return False
        star = cpu.read_msr(_STAR)
        flags = cpu.get(reg.RFLAGS)
        selector = star >> 32 & 0xFFFC
        if cpu.get(reg.CS) & 3:
            cpu.enter_ring0(selector)
        else:
            cpu.set(reg.CS, selector)
        cpu.set(reg.SS, selector + 8)
        cpu.set(reg.RCX, returning)
        cpu.set(reg.R11, flags & ~reg.RFLAGS_RF)
        cpu.set(reg.RFLAGS, flags & ~(cpu.read_msr(_SFMASK) | reg.RFLAGS_RF))
        cpu.set(reg.RIP, cpu.read_msr(_LSTAR))
        return True
