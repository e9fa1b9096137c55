"""The interface of an engine, and of what it calls back when guest code does something that it cannot do alone."""

from typing import Protocol

from machine.cpu import Cpu, Stop
from machine.memory import PhysicalMemory
from machine.paging import Mode, Translation
from machine.posted_writes import PostedWrites


class Handlers(Protocol):
    """What the machine answers while guest code runs. Called on the engine's thread, with the CPU that trapped."""

    posted_writes: PostedWrites | None
    """What an engine may do without a trap."""

    def port_read(self, cpu: Cpu, port: int, size: int) -> int:
        """IN."""
        ...

    def port_write(self, cpu: Cpu, port: int, size: int, value: int) -> None:
        """OUT."""
        ...

    def mmio_read(self, cpu: Cpu, address: int, size: int) -> int:
        """A load from a physical address outside RAM."""
        ...

    def mmio_write(self, cpu: Cpu, address: int, size: int, value: int) -> None:
        """A store to a physical address outside RAM."""
        ...

    def cpuid(self, cpu: Cpu, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of CPUID."""
        ...

    def read_msr(self, cpu: Cpu, index: int) -> int | None:
        """The value of an MSR, or None for #GP."""
        ...

    def write_msr(self, cpu: Cpu, index: int, value: int) -> bool:
        """Write an MSR; False for #GP."""
        ...

    def read_tsc(self, cpu: Cpu) -> int:
        """The time stamp counter."""
        ...

    def random(self, cpu: Cpu, size: int) -> int:
        """`size` random bytes as a number, for RDRAND and RDSEED."""
        ...

    def translate(self, cpu: Cpu, mode: Mode, address: int, access: int, user: bool) -> Translation:
        """The page walk of a TLB fill (Unicorn only). Raises PageFault or NonCanonical."""
        ...

    def look(self, mode: Mode, address: int) -> Translation:
        """The page walk for the engine's own reading of code: no access of the guest, so it leaves no trace."""
        ...

    def pause(self, cpu: Cpu) -> None:
        """PAUSE, about to be executed: the CPU waits for another. Told of where there are several."""
        ...

    def trap_instruction(self, cpu: Cpu, code: bytes) -> int:
        """An instruction that the engine does not know: its length if handled, else 0 (#UD). GuestException for another.

        `code` is the up to 15 bytes at RIP.
        """
        ...


class SideBySide(Protocol):
    """Several CPUs in guest code at once. All of it is for the engine's thread, which meanwhile answers for those that come out.

    A CPU may be looked at and changed while it is not `busy`.
    """

    inside: set[int]
    """The CPUs in guest code."""

    def release(self, index: int) -> bool:
        """Let a CPU run from its RIP. False if the engine has to change first: have all others out, and use `Engine.run`."""
        ...

    def next(self, seconds: float | None) -> int | None:
        """Wait for a CPU that has come out and is to be answered; None after so long, or if the engine was kicked."""
        ...

    def arrived(self) -> int | None:
        """The same without waiting."""
        ...

    def answer(self, index: int) -> Stop | None:
        """Carry out what has brought a CPU out; None if it is to be released again."""
        ...

    def step(self, index: int) -> Stop:
        """Run exactly one instruction of a CPU that is not `busy` (KICKED), unless it halts or faults."""
        ...

    def busy(self, index: int) -> bool:
        """Whether a CPU is inside, or has come out and waits for `answer`."""
        ...

    def knock(self, index: int) -> None:
        """Have one CPU come out soon with KICKED."""
        ...

    def gather(self) -> bool:
        """Have all CPUs come out, and wait until they are; whether any was inside. EngineError."""
        ...

    def drop(self, index: int) -> None:
        """Have one CPU come out, and forget what brought it out: it is to be set up anew."""
        ...

    def abandon(self) -> None:
        """Have all CPUs come out, and forget why they did."""
        ...

    def changed(self, index: int) -> None:
        """A CPU was set up anew."""
        ...

    def spent(self, index: int) -> int:
        """Nanoseconds of processor time that a CPU has had beside others."""
        ...


class Engine(Protocol):
    """Runs guest code on one or more CPUs over one RAM."""

    name: str
    cpus: list[Cpu]

    @property
    def side_by_side(self) -> SideBySide | None:
        """Where several CPUs may be in guest code at once: what runs them so, instead of `run`. Else they take turns."""
        ...

    def __init__(self, memory: PhysicalMemory, handlers: Handlers, cpus: int) -> None: ...

    def open_window(self, base: int, size: int) -> None:
        """Have the handlers answer for `size` bytes at physical `base`, above 4 GiB and RAM, as for the hole below 4 GiB.

        Addresses are whole pages. Nothing may run. What lies in no window reads as ones.
        """
        ...

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` from its RIP until something of `Stop` happens. Raises EngineError for what no processor does.

        One CPU runs at a time; between two runs any of them may be looked at and changed.
        """
        ...

    def step(self, cpu: Cpu) -> Stop:
        """Run exactly one instruction (KICKED), unless it halts or faults."""
        ...

    def kick(self) -> None:
        """From any thread: make a running `run` return soon. May be lost right before `run`; callers repeat it."""
        ...

    def invalidate(self, address: int, size: int) -> None:
        """Host code stored `size` bytes at physical `address` where guest code was executed."""
        ...

    def flush_translations(self) -> None:
        """Drop every cached linear-to-physical translation (after page state changes)."""
        ...

    def close(self) -> None:
        """Free the engine's own memory. Nothing may run."""
        ...
