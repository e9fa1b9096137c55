"""The pair of 8259A interrupt controllers of a PC, with the edge/level registers (Intel 8259A data sheet; ICH9 13.4).

Ports: master 0x20/0x21, slave 0xA0/0xA1, ELCR 0x4D0/0x4D1. The slave's output is the master's input 2.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

MASTER_PORT, SLAVE_PORT, ELCR_PORT = 0x20, 0xA0, 0x4D0
PORTS = 2

FIRMWARE_LEVEL_LINES = 0x0E00
"""IRQs that firmware leaves level-triggered: 9 (SCI), 10 and 11 (PCI)."""

_CASCADE = 2
_ICW1, _ICW1_NEEDS_ICW4, _ICW1_SINGLE, _ICW1_LEVEL = 0x10, 0x01, 0x02, 0x08
_ICW4_AUTO_EOI, _ICW4_FULLY_NESTED = 0x02, 0x10
_OCW3, _OCW3_POLL = 0x08, 0x04
_ELCR_WRITABLE = (0xF8, 0xDE)


class I8259:
    """One 8259A: eight inputs, three registers, a priority that can rotate."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.irr = self.isr = self.imr = 0
        self.lines = 0
        self.level_lines = 0
        self.vector_base = 0
        self._all_level = False
        self._top = 0
        self._auto_eoi = self._rotate_on_auto_eoi = False
        self._special_mask = self._fully_nested = False
        self._poll = self._reads_isr = False
        self._next_icw = 0
        self._single = self._needs_icw4 = False

    def set_line(self, number: int, level: bool) -> None:
        """Drive input 0 to 7. An edge is remembered until it is acknowledged, also when the line falls again."""
        bit = 1 << number
        if level:
            if (self._all_level or self.level_lines & bit) or not self.lines & bit:
                self.irr |= bit
            self.lines |= bit
        else:
            if self._all_level or self.level_lines & bit:
                self.irr &= ~bit
            self.lines &= ~bit
        self._changed()

    def requested(self) -> int | None:
        """The input whose request is to be served now: unmasked, and above everything in service. None: no request."""
        candidate = self._highest(self.irr & ~self.imr)
        if candidate is None:
            return None
        in_service = self.isr & ~self.imr if self._special_mask else self.isr
        if self._fully_nested:
            in_service &= ~(1 << _CASCADE)
        serving = self._highest(in_service)
        if serving is not None and (serving - self._top) % 8 <= (candidate - self._top) % 8:
            return None
        return candidate

    def acknowledge(self, number: int) -> None:
        """The processor takes the request of input `number`."""
        bit = 1 << number
        if not (self._all_level or self.level_lines & bit):
            self.irr &= ~bit
        if not self._auto_eoi:
            self.isr |= bit
        elif self._rotate_on_auto_eoi:
            self._top = (number + 1) % 8

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port read: IRR or ISR (as OCW3 chose) at 0, the mask at 1; in poll mode the request, acknowledged."""
        if self._poll:
            self._poll = False
            number = self.requested()
            if number is None:
                return 0
            self.acknowledge(number)
            self._changed()
            return 0x80 | number
        if offset:
            return self.imr
        return self.isr if self._reads_isr else self.irr

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port write: initialisation words ICW1 to ICW4, operation words OCW1 to OCW3."""
        value &= 0xFF
        if offset:
            self._write_data(value)
        elif value & _ICW1:
            self._initialize(value)
        elif value & _OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value >> 5, value & 7)
        self._changed()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {name.strip("_"): getattr(self, name) for name in _STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name in _STATE:
            setattr(self, name, state[name.strip("_")])

    def _highest(self, bits: int) -> int | None:
        if not bits:
            return None
        turned = (bits | bits << 8) >> self._top
        return ((turned & -turned).bit_length() - 1 + self._top) % 8

    def _initialize(self, value: int) -> None:
        self._all_level = bool(value & _ICW1_LEVEL)
        self._single = bool(value & _ICW1_SINGLE)
        self._needs_icw4 = bool(value & _ICW1_NEEDS_ICW4)
        self.isr = self.imr = 0
        self.irr = self.lines & (0xFF if self._all_level else self.level_lines)
        self._top = 0
        self._auto_eoi = self._fully_nested = self._special_mask = self._reads_isr = self._poll = False
        self._rotate_on_auto_eoi = False
        self._next_icw = 2

    def _write_data(self, value: int) -> None:
        if self._next_icw == 0:
            self.imr = value
        elif self._next_icw == 2:
            self.vector_base = value & 0xF8
            self._next_icw = 3 if not self._single else 4 if self._needs_icw4 else 0
        elif self._next_icw == 3:  # which input the slave is at: fixed wiring here
            self._next_icw = 4 if self._needs_icw4 else 0
        else:
            self._auto_eoi = bool(value & _ICW4_AUTO_EOI)
            self._fully_nested = bool(value & _ICW4_FULLY_NESTED)
            self._next_icw = 0

    def _write_ocw2(self, command: int, number: int) -> None:
        rotate, specific, end = bool(command & 4), bool(command & 2), bool(command & 1)
        if not end:
            if specific and rotate:
                self._top = (number + 1) % 8
            elif not specific:
                self._rotate_on_auto_eoi = rotate
            return
        ended: int | None = (
            number if specific else self._highest(self.isr & ~self.imr if self._special_mask else self.isr)
        )
        if ended is not None:
            self.isr &= ~(1 << ended)
            if rotate:
                self._top = (ended + 1) % 8

    def _write_ocw3(self, value: int) -> None:
        if value & _OCW3_POLL:
            self._poll = True
        if value & 0x02:
            self._reads_isr = bool(value & 0x01)
        if value & 0x40:
            self._special_mask = bool(value & 0x20)


_STATE = (
    "irr",
    "isr",
    "imr",
    "lines",
    "level_lines",
    "vector_base",
    "_all_level",
    "_top",
    "_auto_eoi",
    "_rotate_on_auto_eoi",
    "_special_mask",
    "_fully_nested",
    "_poll",
    "_reads_isr",
    "_next_icw",
    "_single",
    "_needs_icw4",
)


class I8259Pair:
    """Master and slave. `output` tells whether the processor's INTR is asserted; `changed` is called when it rises."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.output = False
        self.master = I8259(self._update)
        self.slave = I8259(self._update)
        self.master.level_lines = FIRMWARE_LEVEL_LINES & 0xFF | 1 << _CASCADE
        self.slave.level_lines = FIRMWARE_LEVEL_LINES >> 8

    def set_line(self, irq: int, level: bool) -> None:
        """Drive IRQ 0 to 15; 2 is the cascade and not to be had."""
        if irq >= 8:
            self.slave.set_line(irq - 8, level)
        elif irq != _CASCADE:
            self.master.set_line(irq, level)

    def pending_vector(self) -> int | None:
        """The vector that `acknowledge` would give, None when INTR is not asserted."""
        number = self.master.requested()
        if number is None:
            return None
        if number != _CASCADE:
            return self.master.vector_base + number
        behind = self.slave.requested()
        return self.slave.vector_base + (7 if behind is None else behind)

    def acknowledge(self) -> int:
        """The INTA cycle: the vector. A request that has gone away gives the spurious vector of input 7."""
        number = self.master.requested()
        if number is None:
            return self.master.vector_base + 7
        vector = self.master.vector_base + number
        if number == _CASCADE:
            behind = self.slave.requested()
            vector = self.slave.vector_base + (7 if behind is None else behind)
            if behind is not None:
                self.slave.acknowledge(behind)
        self.master.acknowledge(number)
        self._update()
        return vector

    def read_elcr(self, cpu: "Cpu", offset: int, size: int) -> int:
        """ELCR1 and ELCR2: a set bit makes the line level-triggered."""
        both = self.master.level_lines & ~(1 << _CASCADE) | self.slave.level_lines << 8
        return both >> 8 * offset & (1 << 8 * size) - 1

    def write_elcr(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """IRQ 0, 1, 2, 8 and 13 stay edge-triggered (ICH9 13.4)."""
        for index in range(min(size, PORTS - offset)):
            byte = value >> 8 * index & _ELCR_WRITABLE[offset + index]
            if offset + index == 0:
                self.master.level_lines = byte | 1 << _CASCADE
            else:
                self.slave.level_lines = byte

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"master": self.master.save(), "slave": self.slave.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.master.load(state["master"])
        self.slave.load(state["slave"])
        self.output = self.master.requested() is not None

    def _update(self) -> None:
        bit = 1 << _CASCADE
        self.master.irr = self.master.irr & ~bit | (bit if self.slave.requested() is not None else 0)
        before, self.output = self.output, self.master.requested() is not None
        if self.output and not before:
            self._changed()
