"""EFI_HII_DATABASE_PROTOCOL: package lists of drivers and applications."""

from contextlib import suppress
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.device_path import path
from uefi.device_path.nodes import DevicePathError
from uefi.guids import Guid
from uefi.hii.database import Database, DatabaseFullError
from uefi.hii.packages import LIST_HEADER_SIZE, PACKAGE_GUID, HiiError, Package, list_size
from uefi.interface import GuestCall, Interface, Steps, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

# EFI_HII_DATABASE_NOTIFY_TYPE.
NOTIFY_NEW, NOTIFY_REMOVE, NOTIFY_EXPORT, NOTIFY_ADD = 1, 2, 4, 8
MAX_REGISTRATIONS = 4096

Notice = tuple[int, Package, int]
"""Handle of the list, the package, NOTIFY_ value."""


class HiiDatabase(Interface):
    """EFI_HII_DATABASE_PROTOCOL (UEFI 2.10, 34.8)."""

    NAME = "EFI_HII_DATABASE_PROTOCOL"
    GUID = guids.HII_DATABASE_PROTOCOL
    SIZE = 0x58

    def __init__(self, firmware: "Firmware", database: Database) -> None:
        super().__init__(firmware)
        self._database = database
        # Notification handle -> (package type, GUID, function, NOTIFY_ value).
        self._registered: dict[int, tuple[int, Guid | None, int, int]] = {}

    def _list_at(self, address: int) -> bytes:
        memory = self.firmware.memory
        data: bytes = memory.read(address, list_size(memory.read(address, LIST_HEADER_SIZE)))
        return data

    def _device_path(self, driver: int) -> bytes:
        found = self.firmware.handles.interface(driver, guids.DEVICE_PATH_PROTOCOL) if driver else None
        if not found:
            return b""
        try:
            return path.read(self.firmware.memory, found)
        except DevicePathError:
            return b""

    def _notify(self, notices: list[Notice]) -> Steps:
        """Call the functions that registered for these packages, each with a copy that is freed afterwards."""
        for handle, package, event in notices:
            for kind, guid, target, wanted in list(self._registered.values()):
                if kind != package.kind or not wanted & event or (kind == PACKAGE_GUID and guid != package.guid):
                    continue
                data = package.to_bytes()
                copy = self.firmware.pool(len(data) + 16)
                self.firmware.memory.write(copy, bytes(package.guid or guids.ZERO) + data)
                try:
                    yield GuestCall(target, kind, copy if guid else 0, copy + 16, handle, event)
                finally:
                    # The function may have freed it.
                    with suppress(EfiError):
                        self.firmware.free_pool(copy)
        return Status.SUCCESS

    @function(0x00, "NewPackageList(ptr PackageList, ptr DriverHandle, ptr Handle)")
    def new_package_list(self, cpu: Cpu, package_list: int, driver: int, handle: int) -> Steps:
        """Add a package list, with the driver's device path as a package."""
        if not package_list or not handle:
            raise EfiError(Status.INVALID_PARAMETER)
        try:
            made = self._database.new(self._list_at(package_list), driver, self._device_path(driver))
        except HiiError:
            raise EfiError(Status.INVALID_PARAMETER) from None
        except DatabaseFullError:
            raise EfiError(Status.OUT_OF_RESOURCES) from None
        self.firmware.memory.write_u64(handle, made)
        return self._notify([(made, package, NOTIFY_NEW) for package in self._database.lists[made].packages()])

    @function(0x08, "RemovePackageList(ptr Handle)")
    def remove_package_list(self, cpu: Cpu, handle: int) -> Steps:
        """Forget a package list."""
        if handle not in self._database.lists:
            raise EfiError(Status.NOT_FOUND)
        packages = self._database.remove(handle).packages()
        return self._notify([(handle, package, NOTIFY_REMOVE) for package in packages])

    @function(0x10, "UpdatePackageList(ptr Handle, ptr PackageList)")
    def update_package_list(self, cpu: Cpu, handle: int, package_list: int) -> Steps:
        """Replace the packages of all types that the list has."""
        if not package_list:
            raise EfiError(Status.INVALID_PARAMETER)
        if handle not in self._database.lists:
            raise EfiError(Status.NOT_FOUND)
        try:
            gone, come = self._database.update(handle, self._list_at(package_list))
        except HiiError:
            raise EfiError(Status.INVALID_PARAMETER) from None
        except DatabaseFullError:
            raise EfiError(Status.OUT_OF_RESOURCES) from None
        notices = [(handle, package, NOTIFY_REMOVE) for package in gone]
        return self._notify(notices + [(handle, package, NOTIFY_ADD) for package in come])

    @function(0x18, "ListPackageLists(u8 PackageType, guid PackageGuid, ptr HandleBufferLength, ptr Handle)")
    def list_package_lists(self, cpu: Cpu, kind: int, guid: Guid | None, length: int, handles: int) -> int:
        """Handles of the lists with a package of a type; `length` in bytes."""
        if not length or (kind == PACKAGE_GUID) != (guid is not None):
            return Status.INVALID_PARAMETER
        found = self._database.find(kind, guid)
        if not found:
            return Status.NOT_FOUND
        return self._fill(length, handles, b"".join(handle.to_bytes(8, "little") for handle in found), 8)

    def _fill(self, size_at: int, buffer: int, data: bytes, width: int) -> int:
        """The usual protocol of buffer and size; `width` is the size field's."""
        memory = self.firmware.memory
        room = int.from_bytes(memory.read(size_at, width), "little")
        memory.write(size_at, len(data).to_bytes(width, "little"))
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        if data and not buffer:
            return Status.INVALID_PARAMETER
        memory.write(buffer, data)
        return Status.SUCCESS

    @function(0x20, "ExportPackageLists(ptr Handle, ptr BufferSize, ptr Buffer)")
    def export_package_lists(self, cpu: Cpu, handle: int, buffer_size: int, buffer: int) -> Steps:
        """One list, or all for NULL, as bytes."""
        lists = self._database.lists
        if not buffer_size:
            raise EfiError(Status.INVALID_PARAMETER)
        if handle and handle not in lists:
            raise EfiError(Status.NOT_FOUND)
        chosen = [handle] if handle else list(lists)
        status = self._fill(buffer_size, buffer, b"".join(lists[each].to_bytes() for each in chosen), 8)
        if status:
            raise EfiError(status)
        return self._notify(
            [(each, package, NOTIFY_EXPORT) for each in chosen for package in lists[each].packages()]
        )  # fmt: skip

    @function(
        0x28,
        "RegisterPackageNotify(u8 PackageType, guid PackageGuid, ptr PackageNotifyFn, u64 NotifyType, "
        "ptr NotifyHandle)",
    )
    def register_package_notify(self, cpu: Cpu, kind: int, guid: Guid | None, *rest: int) -> int:
        """Have a function called when packages of a type come, go or are exported."""
        target, event, handle = rest
        if not target or not handle or (kind == PACKAGE_GUID) != (guid is not None):
            return Status.INVALID_PARAMETER
        if len(self._registered) >= MAX_REGISTRATIONS:
            return Status.OUT_OF_RESOURCES
        number = max(self._registered, default=0) + 1
        self.firmware.memory.write_u64(handle, number)
        self._registered[number] = (kind, guid, target, event)
        return Status.SUCCESS

    @function(0x30, "UnregisterPackageNotify(ptr NotificationHandle)")
    def unregister_package_notify(self, cpu: Cpu, handle: int) -> int:
        """End a registration."""
        return Status.NOT_FOUND if self._registered.pop(handle, None) is None else Status.SUCCESS

    @function(0x38, "FindKeyboardLayouts(ptr KeyGuidBufferLength, ptr KeyGuidBuffer)")
    def find_keyboard_layouts(self, cpu: Cpu, length: int, buffer: int) -> int:
        """GUIDs of all keyboard layouts; `length` in bytes, 16 bits wide."""
        if not length:
            return Status.INVALID_PARAMETER
        data = b"".join(self._database.keyboard_layouts())[:0xFFF0]
        return self._fill(length, buffer, data, 2) if data else self._no_layouts(length)

    def _no_layouts(self, length: int) -> int:
        self.firmware.memory.write_u16(length, 0)
        return Status.SUCCESS

    @function(0x40, "GetKeyboardLayout(guid KeyGuid, ptr KeyboardLayoutLength, ptr KeyboardLayout)")
    def get_keyboard_layout(self, cpu: Cpu, guid: Guid | None, length: int, layout: int) -> int:
        """A layout, the one in use for NULL."""
        if not length:
            return Status.INVALID_PARAMETER
        wanted = guid or self._database.layout
        data = self._database.keyboard_layouts().get(wanted) if wanted else None
        return Status.NOT_FOUND if data is None else self._fill(length, layout, data, 2)

    @function(0x48, "SetKeyboardLayout(guid KeyGuid)")
    def set_keyboard_layout(self, cpu: Cpu, guid: Guid | None) -> int:
        """Make a layout the one in use and tell the event group."""
        if guid is None:
            return Status.INVALID_PARAMETER
        if guid not in self._database.keyboard_layouts():
            return Status.NOT_FOUND
        self._database.layout = guid
        self.firmware.events.signal_group(guids.HII_SET_KEYBOARD_LAYOUT_EVENT)
        return Status.SUCCESS

    @function(0x50, "GetPackageListHandle(ptr PackageListHandle, ptr DriverHandle)")
    def get_package_list_handle(self, cpu: Cpu, handle: int, driver: int) -> int:
        """The driver handle that NewPackageList was given."""
        known = self._database.lists.get(handle)
        if known is None or not driver:
            return Status.INVALID_PARAMETER
        self.firmware.memory.write_u64(driver, known.driver)
        return Status.SUCCESS
