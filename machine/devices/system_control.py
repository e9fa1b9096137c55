"""System control port A at 0x92: the fast A20 gate and the fast reset (Intel I/O Controller Hub 9, 13.7.2, PORT92).

The A20 line is only remembered: long mode has always had it open, and nothing here masks addresses.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

PORT = 0x92

_INIT_NOW, _A20 = 0x01, 0x02


class SystemControlPortA:
    """One byte: bit 0 resets the processor on its way from 0 to 1, bit 1 opens A20."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._value = _A20

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """The byte as written."""
        return self._value

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Set both bits; calls `reset` when bit 0 rises."""
        before, self._value = self._value, value & (_INIT_NOW | _A20)
        if self._value & ~before & _INIT_NOW:
            self._reset()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"value": self._value}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._value = state["value"]
