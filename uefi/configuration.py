"""Configuration tables (UEFI 2.10, 4.6) and the system table that points to them."""

import zlib
from typing import TYPE_CHECKING, Any

from uefi import memory_types as mt
from uefi.guids import Guid
from uefi.interface import Interface
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_ENTRY = 24


class Configuration:
    """The array of (GUID, pointer) pairs. It lies in runtime memory and is announced to the event group of its GUID."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._tables: dict[Guid, int] = {}
        self._array = 0
        self._room = 0

    def install(self, guid: Guid, table: int) -> None:
        """Add, replace or (0) remove a table. EfiError(NOT_FOUND) when there is none to remove."""
        firmware = self._firmware
        if not table:
            if guid not in self._tables:
                raise EfiError(Status.NOT_FOUND)
            del self._tables[guid]
        else:
            self._tables[guid] = table
        if len(self._tables) > self._room:
            if self._array:
                firmware.free_pool(self._array)
            self._room = len(self._tables) + 8
            self._array = firmware.pool(_ENTRY * self._room, mt.RUNTIME_DATA)
        data = b"".join(name + address.to_bytes(8, "little") for name, address in self._tables.items())
        firmware.memory.write(self._array, data)
        firmware.system_table.set_configuration(len(self._tables), self._array)
        firmware.events.signal_group(guid)

    def find(self, guid: Guid) -> int | None:
        """The address of a table."""
        return self._tables.get(guid)

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        return {
            "tables": {str(guid): at for guid, at in self._tables.items()},
            "array": self._array,
            "room": self._room,
        }


class SystemTable(Interface):
    """EFI_SYSTEM_TABLE (UEFI 2.10, 4.3)."""

    NAME = "EFI_SYSTEM_TABLE"
    SIZE = 0x78
    MEMORY_TYPE = mt.RUNTIME_DATA
    SIGNATURE = int.from_bytes(b"IBI SYST", "little")
    REVISION = 2 << 16 | 70
    FIRMWARE_REVISION = 0x0001_0000
    VENDOR = "cvmboot"
    _CON_IN, _CON_OUT, _STD_ERR = 0x30, 0x40, 0x50
    _RUNTIME, _BOOT, _COUNT, _TABLES = 0x58, 0x60, 0x68, 0x70

    def fill(self) -> None:
        """Everything that is known before the services are."""
        firmware = self.firmware
        vendor = firmware.pool(64, mt.RUNTIME_DATA)
        firmware.memory.write_ucs2(vendor, self.VENDOR)
        write_header(firmware, self.address, self.SIGNATURE, self.SIZE)
        self.put_u64(0x18, vendor)
        self.put_u32(0x20, self.FIRMWARE_REVISION)

    def set_services(self, boot: int, runtime: int) -> None:
        """Point to the service tables."""
        self.put_u64(self._BOOT, boot)
        self.put_u64(self._RUNTIME, runtime)
        self.seal()

    def set_consoles(self, con_in: tuple[int, int], con_out: tuple[int, int], std_err: tuple[int, int]) -> None:
        """Set handle and interface of the three consoles."""
        for offset, (handle, interface) in zip(
            (self._CON_IN, self._CON_OUT, self._STD_ERR), (con_in, con_out, std_err), strict=True
        ):
            self.put_u64(offset - 8, handle)
            self.put_u64(offset, interface)
        self.seal()

    def set_configuration(self, count: int, array: int) -> None:
        """Set the configuration tables."""
        self.put_u64(self._COUNT, count)
        self.put_u64(self._TABLES, array)
        self.seal()

    def forget_boot_services(self) -> None:
        """ExitBootServices: consoles and boot services are no more."""
        for offset in (self._CON_IN, self._CON_OUT, self._STD_ERR):
            self.put_u64(offset - 8, 0)
            self.put_u64(offset, 0)
        self.put_u64(self._BOOT, 0)
        self.seal()

    def seal(self) -> None:
        """Make the CRC right."""
        seal_header(self.firmware, self.address, self.SIZE)


def write_header(firmware: "Firmware", address: int, signature: int, size: int) -> None:
    """Write an EFI_TABLE_HEADER (UEFI 2.10, 4.2), its CRC not yet."""
    revision = SystemTable.REVISION
    header = signature.to_bytes(8, "little") + revision.to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(8)
    firmware.memory.write(address, header)


def seal_header(firmware: "Firmware", address: int, size: int) -> None:
    """Compute the CRC of a table over all of it, with the CRC taken as 0."""
    memory = firmware.computer.memory
    memory.set_u32(address + 16, 0)
    memory.set_u32(address + 16, zlib.crc32(memory.read(address, size)))
