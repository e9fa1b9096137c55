"""EFI_BOOT_SERVICES, a chapter of the specification a file."""

from uefi.boot_services.drivers import DriverServices
from uefi.boot_services.events import EventServices
from uefi.boot_services.exit import ExitServices
from uefi.boot_services.handles import HandleServices
from uefi.boot_services.images import ImageServices
from uefi.boot_services.memory import MemoryServices
from uefi.boot_services.miscellaneous import MiscellaneousServices
from uefi.boot_services.opening import OpeningServices
from uefi.configuration import seal_header, write_header


class BootServices(
    EventServices,
    MemoryServices,
    HandleServices,
    OpeningServices,
    DriverServices,
    ImageServices,
    ExitServices,
    MiscellaneousServices,
):
    """EFI_BOOT_SERVICES (UEFI 2.10, 4.4 and 7)."""

    NAME = "EFI_BOOT_SERVICES"
    SIZE = 0x178
    SIGNATURE = int.from_bytes(b"BOOTSERV", "little")

    def fill(self) -> None:
        """The table header."""
        write_header(self.firmware, self.address, self.SIGNATURE, self.SIZE)
        seal_header(self.firmware, self.address, self.SIZE)
