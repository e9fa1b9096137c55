"""EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL: strings to device nodes and paths in pool memory."""

from machine.cpu import Cpu
from uefi import guids
from uefi.device_path.from_text import MAX_TEXT, node_from_text, path_from_text
from uefi.interface import Interface, function
from uefi.protocols.device_path_utilities import null_on_error


class DevicePathFromText(Interface):
    """EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL (UEFI 2.10, 10.6.5). Its functions take no This."""

    NAME = "EFI_DEVICE_PATH_FROM_TEXT_PROTOCOL"
    GUID = guids.DEVICE_PATH_FROM_TEXT_PROTOCOL
    SIZE = 0x10

    def _text(self, address: int) -> str:
        text: str = self.firmware.memory.read_ucs2(address, MAX_TEXT + 1)
        return text

    def _give(self, data: bytes) -> int:
        address: int = self.firmware.pool(len(data))
        self.firmware.memory.write(address, data)
        return address

    @function(0x00, "static ConvertTextToDeviceNode(ptr TextDeviceNode)")
    @null_on_error
    def convert_text_to_device_node(self, cpu: Cpu, text: int) -> int:
        """One node, without an end node; NULL for NULL or a wrong parameter (10.6.6)."""
        return self._give(node_from_text(self._text(text)).to_bytes()) if text else 0

    @function(0x08, "static ConvertTextToDevicePath(ptr TextDevicePath)")
    @null_on_error
    def convert_text_to_device_path(self, cpu: Cpu, text: int) -> int:
        """A whole path; NULL for NULL or a wrong parameter (10.6.7)."""
        return self._give(path_from_text(self._text(text))) if text else 0
