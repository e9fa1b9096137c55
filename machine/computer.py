"""The computer: RAM, bus, clock, CPUs and the loop that runs them.

One thread, the one that calls `run`, owns everything here. Others talk to it through `post` and `finish`.
"""

import os
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine import exceptions, msr, paging
from machine import registers as reg
from machine.alarm import Alarm
from machine.bus import Bus
from machine.callbacks import always, never, nothing
from machine.clock import Clock, RealClock, VirtualClock
from machine.cpu import Cpu, Fault, Stop
from machine.cpuid import CpuidTable
from machine.debugger import Debugger
from machine.engine.base import Engine
from machine.engine.unicorn import UnicornEngine
from machine.errors import BadAddress, BusConflict, MachineError
from machine.idle import NEAR, NEAR_ON_KVM, IdleDetector
from machine.interrupts.controller import InterruptController
from machine.linear import LinearMemory
from machine.memory import PhysicalMemory
from machine.paging import Mode, Translation
from machine.turns import ALONE, BLOCK_TIME, FIRST_BLOCKS, HALTED, RUNNING, TURN, WAITING, Turns

if TYPE_CHECKING:
    from machine.devices.dma import Dma

_STI, _MOV_SS, _POP_SS, _HLT = 0xFB, 0x8E, 0x17, 0xF4

FIRST_LOOK, LAST_LOOK = 50_000, 5_000_000
"""Nanoseconds after which to look whether a CPU takes interrupts again, while one waits for that: at first, and after a while.
No engine tells of STI, and the CPU may spin from there on without a trap."""


def _in_long_mode(cpu: Cpu) -> bool:
    """Whether interrupts can be delivered to `cpu`: one that is on its way from real mode takes an NMI when it has arrived."""
    return bool(cpu.get(reg.CR0) & paging.CR0_PG and cpu.read_msr(msr.EFER) & paging.EFER_LME)


class Computer:
    """One x64 machine with `memory` bytes of RAM and `cpus` processors. Devices are added by a board.

    Extension points, all called on the engine thread with the CPU concerned:
    `bus`, `cpuid`, `msrs` take registrations; `trap_instructions` maps opcode bytes to handlers that return the length
    handled; `interrupts` are the controllers that deliver vectors; `injectors` may divert the boot processor when it is about
    to run;
    `fault_filter` sees each exception before the guest's IDT does; `page_filter` sees each page that a CPU is about to
    use (cpu, translation, linear address, access), once until `engine.flush_translations`.
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
        self.memory = PhysicalMemory(memory)
        self.clock = clock or RealClock()
        self.virtual = isinstance(self.clock, VirtualClock)
        self.bus = Bus()
        self.cpuid = CpuidTable(self.clock.tsc_frequency, cpus)
        self.msrs = msr.MsrTable(cpus)
        self.msrs.register(msr.TSC, self._read_tsc_msr, always)
        self.encryption_mask = 0
        self.trap_instructions: dict[bytes, Callable[[Cpu, bytes], int]] = {}
        self.interrupts: InterruptController | None = None
        self.injectors: list[Callable[[Cpu], bool]] = []
        self.fault_filter: Callable[[Cpu, Fault], bool] = never
        self.page_filter: Callable[[Cpu, Translation, int, int], None] | None = None
        self.dma: Callable[[str], Dma] = self._whole_memory
        """What a device, by name, sees of RAM."""
        self.on_idle: Callable[[], None] = nothing
        self.halt_limit: int | None = None
        """Nanoseconds after which the boot processor's HLT ends where interrupts are enabled: firmware whose own timer ticks.
        None: never."""
        self.on_boot_processor_init: Callable[[], None] = nothing
        """The boot processor got an INIT: it begins at the reset vector."""
        self.init_filter: Callable[[int], bool] = never
        """Sees each INIT of another processor first; True if it is answered."""
        self.input_waiting: Callable[[], bool] = never
        self.await_input: Callable[[], bool] = never
        """Under virtual time, when nothing but input can happen any more: True if that has come."""
        self.idle = IdleDetector(self._doze, *(self.clock.now,) * 2 if self.virtual else ())
        self.turns = Turns(cpus)
        self._several = cpus > 1
        if self._several:
            self.idle.spun = self._spun
        self._began = 0
        self._blocks = ALONE
        self._look = FIRST_LOOK
        self._masked = False
        self._end_of_turn: int | None = None
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

    def connect(self, interrupts: InterruptController) -> None:
        """Wire the interrupt controllers to the CPUs."""
        self.interrupts = self.msrs.apic = interrupts
        interrupts.wake = self._interrupted
        interrupts.on_init = self._on_init
        interrupts.on_startup = self._on_startup

    # -- snapshots

    _OF_THE_HOST = frozenset(
        (
            *("memory", "engine", "debugger", "await_input"),
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

    def _read_tsc_msr(self, _cpu: Cpu) -> int:
        return self.clock.tsc()

    def _whole_memory(self, _device: str) -> "Dma":
        return self.memory

    def read_tsc(self, cpu: Cpu) -> int:
        """RDTSC."""
        if self.virtual:
            self.tick()
        self.idle.time_poll()
        return self.clock.tsc()

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
    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self._end is not None

    # -- waiting, on the engine thread

    def wait(self, nanoseconds: int | None) -> None:
        """Sleep until `interrupt`, or for so long; under virtual time jump there instead if nothing else can happen."""
        self.on_idle()
        if self.virtual and nanoseconds is None and not self._attention and self.await_input():
            return
        with self._wake:
            if not self._attention:
                self._wake.wait(None if nanoseconds is None else nanoseconds / 1e9)

    def _doze(self, nanoseconds: int) -> None:
        """The CPU whose turn it is has nothing to do. Sleep if the same is true of all that run."""
        deadline = self.clock.next_deadline()
        now = self.clock.now()
        if self.input_waiting():
            return
        if self._several and self._yields():
            return
        if self.virtual:
            self.on_idle()
            if isinstance(self.clock, VirtualClock):
                until = now + nanoseconds
                self.clock.jump_to(until if deadline is None else min(deadline, until))
            return
        if deadline is not None:
            nanoseconds = min(nanoseconds, deadline - now)
        if nanoseconds > 0 and not self._attention:
            self.wait(nanoseconds)

    def _give_way(self) -> None:
        """End the present turn."""
        self.turns.give_way()
        self.engine.kick()

    def _yields(self) -> bool:
        """The CPU whose turn it is waits: whether it leaves the engine to another, or all that run do the same."""
        turns = self.turns
        if not turns.contended():
            return False
        turns.drowsy.add(turns.current)
        self._give_way()
        if turns.others_busy():
            return True
        turns.drowsy.clear()  # after the sleep, everyone looks once
        return False

    def _spun(self, long: bool) -> None:
        """The CPU whose turn it is only reads the clock: it waits for its time or for another CPU."""
        turns = self.turns
        if long and turns.contended():
            turns.drowsy.add(turns.current)
        if turns.others_busy() or turns.current in turns.drowsy:
            self._give_way()

    def wait_until(self, deadline: int | None) -> bool:
        """Let time pass until `deadline` (ns of the clock), the next timer or an interruption; run due timers.

        For the boot processor's services, and when no CPU runs. False if the caller must give way because something was
        posted, another CPU is to run, or the run ends.
        """
        if self._several and self.turns.contended():
            if not self._yields():
                limit = self.clock.now() + TURN
                self._let_pass(limit if deadline is None else min(deadline, limit))
            return False
        self._let_pass(deadline)
        if self._several and self._others_wake():
            return False
        return self._end is None and not self._paused()

    def _others_wake(self) -> bool:
        """Whether another CPU runs again; the present turn ends then."""
        turns = self.turns
        for index, state in enumerate(turns.states):
            if state == HALTED and index != turns.current and self._wakes(self.engine.cpus[index]):
                turns.wake(index)
        if not turns.contended():
            return False
        self._give_way()
        return True

    def _let_pass(self, deadline: int | None) -> None:
        next_timer = self.clock.next_deadline()
        until = min((d for d in (deadline, next_timer) if d is not None), default=None)
        now = self.clock.now()
        if until is None or until > now:
            if self.virtual and until is not None and not self._attention and isinstance(self.clock, VirtualClock):
                self.on_idle()
                self.clock.jump_to(until)
            elif not self._attention:
                self.wait(None if until is None else until - now)
        self._take_posted()
        self.clock.run_due()

    def defer(self, action: Callable[[], None]) -> None:
        """For devices and firmware: `action` is called between two blocks of guest code. Unlike what is posted it is state."""
        self._deferred.append(action)
        self.interrupt()

    def _take_posted(self) -> None:
        if self._attention:
            self._attention = False
            for _ in range(len(self._deferred)):
                self._deferred.popleft()()
            while self._posted:
                self._posted.popleft()()

    # -- the loop

    def linear(self, cpu: Cpu) -> LinearMemory:
        """Guest memory as `cpu` addresses it now."""
        mode = Mode(cpu.get(reg.CR0), cpu.get(reg.CR3), cpu.get(reg.CR4), cpu.read_msr(msr.EFER))
        return LinearMemory(self.memory, cpu, mode, self.encryption_mask)

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

    def _deliver(self, cpu: Cpu) -> None:
        fault, cpu.fault = cpu.fault, None
        if fault is not None and not self.fault_filter(cpu, fault):
            exceptions.deliver(self.linear(cpu), cpu, fault)

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

    @property
    def cpu(self) -> Cpu:
        """The CPU whose turn it is, or was last."""
        return self.engine.cpus[self.turns.current]

    def _run(self) -> Any:
        turns = self.turns
        try:
            while self._end is None:
                self._take_posted()
                while self._at_rest:
                    self._at_rest.popleft()()
                debugger = self.debugger
                if debugger is not None and debugger.paused:
                    self._resume_halts()
                    self._rest(debugger, self.cpu)
                    continue
                self.clock.run_due()
                if self._end is not None:
                    break
                step = debugger.stepping if debugger is not None else None
                cpu = self._next_cpu() if step is None or debugger is None else self._next_of_debugger(step, debugger)
                stepping = cpu is not None and cpu.index == step
                if cpu is None:
                    self._let_pass(turns.next_end_of_halt())
                    continue
                if not stepping and not self._prepare(cpu):
                    continue
                deadline = None if self.virtual else self.clock.next_deadline()
                left = None if deadline is None else deadline - self.clock.now()
                if self._several and not self.virtual and turns.contended():
                    left = TURN if left is None else min(left, TURN)
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
                    self._stopped(cpu, stop)
                if debugger is not None:
                    debugger.stopped(cpu, stop)
        finally:
            self._alarm.set(None)
        return self._end

    # -- several CPUs

    def _count_turn(self, stop: Stop) -> None:
        """A CPU came back that would go on."""
        if stop is Stop.TURN_OVER:
            self.turns.used_up()
            if isinstance(self.clock, VirtualClock):
                self.clock.jump_to(self._began + self._blocks * BLOCK_TIME)
        elif stop is Stop.KICKED and self._end_of_turn is not None and self._end_of_turn <= self.clock.now():
            self.turns.used_up()

    def _next_cpu(self) -> Cpu | None:
        """The CPU that runs next, ready to; None if none has anything to do."""
        turns, cpus = self.turns, self.engine.cpus
        only = self.debugger.runs if self.debugger is not None else None
        for index in turns.order():
            if only is not None and index not in only:
                continue
            cpu = cpus[index]
            state = turns.states[index]
            if state != RUNNING:
                if state != HALTED or not self._wakes(cpu):
                    continue
                turns.wake(index)
            if index in turns.start_up:
                cpu.enter_real_mode(turns.start_up.pop(index), self.cpuid.signature)
            if self._several and turns.begin(index):
                turns.drowsy.discard(index)
                self.idle.switch(index)
                contended = turns.contended()
                self._blocks = turns.blocks[index] if contended else ALONE
                cpu.begin_turn(self._blocks)
                self._began = self.clock.now()
                self._end_of_turn = self._began + TURN if contended else None
            return cpu
        return None

    def _next_of_debugger(self, stepping: int, debugger: Debugger) -> Cpu:
        """The CPU that a debugger steps, or one that has a turn between two steps."""
        turns = self.turns
        if debugger.runs != frozenset((stepping,)):
            if turns.current == stepping and turns.contended():
                turns.over = True
            if turns.over or turns.current != stepping:
                other = self._next_cpu()
                if other is not None and other.index != stepping and not turns.over:
                    return other
        turns.begin(stepping)
        return self.engine.cpus[stepping]

    def _interrupted(self, index: int) -> None:
        """A CPU that had nothing to take has an interrupt."""
        if index != self.turns.current:
            self.turns.give_way()
        self.engine.kick()

    def _on_init(self, index: int) -> None:
        """INIT: the CPU waits for its start-up IPI (AMD64 APM volume 2, 15.27.8); the boot processor starts the machine anew."""
        if index == 0:
            self.on_boot_processor_init()
        elif not self.init_filter(index):
            self.park(index)

    def _on_startup(self, index: int, vector: int) -> None:
        """A start-up IPI; a CPU that does not wait for one ignores it."""
        turns = self.turns
        if turns.states[index] == WAITING:
            if index not in turns.held:
                turns.start_up[index] = vector
            self.start(index)

    def start(self, index: int) -> None:
        """Let a CPU that was parked run, from where its registers say. In a trap of another one, or between two runs."""
        self.turns.wake(index)
        self.turns.give_way()
        if self.interrupts is not None:
            self.interrupts.local_apics[index].nmi_pending = False
        self.engine.kick()

    def hold(self, index: int) -> None:
        """Stop a CPU in its trap until a start-up IPI, behind which it goes on where it is."""
        self.park(index)
        self.turns.held.add(index)

    def park(self, index: int) -> None:
        """Take a CPU out of the turns, until `start` or INIT and a start-up IPI."""
        self.engine.cpus[index].fault = None
        self.turns.park(index)
        if index == self.turns.current:
            self._give_way()

    def _in_shadow(self, cpu: Cpu) -> bool:
        """Whether the instruction before RIP was STI, MOV SS or POP SS: no interrupt may come right behind it."""
        rip = cpu.get(reg.RIP)
        try:
            before = self.linear(cpu).read(rip - 2, 2)
        except BadAddress:
            return False
        return before[1] == _STI or before[0] == _MOV_SS or before[1] == _POP_SS

    def _passes_shadow(self, cpu: Cpu, waiting: bool) -> bool:
        """Behind STI, without a step, which costs the engine all translated code: whether an interrupt may be delivered now."""
        rip = cpu.get(reg.RIP)
        try:
            halts = waiting and self.linear(cpu).read(rip, 1)[0] == _HLT
        except BadAddress:
            halts = False
        if halts:  # what waits would end it at once
            cpu.set(reg.RIP, rip + 1)
        return halts

    def _prepare(self, cpu: Cpu) -> bool:
        """Deliver what waits for this CPU before it runs on. False if it does not: it has halted or raised an exception."""
        self._masked = False
        source = self.interrupts
        if source is not None and source.local_apics[cpu.index].nmi_pending and _in_long_mode(cpu):
            source.take_nmi(cpu.index)
            exceptions.deliver(self.linear(cpu), cpu, Fault(2))
        waiting = source is not None and source.pending_vector(cpu.index) is not None
        if not waiting and (cpu.index or not self.injectors):
            return True
        if not cpu.get(reg.RFLAGS) & reg.RFLAGS_IF:
            self._masked = waiting
            if waiting and self._several:
                self._blocks = FIRST_BLOCKS
                cpu.begin_turn(FIRST_BLOCKS)
            return True
        if self._in_shadow(cpu) and not self._passes_shadow(cpu, waiting):
            if waiting and self._several:
                self._masked = True
                self._blocks = 1
                cpu.begin_turn(1)
                return True
            stop = self.engine.step(cpu)
            if stop is not Stop.KICKED:
                self._stopped(cpu, stop)
                return False
            if not cpu.get(reg.RFLAGS) & reg.RFLAGS_IF:
                return True
        if waiting and source is not None:
            vector = source.acknowledge(cpu.index)
            if vector is not None:
                exceptions.deliver(self.linear(cpu), cpu, Fault(vector))
            return True
        if cpu.index == 0:
            for injector in self.injectors:
                if injector(cpu):
                    return True
        return True

    def _stopped(self, cpu: Cpu, stop: Stop) -> None:
        """What a CPU does that came back from the engine with HLT or an exception."""
        if stop is Stop.HALTED:
            self._halt(cpu)
        elif stop is Stop.EXCEPTION:
            self._deliver(cpu)
        elif self._several:
            self._count_turn(stop)

    def _halt(self, cpu: Cpu) -> None:
        """HLT: the CPU sleeps until an interrupt that it takes."""
        ticks = cpu.index == 0 and self.halt_limit is not None and cpu.get(reg.RFLAGS) & reg.RFLAGS_IF
        self.turns.halt(cpu.index, self.clock.now() + (self.halt_limit or 0) if ticks else None)

    def _wakes(self, cpu: Cpu) -> bool:
        """Whether a halted CPU has an interrupt to take, or its time has come."""
        index = cpu.index
        until = self.turns.halted_until.get(index)
        if until is not None and until <= self.clock.now():
            return True
        source = self.interrupts
        work = source is not None and source.has_work(index)
        if work and source is not None and source.local_apics[index].nmi_pending:
            return True
        if (not work and (index or not self.injectors)) or not cpu.get(reg.RFLAGS) & reg.RFLAGS_IF:
            return False
        if source is not None and source.pending_vector(index) is not None:
            return True
        return index == 0 and any(injector(cpu) for injector in self.injectors)

    def _resume_halts(self) -> None:
        """A debugger looks: HLT goes on when the guest does."""
        for index, state in enumerate(self.turns.states):
            if state == HALTED:
                cpu = self.engine.cpus[index]
                cpu.set(reg.RIP, cpu.get(reg.RIP) - 1)
                self.turns.wake(index)

    def abandon(self) -> None:
        """`close` for one that was never made whole by `thaw`."""
        self.engine.close()
        self.memory.close()

    def close(self) -> None:
        """Free the engine and the RAM. The machine cannot be used afterwards."""
        self._alarm.close()
        self.engine.close()
        self.memory.close()
