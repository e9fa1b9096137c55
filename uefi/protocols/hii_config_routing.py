"""EFI_HII_CONFIG_ROUTING_PROTOCOL of a platform without setup forms: requests find no storage."""

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import Status


class HiiConfigRouting(Interface):
    """EFI_HII_CONFIG_ROUTING_PROTOCOL (UEFI 2.10, 35.4). No driver here offers anything to route to."""

    NAME = "EFI_HII_CONFIG_ROUTING_PROTOCOL"
    GUID = guids.HII_CONFIG_ROUTING_PROTOCOL
    SIZE = 0x30

    @function(0x00, "ExtractConfig(ptr Request, ptr Progress, ptr Results)")
    def extract_config(self, cpu: Cpu, request: int, progress: int, results: int) -> int:
        """Current settings: `Progress` points at the request's start, as nothing of it was found."""
        if not progress or not results:
            return Status.INVALID_PARAMETER
        self.firmware.memory.write_u64(progress, request)
        return Status.NOT_FOUND if request else Status.INVALID_PARAMETER

    @function(0x08, "ExportConfig(ptr Results)")
    def export_config(self, cpu: Cpu, results: int) -> int:
        """All settings of the platform: an empty string."""
        if not results:
            return Status.INVALID_PARAMETER
        empty = self.firmware.pool(2)
        self.firmware.memory.write_u16(empty, 0)
        self.firmware.memory.write_u64(results, empty)
        return Status.SUCCESS

    @function(0x10, "RouteConfig(ptr Configuration, ptr Progress)")
    def route_config(self, cpu: Cpu, configuration: int, progress: int) -> int:
        """New settings: none were taken."""
        if not progress:
            return Status.INVALID_PARAMETER
        self.firmware.memory.write_u64(progress, configuration)
        return Status.NOT_FOUND if configuration else Status.INVALID_PARAMETER

    @function(0x18, "BlockToConfig(ptr ConfigRequest, ptr Block, u64 BlockSize, ptr Config, ptr Progress)")
    def block_to_config(self, cpu: Cpu, request: int, block: int, size: int, *rest: int) -> int:
        """Not done here: only drivers with forms use it."""
        return Status.UNSUPPORTED if request and block and all(rest) else Status.INVALID_PARAMETER

    @function(0x20, "ConfigToBlock(ptr ConfigResp, ptr Block, ptr BlockSize, ptr Progress)")
    def config_to_block(self, cpu: Cpu, response: int, block: int, size: int, progress: int) -> int:
        """Not done here: only drivers with forms use it."""
        return Status.UNSUPPORTED if response and block and size and progress else Status.INVALID_PARAMETER

    @function(
        0x28,
        "GetAltConfig(ptr Configuration, ptr Guid, ptr Name, ptr DevicePath, ptr AltCfgId, ptr AltCfgResp)",
    )
    def get_alt_config(self, cpu: Cpu, configuration: int, guid: int, name: int, *rest: int) -> int:
        """Alternative settings: there are none."""
        return Status.NOT_FOUND if configuration and rest[2] else Status.INVALID_PARAMETER
