"""The host bridge at 00:00.0: the Q35 memory controller hub, as far as a guest can tell.

Its identity is what operating systems know as "a PC with ECAM that runs in a virtual machine": they apply no chipset
quirks to it, and it states where the ECAM window lies (Intel 3 Series Express Chipset, 5.1.15, PCIEXBAR).
"""

from machine.pci.device import PciDevice

VENDOR_INTEL = 0x8086
DEVICE_Q35_HOST = 0x29C0
CLASS_HOST_BRIDGE = 0x060000
SUBSYSTEM = (0x1AF4, 0x1100)
"""What virtual machines carry as the subsystem of chipset functions: it marks them as not Intel's silicon."""

_PCIEXBAR = 0x60
_PCIEXBAR_ENABLE = 0x1
_LENGTH_CODES = {256: 0 << 1, 128: 1 << 1, 64: 2 << 1}


class HostBridge(PciDevice):
    """Q35 host bridge. `ecam_base` is the ECAM window's address (0: none), for `buses` of 64, 128 or 256 buses."""

    def __init__(self, ecam_base: int = 0, buses: int = 256) -> None:
        super().__init__(
            vendor=VENDOR_INTEL,
            device=DEVICE_Q35_HOST,
            class_code=CLASS_HOST_BRIDGE,
            revision=2,
            subsystem_vendor=SUBSYSTEM[0],
            subsystem=SUBSYSTEM[1],
        )
        if ecam_base:
            if buses not in _LENGTH_CODES or ecam_base % (buses << 20):
                raise ValueError(f"ECAM of {buses} buses at {ecam_base:#x}, wanted 64, 128 or 256, aligned to its size")
            self.config.set(_PCIEXBAR, 8, ecam_base | _LENGTH_CODES[buses] | _PCIEXBAR_ENABLE)
