"""The other KVM engine: the guest in ring 0 itself, with page tables of its own, as VT-x and SVM are made for.

It carries what the monitor cannot: guests with a ring 3, real mode, kernels. It needs a hardware KVM: a software one executes
it in an emulator. Exceptions and privileged instructions never come out, so what our traps are for is missing: no checks of
SEV-SNP, no VMGEXIT or PVALIDATE, and the TSC is read without anybody's notice.
"""

import threading
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Cpu, Fault, Stop, Watch
from machine.engine import kvm_abi as abi
from machine.engine.kvm_ring0_registers import Ring0Registers
from machine.engine.kvm_signal import Knock, forget_knocks, knock_at_all
from machine.engine.leaving import LOOK_AT_RATE, CannotCarry, look_at_rate
from machine.errors import EngineError
from machine.exceptions import TripleFault
from machine.memory import HIGH_START, PhysicalMemory

if TYPE_CHECKING:
    from machine.engine.base import Handlers, SideBySide

_LOW, _HIGH = range(2)
_KEPT_MSRS = [(0x174, 3), (0xC000_0080, 5), (0xC000_0100, 3)]
"""SYSENTER's, EFER, STAR to SFMASK, FS, GS and KERNEL_GS base: KVM's own. All others are the machine's."""
_MSR_TSC = 0x10
_SUBLEAVES = {0x7: 2, 0xB: 3, 0xD: 4}
_OUT = 1
_DATA = abi.EXIT_UNION
_MMIO_DATA, _MMIO_SIZE, _MMIO_WRITE = _DATA + 8, _DATA + 16, _DATA + 20
_MSR_ERROR, _MSR_INDEX, _MSR_DATA = _DATA, _DATA + 12, _DATA + 16
_DOUBLE_FAULT = 8


class KvmRing0Cpu(Ring0Registers):
    """One processor."""

    def __init__(self, engine: "KvmRing0Engine", index: int) -> None:
        vcpu = engine.vm.vcpu(index)
        vcpu.set_cpuid(engine.cpuid(self, index))
        super().__init__(vcpu, engine.memory)
        self.index = index
        self.face: Cpu = self
        self.fault: Fault | None = None
        self.exits = 0
        self._engine = engine
        self._rate_since = 0.0
        self._handlers = engine.handlers
        self._windows = engine.windows
        self.knock = Knock(self.page)

    def takes_interrupt(self, waiting: bool) -> bool:
        """Whether an interrupt can be taken now. If not, and one is `waiting`, the next run ends as soon as it can."""
        page = self.page
        free = bool(self.real[abi.RFLAGS] & reg.RFLAGS_IF) and not page[abi.SHADOW_AT] and not self._delivers()
        page[abi.REQUEST_WINDOW] = waiting and not free
        return free

    def _delivers(self) -> bool:
        """Whether KVM has begun to deliver an exception or an interrupt: it is lost if registers are written."""
        page = self.page
        return bool(page[abi.EVENTS_AT] or page[abi.EVENTS_AT + 3] or page[abi.EVENTS_AT + 8])

    def start(self) -> Stop:
        """Run until something of `Stop` happens."""
        self.fault = None
        self.knock.thread = threading.get_native_id()
        page = self.page
        while True:
            coming = self._delivers()
            if page[abi.IMMEDIATE_EXIT] and not coming:
                self.knock.clear()
                return Stop.KICKED
            if coming:
                page[abi.DIRTY_REGS] = 0
                self.knock.hold(0)  # who has knocked goes on knocking until it is heard
            else:
                page[abi.DIRTY_REGS] = abi.SYNC_REGS | (abi.SYNC_SREGS if self.system_written else 0)
                self.system_written = False
            left = self._run()
            if coming:
                self.knock.release()
            if left:
                self.exits += 1
                stop = self._exit()
                if stop is not None:
                    return stop
                if not self.exits % LOOK_AT_RATE and self._engine.may_leave:
                    self._rate_since = look_at_rate(self._rate_since)

    def _run(self) -> bool:
        """KVM_RUN; False if it came back without an exit, between two instructions."""
        error = self.vcpu.run()
        if error == abi.EINVAL:
            raise CannotCarry("KVM does not take the state of its processor")
        if error not in (0, abi.EINTR):
            raise EngineError(f"{abi.DEVICE}: KVM_RUN failed with error {error}")
        return not error

    def _complete(self) -> None:
        """Let KVM finish the instruction that came out, without going on behind it. Nothing else may have changed since."""
        self.page[abi.DIRTY_REGS] = 0
        self.knock.hold(1)
        while self._run():  # it may come out in several parts
            if self._exit() is not None:
                break
            self.knock.hold(1)
        self.knock.release()

    def _exit(self) -> Stop | None:
        page = self.page
        reason = page[abi.EXIT_REASON]
        if reason == abi.EXIT_IO:
            self._port()
        elif reason == abi.EXIT_MMIO:
            self._device()
        elif reason == abi.EXIT_HLT:
            return Stop.HALTED
        elif reason == abi.EXIT_IRQ_WINDOW:
            page[abi.REQUEST_WINDOW] = 0
            return Stop.KICKED
        elif reason in (abi.EXIT_RDMSR, abi.EXIT_WRMSR):
            return self._msr(reason == abi.EXIT_WRMSR)
        elif reason == abi.EXIT_SHUTDOWN:
            raise TripleFault(Fault(_DOUBLE_FAULT, 0))
        elif reason == abi.EXIT_INTERNAL_ERROR:
            raise CannotCarry(f"KVM cannot execute the instruction at {self.real[abi.RIP]:#x}")
        else:
            raise EngineError(f"{abi.DEVICE}: exit {reason} at {self.real[abi.RIP]:#x}")
        return None

    def _port(self) -> None:
        direction, size, port, count, at = abi.IO.unpack_from(self.page, _DATA)
        page, handlers, face = self.page, self._handlers, self.face
        if direction == _OUT:
            values = [int.from_bytes(page[at + n * size : at + (n + 1) * size], "little") for n in range(count)]
            self._complete()  # a service's answer is written behind its OUT
            for value in values:
                handlers.port_write(face, port, size, value)
            return
        for n in range(count):
            value = handlers.port_read(face, port, size) & (1 << 8 * size) - 1
            page[at + n * size : at + (n + 1) * size] = value.to_bytes(size, "little")
        self._complete()

    def _device(self) -> None:
        page, handlers, face = self.page, self._handlers, self.face
        address = int.from_bytes(page[_DATA : _DATA + 8], "little")
        size = int.from_bytes(page[_MMIO_SIZE : _MMIO_SIZE + 4], "little")
        parts = [(n, min(4, size - n)) for n in range(0, size, 4)]
        if address >= HIGH_START and not any(address in window for window in self._windows):
            page[_MMIO_DATA : _MMIO_DATA + 8] = b"\xff" * 8  # nobody is there
        elif page[_MMIO_WRITE]:
            data = bytes(page[_MMIO_DATA : _MMIO_DATA + size])
            for n, width in parts:
                handlers.mmio_write(face, address + n, width, int.from_bytes(data[n : n + width], "little"))
        else:
            for n, width in parts:
                value = handlers.mmio_read(face, address + n, width) & (1 << 8 * width) - 1
                page[_MMIO_DATA + n : _MMIO_DATA + n + width] = value.to_bytes(width, "little")
        self._complete()

    def _msr(self, write: bool) -> Stop | None:
        page = self.page
        before = [self.real[register] for register in (abi.RIP, abi.RAX, abi.RDX)]
        page[_MSR_ERROR] = 0
        index = int.from_bytes(page[_MSR_INDEX : _MSR_INDEX + 4], "little")
        if write:
            value = int.from_bytes(page[_MSR_DATA : _MSR_DATA + 8], "little")
            known = self._handlers.write_msr(self.face, index, value)
        else:
            answer = self._handlers.read_msr(self.face, index)
            known = answer is not None
            page[_MSR_DATA : _MSR_DATA + 8] = (answer or 0).to_bytes(8, "little")
        self._complete()
        if known:
            return None
        for register, value in zip((abi.RIP, abi.RAX, abi.RDX), before, strict=True):
            self.real[register] = value
        self.fault = Fault(13, 0)
        return Stop.EXCEPTION

    # -- debugging

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """There are none."""
        if addresses:
            raise EngineError("breakpoints need Unicorn; leave --engine out")

    def set_watches(self, watches: tuple[Watch, ...]) -> None:
        """There are none."""
        if watches:
            raise EngineError("watchpoints need Unicorn; leave --engine out")

    def pass_breakpoint(self) -> None:
        """There is none to pass."""

    def touched(self) -> tuple[Watch, int]:
        """No watchpoint ever ends a run here."""
        raise EngineError("watchpoints need Unicorn; leave --engine out")

    def close(self) -> None:
        """Free it."""
        self.vcpu.close()


class KvmRing0Engine:
    """One virtual machine of KVM over `memory`, its guest in ring 0. EngineError where KVM lacks what that needs."""

    name = "kvm-ring0"
    side_by_side: "SideBySide | None" = None

    def __init__(
        self, memory: PhysicalMemory, handlers: "Handlers", cpus: int = 1, tsc_frequency: int | None = None
    ) -> None:
        """`tsc_frequency` in Hz is what CPUID tells the guest. Not every processor can scale its own to that: `right_time`."""
        self.memory = memory
        self.handlers = handlers
        self.windows: list[range] = []
        self.may_leave = False
        """Whether `run` may raise ManyExits when the guest traps so often that a translator is faster."""
        self.right_time = True
        """Whether RDTSC counts at the frequency that CPUID tells."""
        self.instances: list[KvmRing0Cpu] = []
        self.vm = abi.Vm()
        try:
            self.vm.map(_LOW, 0, memory.low_size, memory.host_address)
            if memory.high_size:
                self.vm.map(_HIGH, HIGH_START, memory.high_size, memory.host_address + memory.low_size)
            self.vm.trap_msrs(_KEPT_MSRS)
            for index in range(cpus):
                cpu = KvmRing0Cpu(self, index)
                self.instances.append(cpu)
                if tsc_frequency is not None:
                    try:
                        cpu.vcpu.set_tsc_frequency(tsc_frequency)
                        cpu.vcpu.set_msr(_MSR_TSC, handlers.read_tsc(cpu))
                    except OSError:
                        self.right_time = False
        except OSError as error:
            self.close()
            raise EngineError(f"{abi.DEVICE} cannot run a guest in ring 0: {error.strerror or error}") from None
        self.cpus: list[Cpu] = list(self.instances)

    def cpuid(self, cpu: KvmRing0Cpu, index: int) -> list[tuple[int, int, bool, tuple[int, int, int, int]]]:
        """Our own leaves for processor `index`."""
        cpu.index = index
        leaves = [*range(0x17), *range(0x4000_0000, 0x4000_0011), *range(0x8000_0000, 0x8000_0022)]
        return [
            (leaf, subleaf, leaf in _SUBLEAVES, answer)
            for leaf in leaves
            for subleaf in range(_SUBLEAVES.get(leaf, 1))
            if any(answer := self.handlers.cpuid(_Unborn(index), leaf, subleaf)) or leaf in _SUBLEAVES  # type: ignore[arg-type]
        ]

    def forget_code(self) -> None:
        """Nothing is kept of a guest's code here."""

    def open_window(self, base: int, size: int) -> None:
        """Reach devices above 4 GiB."""
        self.windows.append(range(base, base + size))

    def run(self, cpu: Cpu) -> Stop:
        """Run `cpu` until it halts or is kicked."""
        return self.instances[cpu.index].start()

    def step(self, cpu: Cpu) -> Stop:
        """One instruction: in Unicorn, which can."""
        raise CannotCarry("it has to be stepped")

    def kick(self) -> None:
        """Make a running `run`, or else the next one, return; from any thread."""
        knock_at_all(self.instances)

    def take_kick(self) -> bool:
        """Whether somebody has kicked since the last run ended; forgotten then."""
        return forget_knocks(self.instances)

    def invalidate(self, address: int, size: int) -> None:
        """The processor sees to that itself."""

    def flush_translations(self) -> None:
        """The guest's own page tables are walked; nothing of ours is cached."""

    def close(self) -> None:
        """Free it all."""
        for cpu in self.instances:
            cpu.close()
        self.instances = []
        self.cpus = []
        self.vm.close()


class _Unborn:
    """A processor as far as CPUID asks for it before there is one."""

    def __init__(self, index: int) -> None:
        self.index = index

    def get(self, _register: int) -> int:
        """Nothing is set; KVM itself keeps OSXSAVE up to date."""
        return 0
