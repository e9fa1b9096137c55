"""EFI_DEVICE_PATH_TO_TEXT_PROTOCOL: device nodes and paths as strings in pool memory."""

from machine.cpu import Cpu
from uefi import guids
from uefi.device_path import path
from uefi.device_path.nodes import ucs2
from uefi.device_path.to_text import node_to_text, path_to_text
from uefi.interface import Interface, function
from uefi.protocols.device_path_utilities import null_on_error


class DevicePathToText(Interface):
    """EFI_DEVICE_PATH_TO_TEXT_PROTOCOL (UEFI 2.10, 10.6.2). Its functions take no This."""

    NAME = "EFI_DEVICE_PATH_TO_TEXT_PROTOCOL"
    GUID = guids.DEVICE_PATH_TO_TEXT_PROTOCOL
    SIZE = 0x10

    def _give(self, text: str) -> int:
        data = ucs2(text)
        address: int = self.firmware.pool(len(data))
        self.firmware.memory.write(address, data)
        return address

    @function(0x00, "static ConvertDeviceNodeToText(ptr DeviceNode, bool DisplayOnly, bool AllowShortcuts)")
    @null_on_error
    def convert_device_node_to_text(self, cpu: Cpu, node: int, display_only: bool, allow_shortcuts: bool) -> int:
        """The text of one node; NULL for NULL (10.6.3)."""
        if not node:
            return 0
        return self._give(node_to_text(path.read_node(self.firmware.memory, node), display_only, allow_shortcuts))

    @function(0x08, "static ConvertDevicePathToText(ptr DevicePath, bool DisplayOnly, bool AllowShortcuts)")
    @null_on_error
    def convert_device_path_to_text(self, cpu: Cpu, device_path: int, display_only: bool, allow_shortcuts: bool) -> int:
        """The text of a path; NULL for NULL (10.6.4)."""
        if not device_path:
            return 0
        return self._give(path_to_text(path.read(self.firmware.memory, device_path), display_only, allow_shortcuts))
