"""What the firmware itself keeps over resets, in variables: the time as the guest has set it, and the monotonic count."""

import struct
from typing import TYPE_CHECKING

from uefi.guids import Guid
from uefi.variables.attributes import BOOTSERVICE_ACCESS, NON_VOLATILE, RUNTIME_ACCESS

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_VENDOR = Guid.parse("c1d1b1a4-6e5c-4f8e-8d0c-7c766d626f74")
_ATTRIBUTES = NON_VOLATILE | BOOTSERVICE_ACCESS | RUNTIME_ACCESS
_TIME = struct.Struct("<hBxq")
_COUNT = struct.Struct("<I")
_LONGEST_ADJUSTMENT = 1 << 62


class TimeSettings:
    """TimeZone and Daylight of SetTime (UEFI 2.10, 8.3), and how far it moved the clock: what a battery would keep."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self.zone = 0
        self.daylight = 0

    def restore(self) -> None:
        """Take up what was set before a reset."""
        variables = self._firmware.variables
        data = variables.value("Time", _VENDOR) if variables is not None else None
        if data is not None and len(data) == _TIME.size:
            zone, daylight, adjustment = _TIME.unpack(data)
            if abs(adjustment) < _LONGEST_ADJUSTMENT:
                self.zone, self.daylight = zone, daylight
                self._firmware.clock.adjustment = adjustment

    def set(self, now: int, zone: int, daylight: int) -> None:
        """Make it `now` (ns since 1970 UTC) on this machine; the host's clock stays as it is.

        EfiError if variables cannot be written.
        """
        clock = self._firmware.clock
        adjustment = clock.adjustment + now - clock.wall()
        if self._firmware.variables is not None:
            self._firmware.variables.set("Time", _VENDOR, _ATTRIBUTES, _TIME.pack(zone, daylight, adjustment))
        clock.adjustment = adjustment
        self.zone, self.daylight = zone, daylight


class MonotonicCount:
    """GetNextMonotonicCount and GetNextHighMonotonicCount (7.5.2, 8.5.2): the upper half counts resets and is kept.

    A machine whose guest never asks keeps nothing.
    """

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._high: int | None = None
        self._low = 0

    def next(self) -> int:
        """The 64-bit count, one up. EfiError if variables cannot be written."""
        if self._high is None or self._low == 0xFFFF_FFFF:
            self.next_high()
        else:
            self._low += 1
        assert self._high is not None
        return self._high << 32 | self._low

    def next_high(self) -> int:
        """The upper half, one up; the lower half starts again. EfiError if variables cannot be written."""
        high = self._high
        variables = self._firmware.variables
        if high is None:
            data = variables.value("MonotonicCount", _VENDOR) if variables is not None else None
            high = _COUNT.unpack(data)[0] if data is not None and len(data) == _COUNT.size else 0
        high = (high + 1) & 0xFFFF_FFFF
        if variables is not None:
            variables.set("MonotonicCount", _VENDOR, _ATTRIBUTES, _COUNT.pack(high))
        self._high, self._low = high, 0
        return high
