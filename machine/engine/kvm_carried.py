"""What the instructions that are carried out for a guest on KVM have in common."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine.cpu import Fault, GuestException, Stop
from machine.engine import kvm_abi as abi
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction

if TYPE_CHECKING:
    from machine.engine.base import Handlers
    from machine.engine.kvm_cpu import KvmCpu

MASK = (1 << 64) - 1
FLAGS = 0x24_7FD7
"""What POPF and IRET may set in ring 0, in 64-bit mode."""

Action = Callable[[Instruction, int], Stop | None]
"""(instruction, RIP) -> why the run ends, if it does"""


def general_protection(code: int = 0) -> GuestException:
    """#GP with an error code."""
    return GuestException(Fault(13, code))


class Carried:
    """Instructions of one processor. They change nothing before they raise GuestException, PageFault or CannotCarry."""

    def __init__(self, cpu: "KvmCpu", handlers: "Handlers") -> None:
        self._cpu = cpu
        self._handlers = handlers

    def _done(self, instruction: Instruction, rip: int) -> None:
        self._cpu.real[abi.RIP] = (rip + instruction.at) & MASK

    def _nothing(self, instruction: Instruction, rip: int) -> Stop | None:
        self._done(instruction, rip)
        return None

    def _read(self, address: int, size: int) -> int:
        data = self._cpu.linear_read(address, size)
        if len(data) < size:
            raise CannotCarry("a system instruction of it reads what is no RAM")
        return int.from_bytes(data, "little")

    def _store(self, address: int, data: bytes) -> None:
        self._cpu.store(address, data)

    def _address(self, instruction: Instruction, rip: int) -> int:
        return self._cpu.linear(instruction, rip)

    def _become_interruptible(self, value: bool) -> Stop | None:
        cpu = self._cpu
        before, cpu.interruptible = cpu.interruptible, value
        # What waits for this is delivered before the guest goes on.
        return Stop.KICKED if value and not before else None
