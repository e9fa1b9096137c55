"""An engine that changes hands: Unicorn or KVM under one Engine, with the guest moved live from one to the other.

All state of devices and services lies outside the engines, and both see the same RAM, so only registers move; they do so
between two runs, when the guest stands between two instructions. Unicorn starts at once and answers a trap in a microsecond;
KVM computes at the processor's own speed, and a trap costs ten times as much or more. `auto` begins on Unicorn, goes to KVM
when the guest computes for long, and comes back when it traps often. `kvm` goes to KVM as soon as the guest can be carried, and
comes back only if it cannot be any more.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from machine import registers as reg
from machine.callbacks import never
from machine.cpu import Cpu, Fault, Stop, Watch
from machine.cpu_state import SEGMENTS
from machine.engine.base import Handlers, SideBySide
from machine.engine.kvm_limits import why_not
from machine.engine.leaving import CannotCarry, ManyExits
from machine.engine.load_watch import LoadWatch
from machine.engine.unicorn import UnicornEngine
from machine.errors import EngineError
from machine.memory import PhysicalMemory
from machine.paging import CR0_PE

if TYPE_CHECKING:
    from machine.engine.kvm import KvmEngine
    from machine.engine.kvm_cpu import KvmCpu
    from machine.engine.kvm_ring0 import KvmRing0Cpu, KvmRing0Engine
    from machine.engine.unicorn_cpu import UnicornCpu

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds on Unicorn after a guest trapped too often on KVM; each time twice as long."""
_GIVE_UP = 4
"""So often a guest may turn out not to be carried before it stays on Unicorn."""
_RETRY = 0.002, 0.5
"""Seconds after which `kvm` looks again whether a guest can be carried: at first, at most."""


def _start_up(target: Cpu, state: dict[str, Any]) -> None:
    """Make a processor one that has just got a start-up IPI: nobody else is in real mode where the guest has been."""
    _, base, _, _ = state["segments"][SEGMENTS.index("cs")]
    target.enter_real_mode(base >> 12, state["general"][reg.RDX])
    for register, value in zip(reg.GENERAL, state["general"], strict=True):
        target.set(register, value)


class MovableCpu:
    """A processor wherever it is: its methods are those of the engine that has it now."""

    def __init__(self, engine: "MovingEngine", now: "UnicornCpu | KvmCpu | KvmRing0Cpu") -> None:
        self.index = now.index
        self._engine = engine
        self.settle(now)

    def settle(self, now: "UnicornCpu | KvmCpu | KvmRing0Cpu") -> None:
        """It is this one from now on."""
        self.now = now
        self.get, self.set, self.arguments, self.mode = now.get, now.set, now.arguments, now.mode
        self.read_msr, self.write_msr, self.table, self.set_table = (
            now.read_msr,
            now.write_msr,
            now.table,
            now.set_table,
        )
        self.enter_ring0, self.enter_real_mode = now.enter_ring0, now.enter_real_mode
        self.save, self.load = now.save, now.load
        self.begin_turn, self.power_on, self.freeze, self.thaw = now.begin_turn, now.power_on, now.freeze, now.thaw
        now.face = self
        self.pass_breakpoint, self.touched = now.pass_breakpoint, now.touched
        self.takes_interrupt = now.takes_interrupt

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
    def nmi_masked(self) -> bool:
        """Whether an NMI is being handled."""
        return self.now.nmi_masked

    @nmi_masked.setter
    def nmi_masked(self, masked: bool) -> None:
        self.now.nmi_masked = masked

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
        tsc_frequency: int | None = None,
    ) -> None:
        """`report` gets a line for the user, `moved` the name of the engine that has just taken over.

        `tsc_frequency` is what the guest is told, in Hz.
        """
        self._tsc_frequency = tsc_frequency
        self._memory = memory
        self._handlers = handlers
        self._eager = wish != "auto"
        self._ring_0 = wish == "kvm-ring0"
        """Whether on KVM the guest is in ring 0 itself."""
        self._report = report
        self.on_move = moved
        if self._eager:
            from machine.engine.kvm_probe import probe

            if probe().software and self._ring_0:
                raise EngineError(
                    "this machine's KVM emulates ring 0, at a million instructions a second; use --engine kvm"
                )
        self._unicorn = UnicornEngine(memory, handlers, cpus)
        self._left: UnicornEngine | None = None
        self._untouched = self._unicorn.instances[-1].freeze() if cpus > 1 else None
        """The state of a processor that nobody has started yet."""
        self._kvm: KvmEngine | KvmRing0Engine | None = None
        self._windows: list[tuple[int, int]] = []
        self._active: UnicornEngine | KvmEngine | KvmRing0Engine = self._unicorn
        self.name = self._unicorn.name
        self._movable = [MovableCpu(self, cpu) for cpu in self._unicorn.instances]
        self.cpus: list[Cpu] = list(self._movable)
        self._go = self._eager
        self._pins: set[tuple[int, bool]] = set()
        self.pinned = False
        """Whether a debugger has ever asked for what only Unicorn has, and has not taken it all back."""
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._retry = _RETRY[0]
        self._said: set[str] = set()
        self._leaving: CannotCarry | ManyExits | str | None = None
        self._watch = LoadWatch(self._asked, busy_only=not self._eager)

    # -- Engine

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` until something of `Stop` happens, wherever it is, and wherever it goes."""
        return self._run(cpu, stepping=False)

    def step(self, cpu: Cpu) -> Stop:
        """Run one instruction."""
        return self._run(cpu, stepping=True)

    @property
    def side_by_side(self) -> SideBySide | None:
        """Guest code runs on several processors at once where the engine of the moment can, until it is to be left."""
        return self._active.side_by_side if self._leaving is None else None

    def _leave(self, leaving: CannotCarry | ManyExits | str) -> None:
        """From a processor beside others: all have to come out before the guest can go on in Unicorn, with the next `run`."""
        if self._leaving is None:
            self._leaving = leaving

    def _run(self, cpu: Cpu, stepping: bool) -> Stop:
        index = cpu.index
        leaving, self._leaving = self._leaving, None
        if isinstance(leaving, str):
            self._leave_kvm(leaving)
        elif leaving is not None:
            self._give_up(leaving)
        while True:
            active = self._active
            if active is self._unicorn:
                if self._go and not self.pinned:
                    self._go = False
                    self._try_kvm(index)
                    active = self._active
                if active is self._unicorn:
                    self._watch.begin()
            elif len(self._movable) > 1 and (reason := self._why_not(self._movable[index].freeze())) is not None:
                self._leave_kvm(reason)
                continue
            inner = active.cpus[index]
            try:
                return active.step(inner) if stepping else active.run(inner)
            except (CannotCarry, ManyExits) as reason:
                self._give_up(reason)

    def _give_up(self, leaving: CannotCarry | ManyExits) -> None:
        """Go on elsewhere for this reason."""
        if isinstance(leaving, CannotCarry):
            self._failures += 1
            self._not_before = monotonic() + _LONGEST_PAUSE
            self._back(leaving.reason)
        else:
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
        if self._left is not None:
            self._left.close()
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

    def _try_kvm(self, index: int) -> None:
        """Move to KVM if it is there and every processor that was ever started can be carried."""
        states = [movable.freeze() for movable in self._movable]
        running = (state for number, state in enumerate(states) if number == index or state != self._untouched)
        reason = next((why for state in running if (why := self._why_not(state)) is not None), None)
        if reason is not None:
            self._stay(reason)
            return
        if self._kvm is None:
            from machine.engine.kvm_probe import probe

            try:
                probe()
                self._kvm = self._make_kvm()
            except EngineError as error:
                self._failures = _GIVE_UP
                self._watch.close()
                if self._eager:
                    self._report(f"engine: the guest stays in Unicorn because {error}")
                return
        self._enter(self._kvm)

    def _enter(self, kvm: "KvmEngine | KvmRing0Engine") -> None:
        self._watch.end()
        # Translated code is not told of what the guest writes meanwhile.
        self._memory.code_pages.clear()
        self._memory.on_code_write = kvm.invalidate
        side = kvm.side_by_side
        self._memory.gather = side.gather if side is not None else never
        kvm.forget_code()
        kvm.flush_translations()
        self._hand_over(kvm)

    def _make_kvm(self) -> "KvmEngine | KvmRing0Engine":
        if self._ring_0:
            from machine.engine.kvm_ring0 import KvmRing0Engine

            native = KvmRing0Engine(self._memory, self._handlers, len(self._movable), self._tsc_frequency)
            self._prepare(native)
            if not native.right_time:
                self._report(
                    "engine: this processor cannot scale its TSC, so that the guest's time runs at a wrong pace"
                )
            return native
        from machine.engine.kvm import KvmEngine

        engine = KvmEngine(self._memory, self._handlers, len(self._movable))
        self._prepare(engine)
        engine.threads.leave = self._leave
        engine.threads.refuses = self._refuses
        return engine

    def _refuses(self, index: int) -> str | None:
        """Why a processor cannot go on on KVM."""
        return self._why_not(self._movable[index].freeze())

    def _prepare(self, engine: "KvmEngine | KvmRing0Engine") -> None:
        engine.may_leave = not self._eager
        for base, size in self._windows:
            engine.open_window(base, size)

    def _why_not(self, state: dict[str, Any]) -> str | None:
        """Why the engine on KVM cannot carry a processor."""
        return None if self._ring_0 else why_not(state)

    def _stay(self, reason: str) -> None:
        """Not yet: `kvm` looks again, and says what it waits for."""
        if not self._eager:
            self._not_before = monotonic() + _LONGEST_PAUSE
            return
        if reason not in self._said:
            self._said.add(reason)
            self._report(f"engine: the guest is in Unicorn because {reason}")
        self._watch.again(self._retry)
        self._retry = min(2 * self._retry, _RETRY[1])

    def _leave_kvm(self, reason: str) -> None:
        """Go on in Unicorn, if the guest is not there, until all processors can be carried again. Between two runs only."""
        if self._active is not self._unicorn:
            self._back(None)
            self._stay(reason)

    def _back(self, reason: str | None) -> None:
        """Go on in a fresh Unicorn: what the old one had translated has been changed without its notice."""
        if reason is not None and self._eager:
            self._failures = _GIVE_UP
            self._report(f"engine: the guest goes on in Unicorn because {reason}")
        self._memory.code_pages.clear()
        self._memory.gather = never
        if self._left is not None:
            self._left.close()
        # Somebody may just be kicking the old one: it is closed the next time.
        self._left, self._unicorn = self._unicorn, UnicornEngine(self._memory, self._handlers, len(self._movable))
        for base, size in self._windows:
            self._unicorn.open_window(base, size)
        self._hand_over(self._unicorn)

    def _hand_over(self, engine: "UnicornEngine | KvmEngine | KvmRing0Engine") -> None:
        targets: Sequence[UnicornCpu | KvmCpu | KvmRing0Cpu] = engine.instances
        for movable, target in zip(self._movable, targets, strict=True):
            state = movable.freeze()
            if not state["control"][0] & CR0_PE:
                _start_up(target, state)
            elif state != target.freeze():  # else it has never run
                target.thaw(state)
            target.fault = movable.fault
            movable.settle(target)
        before, self._active = self._active, engine
        for target in targets:
            if engine.side_by_side is not None:
                engine.side_by_side.changed(target.index)
        self._go = False  # it may have been asked for once more meanwhile
        self.name = engine.name
        if before.take_kick():
            engine.kick()
        self.on_move(engine.name)
