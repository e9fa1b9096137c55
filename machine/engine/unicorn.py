"""The Unicorn engine: guest code translated in user space, anywhere, with our own page walk."""

from machine.cpu import Cpu, Stop
from machine.engine import unicorn_abi as abi
from machine.engine.base import Handlers, SideBySide
from machine.engine.unicorn_cpu import UnicornCpu
from machine.memory import PhysicalMemory


class UnicornEngine:
    """Unicorn over `memory`: `cpus` instances that see the same RAM."""

    name = "unicorn"
    side_by_side: SideBySide | None = None

    def __init__(self, memory: PhysicalMemory, handlers: Handlers, cpus: int = 1) -> None:
        self.library = abi.Library()
        self.memory = memory
        self.handlers = handlers
        self._running: UnicornCpu | None = None
        memory.on_code_write = self.invalidate
        self.instances: list[UnicornCpu] = []
        for index in range(cpus):
            self.instances.append(UnicornCpu(self, index, cpus > 1))
        self.cpus: list[Cpu] = list(self.instances)

    def open_window(self, base: int, size: int) -> None:
        """Let devices answer at physical addresses above 4 GiB, too."""
        for cpu in self.instances:
            cpu.open_window(base, size)

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` until it halts, faults or is kicked."""
        return self._start(cpu, 0)

    def step(self, cpu: Cpu) -> Stop:
        """Run one instruction."""
        # Unicorn counts in translated code: a block that was translated without counting (a `jmp $`) would run for ever.
        instance = self.instances[cpu.index]
        try:
            with instance.stop.held():
                instance.flush_code()
                return self._start(cpu, 1)
        finally:
            instance.flush_code()

    def _start(self, cpu: Cpu, count: int) -> Stop:
        instance = self.instances[cpu.index]
        self._running = instance
        try:
            stop = instance.start(count)
            return Stop.TURN_OVER if stop is Stop.KICKED and instance.stop.used_up else stop
        finally:
            self._running = None
            for each in self.instances:
                each.stop.clear()

    def kick(self) -> None:
        """Make a running `run`, or else the next one, return at the start of a block; from any thread."""
        for cpu in self.instances:
            cpu.stop.request()

    def take_kick(self) -> bool:
        """Whether somebody has kicked since the last run ended; forgotten then."""
        waiting = any(cpu.stop.requested for cpu in self.instances)
        for cpu in self.instances:
            cpu.stop.clear()
        return waiting

    def invalidate(self, address: int, size: int) -> None:
        """Drop translated code: all of it, which costs less than finding out which."""
        for cpu in self.instances:
            if cpu is self._running:
                cpu.stop_and_flush_code()
            else:
                cpu.flush_code()
            cpu.flush_translations()
        self.memory.code_pages.clear()

    def others(self, cpu: UnicornCpu) -> list[UnicornCpu]:
        """All CPUs but `cpu`; none of them runs while it does."""
        return [each for each in self.instances if each is not cpu]

    def flush_translations(self) -> None:
        """Drop every TLB entry."""
        for cpu in self.instances:
            cpu.flush_translations()

    def close(self) -> None:
        """Free every instance."""
        for cpu in self.instances:
            cpu.close()
        self.instances = []
        self.cpus = []
