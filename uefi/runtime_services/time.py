"""Time services (UEFI 2.10, 8.3)."""

from machine.cpu import Cpu
from uefi.interface import function
from uefi.runtime_services.table import RuntimeServicesPart
from uefi.status import EfiError, Status
from uefi.time import SIZE, UNSPECIFIED_TIMEZONE, BadTimeError, EfiTime

_RESOLUTION_HZ, _ACCURACY_PPM = 1, 50
_MINUTE = 60_000_000_000


class TimeServices(RuntimeServicesPart):
    """GetTime and SetTime follow the machine's one clock; there is no wake-up timer."""

    @function(0x18, "GetTime(ptr Time, ptr Capabilities)")
    def get_time(self, cpu: Cpu, time_at: int, capabilities_at: int) -> int:
        """The time of day, in UTC."""
        if not time_at:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware = self.firmware
        zone = firmware.time.zone
        local = firmware.clock.wall() - (0 if zone == UNSPECIFIED_TIMEZONE else zone * _MINUTE)
        time = EfiTime.from_ns(local)
        time.timezone, time.daylight = zone, firmware.time.daylight
        firmware.memory.write(time_at, time.pack())
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
            time = EfiTime.unpack(firmware.memory.read(time_at, SIZE))
            wanted = time.to_ns()
        except BadTimeError:
            raise EfiError(Status.INVALID_PARAMETER) from None
        firmware.time.set(wanted, time.timezone, time.daylight)
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
