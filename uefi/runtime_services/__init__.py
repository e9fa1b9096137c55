"""EFI_RUNTIME_SERVICES (UEFI 2.10, 4.5 and 8)."""

from uefi.configuration import seal_header, write_header
from uefi.runtime_services.addresses import AddressServices
from uefi.runtime_services.miscellaneous import MiscellaneousRuntimeServices
from uefi.runtime_services.time import TimeServices
from uefi.runtime_services.variables import VariableServices


class RuntimeServices(TimeServices, AddressServices, VariableServices, MiscellaneousRuntimeServices):
    """EFI_RUNTIME_SERVICES, in runtime memory."""

    NAME = "EFI_RUNTIME_SERVICES"
    SIZE = 0x88
    SIGNATURE = int.from_bytes(b"RUNTSERV", "little")

    def fill(self) -> None:
        """The table header."""
        write_header(self.firmware, self.address, self.SIGNATURE, self.SIZE)
        seal_header(self.firmware, self.address, self.SIZE)
