"""Virtual memory services (UEFI 2.10, 8.4)."""

from machine.cpu import Cpu
from uefi import guids
from uefi import memory_types as mt
from uefi.interface import GuestCall, Steps, function
from uefi.memory_map import PAGE
from uefi.runtime_services.table import RuntimeServicesPart
from uefi.status import EfiError, Status

_OPTIONAL = 1
_MAXIMUM_MAP = 1 << 20


class AddressServices(RuntimeServicesPart):
    """SetVirtualAddressMap and ConvertPointer."""

    @function(
        0x38, "SetVirtualAddressMap(u64 MemoryMapSize, u64 DescriptorSize, u32 DescriptorVersion, ptr VirtualMap)"
    )
    def set_virtual_address_map(self, cpu: Cpu, size: int, stride: int, version: int, table: int) -> Steps:
        """Tell the firmware where the OS has mapped its runtime regions. Once, after ExitBootServices."""
        firmware = self.firmware
        if not firmware.left_boot_services or firmware.virtual_map is not None:
            raise EfiError(Status.UNSUPPORTED)
        if version != 1 or stride < 40 or size % stride or size > _MAXIMUM_MAP:
            raise EfiError(Status.INVALID_PARAMETER)
        ranges: list[tuple[int, int, int]] = []
        raw = firmware.memory.read(table, size)
        for at in range(0, size, stride):
            physical, virtual, pages, attributes = (
                int.from_bytes(raw[at + n : at + n + 8], "little") for n in (8, 16, 24, 32)
            )
            if attributes & mt.RUNTIME:
                ranges.append((physical, physical + pages * PAGE, virtual - physical))
        for region in firmware.memory_map.regions():
            covered = any(first <= region.start and region.end <= end for first, end, _ in ranges)
            if region.attributes & mt.RUNTIME and not covered:
                raise EfiError(Status.NOT_FOUND)
        firmware.virtual_map = ranges
        firmware.converting = True
        for event in firmware.events.members(guids.EVENT_GROUP_VIRTUAL_ADDRESS_CHANGE):
            if event.notify:
                yield GuestCall(event.notify, event.address, event.context)
        firmware.converting = False
        firmware.convert_tables()
        return Status.SUCCESS

    @function(0x40, "ConvertPointer(u64 DebugDisposition, ptr Address)")
    def convert_pointer(self, cpu: Cpu, disposition: int, address: int) -> int:
        """Make a physical pointer a virtual one; only while SetVirtualAddressMap notifies."""
        firmware = self.firmware
        if not firmware.converting:
            raise EfiError(Status.UNSUPPORTED)
        if not address:
            raise EfiError(Status.INVALID_PARAMETER)
        pointer = firmware.memory.read_u64(address)
        if not pointer:
            if disposition & _OPTIONAL:
                return Status.SUCCESS
            raise EfiError(Status.INVALID_PARAMETER)
        converted = firmware.to_virtual(pointer)
        if converted is None:
            raise EfiError(Status.NOT_FOUND)
        firmware.memory.write_u64(address, converted)
        return Status.SUCCESS
