"""The reset control register at port 0xCF9 (Intel I/O Controller Hub 9, 13.7.5, RST_CNT)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

PORT = 0xCF9
COLD_RESET = 0x06
"""What the FADT's RESET_VALUE should be: SYS_RST with RST_CPU."""

_SYS_RST, _RST_CPU, _FULL_RST = 0x02, 0x04, 0x08


class ResetControl:
    """`reset(cold)` is called when RST_CPU rises: cold with SYS_RST or FULL_RST set, warm (INIT) without."""

    def __init__(self, reset: Callable[[bool], None]) -> None:
        self._reset = reset
        self._value = 0

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """The register; RST_CPU reads as 0 once its reset has been asked for."""
        return self._value

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Choose the kind of reset, and start it."""
        self._value = value & (_SYS_RST | _FULL_RST)
        if value & _RST_CPU:
            self._reset(self._value != 0)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"value": self._value}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._value = state["value"]
