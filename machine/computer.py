"""The computer: RAM, bus, clock, CPUs and the loop that runs them.

One thread, the one that calls `run`, owns everything here. Others talk to it through `post` and `finish`.
"""

import os
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine import msr, paging
from machine.alarm import Alarm
from machine.bus import Bus
from machine.callbacks import never, nothing
from machine.clock import Clock, RealClock, VirtualClock
from machine.cpu import Cpu, Stop
from machine.cpuid import CpuidTable
from machine.debugger import Debugger
from machine.engine.base import Engine
from machine.engine.unicorn import UnicornEngine
from machine.errors import BusConflict, MachineError
from machine.idle import NEAR, NEAR_ON_KVM, IdleDetector
from machine.memory import PhysicalMemory
from machine.paging import Mode, Translation
from machine.parallel import Parallel
from machine.posted_writes import PostedWrites
from machine.tsc import TimeStampCounters
from machine.turns import WAITING
from machine.waiting import Waiting

if TYPE_CHECKING:
    from machine.devices.dma import Dma

FIRST_LOOK, LAST_LOOK = 50_000, 5_000_000
"""Nanoseconds after which to look whether a CPU takes interrupts again, while one waits for that: at first, and after a while.
No engine tells of STI, and the CPU may spin from there on without a trap."""


class Computer(Waiting):
    """One x64 machine with `memory` bytes of RAM and `cpus` processors. Devices are added by a board.

    Extension points, all called on the engine thread with the CPU concerned:
    `bus`, `cpuid`, `msrs` take registrations; `trap_instructions` maps opcode bytes to handlers that return the length
    handled; `page_filter` sees each page that a CPU is about to use (cpu, translation, linear address, access), once until
    `engine.flush_translations`. `interrupts`, `injectors` and `fault_filter`: see Processors.
    """

    def __init__(
        self,
        memory: int,
        cpus: int = 1,
        clock: Clock | None = None,
        engine: str = "unicorn",
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`engine` is "unicorn", "kvm" or "auto"; `report` gets a line when a guest cannot stay where it was asked to be.

        MachineError if that engine is not to be had.
        """
        super().__init__(cpus)
        self.memory = PhysicalMemory(memory)
        self.clock = clock or RealClock()
        self.virtual = isinstance(self.clock, VirtualClock)
        self.bus = Bus()
        self.cpuid = CpuidTable(self.clock.tsc_frequency, cpus)
        self.msrs = msr.MsrTable(cpus)
        self.msrs.register(msr.PATCH_LEVEL, self.cpuid.patch_level, never)
        self.tsc = TimeStampCounters(self.clock, self.msrs, cpus)
        self.encryption_mask = 0
        self.trap_instructions: dict[bytes, Callable[[Cpu, bytes], int]] = {}
        self.page_filter: Callable[[Cpu, Translation, int, int], None] | None = None
        self.dma: Callable[[str], Dma] = self._whole_memory
        """What a device, by name, sees of RAM."""
        self.posted_writes: PostedWrites | None = None
        """What an engine may carry out without a trap; set before anything runs."""
        self.on_idle: Callable[[], None] = nothing
        self.input_waiting: Callable[[], bool] = never
        self.await_input: Callable[[], bool] = never
        """Under virtual time, when nothing but input can happen any more: True if that has come."""
        self.idle = IdleDetector(self._doze, *(self.clock.now,) * 2 if self.virtual else ())
        if self._several:
            self.idle.spun = self._spun
        self._look = FIRST_LOOK
        self._random = random.Random(0x6376_6D62) if self.virtual else None
        self._deferred: deque[Callable[[], None]] = deque()
        try:
            self._connect(self._make_engine(engine, cpus, report))
        except MachineError:
            self.memory.close()
            raise
        self.bus.on_window = self._open_window

    def _connect(self, engine: Engine) -> None:
        """All that belongs to the host, and is made anew for a machine that is restored: engine, threads, what they share."""
        self.engine = engine
        self.debugger: Debugger | None = None
        self.parallel = Parallel(self)
        self._abandoned = False
        self._posted: deque[Callable[[], None]] = deque()
        self._at_rest: deque[Callable[[], None]] = deque()
        self._attention = False
        self._wake = threading.Condition()
        self._end: Any = None
        self._alarm = Alarm(self._on_alarm)
        if not self.virtual:
            self.clock.on_earlier = self._earlier
        if self.virtual:
            self.port_read = self._virtual(self.bus.port_read)  # type: ignore[method-assign]
            self.port_write = self._virtual(self.bus.port_write)  # type: ignore[method-assign]
            self.mmio_read = self._virtual(self.bus.mmio_read)  # type: ignore[method-assign]
            self.mmio_write = self._virtual(self.bus.mmio_write)  # type: ignore[method-assign]
        else:
            self.port_read = self.bus.port_read  # type: ignore[method-assign]
            self.port_write = self.bus.port_write  # type: ignore[method-assign]
            self.mmio_read = self.bus.mmio_read  # type: ignore[method-assign]
            self.mmio_write = self.bus.mmio_write  # type: ignore[method-assign]

    # -- snapshots

    _OF_THE_HOST = frozenset(
        (
            *("memory", "engine", "debugger", "parallel", "await_input"),
            *("_abandoned", "_posted", "_at_rest", "_attention", "_wake", "_end", "_alarm"),
            *("port_read", "port_write", "mmio_read", "mmio_write"),
        )
    )
    """Attributes that a machine which is restored gets anew."""

    def freeze(self) -> dict[str, Any]:
        """What the computer is besides its memory: CPUs as plain data, and the objects that devices and others have registered.

        From an action of `at_rest`.
        """
        state = {name: value for name, value in self.__dict__.items() if name not in self._OF_THE_HOST}
        state["cpus"] = [cpu.freeze() for cpu in self.engine.cpus]
        return state

    @classmethod
    def restored(
        cls,
        memory: PhysicalMemory,
        cpus: int,
        engine: str = "unicorn",
        report: Callable[[str], None] = lambda _line: None,
    ) -> "Computer":
        """A computer that `thaw` is still to make one: objects that belong to it can refer to it and to its CPUs meanwhile."""
        computer = cls.__new__(cls)
        computer.memory = memory
        computer.engine = computer._make_engine(engine, cpus, report)
        return computer

    def thaw(self, state: dict[str, Any]) -> None:
        """Become what `freeze` gave, over memory that holds the same. EngineError for CPUs that the engine cannot have."""
        cpus = state.pop("cpus")
        self.__dict__.update(state)
        self.await_input = never
        self._connect(self.engine)
        self.bus.reopen_windows()
        self._moved(self.engine.name)
        for cpu, saved in zip(self.engine.cpus, cpus, strict=True):
            cpu.thaw(saved)

    def _make_engine(self, name: str, cpus: int, report: Callable[[str], None]) -> Engine:
        if name == "unicorn":
            return UnicornEngine(self.memory, self, cpus)
        from machine.engine.moving import MovingEngine

        frequency = self.clock.tsc_frequency if hasattr(self, "clock") else None
        return MovingEngine(self.memory, self, cpus, name, report, self._moved, frequency)

    def _moved(self, engine: str) -> None:
        self.idle.near = NEAR if engine == "unicorn" else NEAR_ON_KVM

    # -- machine.engine.base.Handlers

    def port_read(self, cpu: Cpu, port: int, size: int) -> int:
        """IN."""
        return self.bus.port_read(cpu, port, size)

    def port_write(self, cpu: Cpu, port: int, size: int, value: int) -> None:
        """OUT."""
        self.bus.port_write(cpu, port, size, value)

    def mmio_read(self, cpu: Cpu, address: int, size: int) -> int:
        """A load outside RAM."""
        return self.bus.mmio_read(cpu, address, size)

    def mmio_write(self, cpu: Cpu, address: int, size: int, value: int) -> None:
        """A store outside RAM."""
        self.bus.mmio_write(cpu, address, size, value)

    def _open_window(self, base: int, size: int) -> None:
        """The bus wants addresses above 4 GiB for devices. BusConflict if RAM lies there."""
        if base < self.memory.end:
            raise BusConflict(
                f"addresses {base:#x}+{size:#x} are for devices; this machine's RAM ends at {self.memory.end:#x}"
            )
        self.engine.open_window(base, size)

    def _virtual(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Under virtual time each trap moves the clock, and a due timer ends the run at that very trap."""

        def trap(*arguments: Any) -> Any:
            self.tick()
            return handler(*arguments)

        return trap

    def tick(self) -> None:
        """One trap of virtual time."""
        self.clock.trap()
        deadline = self.clock.next_deadline()
        if deadline is not None and deadline <= self.clock.now():
            self.engine.kick()
        if self._end_of_turn is not None and self._end_of_turn <= self.clock.now():
            self._give_way()
        elif self._masked:
            self.engine.kick()

    def read_msr(self, cpu: Cpu, index: int) -> int | None:
        """RDMSR."""
        return self.msrs.read(cpu, index)

    def write_msr(self, cpu: Cpu, index: int, value: int) -> bool:
        """WRMSR."""
        return self.msrs.write(cpu, index, value)

    def _whole_memory(self, _device: str) -> "Dma":
        return self.memory

    def read_tsc(self, cpu: Cpu) -> int:
        """RDTSC."""
        if self.virtual:
            self.tick()
        self.idle.time_poll()
        return self.tsc.read(cpu)

    def pause(self, cpu: Cpu) -> None:
        """PAUSE: the CPU waits for another one, which should run."""
        if self.virtual:
            self.tick()
        if self.turns.others_busy():
            self._give_way()

    def random(self, cpu: Cpu, size: int) -> int:
        """RDRAND; seeded under virtual time."""
        if self._random is not None:
            return self._random.getrandbits(8 * size)
        return int.from_bytes(os.urandom(size), "little")

    def random_bytes(self, size: int) -> bytes:
        """What the firmware's random number generator gives: the same source as RDRAND."""
        return self._random.randbytes(size) if self._random is not None else os.urandom(size)

    def translate(self, cpu: Cpu, mode: Mode, address: int, access: int, user: bool) -> Translation:
        """The page walk of a TLB fill."""
        found = paging.walk(self.memory, mode, address, access, user, self.encryption_mask)
        if self.page_filter is not None:
            self.page_filter(cpu, found, address, access)
            found.shift = 12  # the next page is to be seen, too
        return found

    def look(self, mode: Mode, address: int) -> Translation:
        """The page walk of the engine's own reads."""
        return paging.walk(self.memory, mode, address, paging.READ, mask=self.encryption_mask, mark=False)

    def trap_instruction(self, cpu: Cpu, code: bytes) -> int:
        """An opcode that the engine does not know."""
        for length in (4, 3, 2):
            handler = self.trap_instructions.get(code[:length])
            if handler is not None:
                return handler(cpu, code)
        return 0

    # -- from other threads

    def post(self, action: Callable[[], None]) -> None:
        """Have the engine thread call `action` between two blocks of guest code, soon."""
        self._posted.append(action)
        self.interrupt()

    def at_rest(self, action: Callable[[], None]) -> None:
        """Have the engine thread call `action` soon where all CPUs are between two instructions, and no trap is being handled."""
        self._at_rest.append(action)
        self.interrupt()

    def interrupt(self) -> None:
        """Bring the engine thread out of guest code or out of its sleep."""
        self._attention = True
        with self._wake:
            self._wake.notify_all()
        self.engine.kick()
        if self._attention:
            self._alarm.urge()

    def _earlier(self, deadline: int) -> None:
        self._alarm.set(deadline - self.clock.now())

    def _on_alarm(self) -> bool:
        """A deadline came, or a kick may have been lost: kick; True to be called again shortly."""
        self.engine.kick()
        return self._attention

    def finish(self, result: Any) -> None:
        """End `run`, which returns `result` (not None). The first one counts. From any thread.

        A second one ends the wait for a debugger that looks at what the first one left.
        """
        if self._end is None:
            self._end = result
        else:
            self._abandoned = True
        self.interrupt()

    @property
    def called(self) -> bool:
        """Whether something waits for the engine thread that comes before guest code."""
        return self._attention

    @property
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self._end is not None

    # -- what is to be done on the engine thread

    def defer(self, action: Callable[[], None]) -> None:
        """For devices and firmware: `action` is called between two blocks of guest code. Unlike what is posted it is state."""
        self._deferred.append(action)
        self.interrupt()

    def _take_posted(self) -> None:
        if self._attention:
            self._attention = False
            self.parallel.wake_all()
            for _ in range(len(self._deferred)):
                self._deferred.popleft()()
            while self._posted:
                self._posted.popleft()()

    # -- the loop

    def _paused(self) -> bool:
        """Whether guest code is to be left alone for now."""
        return bool(self._at_rest) or (self.debugger is not None and self.debugger.paused)

    def _rest(self, debugger: Debugger, cpu: Cpu) -> None:
        """Sleep while a debugger looks at the machine, until something is posted."""
        debugger.rest(cpu)
        if not debugger.paused:
            return
        self.on_idle()
        with self._wake:
            if not self._attention:
                self._wake.wait()
        self._take_posted()

    def run(self) -> Any:
        """Run until `finish`; gives its result. Raises what a handler raised, TripleFault, EngineError."""
        try:
            result = self._run()
        except MachineError as error:
            self._show(error)
            raise
        self._show(result)
        return result

    def _show(self, result: Any) -> None:
        """Let a debugger look at what is left, as long as it wants."""
        debugger = self.debugger
        if debugger is not None:
            cpu = self.cpu
            debugger.ended(cpu, result)
            while debugger.paused and not self._abandoned:
                self._rest(debugger, cpu)

    def _run(self) -> Any:
        turns = self.turns
        try:
            while self._end is None:
                self._take_posted()
                if self._at_rest:
                    self.parallel.settle()
                while self._at_rest:
                    self._at_rest.popleft()()
                debugger = self.debugger
                if debugger is not None:
                    self.parallel.settle()
                if debugger is not None and debugger.paused:
                    self._resume_halts()
                    self._rest(debugger, self.cpu)
                    continue
                self.clock.run_due()
                if self._end is not None:
                    break
                if self._several and self.parallel.round():
                    continue
                step = debugger.stepping if debugger is not None else None
                cpu = self._next_cpu() if step is None or debugger is None else self._next_of_debugger(step, debugger)
                stepping = cpu is not None and cpu.index == step
                if cpu is None:
                    self._let_pass(turns.next_end_of_halt())
                    continue
                if not stepping and not self.prepare(cpu):
                    continue
                deadline = None if self.virtual else self.clock.next_deadline()
                left = None if deadline is None else deadline - self.clock.now()
                if self._several and not self.virtual and turns.contended():
                    left = self._turn if left is None else min(left, self._turn)
                if self._masked and not self.virtual:
                    left = self._look if left is None else min(left, self._look)
                    self._look = min(2 * self._look, LAST_LOOK)
                elif not self._masked:
                    self._look = FIRST_LOOK
                self._alarm.set(left)
                if self._attention:
                    continue
                stop = self.engine.step(cpu) if stepping else self.engine.run(cpu)
                if self._end is not None:
                    break  # a few more instructions may have been executed, and faulted, before the engine stopped
                if turns.states[cpu.index] == WAITING:
                    cpu.fault = None  # parked meanwhile: what it did in the last few instructions does not count
                elif not stepping or stop is not Stop.HALTED:
                    self.stopped(cpu, stop)
                if debugger is not None:
                    debugger.stopped(cpu, stop)
        finally:
            self._alarm.set(None)
            self.parallel.abandon()
        return self._end

    # -- several CPUs

    def abandon(self) -> None:
        """`close` for one that was never made whole by `thaw`."""
        self.engine.close()
        self.memory.close()

    def close(self) -> None:
        """Free the engine and the RAM. The machine cannot be used afterwards."""
        self._alarm.close()
        self.engine.close()
        self.memory.close()
