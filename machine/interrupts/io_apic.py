"""The I/O APIC: 24 inputs and their redirection table (Intel 82093AA data sheet; the EOI register as in ICH9, 13.5)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.interrupts.local_apic import BROADCAST, LOWEST_PRIORITY, Ipi

if TYPE_CHECKING:
    from machine.cpu import Cpu

IO_APIC_BASE = 0xFEC0_0000
IO_APIC_SIZE = 0x1000
PINS = 24

_SELECT, _WINDOW, _EOI = 0x00, 0x10, 0x40
_ID, _VERSION, _ARBITRATION, _TABLE = 0x00, 0x01, 0x02, 0x10
_VERSION_VALUE = (PINS - 1) << 16 | 0x20

_LOGICAL, _REMOTE_IRR, _LEVEL, _MASKED = 1 << 11, 1 << 14, 1 << 15, 1 << 16
_LOW_WRITABLE = 0x1_AFFF
_HIGH_WRITABLE = 0xFF00_0000


class IoApic:
    """Turns levels of its inputs into messages: `send(ipi, None)`. A level of True is asserted, whatever polarity."""

    def __init__(self, send: Callable[[Ipi, int | None], None]) -> None:
        self._send = send
        self._select = 0
        self._id = 0
        self._table = [_MASKED] * PINS
        self._lines = 0

    def set_line(self, pin: int, level: bool) -> None:
        """Drive input 0 to 23. An edge at a masked input is lost (82093AA, 3.2.4); a level waits for its unmasking."""
        bit = 1 << pin
        before = self._lines & bit
        if not level:
            self._lines &= ~bit
            return
        self._lines |= bit
        entry = self._table[pin]
        if entry & _LEVEL:
            self._serve_level(pin)
        elif not before and not entry & _MASKED:
            self._deliver(entry)

    def edge_vector(self, pin: int) -> int | None:
        """The vector that an edge at an input arrives as; None if it is masked or has a level."""
        entry = self._table[pin]
        return None if entry & (_LEVEL | _MASKED) else entry & 0xFF

    def end_of_interrupt(self, vector: int) -> None:
        """A processor is done with a level interrupt: inputs of that vector that are still asserted ask again."""
        for pin, entry in enumerate(self._table):
            if entry & 0xFF == vector and entry & _LEVEL and entry & _REMOTE_IRR:
                self._table[pin] = entry & ~_REMOTE_IRR
                self._serve_level(pin)

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """MMIO read: the index register, or the register that it selects."""
        value = 0
        if offset & ~3 == _SELECT:
            value = self._select
        elif offset & ~3 == _WINDOW:
            value = self._read_register(self._select)
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """MMIO write; registers are 32 bits wide, the index and EOI registers take a byte."""
        if offset == _SELECT:
            self._select = value & 0xFF
        elif offset == _WINDOW and size >= 4:
            self._write_register(self._select, value & 0xFFFF_FFFF)
        elif offset == _EOI:
            self.end_of_interrupt(value & 0xFF)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"select": self._select, "id": self._id, "table": list(self._table), "lines": self._lines}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._select = state["select"]
        self._id = state["id"]
        self._table = list(state["table"])
        self._lines = state["lines"]

    def _read_register(self, number: int) -> int:
        if number in (_ID, _ARBITRATION):
            return self._id
        if number == _VERSION:
            return _VERSION_VALUE
        pin = number - _TABLE >> 1
        if 0 <= pin < PINS:
            return self._table[pin] >> 32 * (number & 1) & 0xFFFF_FFFF
        return 0

    def _write_register(self, number: int, value: int) -> None:
        if number == _ID:
            self._id = value & 0x0F00_0000
            return
        pin = number - _TABLE >> 1
        if not 0 <= pin < PINS:
            return
        entry = self._table[pin]
        if number & 1:
            self._table[pin] = entry & 0xFFFF_FFFF | (value & _HIGH_WRITABLE) << 32
            return
        entry = entry & ~(_LOW_WRITABLE) | value & _LOW_WRITABLE
        if not entry & _LEVEL:
            entry &= ~_REMOTE_IRR
        self._table[pin] = entry
        self._serve_level(pin)

    def _serve_level(self, pin: int) -> None:
        entry = self._table[pin]
        if entry & (_LEVEL | _MASKED | _REMOTE_IRR) == _LEVEL and self._lines >> pin & 1:
            if entry >> 8 & 7 <= LOWEST_PRIORITY:  # only these have an EOI to wait for
                self._table[pin] = entry | _REMOTE_IRR
            self._deliver(entry)

    def _deliver(self, entry: int) -> None:
        destination = entry >> 56
        self._send(
            Ipi(
                entry >> 8 & 7,
                entry & 0xFF,
                BROADCAST if destination == 0xFF else destination,
                bool(entry & _LOGICAL),
                bool(entry & _LEVEL),
            ),
            None,
        )
