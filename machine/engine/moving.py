"""An engine that changes hands: Unicorn or KVM under one Engine, with the guest moved live from one to the other.

All state of devices and services lies outside the engines, and both see the same RAM, so only registers move; they do so
between two runs, when the guest stands between two instructions. Unicorn starts at once and answers a trap in a microsecond;
KVM computes at the processor's own speed, and a trap costs ten times as much or more. `auto` begins on Unicorn, goes to KVM
when the guest computes for long, and comes back when it traps often. `kvm` goes to KVM as soon as the guest can be carried, and
comes back only if it cannot be any more.
"""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Cpu, Fault, Stop, Watch
from machine.engine.base import Handlers
from machine.engine.leaving import CannotCarry, ManyExits
from machine.engine.load_watch import LoadWatch
from machine.engine.unicorn import UnicornEngine
from machine.errors import BadAddress, EngineError
from machine.linear import LinearMemory
from machine.memory import PhysicalMemory
from machine.paging import CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, EFER_LME

if TYPE_CHECKING:
    from machine.engine.kvm import KvmEngine

_CR0_EM, _CR0_TS = 1 << 2, 1 << 3
_EFER, _LSTAR = 0xC000_0080, 0xC000_0082
_MSRS = (*(0x174, 0x175, 0x176, 0xC000_0081, _LSTAR, 0xC000_0083, 0xC000_0084), *(0xC000_0102,))
_CONTROL = (reg.CR4, reg.CR3, reg.CR0, reg.CR2, reg.CR8)
_SELECTORS = (reg.CS, reg.SS, reg.DS, reg.ES, reg.FS, reg.GS)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds on Unicorn after a guest trapped too often on KVM; each time twice as long."""
_GIVE_UP = 4
"""So often a guest may turn out not to be carried before it stays on Unicorn."""
_RETRY = 0.002, 0.5
"""Seconds after which `kvm` looks again whether a guest can be carried: at first, at most."""


def _copy(source: Cpu, target: Cpu) -> None:
    """All registers of one processor to another. Both between two runs."""
    for name in ("gdtr", "idtr", "tr"):
        base, limit = source.table(name)
        target.set_table(name, base, limit)
    target.write_msr(_EFER, source.read_msr(_EFER))
    for register in _CONTROL:
        target.set(register, source.get(register))
    for register in _SELECTORS:
        target.set(register, source.get(register))
    for index in _MSRS:
        target.write_msr(index, source.read_msr(index))
    target.load(source.save())
    target.fault = source.fault


def why_not(memory: PhysicalMemory, cpu: Cpu) -> str | None:
    """Why a processor on Unicorn cannot go on in ring 3 under a monitor, as the end of a sentence; None if it can."""
    cr0, cr4, efer = cpu.get(reg.CR0), cpu.get(reg.CR4), cpu.read_msr(_EFER)
    if not cr0 & CR0_PE:
        return "it is in real mode"
    if not (cr0 & CR0_PG and efer & EFER_LME and cr4 & CR4_PAE):
        return "it is not in long mode"
    if cpu.get(reg.CS) & 3:
        return "it is in ring 3"
    if cr4 & CR4_LA57:
        return "it has page tables of five levels"
    if cr0 & (_CR0_EM | _CR0_TS):
        return "it wants to know when the x87 or SSE is used (CR0.TS, CR0.EM)"
    if cpu.read_msr(_LSTAR):
        return "it is prepared for system calls"
    if cpu.get(reg.RFLAGS) & (reg.RFLAGS_TF | reg.RFLAGS_VM):
        return "it steps through itself"
    base, _ = cpu.table("gdtr")
    try:
        descriptor = LinearMemory(memory, cpu, cpu.mode(), 0).read(base + (cpu.get(reg.CS) & 0xFFF8), 8)
    except BadAddress:
        return None
    return "it is in 32-bit code" if descriptor[5] & 0x18 == 0x18 and not descriptor[6] & 0x20 else None


class MovableCpu:
    """A processor wherever it is: its methods are those of the engine that has it now."""

    def __init__(self, engine: "MovingEngine", now: Cpu) -> None:
        self.index = now.index
        self._engine = engine
        self.settle(now)

    def settle(self, now: Cpu) -> None:
        """It is this one from now on."""
        self.now = now
        self.get, self.set, self.arguments, self.mode = now.get, now.set, now.arguments, now.mode
        self.read_msr, self.write_msr, self.table, self.set_table = (
            now.read_msr,
            now.write_msr,
            now.table,
            now.set_table,
        )
        self.enter_ring0, self.save, self.load = now.enter_ring0, now.save, now.load
        self.pass_breakpoint, self.touched = now.pass_breakpoint, now.touched

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Stop before these instructions. While there are any, the guest stays in Unicorn, which can."""
        self._engine.pin(self.index, bool(addresses), watches=False)
        if self._engine.pinned:
            self.now.set_breakpoints(addresses)

    def set_watches(self, watches: tuple[Watch, ...]) -> None:
        """Stop behind accesses to these places, in the same way."""
        self._engine.pin(self.index, bool(watches), watches=True)
        if self._engine.pinned:
            self.now.set_watches(watches)

    @property
    def fault(self) -> Fault | None:
        """The exception that waits."""
        return self.now.fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self.now.fault = fault


class MovingEngine:
    """Unicorn first, KVM when that serves. EngineError if `wish` is "kvm" and there is no KVM that does."""

    def __init__(
        self,
        memory: PhysicalMemory,
        handlers: Handlers,
        cpus: int,
        wish: str,
        report: Callable[[str], None] = lambda _line: None,
        moved: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """`report` gets a line for the user, `moved` the name of the engine that has just taken over."""
        self._memory = memory
        self._handlers = handlers
        self._eager = wish == "kvm"
        self._report = report
        self._moved = moved
        if self._eager:
            from machine.engine.kvm_probe import probe

            probe()
        self._unicorn = UnicornEngine(memory, handlers, cpus)
        self._kvm: KvmEngine | None = None
        self._windows: list[tuple[int, int]] = []
        self._active: UnicornEngine | KvmEngine = self._unicorn
        self.name = self._unicorn.name
        self._movable = [MovableCpu(self, cpu) for cpu in self._unicorn.cpus]
        self.cpus: list[Cpu] = list(self._movable)
        self._go = self._eager
        self._pins: set[tuple[int, bool]] = set()
        self.pinned = False
        """Whether a debugger has ever asked for what only Unicorn has, and has not taken it all back."""
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._retry = _RETRY[0]
        self._said = ""
        self._watch = LoadWatch(self._asked, busy_only=not self._eager)

    # -- Engine

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` until something of `Stop` happens, wherever it is, and wherever it goes."""
        return self._run(cpu, stepping=False)

    def step(self, cpu: Cpu) -> Stop:
        """Run one instruction."""
        return self._run(cpu, stepping=True)

    def _run(self, cpu: Cpu, stepping: bool) -> Stop:
        index = cpu.index
        while True:
            active = self._active
            if active is self._unicorn:
                if self._go and not self.pinned:
                    self._go = False
                    self._try_kvm()
                    active = self._active
                if active is self._unicorn:
                    self._watch.begin()
            inner = active.cpus[index]
            try:
                return active.step(inner) if stepping else active.run(inner)
            except CannotCarry as leaving:
                self._failures += 1
                self._not_before = monotonic() + _LONGEST_PAUSE
                self._back(leaving.reason)
            except ManyExits:
                self._not_before = monotonic() + self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                self._back(None)

    def kick(self) -> None:
        """Make a running `run`, or else the next one, return; from any thread."""
        active = None
        while active is not self._active:  # it may change hands meanwhile
            active = self._active
            active.kick()

    def invalidate(self, address: int, size: int) -> None:
        """Host code stored where guest code was executed."""
        self._active.invalidate(address, size)

    def flush_translations(self) -> None:
        """Drop every translation."""
        self._active.flush_translations()

    def open_window(self, base: int, size: int) -> None:
        """Reach devices above 4 GiB."""
        self._windows.append((base, size))
        self._unicorn.open_window(base, size)
        if self._kvm is not None:
            self._kvm.open_window(base, size)

    def close(self) -> None:
        """Free both engines."""
        self._watch.close()
        self._unicorn.close()
        if self._kvm is not None:
            kvm, self._kvm = self._kvm, None
            kvm.close()
        self.cpus = []

    def pin(self, index: int, wanted: bool, watches: bool) -> None:
        """Keep the guest in Unicorn while a processor has breakpoints, or watchpoints. Between two runs only."""
        (self._pins.add if wanted else self._pins.discard)((index, watches))
        if self._pins and self._active is not self._unicorn:
            self._back(None)
        if self._pins:
            self.pinned = True
        elif self.pinned:
            for cpu in self._unicorn.cpus:
                cpu.set_breakpoints(frozenset())
                cpu.set_watches(())
            self.pinned = False
            self._go = self._eager

    # -- moving

    def _asked(self) -> None:
        """From the watch's thread: the guest has been computing, or it is time to look again."""
        if self._active is self._unicorn and self._failures < _GIVE_UP and monotonic() >= self._not_before:
            self._go = True
            self._unicorn.kick()

    def _try_kvm(self) -> None:
        """Move to KVM if it is there and every processor can be carried."""
        reason = next((why for cpu in self._unicorn.cpus if (why := why_not(self._memory, cpu)) is not None), None)
        if reason is not None:
            self._stay(reason)
            return
        if self._kvm is None:
            from machine.engine.kvm import KvmEngine
            from machine.engine.kvm_probe import probe

            try:
                probe()
                self._kvm = KvmEngine(self._memory, self._handlers, len(self._movable))
            except EngineError as error:
                self._failures = _GIVE_UP
                self._watch.close()
                if self._eager:
                    self._report(f"engine: the guest stays in Unicorn because {error}")
                return
            self._kvm.may_leave = not self._eager
            for base, size in self._windows:
                self._kvm.open_window(base, size)
        self._watch.end()
        # Translated code is not told of what the guest writes meanwhile.
        self._memory.code_pages.clear()
        self._memory.on_code_write = self._kvm.invalidate
        self._kvm.flush_translations()
        self._hand_over(self._kvm)

    def _stay(self, reason: str) -> None:
        """Not yet: `kvm` looks again, and says what it waits for."""
        if not self._eager:
            self._not_before = monotonic() + _LONGEST_PAUSE
            return
        if reason != self._said:
            self._said = reason
            self._report(f"engine: the guest is in Unicorn because {reason}")
        self._watch.again(self._retry)
        self._retry = min(2 * self._retry, _RETRY[1])

    def _back(self, reason: str | None) -> None:
        if reason is not None and self._eager:
            self._failures = _GIVE_UP
            self._report(f"engine: the guest goes on in Unicorn because {reason}")
        self._memory.code_pages.clear()
        self._memory.on_code_write = self._unicorn.invalidate
        self._unicorn.invalidate(0, self._memory.end)
        self._hand_over(self._unicorn)

    def _hand_over(self, engine: "UnicornEngine | KvmEngine") -> None:
        for movable, target in zip(self._movable, engine.cpus, strict=True):
            _copy(movable.now, target)
            movable.settle(target)
        before, self._active = self._active, engine
        self.name = engine.name
        if before.take_kick():
            engine.kick()
        self._moved(engine.name)
