"""The processors of a computer: whose turn it is, what wakes one that waits, and how interrupts reach them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine import exceptions, msr, paging
from machine import registers as reg
from machine.callbacks import never, nothing
from machine.clock import Clock, VirtualClock
from machine.cpu import Cpu, Fault, Stop
from machine.errors import BadAddress
from machine.linear import LinearMemory
from machine.paging import Mode
from machine.turns import ALONE, BLOCK_TIME, FIRST_BLOCKS, HALTED, RUNNING, TURN, WAITING, Turns

if TYPE_CHECKING:
    from machine.cpuid import CpuidTable
    from machine.debugger import Debugger
    from machine.engine.base import Engine
    from machine.idle import IdleDetector
    from machine.interrupts.controller import InterruptController
    from machine.memory import PhysicalMemory
    from machine.parallel import Parallel

_STI, _MOV_SS, _POP_SS, _HLT = 0xFB, 0x8E, 0x17, 0xF4


def _in_long_mode(cpu: Cpu) -> bool:
    """Whether interrupts can be delivered to `cpu`: one that is on its way from real mode takes an NMI when it has arrived."""
    return bool(cpu.get(reg.CR0) & paging.CR0_PG and cpu.read_msr(msr.EFER) & paging.EFER_LME)


class Processors:
    """What a computer is as far as its CPUs are concerned; it runs the engine and lets time pass itself.

    One CPU runs at a time. `turns` says who; `interrupts` are the controllers that deliver vectors; `injectors` may divert the
    boot processor when it is about to run; `fault_filter` sees each exception before the guest's IDT does.
    """

    memory: "PhysicalMemory"
    engine: "Engine"
    clock: Clock
    cpuid: "CpuidTable"
    msrs: msr.MsrTable
    idle: "IdleDetector"
    debugger: "Debugger | None"
    parallel: "Parallel"
    encryption_mask: int

    def __init__(self, cpus: int) -> None:
        self.turns = Turns(cpus)
        self.interrupts: InterruptController | None = None
        self.injectors: list[Callable[[Cpu], bool]] = []
        self.fault_filter: Callable[[Cpu, Fault], bool] = never
        self.halt_limit: int | None = None
        """Nanoseconds after which the boot processor's HLT ends where interrupts are enabled: firmware whose own timer ticks.
        None: never."""
        self.on_boot_processor_init: Callable[[], None] = nothing
        """The boot processor got an INIT: it begins at the reset vector."""
        self.init_filter: Callable[[int], bool] = never
        """Sees each INIT of another processor first; True if it is answered."""
        self._several = cpus > 1
        self._began = 0
        self._blocks = ALONE
        self._turn = TURN
        self._masked = False
        self._end_of_turn: int | None = None

    @property
    def cpu(self) -> Cpu:
        """The CPU whose turn it is, or was last."""
        return self.engine.cpus[self.turns.current]

    def connect(self, interrupts: "InterruptController") -> None:
        """Wire the interrupt controllers to the CPUs."""
        self.interrupts = self.msrs.apic = interrupts
        interrupts.wake = self._interrupted
        interrupts.on_init = self._on_init
        interrupts.on_startup = self._on_startup

    def linear(self, cpu: Cpu) -> LinearMemory:
        """Guest memory as `cpu` addresses it now."""
        mode = Mode(cpu.get(reg.CR0), cpu.get(reg.CR3), cpu.get(reg.CR4), cpu.read_msr(msr.EFER))
        return LinearMemory(self.memory, cpu, mode, self.encryption_mask)

    # -- turns

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
                if state != HALTED or not self.wakes(cpu):
                    continue
                turns.wake(index)
            if index in turns.start_up:
                cpu.enter_real_mode(turns.start_up.pop(index), self.cpuid.signature)
            if self._several and turns.begin(index):
                turns.drowsy.discard(index)
                self.idle.switch(index)
                self._wake_others()  # what came before this turn does not end it
                contended = turns.contended()
                self._blocks, length = turns.length(index) if contended else (ALONE, TURN)
                self._turn = length
                cpu.begin_turn(self._blocks)
                self._began = self.clock.now()
                self._end_of_turn = self._began + length if contended else None
            return cpu
        return None

    def _next_of_debugger(self, stepping: int, debugger: "Debugger") -> Cpu:
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

    def take_no_turns(self) -> None:
        """CPUs run side by side from now on: no turn ends."""
        self._end_of_turn = None
        self._masked = False

    def _count_turn(self, stop: Stop) -> None:
        """A CPU came back that would go on."""
        if stop is Stop.TURN_OVER:
            self.turns.used_up(self.idle.acted, self.idle.looked)
            if isinstance(self.clock, VirtualClock):
                self.clock.jump_to(self._began + self._blocks * BLOCK_TIME)
        elif stop is Stop.KICKED and self._end_of_turn is not None and self._end_of_turn <= self.clock.now():
            self.turns.used_up(self.idle.acted, self.idle.looked)

    def _give_way(self) -> None:
        """End the present turn."""
        self.turns.give_way()
        self.engine.kick()

    def _yields(self) -> bool:
        """The CPU whose turn it is waits: whether it leaves the engine to another, or all that run do the same."""
        turns = self.turns
        if not turns.contended():
            return False
        turns.looks()
        turns.drowsy.add(turns.current)
        self._give_way()
        if turns.others_busy():
            return True
        turns.drowsy.clear()  # after the sleep, everyone looks once
        return False

    def _spun(self, long: bool) -> None:
        """The CPU whose turn it is only reads the clock: it waits for its time or for another CPU."""
        if self.parallel.active:
            self.parallel.spun(long)
            return
        turns = self.turns
        turns.looks()
        if turns.lively:
            return
        if long and turns.contended():
            turns.drowsy.add(turns.current)
        if turns.others_busy() or turns.current in turns.drowsy:
            self._give_way()

    def _wake_others(self) -> None:
        """Have the halted ones among the other CPUs run again for which something waits."""
        turns = self.turns
        for index, state in enumerate(turns.states):
            if state == HALTED and index != turns.current and self.wakes(self.engine.cpus[index]):
                turns.wake(index)

    def _others_wake(self) -> bool:
        """Whether another CPU runs again; the present turn ends then."""
        self._wake_others()
        if not self.turns.contended():
            return False
        self._give_way()
        return True

    # -- starting and stopping

    def start(self, index: int) -> None:
        """Let a CPU that was parked run, from where its registers say. In a trap of another one, or between two runs."""
        self.parallel.set_up(index)
        self.turns.wake(index)
        self.parallel.comes_up(index)
        self.turns.give_way()
        if self.interrupts is not None:
            self.interrupts.local_apics[index].nmi_pending = False
        self.engine.cpus[index].nmi_masked = False
        self.engine.kick()

    def hold(self, index: int) -> None:
        """Stop a CPU in its trap until a start-up IPI, behind which it goes on where it is."""
        self.park(index)
        self.turns.held.add(index)

    def park(self, index: int) -> None:
        """Take a CPU out of the turns, until `start` or INIT and a start-up IPI."""
        self.parallel.set_up(index)
        self.engine.cpus[index].fault = None
        self.turns.park(index)
        if index == self.turns.current:
            self._give_way()

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

    def _resume_halts(self) -> None:
        """A debugger looks: HLT goes on when the guest does."""
        for index, state in enumerate(self.turns.states):
            if state == HALTED:
                cpu = self.engine.cpus[index]
                cpu.set(reg.RIP, cpu.get(reg.RIP) - 1)
                self.turns.wake(index)

    # -- interrupts and exceptions

    def _interrupted(self, index: int) -> None:
        """A CPU that had nothing to take has an interrupt."""
        if self.parallel.active:
            self.parallel.interrupt(index)
            return
        if index != self.turns.current:
            self.turns.give_way()
        self.engine.kick()

    def prepare(self, cpu: Cpu) -> bool:
        """Deliver what waits for this CPU before it runs on. False if it does not: it has halted or raised an exception."""
        self._masked = False
        takes_turns = self._several and self.engine.side_by_side is None
        source = self.interrupts
        if source is not None and source.local_apics[cpu.index].nmi_pending and _in_long_mode(cpu):
            if cpu.nmi_masked:
                self._masked = True
            else:
                source.take_nmi(cpu.index)
                exceptions.deliver(self.linear(cpu), cpu, Fault(2))
                cpu.nmi_masked = True
        waiting = source is not None and source.pending_vector(cpu.index) is not None
        if not waiting and (cpu.index or not self.injectors):
            return True
        known = cpu.takes_interrupt(waiting)
        if known is False:
            return True
        if not cpu.get(reg.RFLAGS) & reg.RFLAGS_IF:
            self._masked |= waiting
            if waiting and takes_turns:
                self._blocks = FIRST_BLOCKS
                cpu.begin_turn(FIRST_BLOCKS)
            return True
        if known is None and self._in_shadow(cpu) and not self._passes_shadow(cpu, waiting):
            if waiting and takes_turns:
                self._masked = True
                self._blocks = 1
                cpu.begin_turn(1)
                return True
            stop = self.parallel.step(cpu) if self.parallel.active else self.engine.step(cpu)
            if stop is not Stop.KICKED:
                self.stopped(cpu, stop)
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

    def _deliver(self, cpu: Cpu) -> None:
        fault, cpu.fault = cpu.fault, None
        if fault is not None and not self.fault_filter(cpu, fault):
            exceptions.deliver(self.linear(cpu), cpu, fault)

    def stopped(self, cpu: Cpu, stop: Stop) -> None:
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

    def wakes(self, cpu: Cpu) -> bool:
        """Whether a halted CPU has an interrupt to take, or its time has come."""
        index = cpu.index
        until = self.turns.halted_until.get(index)
        if until is not None and until <= self.clock.now():
            return True
        source = self.interrupts
        work = source is not None and source.has_work(index)
        if work and source is not None and source.local_apics[index].nmi_pending and not cpu.nmi_masked:
            return True
        if (not work and (index or not self.injectors)) or not cpu.get(reg.RFLAGS) & reg.RFLAGS_IF:
            return False
        if source is not None and source.pending_vector(index) is not None:
            return True
        return index == 0 and any(injector(cpu) for injector in self.injectors)
