"""Time services (UEFI 2.10, 8.3)."""

from machine.cpu import Cpu
from uefi import time as efi_time
from uefi.interface import function
from uefi.runtime_services.table import RuntimeServicesPart
from uefi.status import EfiError, Status

_RESOLUTION_HZ, _ACCURACY_PPM = 1, 50


class TimeServices(RuntimeServicesPart):
    """GetTime and SetTime follow the machine's one clock; there is no wake-up timer."""

    @function(0x18, "GetTime(ptr Time, ptr Capabilities)")
    def get_time(self, cpu: Cpu, time_at: int, capabilities_at: int) -> int:
        """The time of day, in UTC."""
        if not time_at:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware = self.firmware
        now = firmware.clock.wall() + firmware.time_offset
        firmware.memory.write(time_at, efi_time.from_ns(now, firmware.time_zone, firmware.daylight))
        if capabilities_at:
            memory = firmware.memory
            memory.write_u32(capabilities_at, _RESOLUTION_HZ)
            memory.write_u32(capabilities_at + 4, _ACCURACY_PPM * 1_000_000)
            memory.write_u8(capabilities_at + 8, 0)
        return Status.SUCCESS

    @function(0x20, "SetTime(ptr Time)")
    def set_time(self, cpu: Cpu, time_at: int) -> int:
        """Set the time of day of this machine; the host's clock stays as it is."""
        if not time_at:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware = self.firmware
        try:
            wanted, zone, daylight = efi_time.to_ns(firmware.memory.read(time_at, efi_time.SIZE))
        except ValueError:
            raise EfiError(Status.INVALID_PARAMETER) from None
        firmware.time_offset = wanted - firmware.clock.wall()
        firmware.time_zone, firmware.daylight = zone, daylight
        return Status.SUCCESS

    @function(0x28, "GetWakeupTime(ptr Enabled, ptr Pending, ptr Time)")
    def get_wakeup_time(self, cpu: Cpu, enabled: int, pending: int, time_at: int) -> int:
        """There is no wake-up timer."""
        if not enabled or not pending or not time_at:
            raise EfiError(Status.INVALID_PARAMETER)
        return Status.UNSUPPORTED

    @function(0x30, "SetWakeupTime(bool Enable, ptr Time)")
    def set_wakeup_time(self, cpu: Cpu, enable: int, time_at: int) -> int:
        """There is no wake-up timer."""
        if enable and not time_at:
            raise EfiError(Status.INVALID_PARAMETER)
        return Status.UNSUPPORTED
