"""A bare computer in long mode for tests: identity map, GDT, an IDT to fill, and a few bytes of code to run."""

from collections.abc import Callable

from machine import registers as reg
from machine.clock import Clock
from machine.computer import Computer
from machine.cpu import Cpu, Fault, Stop
from machine.msr import EFER
from machine.paging import IdentityMap

GDT, IDT, TABLES, CODE, STACK = 0x200_0000, 0x201_0000, 0x100_0000, 0x300_0000, 0x400_0000
_DESCRIPTORS = (0, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF)
DATA, KERNEL = 0x08, 0x10


class Bare:
    """64 MiB of RAM; `run(code)` executes machine code until it ends with `hlt` at a `finish`, or faults."""

    def __init__(
        self, clock: Clock | None = None, memory: int = 128 << 20, cpus: int = 1, engine: str = "unicorn"
    ) -> None:
        self.lines: list[str] = []
        self.computer = Computer(memory, cpus, clock, engine, self.lines.append)
        self.cpu = self.computer.engine.cpus[0]
        self.faults: list[Fault] = []
        self.map = IdentityMap(self.computer.memory, TABLES, self.computer.memory.end)
        ram = self.computer.memory
        ram.write(GDT, b"".join(d.to_bytes(8, "little") for d in _DESCRIPTORS))
        self.prepare(self.cpu)
        self.computer.bus.add_ports(0x500, 8, self._read, self._write)
        self.outs: list[tuple[int, int, int]] = []
        self.on_out: Callable[[int, int], None] = lambda offset, value: None

    def prepare(self, cpu: Cpu) -> None:
        """Long mode, with a stack of its own."""
        cpu.set_table("gdtr", GDT, 8 * len(_DESCRIPTORS) - 1)
        cpu.set_table("idtr", IDT, 4095)
        cpu.write_msr(EFER, 0xD01)
        cpu.set(reg.CR3, self.map.base)
        cpu.set(reg.CR4, 0x6A0)
        cpu.set(reg.CR0, 0x80010033)
        cpu.set(reg.CS, KERNEL)
        for register in (reg.SS, reg.DS, reg.ES):
            cpu.set(register, DATA)
        cpu.set(reg.RSP, STACK + 0x10000 * cpu.index)
        cpu.set(reg.RFLAGS, 2)

    def start(self, index: int, code: str, at: int) -> Cpu:
        """Have another processor run hexadecimal machine code from `at` on."""
        cpu = self.computer.engine.cpus[index]
        self.prepare(cpu)
        self.computer.memory.write(at, bytes.fromhex(code))
        cpu.set(reg.RIP, at)
        self.computer.start(index)
        return cpu

    def _read(self, _cpu: Cpu, offset: int, size: int) -> int:
        return 0x11223344_55667788 >> (8 * offset) & ((1 << 8 * size) - 1)

    def _write(self, _cpu: Cpu, offset: int, size: int, value: int) -> None:
        self.outs.append((offset, size, value))
        if offset == 7:
            self.computer.finish("done")
        self.on_out(offset, value)

    def to_stop(self) -> Stop:
        """Run the CPU by its engine alone to a stop other than a kick, which may come at any time."""
        while (stop := self.computer.engine.run(self.cpu)) is Stop.KICKED:
            pass
        return stop

    def catch_faults(self) -> None:
        """End the run at the first exception, keeping it."""

        def catch(_cpu: Cpu, fault: Fault) -> bool:
            self.faults.append(fault)
            self.computer.finish("fault")
            return True

        self.computer.fault_filter = catch

    def gate(self, vector: int, target: int, kind: int = 0x8E, ist: int = 0) -> None:
        """An IDT gate."""
        raw = (target & 0xFFFF).to_bytes(2, "little") + KERNEL.to_bytes(2, "little") + bytes((ist, kind))
        self.computer.memory.write(IDT + 16 * vector, raw + (target >> 16).to_bytes(6, "little") + bytes(4))

    def run(self, code: str, at: int = CODE) -> object:
        """Run hexadecimal machine code; gives what `finish` was told."""
        self.computer.memory.write(at, bytes.fromhex(code))
        self.cpu.set(reg.RIP, at)
        return self.computer.run()

    def close(self) -> None:
        """Free it."""
        self.computer.close()


DONE = "66ba0705 ee ebfe"
"""mov dx, 0x507; out dx, al; jmp $: ends the run with "done"."""
