"""The fixed ACPI power management registers (ACPI 6.4, 4.8.3 and 4.8.4) and the SMI command port that turns them on.

The block lies at 0xB000 as PIIX4 boards have it, where TamaGo reads the timer (0xB008). The general-purpose event
block follows at 0xB020. Only soft-off (S5) is a sleeping state here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.clock import NANOSECONDS, Clock, Timer

if TYPE_CHECKING:
    from machine.cpu import Cpu

PM_BASE = 0xB000
PM_PORTS = 0x40
PM1_EVENT, PM1_EVENT_LENGTH = 0x00, 4
PM1_CONTROL, PM1_CONTROL_LENGTH = 0x04, 2
PM_TIMER, PM_TIMER_LENGTH = 0x08, 4
GPE0, GPE0_LENGTH = 0x20, 16
"""Offsets from the base and lengths in bytes, for the FADT; the first half of an event block is the status."""

SMI_COMMAND_PORT = 0xB2
SMI_PORTS = 2
ACPI_ENABLE = 0x02
ACPI_DISABLE = 0x03

SLP_TYP_S5 = 0
"""SLP_TYPa of the `\\_S5` object: PIIX4's soft off, which guests without an AML interpreter write, too."""

TIMER_FREQUENCY = 3_579_545
"""Hz of the PM timer; it has 24 bits (4.8.3.3)."""

_TMR_STS, _PWRBTN_STS = 0x0001, 0x0100
_EN_BITS = 0x0721
_SCI_EN, _BM_RLD, _SLP_TYP = 0x0001, 0x0002, 0x1C00
_SLP_EN = 0x2000


class AcpiPm:
    """PM1a event and control, PM timer, GPE0. `irq` is the SCI line; `power_off` is called on entry to S5."""

    def __init__(self, clock: Clock, irq: Callable[[bool], None], power_off: Callable[[], None]) -> None:
        self._clock = clock
        self._irq = irq
        self._power_off = power_off
        self._timer: Timer | None = None
        self._status = 0
        self._enable = 0
        self._control = 0
        self._gpe_status = bytearray(GPE0_LENGTH // 2)
        self._gpe_enable = bytearray(GPE0_LENGTH // 2)
        self._smi = bytearray(SMI_PORTS)
        self._seen_half = self._half()

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port read, offset from the base; what is no register reads as 0."""
        if offset == PM_TIMER and size == 4:
            return self._clock.now() * TIMER_FREQUENCY // NANOSECONDS & 0xFFFFFF
        self._catch_up()
        fixed = self._status | self._enable << 16 | (self._control & ~_SLP_EN) << 32
        fixed |= (self._clock.now() * TIMER_FREQUENCY // NANOSECONDS & 0xFFFFFF) << 64
        image = fixed.to_bytes(GPE0, "little") + self._gpe_status + self._gpe_enable
        return int.from_bytes(image[offset : offset + size], "little")

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port write of any width; status bits are cleared by writing 1."""
        self._catch_up()
        for index in range(size):
            self._write_byte(offset + index, value >> 8 * index & 0xFF)
        self._update()

    def read_smi(self, cpu: "Cpu", offset: int, size: int) -> int:
        """SMI command and status ports: as written."""
        return int.from_bytes(self._smi[offset : offset + size], "little")

    def write_smi(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """SMI command port: ACPI_ENABLE and ACPI_DISABLE set and clear SCI_EN, as firmware's handler would."""
        for index in range(min(size, SMI_PORTS - offset)):
            self._smi[offset + index] = value >> 8 * index & 0xFF
        if offset == 0 and self._smi[0] in (ACPI_ENABLE, ACPI_DISABLE):
            self._control = self._control & ~_SCI_EN | (_SCI_EN if self._smi[0] == ACPI_ENABLE else 0)
            self._update()

    def press_power_button(self) -> None:
        """Set PWRBTN_STS, which raises an SCI if the guest wants it (4.8.3.1)."""
        self._status |= _PWRBTN_STS
        self._update()

    def raise_gpe(self, bit: int) -> None:
        """Set bit 0 to 63 of the GPE0 status, which raises an SCI if the guest wants it (4.8.4.1)."""
        self._gpe_status[bit // 8] |= 1 << bit % 8
        self._update()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "status": self._status,
            "enable": self._enable,
            "control": self._control,
            "gpe_status": bytes(self._gpe_status),
            "gpe_enable": bytes(self._gpe_enable),
            "smi": bytes(self._smi),
            "seen_half": self._seen_half,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state. The clock must have been loaded before."""
        self._status = state["status"]
        self._enable = state["enable"]
        self._control = state["control"]
        self._gpe_status = bytearray(state["gpe_status"])
        self._gpe_enable = bytearray(state["gpe_enable"])
        self._smi = bytearray(state["smi"])
        self._seen_half = state["seen_half"]
        self._update()

    def _write_byte(self, offset: int, value: int) -> None:
        shift = offset % 2 * 8
        if offset < 2:
            self._status &= ~(value << shift)
        elif offset < 4:
            self._enable = (self._enable & ~(0xFF << shift) | value << shift) & _EN_BITS
        elif offset < 6:
            kept = _SCI_EN | _BM_RLD | _SLP_TYP
            self._control = (self._control & ~(0xFF << shift) | value << shift) & kept
            if value << shift & _SLP_EN and (self._control & _SLP_TYP) >> 10 == SLP_TYP_S5:
                self._power_off()
        elif GPE0 <= offset < GPE0 + GPE0_LENGTH // 2:
            self._gpe_status[offset - GPE0] &= ~value
        elif GPE0 + GPE0_LENGTH // 2 <= offset < GPE0 + GPE0_LENGTH:
            self._gpe_enable[offset - GPE0 - GPE0_LENGTH // 2] = value

    def _half(self) -> int:
        """How often bit 23 of the timer has changed: that is what sets TMR_STS (4.8.3.3)."""
        return self._clock.now() * TIMER_FREQUENCY // NANOSECONDS >> 23

    def _catch_up(self) -> None:
        half = self._half()
        if half != self._seen_half:
            self._seen_half = half
            self._status |= _TMR_STS

    def _update(self) -> None:
        wanted = bool(self._status & self._enable) or any(
            status & enable for status, enable in zip(self._gpe_status, self._gpe_enable, strict=True)
        )
        self._irq(wanted and bool(self._control & _SCI_EN))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._enable & ~self._status & _TMR_STS:
            due = -(-(self._seen_half + 1 << 23) * NANOSECONDS // TIMER_FREQUENCY)
            self._timer = self._clock.call_at(due, self._timer_due)

    def _timer_due(self) -> None:
        self._catch_up()
        self._update()
