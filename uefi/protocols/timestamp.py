"""EFI_TIMESTAMP_PROTOCOL: a counter that never stops."""

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import Status

_END_VALUE = 0xFFFF_FFFF_FFFF_FFFF


class Timestamp(Interface):
    """EFI_TIMESTAMP_PROTOCOL (UEFI 2.10, 39.1): the time stamp counter. Its functions take no This."""

    NAME = "EFI_TIMESTAMP_PROTOCOL"
    GUID = guids.TIMESTAMP_PROTOCOL
    SIZE = 0x10

    @function(0x00, "static GetTimestamp()")
    def get_timestamp(self, cpu: Cpu) -> int:
        """The counter's value, not a status."""
        self.firmware.computer.idle.time_poll()
        return self.firmware.clock.tsc() & _END_VALUE

    @function(0x08, "static GetProperties(ptr Properties)")
    def get_properties(self, cpu: Cpu, properties: int) -> int:
        """EFI_TIMESTAMP_PROPERTIES: ticks a second and the value after which the counter starts at 0."""
        if not properties:
            return Status.INVALID_PARAMETER
        self.firmware.memory.write_u64(properties, self.firmware.clock.tsc_frequency)
        self.firmware.memory.write_u64(properties + 8, _END_VALUE)
        return Status.SUCCESS
