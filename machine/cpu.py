"""What a processor is to the rest of the machine, whichever engine runs it, and why a run ended."""

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from machine.paging import Mode


class Stop(Enum):
    """Why `Engine.run` came back."""

    HALTED = "HLT executed; RIP is behind it"
    KICKED = "somebody asked for a stop; the state is between two instructions"
    TURN_OVER = "the CPU has entered as many blocks as a turn has, where the engine counts them"
    BREAKPOINT = "the instruction at RIP is one that a debugger wants to see before it is executed"
    WATCHPOINT = "an instruction, just executed, has touched memory that a debugger watches"
    EXCEPTION = "an exception or software interrupt waits in `cpu.fault` for delivery through the guest's IDT"


class Watch:
    """`size` bytes of memory from physical `address` on, of which a debugger wants to hear when they are read or written."""

    __slots__ = ("address", "reads", "size", "writes")

    def __init__(self, address: int, size: int, reads: bool, writes: bool) -> None:
        self.address = address
        self.size = size
        self.reads = reads
        self.writes = writes


class Fault:
    """An exception raised by guest code (AMD64 APM volume 2, 8.2), not yet delivered.

    `vector` 0 to 255; `error_code` is None for vectors that push none; `address` is CR2 for #PF; `software` marks
    INT n, whose gate's DPL is checked.
    """

    __slots__ = ("address", "error_code", "software", "vector")

    def __init__(
        self, vector: int, error_code: int | None = None, address: int | None = None, software: bool = False
    ) -> None:
        self.vector = vector
        self.error_code = error_code
        self.address = address
        self.software = software

    def __repr__(self) -> str:
        return f"Fault(vector={self.vector}, error_code={self.error_code}, address={self.address})"


class GuestException(Exception):
    """The instruction that a handler was to carry out raises `fault` in the guest instead."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(repr(fault))
        self.fault = fault


class Cpu(Protocol):
    """One processor. Register numbers are those of `machine.registers`; values are unsigned 64-bit."""

    index: int
    fault: Fault | None
    nmi_masked: bool
    """Whether an NMI is being handled: set by who delivers it, cleared by IRET (AMD64 APM volume 2, 8.1.3). An engine that does
    not see IRET has it always False."""

    def get(self, register: int) -> int:
        """Read one register."""
        ...

    def set(self, register: int, value: int) -> None:
        """Write one register. Not RIP from inside a port handler: engines overwrite it (design rule 2)."""
        ...

    def mode(self) -> "Mode":
        """The paging mode as the control registers have it now."""
        ...

    def arguments(self) -> tuple[int, int, int, int, int]:
        """RCX, RDX, R8, R9, RSP: one batch call, the hot path of every service."""
        ...

    def read_msr(self, index: int) -> int:
        """Read an MSR that the engine itself keeps (EFER, STAR, FS_BASE, ...)."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """Write an MSR that the engine itself keeps."""
        ...

    def table(self, name: str) -> tuple[int, int]:
        """(base, limit) of "gdtr", "idtr" or "tr"."""
        ...

    def set_table(self, name: str, base: int, limit: int, selector: int = 0) -> None:
        """Load "gdtr", "idtr" or "tr"."""
        ...

    def begin_turn(self, blocks: int) -> None:
        """Have `run` give TURN_OVER when so many more blocks of code have been entered (up to 2**31 - 1).

        An engine that cannot count them does nothing: it is kicked when time is up.
        """
        ...

    def power_on(self) -> None:
        """The engine's own state of power on, from which host code sets a CPU up by writing registers. Between two runs only.

        Not for CPU 0, which is in that state when the machine is made, and never gets there again.
        """
        ...

    def enter_real_mode(self, vector: int, signature: int) -> None:
        """The state after INIT and a start-up IPI with `vector` (AMD64 APM volume 2, 14.1.3, 15.27.8): real mode at vector << 12.

        EDX is the processor's `signature`, CPUID Fn1 EAX. Between two runs only. EngineError if the engine has no real mode.
        """
        ...

    def enter_ring0(self, selector: int) -> None:
        """Go from ring 3 to ring 0 with CS = `selector` and a null SS. Between two runs only."""
        ...

    def takes_interrupt(self, waiting: bool) -> bool | None:
        """Whether an interrupt can be taken now, between two runs. If not, and one is `waiting`, the next run ends (KICKED)
        as soon as it can. None: the engine knows no more than RFLAGS and the code tell.
        """
        ...

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Stop before the instructions at these linear addresses, and no others. Between two runs only."""
        ...

    def set_watches(self, watches: "tuple[Watch, ...]") -> None:
        """Stop behind instructions that touch these places, and no others. Between two runs only."""
        ...

    def pass_breakpoint(self) -> None:
        """Let the next run begin with the instruction at RIP even if a breakpoint stands there."""
        ...

    def touched(self) -> "tuple[Watch, int]":
        """After WATCHPOINT: the watch, and the first physical address of it that was touched."""
        ...

    def save(self) -> dict[str, Any]:
        """Everything that a resumed thread of guest code can notice, as plain data (general, segment, SSE and x87 registers)."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave. RIP included, so only between two runs."""
        ...

    def freeze(self) -> dict[str, Any]:
        """The whole processor as plain data that any engine can take (`machine.cpu_state`). Between two runs only."""
        ...

    def thaw(self, state: dict[str, Any]) -> None:
        """Become what `freeze` gave, on a CPU that has not run yet. EngineError for a state that the engine cannot have."""
        ...
