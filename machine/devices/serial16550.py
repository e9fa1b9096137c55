"""The 16550A serial port (PC16550D data sheet, National Semiconductor, June 1995; section numbers are its).

The line has no speed here: a transmitted byte is gone at once, and input waits at the host until the guest takes it, as
with hardware flow control, so nothing is lost however fast it comes. A receiver time-out is therefore immediate.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from machine.cpu import Cpu

REGISTERS = 8
"""Ports that one serial port takes."""

_DATA, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCR = range(REGISTERS)

_FIFO_SIZE = 16
_TRIGGER_LEVELS = (1, 4, 8, 14)

_IER_RECEIVED, _IER_TRANSMIT, _IER_LINE, _IER_MODEM = 0x01, 0x02, 0x04, 0x08

# Table IV, Interrupt Control Functions, highest priority first.
_IIR_LINE, _IIR_RECEIVED, _IIR_TIMEOUT, _IIR_TRANSMIT, _IIR_MODEM, _IIR_NONE = 0x06, 0x04, 0x0C, 0x02, 0x00, 0x01
_IIR_FIFO = 0xC0

_LCR_DLAB = 0x80
_MCR_OUT2, _MCR_LOOP = 0x08, 0x10
_LSR_DATA, _LSR_OVERRUN, _LSR_EMPTY = 0x01, 0x02, 0x60
TRANSMITTER, LINE_STATUS, READY = _DATA, _LSR, _LSR_EMPTY
"""THR, LSR, and what LSR says while nothing has been received and the transmitter can take more."""
_MSR_PRESENT = 0xB0
"""DCD, DSR and CTS: the other end is there and ready."""

_BYTES = [bytes((value,)) for value in range(256)]


class SerialBackend(Protocol):
    """The host's end of the line."""

    def read_byte(self) -> int | None:
        """Take the next byte of input, None when there is none."""

    def pending(self) -> bool:
        """True when `read_byte` has something."""

    def write(self, data: bytes) -> object:
        """Output of the guest."""


class Serial16550:
    """One 16550A at `REGISTERS` consecutive ports.

    `irq` is the interrupt line, gated by OUT2 as on every PC. `on_poll_empty` is called when the guest asks for input
    (LSR or RBR) and there is none; whatever the guest writes is an effect.
    """

    def __init__(self, backend: SerialBackend, irq: Callable[[bool], None]) -> None:
        self._backend = backend
        self._irq = irq
        self.on_poll_empty: Callable[[], None] | None = None
        self._ier = 0
        self._fifo_enabled = False
        self._trigger = 1
        self._lcr = 0
        self._mcr = 0
        self._scratch = 0
        self._divisor = 0
        self._line_errors = 0
        self._modem_changes = 0
        self._transmit_pending = False
        self._received = bytearray()
        self._looped = bytearray()
        self._level = False
        self._quick = True

    # The guest's side

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port read; registers are 8 bits wide, a wider access reads consecutive registers (table II)."""
        if offset == _LSR and self._quick and size == 1:
            if self._backend.pending():
                return _LSR_EMPTY | _LSR_DATA
            if self.on_poll_empty is not None:
                self.on_poll_empty()
            return _LSR_EMPTY
        if size == 1:
            return self._read_register(offset) if offset < REGISTERS else 0xFF
        value = 0
        for index in range(size):
            value |= self.read(cpu, offset + index, 1) << 8 * index
        return value

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port write; a wider access writes consecutive registers (table II)."""
        if offset == _DATA and self._quick and size == 1:
            self._backend.write(_BYTES[value & 0xFF])
            return
        for index in range(size):
            if offset + index < REGISTERS:
                self._write_register(offset + index, value >> 8 * index & 0xFF)

    @property
    def passes_on(self) -> bool:
        """Whether THR does nothing but pass bytes on, and LSR says nothing but that, and whether there is input."""
        return self._quick

    def transmit(self, data: bytes) -> None:
        """Bytes that the guest has written to THR while `passes_on`."""
        self._backend.write(data)

    def input_available(self) -> None:
        """The backend has new input: raise the receiver's interrupt if the guest wants it."""
        self._update()

    # State

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "ier": self._ier,
            "fifo_enabled": self._fifo_enabled,
            "trigger": self._trigger,
            "lcr": self._lcr,
            "mcr": self._mcr,
            "scratch": self._scratch,
            "divisor": self._divisor,
            "line_errors": self._line_errors,
            "modem_changes": self._modem_changes,
            "transmit_pending": self._transmit_pending,
            "received": bytes(self._received),
            "looped": bytes(self._looped),
            "level": self._level,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the interrupt line is driven anew if the backend has input."""
        self._ier = state["ier"]
        self._fifo_enabled = state["fifo_enabled"]
        self._trigger = state["trigger"]
        self._lcr = state["lcr"]
        self._mcr = state["mcr"]
        self._scratch = state["scratch"]
        self._divisor = state["divisor"]
        self._line_errors = state["line_errors"]
        self._modem_changes = state["modem_changes"]
        self._transmit_pending = state["transmit_pending"]
        self._received = bytearray(state["received"])
        self._looped = bytearray(state["looped"])
        self._level = state["level"]
        self._update()

    # Registers

    def _read_register(self, offset: int) -> int:
        if offset == _DATA:
            return self._divisor & 0xFF if self._lcr & _LCR_DLAB else self._receive()
        if offset == _IER:
            return self._divisor >> 8 if self._lcr & _LCR_DLAB else self._ier
        if offset == _IIR_FCR:
            return self._identify()
        if offset == _LCR:
            return self._lcr
        if offset == _MCR:
            return self._mcr
        if offset == _LSR:
            value = _LSR_EMPTY | self._line_errors
            self._line_errors = 0
            if self._has_input():
                value |= _LSR_DATA
            elif self.on_poll_empty is not None:
                self.on_poll_empty()
            self._update()
            return value
        if offset == _MSR:
            value = self._modem_lines() | self._modem_changes
            self._modem_changes = 0
            self._update()
            return value
        return self._scratch

    def _write_register(self, offset: int, value: int) -> None:
        if offset == _DATA:
            if self._lcr & _LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif offset == _IER:
            if self._lcr & _LCR_DLAB:
                self._divisor = self._divisor & 0x00FF | value << 8
            else:
                # Enabling the interrupt while the transmitter is empty raises it (8.6).
                if value & _IER_TRANSMIT and not self._ier & _IER_TRANSMIT:
                    self._transmit_pending = True
                self._ier = value & 0x0F
        elif offset == _IIR_FCR:
            self._control_fifo(value)
        elif offset == _LCR:
            self._lcr = value
        elif offset == _MCR:
            before = self._modem_lines()
            self._mcr = value & 0x1F
            if not value & _MCR_LOOP:
                self._looped.clear()
            self._note_modem_changes(before, self._modem_lines())
        elif offset == _SCR:
            self._scratch = value
        self._update()

    def _receive(self) -> int:
        """RBR: the next byte, 0 when there is none."""
        value: int | None
        if self._mcr & _MCR_LOOP:
            value = self._looped.pop(0) if self._looped else None
        elif self._received:
            value = self._received.pop(0)
        else:
            value = self._backend.read_byte()
        if value is None and self.on_poll_empty is not None:
            self.on_poll_empty()
        if self._level and not self._fifo_enabled:
            # Taking the one character ends its interrupt; the next one is a new edge for an edge-triggered controller.
            self._level = False
            self._irq(False)
        self._update()
        return value or 0

    def _transmit(self, value: int) -> None:
        self._transmit_pending = True
        if not self._mcr & _MCR_LOOP:
            self._backend.write(_BYTES[value])
        elif len(self._looped) < (_FIFO_SIZE if self._fifo_enabled else 1):
            self._looped.append(value)
        else:
            # Overrun (8.3): the FIFO keeps what it has; a single register takes the new character.
            self._line_errors |= _LSR_OVERRUN
            if not self._fifo_enabled:
                self._looped[0] = value

    def _control_fifo(self, value: int) -> None:
        """FCR (8.4). The host's bytes that the guest has not read stay: they wait on the line, so to speak."""
        enabled = bool(value & 0x01)
        if enabled != self._fifo_enabled or value & 0x02:
            self._looped.clear()
        self._fifo_enabled = enabled
        self._trigger = _TRIGGER_LEVELS[value >> 6] if enabled else 1

    def _identify(self) -> int:
        """IIR (8.5). Reading it takes back the transmitter's interrupt if that is the one shown."""
        identity = self._pending_interrupt()
        if identity == _IIR_TRANSMIT:
            self._transmit_pending = False
            self._update()
        return identity | (_IIR_FIFO if self._fifo_enabled else 0)

    def _pending_interrupt(self) -> int:
        ier = self._ier
        if ier & _IER_LINE and self._line_errors:
            return _IIR_LINE
        if ier & _IER_RECEIVED and self._has_input():
            return _IIR_RECEIVED if self._reaches_trigger() else _IIR_TIMEOUT
        if ier & _IER_TRANSMIT and self._transmit_pending:
            return _IIR_TRANSMIT
        if ier & _IER_MODEM and self._modem_changes:
            return _IIR_MODEM
        return _IIR_NONE

    def _has_input(self) -> bool:
        if self._mcr & _MCR_LOOP:
            return bool(self._looped)
        return bool(self._received) or self._backend.pending()

    def _reaches_trigger(self) -> bool:
        if self._trigger == 1:
            return True
        if self._mcr & _MCR_LOOP:
            return len(self._looped) >= self._trigger
        while len(self._received) < self._trigger:
            value = self._backend.read_byte()
            if value is None:
                return False
            self._received.append(value)
            self._quick = False
        return True

    def _modem_lines(self) -> int:
        """MSR bits 4 to 7; in loop-back they follow RTS, DTR, OUT1 and OUT2 of the MCR (8.7)."""
        mcr = self._mcr
        if not mcr & _MCR_LOOP:
            return _MSR_PRESENT
        return (mcr & 0x02) << 3 | (mcr & 0x01) << 5 | (mcr & 0x0C) << 4

    def _note_modem_changes(self, before: int, after: int) -> None:
        changed = before ^ after
        self._modem_changes |= changed >> 4 & 0x0B
        if changed & before & 0x40:  # TERI: the ring indicator's trailing edge only (8.8)
            self._modem_changes |= 0x04

    def _update(self) -> None:
        """Drive the interrupt line, and find out whether the quick paths of `read` and `write` hold."""
        self._quick = not (
            self._ier & _IER_TRANSMIT
            or self._lcr & _LCR_DLAB
            or self._mcr & _MCR_LOOP
            or self._received
            or self._line_errors
        )
        gate = self._mcr & (_MCR_OUT2 | _MCR_LOOP) == _MCR_OUT2
        level = gate and self._pending_interrupt() != _IIR_NONE
        if level != self._level:
            self._level = level
            self._irq(level)
