"""The KVM engine: guest code on the processor itself, in ring 3 under a small monitor of ours."""

from machine.cpu import Cpu, Stop
from machine.engine import kvm_abi as abi
from machine.engine.base import Handlers, SideBySide
from machine.engine.kvm_code import CodePages
from machine.engine.kvm_cpu import KvmCpu
from machine.engine.kvm_monitor import MAXIMUM_CPUS, Monitor
from machine.engine.kvm_posted import Posting
from machine.engine.kvm_shadow import Pool, Shadow
from machine.engine.kvm_signal import forget_knocks, knock_at_all
from machine.engine.kvm_threads import Threads
from machine.errors import EngineError
from machine.memory import HIGH_START, PhysicalMemory

_LOW, _HIGH, _MONITOR = range(3)
"""Memory slots."""


class KvmEngine:
    """One virtual machine of KVM over `memory`. EngineError where there is no KVM.

    `run` and `step` raise CannotCarry before an instruction that needs another engine, and ManyExits, if `may_leave` is
    set, when the guest traps so often that a translator is faster.
    """

    name = "kvm"

    def __init__(self, memory: PhysicalMemory, handlers: Handlers, cpus: int = 1) -> None:
        if cpus > MAXIMUM_CPUS:
            raise EngineError(f"{cpus} processors: the KVM engine has at most {MAXIMUM_CPUS}")
        self.memory = memory
        self.handlers = handlers
        self.may_leave = False
        self.several = cpus > 1
        self.windows: list[range] = []
        self.vm = vm = abi.Vm()
        self.instances: list[KvmCpu] = []
        self.posting: Posting | None = None
        try:
            vm.map(_LOW, 0, memory.low_size, memory.host_address)
            if memory.high_size:
                vm.map(_HIGH, HIGH_START, memory.high_size, memory.host_address + memory.low_size)
            self.monitor = Monitor(vm, _MONITOR, memory.end, cpus)
        except OSError as error:
            vm.close()
            raise EngineError(f"{abi.DEVICE}: {error.strerror or error}") from None
        self.threads = Threads(self.instances)
        self.side_by_side: SideBySide | None = self.threads
        self.gather = self.threads.gather
        self.pool = Pool(self.monitor)
        self.code = CodePages(memory, self.monitor, self.pool)
        try:
            for index in range(cpus):
                self.instances.append(KvmCpu(self, index))
        except OSError as error:
            self.close()
            raise EngineError(f"{abi.DEVICE}: {error.strerror or error}") from None
        self.cpus: list[Cpu] = list(self.instances)
        if handlers.posted_writes is not None:
            self.posting = Posting(self, handlers.posted_writes)
            for instance in self.instances:
                instance.posting = self.posting

    def shadows(self) -> list[Shadow]:
        """The page tables of all processors."""
        return [cpu.shadow for cpu in self.instances]

    @property
    def exits(self) -> int:
        """How often guest code has been left so far."""
        return sum(cpu.exits for cpu in self.instances)

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` until it halts, faults or is kicked."""
        return self.instances[cpu.index].start()

    def step(self, cpu: Cpu) -> Stop:
        """Run one instruction."""
        return self.instances[cpu.index].start(stepping=True)

    def kick(self) -> None:
        """Make a running `run`, or else the next one, return; from any thread."""
        inside = self.threads.inside  # they go on: what they do not notice is not theirs
        knock_at_all(cpu for cpu in self.instances if cpu.index not in inside)
        self.threads.wake()

    def take_kick(self) -> bool:
        """Whether somebody has kicked since the last run ended; forgotten then."""
        return forget_knocks(self.instances)

    def invalidate(self, address: int, size: int) -> None:
        """Host code stored where code was executed: look through those pages again."""
        self.gather()
        for frame in range(address >> 12, (address + size + 0xFFF) >> 12):
            if frame in self.memory.code_pages:
                self.code.changed(frame)
                self.memory.code_pages.discard(frame)
        self.flush_translations()

    def flush_translations(self) -> None:
        """Drop every translation, before guest code runs again, or goes on."""
        self.gather()
        for cpu in self.instances:
            cpu.shadow.stale = True

    def forget_code(self) -> None:
        """The guest has been in another engine, and may have changed any code."""
        self.code.forget()
        self.flush_translations()

    def open_window(self, base: int, size: int) -> None:
        """Reach devices above 4 GiB."""
        self.windows.append(range(base, base + size))

    def close(self) -> None:
        """Free it all."""
        self.threads.close()
        if self.posting is not None:
            self.posting.close()
        for cpu in self.instances:
            cpu.close()
        self.instances = []
        self.cpus = []
        self.vm.close()
        self.monitor.close()
