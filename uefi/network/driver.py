"""Firmware's driver of the network device: an EFI_DRIVER_BINDING_PROTOCOL like any other (UEFI 2.10, 11.1).

It opens the device's EFI_PCI_IO_PROTOCOL by driver, and makes a child handle with EFI_SIMPLE_NETWORK_PROTOCOL. A guest's driver
that wants the device disconnects it; ConnectController brings it back.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from machine.boards.board import Nic
from machine.cpu import Cpu
from uefi import guids
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.handles import BY_CHILD_CONTROLLER, BY_DRIVER
from uefi.interface import Interface, Steps, function
from uefi.network.interface import NetworkInterface
from uefi.protocols.component_name2 import ComponentName2
from uefi.protocols.simple_network import SimpleNetwork
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_NAME = "cvmboot network driver"
_VERSION = 0x10
"""Versions from 0x10 up are for drivers of firmware vendors (11.1)."""


class NetworkDriver(Interface):
    """EFI_DRIVER_BINDING_PROTOCOL for one device, whose PCI function has the handle `controller` and the device path `path`."""

    NAME = "EFI_DRIVER_BINDING_PROTOCOL"
    GUID = None  # there are others; nobody finds this one by its class
    SIZE = 0x30

    def __init__(self, firmware: "Firmware", nic: Nic, controller: int, path: bytes) -> None:
        super().__init__(firmware)
        self._nic = nic
        self._controller = controller
        self._path = device_path.append(path, device_path.join(nodes.mac(nic.mac)))
        self._handle = 0
        self._child: tuple[int, int, SimpleNetwork] | None = None

    def set_handle(self, handle: int) -> None:
        """Fill Version, ImageHandle and DriverBindingHandle."""
        self._handle = handle
        self.put_u32(0x18, _VERSION)
        self.put_u64(0x20, self.firmware.images.firmware_handle)
        self.put_u64(0x28, handle)

    def _check(self, controller: int) -> None:
        """EfiError: UNSUPPORTED for another controller, ALREADY_STARTED or ACCESS_DENIED for ours that has a driver."""
        handles = self.firmware.handles
        if controller != self._controller or handles.interface(controller, guids.PCI_IO_PROTOCOL) is None:
            raise EfiError(Status.UNSUPPORTED)
        drivers = handles.drivers_of(controller, guids.PCI_IO_PROTOCOL)
        if drivers:
            raise EfiError(Status.ALREADY_STARTED if self._handle in drivers else Status.ACCESS_DENIED)

    @function(0x00, "Supported(ptr ControllerHandle, ptr RemainingDevicePath)")
    def supported(self, cpu: Cpu, controller: int, remaining: int) -> int:
        """Whether `start` would work."""
        self._check(controller)
        return Status.SUCCESS

    @function(0x08, "Start(ptr ControllerHandle, ptr RemainingDevicePath)")
    def start(self, cpu: Cpu, controller: int, remaining: int) -> int:
        """Make the child handle."""
        self.begin(controller)
        return Status.SUCCESS

    def begin(self, controller: int) -> None:
        """What `start` does. EfiError as `_check` has it."""
        self._check(controller)
        firmware = self.firmware
        handles = firmware.handles
        path = firmware.pool(len(self._path))
        firmware.memory.write(path, self._path)
        network = SimpleNetwork(firmware, NetworkInterface(self._nic))
        handles.open(controller, guids.PCI_IO_PROTOCOL, self._handle, controller, BY_DRIVER)
        child = handles.install(None, guids.DEVICE_PATH_PROTOCOL, path)
        handles.install(child, guids.SIMPLE_NETWORK_PROTOCOL, network)
        handles.open(controller, guids.PCI_IO_PROTOCOL, self._handle, child, BY_CHILD_CONTROLLER)
        self._child = (child, path, network)

    @function(0x10, "Stop(ptr ControllerHandle, u64 NumberOfChildren, ptr ChildHandleBuffer)")
    def stop(self, cpu: Cpu, controller: int, count: int, children: int) -> Steps:
        """Take the child handle away, which ends the use of it by others; then, without children, let go of the device."""
        firmware = self.firmware
        handles = firmware.handles
        if controller != self._controller or self._handle not in handles.drivers_of(controller, guids.PCI_IO_PROTOCOL):
            raise EfiError(Status.DEVICE_ERROR)
        if not count:
            if self._child is not None:
                raise EfiError(Status.DEVICE_ERROR)
            handles.close(controller, guids.PCI_IO_PROTOCOL, self._handle, controller)
            return Status.SUCCESS
        made = self._child
        if made is None or count != 1 or firmware.memory.read_u64(children) != made[0]:
            raise EfiError(Status.DEVICE_ERROR)
        child, path, network = made
        try:
            yield from firmware.boot_services.uninstall(child, guids.SIMPLE_NETWORK_PROTOCOL, network.address)
        except EfiError as error:
            if error.status != Status.NOT_FOUND:  # a guest may have taken it off before
                raise EfiError(Status.DEVICE_ERROR) from None
        if self._child is not made:  # a driver that was stopped meanwhile has called this function itself
            return Status.SUCCESS
        if handles.interface(child, guids.DEVICE_PATH_PROTOCOL) == path:
            handles.uninstall(child, guids.DEVICE_PATH_PROTOCOL)
        with suppress(EfiError):
            handles.close(controller, guids.PCI_IO_PROTOCOL, self._handle, child)
        self._child = None
        network.remove()
        with suppress(EfiError):
            firmware.free_pool(path)
        return Status.SUCCESS

    def exit_boot_services(self) -> None:
        """The device is the operating system's."""
        if self._child is not None:
            self._child[2].stop_for_good()


def install_driver(firmware: "Firmware", nic: Nic, controller: int, path: bytes) -> None:
    """Install the driver and have it start on its device."""
    driver = NetworkDriver(firmware, nic, controller, path)
    handle = firmware.handles.install(None, guids.DRIVER_BINDING_PROTOCOL, driver)
    firmware.handles.install(handle, guids.COMPONENT_NAME2_PROTOCOL, ComponentName2(firmware, _NAME))
    driver.set_handle(handle)
    driver.begin(controller)
    firmware.at_exit.append(driver.exit_boot_services)
