"""All interrupt controllers of the machine and the wires between them: 8259 pair, I/O APICs, a local APIC per processor.

Devices drive lines and send messages; the run loop asks what a processor has to take.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from machine.callbacks import nothing
from machine.interrupts.i8259 import I8259Pair
from machine.interrupts.io_apic import PINS, IoApic
from machine.interrupts.local_apic import BROADCAST, FIXED, INIT, LOWEST_PRIORITY, NMI, STARTUP, Ipi, LocalApic

if TYPE_CHECKING:
    from machine.clock import Clock
    from machine.cpu import Cpu

ISA_LINES = 16
_EOI_OFFSET, _PIC_EOI = 0xB0, 0x20
TIMER_GSI = 2
"""Where IRQ 0 arrives at the I/O APIC: the interrupt source override that the MADT must state."""

_MOST_OWED = 64
"""Ticks: more of them would hold a guest up that has not wanted any for long."""
_MSI_BASE = 0xFEE0_0000


class InterruptController:
    """`cpus` processors. `wake(index)` is called when a processor that had nothing to take has something.

    INIT and start-up IPIs call `on_init(index)` and `on_startup(index, vector)`, which the machine sets; an INIT has
    reset the processor's local APIC by then.
    """

    def __init__(self, clock: "Clock", cpus: int = 1, wake: Callable[[int], None] | None = None) -> None:
        self.wake: Callable[[int], None] = wake if wake is not None else nothing
        self.on_init: Callable[[int], None] = nothing
        self.on_startup: Callable[[int, int], None] = nothing
        self._owed = 0
        self.pic = I8259Pair(self._extint_raised)
        self.io_apics = [IoApic(self._send)]
        self.local_apics = [
            LocalApic(index, clock, self._send, self._level_ended, self._woken) for index in range(cpus)
        ]

    @property
    def io_apic(self) -> IoApic:
        """The first I/O APIC, whose inputs are GSI 0 to 23."""
        return self.io_apics[0]

    def add_io_apic(self) -> IoApic:
        """Another I/O APIC; its inputs are the 24 GSIs that follow."""
        self.io_apics.append(IoApic(self._send))
        return self.io_apics[-1]

    def _woken(self, cpu: int) -> None:
        self.wake(cpu)

    def _level_ended(self, vector: int) -> None:
        for io_apic in self.io_apics:
            io_apic.end_of_interrupt(vector)

    # What devices use

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive ISA IRQ 0 to 15 (at the 8259 pair and the I/O APIC alike; IRQ 0 is GSI 2 there), or GSI 16 and up."""
        if irq < ISA_LINES:
            self.pic.set_line(irq, level)
            if irq == TIMER_GSI:
                return  # the cascade; its I/O APIC input is the timer's
            if irq == 0:
                irq = TIMER_GSI
        which, pin = divmod(irq, PINS)
        if which < len(self.io_apics):
            self.io_apics[which].set_line(pin, level)

    def set_pic_line(self, irq: int, level: bool) -> None:
        """Drive IRQ 0 to 15 at the 8259 pair only, where PCI interrupts are routed to by the LPC bridge."""
        self.pic.set_line(irq, level)

    def owe_ticks(self, count: int) -> None:
        """Deliver `count` ticks of IRQ 0 that have been missed, each once the processor has taken the one before it.

        A host that gives the machine little time loses ticks by the dozen; Linux panics where the first five do not come.
        """
        self._owed = 0 if self._tick_vector() is None else min(self._owed + count, _MOST_OWED)

    def _tick_vector(self) -> int | None:
        vector = self.io_apic.edge_vector(TIMER_GSI)
        if vector is None and not self.pic.master.imr & 1:
            vector = self.pic.master.vector_base
        return vector

    def _taken(self, vector: int | None) -> None:
        if vector == self._tick_vector():
            self._owed -= 1
            self.set_irq(0, True)
            self.set_irq(0, False)

    def line(self, irq: int) -> Callable[[bool], None]:
        """The interrupt line of a device: `set_irq` for one IRQ or GSI."""
        return partial(self.set_irq, irq)

    def deliver_msi(self, address: int, data: int) -> bool:
        """A message-signalled interrupt (SDM volume 3, 11.11). False when `address` is not one of the local APICs'."""
        if address & ~0xFFFFF != _MSI_BASE:
            return False
        destination = address >> 12 & 0xFF
        mode = data >> 8 & 7
        if address & 0x8 and mode == FIXED:  # redirection hint: one of those named
            mode = LOWEST_PRIORITY
        level = bool(data & 0x8000)
        if level and not data & 0x4000:
            return True  # a level de-assertion carries nothing
        logical = bool(address & 0x4)
        self._send(Ipi(mode, data & 0xFF, BROADCAST if destination == 0xFF else destination, logical, level), None)
        return True

    # What the run loop uses

    def has_work(self, cpu: int) -> bool:
        """True when processor `cpu` has an NMI or an interrupt to take (if its flags let it)."""
        apic = self.local_apics[cpu]
        return apic.ready or apic.nmi_pending or (self.pic.output and apic.takes_extint)

    def pending_vector(self, cpu: int) -> int | None:
        """The vector of the maskable interrupt that `acknowledge` would give, None when there is none."""
        apic = self.local_apics[cpu]
        if apic.ready:
            return apic.pending()
        return self.pic.pending_vector() if self.pic.output and apic.takes_extint else None

    def acknowledge(self, cpu: int) -> int | None:
        """Take the pending maskable interrupt: its vector is now in service. None when there is none."""
        apic, vector = self.local_apics[cpu], None
        if apic.ready:
            vector = apic.acknowledge()
        elif self.pic.output and apic.takes_extint:
            vector = self.pic.acknowledge()
        if self._owed:
            self._taken(vector)
        return vector

    def take_nmi(self, cpu: int) -> bool:
        """True, once, when an NMI is pending for processor `cpu`."""
        apic = self.local_apics[cpu]
        pending, apic.nmi_pending = apic.nmi_pending, False
        return pending

    def end_of_interrupt(self, cpu: "Cpu") -> None:
        """What a handler that knows nothing of the source writes: EOI to the local APIC and to both 8259s."""
        self.local_apics[cpu.index].write(_EOI_OFFSET, 4, 0)
        for chip in (self.pic.slave, self.pic.master):
            chip.write(cpu, 0, 1, _PIC_EOI)

    def send_nmi(self, cpu: int) -> None:
        """Raise an NMI at processor `cpu`."""
        self.local_apics[cpu].accept_nmi()

    # Guest accesses to the local APIC; the I/O APIC and the 8259s have handlers of their own

    def read_local_apic(self, cpu: "Cpu", offset: int, size: int) -> int:
        """MMIO read from the local APIC's page: every processor sees its own."""
        return self.local_apics[cpu.index].read(offset, size)

    def write_local_apic(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """MMIO write to the local APIC's page."""
        self.local_apics[cpu.index].write(offset, size, value)

    def read_msr(self, cpu: "Cpu", msr: int) -> int | None:
        """RDMSR of 0x1B, 0x6E0 or 0x800 to 0x8FF; None is #GP(0)."""
        return self.local_apics[cpu.index].read_msr(msr)

    def write_msr(self, cpu: "Cpu", msr: int, value: int) -> bool:
        """WRMSR of the same; False is #GP(0)."""
        return self.local_apics[cpu.index].write_msr(msr, value)

    # State

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "owed": self._owed,
            "pic": self.pic.save(),
            "io_apics": [io_apic.save() for io_apic in self.io_apics],
            "local_apics": [apic.save() for apic in self.local_apics],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over the saved state of as many processors. Load the clock before and the devices after."""
        self._owed = state["owed"]
        self.pic.load(state["pic"])
        for io_apic, saved in zip(self.io_apics, state["io_apics"], strict=True):
            io_apic.load(saved)
        for apic, saved in zip(self.local_apics, state["local_apics"], strict=True):
            apic.load(saved)

    # Between the controllers

    def _extint_raised(self) -> None:
        for apic in self.local_apics:
            if apic.takes_extint:
                self.wake(apic.index)

    def _send(self, ipi: Ipi, exclude: int | None) -> None:
        targets = [
            apic for apic in self.local_apics if apic.index != exclude and apic.matches(ipi.destination, ipi.logical)
        ]
        if ipi.mode == FIXED:
            for apic in targets:
                apic.accept(ipi.vector, ipi.level_triggered)
        elif ipi.mode == LOWEST_PRIORITY:
            able = [apic for apic in targets if apic.enabled]
            if able:
                chosen = min(able, key=lambda apic: apic.processor_priority)
                chosen.accept(ipi.vector, ipi.level_triggered)
        elif ipi.mode == NMI:
            for apic in targets:
                apic.accept_nmi()
        elif ipi.mode == INIT:
            for apic in targets:
                apic.initialize()
                self.on_init(apic.index)
        elif ipi.mode == STARTUP:
            for apic in targets:
                self.on_startup(apic.index, ipi.vector)
