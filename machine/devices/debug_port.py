"""Debug output ports: the byte console at 0x402 and 0xE9 (Bochs, QEMU's debugcon) and the POST code port 0x80."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

CONSOLE_PORTS = (0x402, 0xE9)
POST_PORT = 0x80

_PRESENT = 0xE9


class DebugConsole:
    """Every byte written goes to `output`; reading gives 0xE9, by which guests recognise the console."""

    def __init__(self, output: Callable[[bytes], object]) -> None:
        self._output = output

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """0xE9: the console is there."""
        return _PRESENT

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Output the lowest byte."""
        self._output(bytes((value & 0xFF,)))

    def save(self) -> dict[str, Any]:
        """Plain data for `load`: it keeps nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""


class PostPort:
    """The POST code latch: remembers the last byte. Operating systems write it to wait a microsecond."""

    def __init__(self) -> None:
        self.code = 0

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """The last code."""
        return self.code

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Show a code."""
        self.code = value & 0xFF

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"code": self.code}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.code = state["code"]
