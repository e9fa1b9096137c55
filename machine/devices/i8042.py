"""The 8042 keyboard controller at ports 0x60 and 0x64 with nothing plugged in (IBM PC AT Technical Reference).

It is there for its reset line and because operating systems probe it. What is sent to the missing keyboard comes back
as "resend" with the time-out bit, at once, so that no probe has to wait; there is no auxiliary (mouse) port.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

DATA_PORT = 0x60
COMMAND_PORT = 0x64

_STATUS_OUTPUT_FULL, _STATUS_SYSTEM, _STATUS_COMMAND, _STATUS_UNLOCKED, _STATUS_TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x40

_CONTROL_INTERRUPT, _CONTROL_SYSTEM, _CONTROL_DISABLED = 0x01, 0x04, 0x10

_OUTPUT_NOT_RESET, _OUTPUT_A20 = 0x01, 0x02

_KEYBOARD_RESEND = 0xFE

# Commands that answer one byte at once: (command, answer). 0xA9 tests the auxiliary port, which is not there.
_ANSWERS = {0xA4: 0xF1, 0xA9: 0x04, 0xAA: 0x55, 0xAB: 0x00, 0xC0: 0x80, 0xE0: 0x00}

_WRITE_OUTPUT_PORT, _WRITE_KEYBOARD_BUFFER, _LOOP_AUXILIARY, _WRITE_AUXILIARY = 0xD1, 0xD2, 0xD3, 0xD4


class I8042:
    """Keyboard controller. `reset` is called when the guest pulls the reset line; `irq` is the line of IRQ 1."""

    def __init__(self, reset: Callable[[], None], irq: Callable[[bool], None]) -> None:
        self._reset = reset
        self._irq = irq
        self._ram = bytearray(32)
        self._ram[0] = _CONTROL_SYSTEM | _CONTROL_DISABLED
        self._output = 0
        self._output_full = False
        self._output_timeout = False
        self._output_interrupts = False
        self._last_was_command = False
        self._parameter_of = 0
        self.a20 = True

    def read_data(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port 0x60: takes the byte in the output buffer; the last one again when it is empty."""
        self._output_full = self._output_timeout = self._output_interrupts = False
        self._update()
        return self._output

    def write_data(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port 0x60: a command's parameter, or a byte for the keyboard."""
        value &= 0xFF
        command, self._parameter_of = self._parameter_of, 0
        self._last_was_command = False
        if 0x60 <= command <= 0x7F:
            self._ram[command - 0x60] = value
            self._update()
        elif command == _WRITE_OUTPUT_PORT:
            self._set_output_port(value)
        elif command == _WRITE_KEYBOARD_BUFFER:
            self._answer(value, interrupts=True)
        elif command == _LOOP_AUXILIARY:
            self._answer(value)
        else:
            self._answer(_KEYBOARD_RESEND, timeout=True, interrupts=command != _WRITE_AUXILIARY)

    def read_status(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port 0x64: the status register. The input buffer is never full: every byte is taken at once."""
        return (
            _STATUS_UNLOCKED
            | (_STATUS_OUTPUT_FULL if self._output_full else 0)
            | (_STATUS_TIMEOUT if self._output_timeout else 0)
            | (_STATUS_COMMAND if self._last_was_command else 0)
            | (self._ram[0] & _STATUS_SYSTEM)
        )

    def write_command(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port 0x64: a command for the controller. Unknown ones are ignored."""
        value &= 0xFF
        self._last_was_command = True
        self._parameter_of = 0
        if value >= 0xF0:  # pulses the lines of the output port whose bits are 0; bit 0 is the reset line
            if not value & _OUTPUT_NOT_RESET:
                self._reset()
        elif value in _ANSWERS:
            if value == 0xAA:
                self._ram[0] |= _CONTROL_SYSTEM
            self._answer(_ANSWERS[value])
        elif 0x20 <= value <= 0x3F:
            self._answer(self._ram[value - 0x20])
        elif 0x60 <= value <= 0x7F or _WRITE_OUTPUT_PORT <= value <= _WRITE_AUXILIARY:
            self._parameter_of = value
        elif value == 0xAD:
            self._ram[0] |= _CONTROL_DISABLED
        elif value == 0xAE:
            self._ram[0] &= ~_CONTROL_DISABLED
        elif value == 0xD0:
            full = 0x10 if self._output_full else 0
            self._answer(_OUTPUT_NOT_RESET | (_OUTPUT_A20 if self.a20 else 0) | full)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "ram": bytes(self._ram),
            "output": self._output,
            "output_full": self._output_full,
            "output_timeout": self._output_timeout,
            "output_interrupts": self._output_interrupts,
            "last_was_command": self._last_was_command,
            "parameter_of": self._parameter_of,
            "a20": self.a20,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._ram = bytearray(state["ram"])
        self._output = state["output"]
        self._output_full = state["output_full"]
        self._output_timeout = state["output_timeout"]
        self._output_interrupts = state["output_interrupts"]
        self._last_was_command = state["last_was_command"]
        self._parameter_of = state["parameter_of"]
        self.a20 = state["a20"]

    def _answer(self, value: int, timeout: bool = False, interrupts: bool = False) -> None:
        self._output = value
        self._output_full = True
        self._output_timeout = timeout
        self._output_interrupts = interrupts
        self._update()

    def _set_output_port(self, value: int) -> None:
        self.a20 = bool(value & _OUTPUT_A20)
        if not value & _OUTPUT_NOT_RESET:
            self._reset()

    def _update(self) -> None:
        self._irq(self._output_full and self._output_interrupts and bool(self._ram[0] & _CONTROL_INTERRUPT))
