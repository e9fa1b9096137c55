"""The ISA (LPC) bridge at 00:1f.0: ICH9's, with the routing of PCI interrupts (Intel I/O Controller Hub 9, 13.1).

PIRQA# to PIRQD# are I/O APIC inputs 16 to 19, and 8259 inputs as the PIRQ_ROUT registers say; firmware has routed them
to IRQ 10 and 11. The registers name the power management block where it is; they do not move it.
"""

from collections.abc import Callable
from typing import Any

from machine.pci.bus import PIRQS
from machine.pci.device import PciDevice
from machine.pci.host_bridge import SUBSYSTEM, VENDOR_INTEL

SLOT = 0x1F
DEVICE_ICH9_LPC = 0x2918
CLASS_ISA_BRIDGE = 0x060100
FIRST_GSI = 16

_PMBASE, _ACPI_CNTL, _PIRQ_ROUT = 0x40, 0x44, 0x60
_IO_SPACE = 0x1
_ACPI_ENABLE = 0x80
_ROUTE_OFF = 0x80
_ROUTE_WRITABLE = 0x8F
_ROUTES = (10, 11, 10, 11)
_NEVER_ROUTED = (0, 1, 2, 8, 13)


class LpcBridge(PciDevice):
    """ICH9's function 0. `set_gsi(gsi, level)` drives the I/O APIC, `set_pic_line(irq, level)` the 8259 pair only."""

    def __init__(
        self, set_gsi: Callable[[int, bool], None], set_pic_line: Callable[[int, bool], None], pm_base: int
    ) -> None:
        super().__init__(
            vendor=VENDOR_INTEL,
            device=DEVICE_ICH9_LPC,
            class_code=CLASS_ISA_BRIDGE,
            revision=2,
            subsystem_vendor=SUBSYSTEM[0],
            subsystem=SUBSYSTEM[1],
        )
        self._set_gsi = set_gsi
        self._set_pic_line = set_pic_line
        self._levels = [False] * PIRQS
        self._pic_lines: set[int] = set()
        self.config.set(_PMBASE, 4, pm_base | _IO_SPACE)
        self.config.set(_ACPI_CNTL, 1, _ACPI_ENABLE)
        for pirq, irq in enumerate(_ROUTES):
            self.config.set(_PIRQ_ROUT + pirq, 1, irq)
            self.config.allow(_PIRQ_ROUT + pirq, 1, _ROUTE_WRITABLE)
        self.config.watch(_PIRQ_ROUT, PIRQS, self._route)

    def routed_irq(self, pirq: int) -> int:
        """The 8259 input (3 to 15) that PIRQ `pirq` (0 to 3) is routed to, 0 for none."""
        route = self.config.data[_PIRQ_ROUT + pirq]
        irq = route & 0x0F
        return 0 if route & _ROUTE_OFF or irq in _NEVER_ROUTED else irq

    def set_pirq(self, pirq: int, level: bool) -> None:
        """Drive PIRQA# (0) to PIRQD# (3)."""
        self._levels[pirq] = level
        self._set_gsi(FIRST_GSI + pirq, level)
        self._route()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {**super().save(), "levels": list(self._levels)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().load(state)
        self._levels = list(state["levels"])
        self._route()

    def _route(self) -> None:
        asserted = {self.routed_irq(pirq) for pirq in range(PIRQS) if self._levels[pirq]} - {0}
        for irq in asserted ^ self._pic_lines:
            self._set_pic_line(irq, irq in asserted)
        self._pic_lines = asserted
