"""The APICs of two processors behind the controller that joins them, driven through their registers."""

from device_accesses import CPU, CPU1

from machine.clock import VirtualClock
from machine.interrupts.controller import InterruptController

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, LINT0, ERROR, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
APIC_BASE, TSC_DEADLINE = 0x1B, 0x6E0


class Apics:
    def __init__(self, cpus: int = 2) -> None:
        self.clock = VirtualClock()
        self.woken: list[int] = []
        self.inits: list[int] = []
        self.startups: list[tuple[int, int]] = []
        self.all = InterruptController(self.clock, cpus, self.woken.append)
        self.all.on_init = self.inits.append
        self.all.on_startup = lambda index, vector: self.startups.append((index, vector))
        for cpu in (CPU, CPU1)[:cpus]:
            self.put(SVR, 0x1FF, cpu)

    def get(self, register: int, cpu: object = CPU) -> int:
        return self.all.read_local_apic(cpu, register, 4)

    def put(self, register: int, value: int, cpu: object = CPU) -> None:
        self.all.write_local_apic(cpu, register, 4, value)

    def ioapic(self, register: int, value: int | None = None) -> int:
        self.all.io_apic.write(CPU, 0, 4, register)
        if value is not None:
            self.all.io_apic.write(CPU, 0x10, 4, value)
        return self.all.io_apic.read(CPU, 0x10, 4)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        self.ioapic(0x11 + 2 * pin, destination << 24)
        self.ioapic(0x10 + 2 * pin, low)

    def go(self, nanoseconds: int) -> None:
        target = self.clock.now() + nanoseconds
        while (deadline := self.clock.next_deadline()) is not None and deadline <= target:
            self.clock.jump_to(deadline)
            self.clock.run_due()
        self.clock.jump_to(target)

    def take(self, cpu: int = 0) -> int | None:
        """Acknowledge and end the pending interrupt, whose vector the two questions must agree on."""
        pending = self.all.pending_vector(cpu)
        vector = self.all.acknowledge(cpu)
        assert vector == pending
        if vector is not None:
            self.put(EOI, 0, (CPU, CPU1)[cpu])
        return vector

    def x2(self, cpu: object = CPU) -> None:
        assert self.all.write_msr(cpu, APIC_BASE, self.base(cpu) | 0x400)

    def base(self, cpu: object = CPU) -> int:
        value = self.all.read_msr(cpu, APIC_BASE)
        assert value is not None
        return value
