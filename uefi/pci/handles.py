"""The handles of the root bridge and of every PCI function, with their protocols, and the driver of the network device."""

from typing import TYPE_CHECKING

from uefi import guids
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.pci.access import PciAccess
from uefi.pci.dma import DmaBuffers
from uefi.protocols.pci_io import PciIo
from uefi.protocols.pci_root_bridge_io import PciRootBridgeIo

if TYPE_CHECKING:
    from machine.boards.board import Nic
    from machine.pci.bus import PciBus
    from uefi.firmware import Firmware


def install_pci(
    firmware: "Firmware", bus: "PciBus", memory: range, ports: range, buses: int, nic: "Nic | None" = None
) -> None:
    """Install what a bus driver would: EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL, and EFI_PCI_IO_PROTOCOL for each function.

    `memory` and `ports` are the bridge's windows, `buses` its bus numbers. A network device gets its driver.
    """
    access = PciAccess(firmware, bus, memory, ports)
    buffers = DmaBuffers(firmware)
    root_path = device_path.join(nodes.pci_root())
    root = PciRootBridgeIo(firmware, access, buffers, buses)
    handle = _device(firmware, root_path)
    firmware.handles.install(handle, guids.PCI_ROOT_BRIDGE_IO_PROTOCOL, root)
    root.set_parent(handle)
    for slot, number, device in bus.functions():
        path = device_path.join(nodes.pci_root(), nodes.pci(slot, number))
        function = PciIo(firmware, access, buffers, device, slot, number)
        handle = _device(firmware, path)
        firmware.handles.install(handle, guids.PCI_IO_PROTOCOL, function)
        if nic is not None and (slot, number) == (nic.slot, 0):
            from uefi.network.driver import install_driver

            install_driver(firmware, nic, handle, path)


def _device(firmware: "Firmware", path: bytes) -> int:
    """A new handle with a device path."""
    address = firmware.pool(len(path))
    firmware.memory.write(address, path)
    return firmware.handles.install(None, guids.DEVICE_PATH_PROTOCOL, address)
