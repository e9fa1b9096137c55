"""EFI_COMPONENT_NAME2_PROTOCOL: what people read in lists of drivers and devices."""

from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_LANGUAGE = b"en\0"


class ComponentName2(Interface):
    """EFI_COMPONENT_NAME2_PROTOCOL (UEFI 2.10, 11.6) of a driver called `driver`, in English.

    The names of its controllers are their device paths.
    """

    NAME = "EFI_COMPONENT_NAME2_PROTOCOL"
    GUID = guids.COMPONENT_NAME2_PROTOCOL
    SIZE = 0x18

    def __init__(self, firmware: "Firmware", driver: str) -> None:
        super().__init__(firmware)
        self._driver = driver
        self._name = 0

    def fill(self) -> None:
        """The name's text, and SupportedLanguages."""
        memory = self.firmware.memory
        self._name = self.firmware.pool(2 * len(self._driver) + 2)
        memory.write_ucs2(self._name, self._driver)
        languages = self.firmware.pool(len(_LANGUAGE))
        memory.write(languages, _LANGUAGE)
        self.put_u64(0x10, languages)

    def _check(self, language: int, result: int) -> None:
        """EfiError: INVALID_PARAMETER for a NULL, UNSUPPORTED for another language than English (RFC 4646)."""
        if not language or not result:
            raise EfiError(Status.INVALID_PARAMETER)
        if self.firmware.memory.read(language, 3) not in (_LANGUAGE, b"en-"):
            raise EfiError(Status.UNSUPPORTED)

    @function(0x00, "GetDriverName(ptr Language, ptr DriverName)")
    def get_driver_name(self, cpu: Cpu, language: int, result: int) -> int:
        """The driver's name."""
        self._check(language, result)
        self.firmware.memory.write_u64(result, self._name)
        return Status.SUCCESS

    @function(0x08, "GetControllerName(ptr ControllerHandle, ptr ChildHandle, ptr Language, ptr ControllerName)")
    def get_controller_name(self, cpu: Cpu, controller: int, child: int, language: int, result: int) -> int:
        """Controllers have no names of their own."""
        if controller not in self.firmware.handles or (child and child not in self.firmware.handles):
            raise EfiError(Status.INVALID_PARAMETER)
        self._check(language, result)
        return Status.UNSUPPORTED
