"""The CMOS real-time clock at ports 0x70 and 0x71 (Motorola MC146818A data sheet; the century byte as in ACPI's FADT).

Time is the machine clock's time of day in UTC plus an offset that the guest makes by setting the clock. Flags are
worked out when somebody looks; a timer runs only while an interrupt is enabled.
"""

from collections.abc import Callable
from time import gmtime
from typing import TYPE_CHECKING, Any

from machine.clock import NANOSECONDS, Clock, Timer

if TYPE_CHECKING:
    from machine.cpu import Cpu

PORT = 0x70
PORTS = 2
CENTURY = 0x32
"""Index of the century byte, for the FADT."""

_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR = 0, 2, 4, 6, 7, 8, 9
_ALARMS = (5, 3, 1)
_A, _B, _C, _D = 0x0A, 0x0B, 0x0C, 0x0D
_TIME_REGISTERS = (_SECONDS, _MINUTES, _HOURS, _WEEKDAY, _DAY, _MONTH, _YEAR, CENTURY)

_A_UPDATE_IN_PROGRESS, _A_DIVIDER_RESET = 0x80, 0x60
_B_SET, _B_UPDATE, _B_BINARY, _B_24_HOURS = 0x80, 0x10, 0x04, 0x02
_C_REQUEST, _C_PERIODIC, _C_ALARM, _C_UPDATE = 0x80, 0x40, 0x20, 0x10
_D_VALID = 0x80
_PM = 0x80
_DAY_SECONDS = 86_400
_OSCILLATOR = 32_768

_UPDATE_WARNING = 244_000
"""ns for which UIP is high before the time changes (data sheet, UIP)."""

_STABLE = 2_000_000
"""ns for which the time stands still for a guest that has read UIP as 0. The data sheet promises 244 us, which an
emulated guest may not keep to: it would read a torn time."""


class Rtc:
    """MC146818A with 114 bytes of CMOS RAM. `irq` is the line of IRQ 8."""

    def __init__(self, clock: Clock, irq: Callable[[bool], None]) -> None:
        self._clock = clock
        self._irq = irq
        self._timer: Timer | None = None
        self._index = _D
        self.nmi_masked = False
        self._cmos = bytearray(128)
        self._cmos[_A] = 0x26
        self._cmos[_B] = _B_24_HOURS
        self._offset = 0
        self._frozen = False
        self._divider_was_reset = False
        self._flags = 0
        self._seen_second = self._time() // NANOSECONDS
        self._seen_tick = 0
        self._last_poll = -_STABLE
        self._latched_until = -1
        self._latched_second = 0

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port read: the index register is write-only; a wider access takes in the port behind."""
        value = 0
        for index in range(size):
            byte = self._read_register() if offset + index == 1 else 0xFF
            value |= byte << 8 * index
        return value

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port write; a 16-bit one selects a register and writes it."""
        for index in range(size):
            byte = value >> 8 * index & 0xFF
            if offset + index == 0:
                self._index = byte & 0x7F
                self.nmi_masked = bool(byte & 0x80)
            elif offset + index == 1:
                self._write_register(byte)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "index": self._index,
            "nmi_masked": self.nmi_masked,
            "cmos": bytes(self._cmos),
            "offset": self._offset,
            "frozen": self._frozen,
            "divider_was_reset": self._divider_was_reset,
            "flags": self._flags,
            "seen_second": self._seen_second,
            "seen_tick": self._seen_tick,
            "last_poll": self._last_poll,
            "latched_until": self._latched_until,
            "latched_second": self._latched_second,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state and arm the timer again. The clock must have been loaded before."""
        self._index = state["index"]
        self.nmi_masked = state["nmi_masked"]
        self._cmos = bytearray(state["cmos"])
        self._offset = state["offset"]
        self._frozen = state["frozen"]
        self._divider_was_reset = state["divider_was_reset"]
        self._flags = state["flags"]
        self._seen_second = state["seen_second"]
        self._seen_tick = state["seen_tick"]
        self._last_poll = state["last_poll"]
        self._latched_until = state["latched_until"]
        self._latched_second = state["latched_second"]
        self._arm()

    # Registers

    def _read_register(self) -> int:
        index = self._index
        if index in _TIME_REGISTERS:
            return self._cmos[index] if self._frozen else self._time_register(index, self._shown_second())
        if index == _A:
            return self._cmos[_A] | self._poll_update()
        if index == _C:
            self._catch_up()
            flags, self._flags = self._flags, 0
            self._irq(False)
            self._arm()
            return flags
        return _D_VALID if index == _D else self._cmos[index]

    def _write_register(self, value: int) -> None:
        index = self._index
        if index in (_C, _D):
            return
        self._catch_up()
        if index in _TIME_REGISTERS:
            self._set_time_register(index, value)
        elif index == _A:
            # UIP is read-only. Holding the divider in reset stops the time (table 4, divider configurations).
            self._cmos[_A] = value & ~_A_UPDATE_IN_PROGRESS
            self._freeze_or_thaw()
            self._seen_tick = self._tick()
        elif index == _B:
            # Setting SET clears the update-ended interrupt's enable (data sheet, SET).
            self._cmos[_B] = value & ~_B_UPDATE if value & _B_SET else value
            self._freeze_or_thaw()
        else:
            self._cmos[index] = value
        self._raise_if_wanted()
        self._arm()

    def _set_time_register(self, index: int, value: int) -> None:
        if self._frozen:
            self._cmos[index] = value
            return
        within = self._time() % NANOSECONDS
        self._latch_registers()
        self._cmos[index] = value
        self._take_time(within)

    def _poll_update(self) -> int:
        """The UIP bit, shown to a guest that polls for it; a first look sees 0, and a stable time after it."""
        if self._frozen:
            return 0
        now = self._clock.now()
        polling = now - self._last_poll < _STABLE
        self._last_poll = now
        time = self._time()
        if polling and time % NANOSECONDS >= NANOSECONDS - _UPDATE_WARNING:
            self._latched_until = -1
            return _A_UPDATE_IN_PROGRESS
        self._latched_until = now + _STABLE
        self._latched_second = time // NANOSECONDS
        return 0

    # Time

    def _time(self) -> int:
        return self._clock.wall() + self._offset

    def _shown_second(self) -> int:
        return self._latched_second if self._clock.now() < self._latched_until else self._time() // NANOSECONDS

    def _time_register(self, index: int, second: int) -> int:
        moment = gmtime(second)
        if index == _HOURS:
            return self._encode_hour(moment.tm_hour)
        year = moment.tm_year % 10_000
        return self._encode(
            {
                _SECONDS: second % 60,
                _MINUTES: moment.tm_min,
                _WEEKDAY: (moment.tm_wday + 1) % 7 + 1,
                _DAY: moment.tm_mday,
                _MONTH: moment.tm_mon,
                _YEAR: year % 100,
                CENTURY: year // 100,
            }[index]
        )

    def _latch_registers(self) -> None:
        second = self._time() // NANOSECONDS
        for index in _TIME_REGISTERS:
            self._cmos[index] = self._time_register(index, second)

    def _take_time(self, within: int) -> None:
        """Make the time registers the present time, `within` nanoseconds into the second.

        What is no date (30 February, second 61) is taken as so many days or seconds later.
        """
        cmos = self._cmos
        year = self._decode(cmos[CENTURY]) * 100 + self._decode(cmos[_YEAR])
        days = _days_since_1970(year, self._decode(cmos[_MONTH]), self._decode(cmos[_DAY]))
        hours = self._decode_hour(cmos[_HOURS])
        second = ((days * 24 + hours) * 60 + self._decode(cmos[_MINUTES])) * 60 + self._decode(cmos[_SECONDS])
        self._offset = second * NANOSECONDS + within - self._clock.wall()
        self._seen_second = second
        self._latched_until = -1

    def _freeze_or_thaw(self) -> None:
        in_reset = self._cmos[_A] & _A_DIVIDER_RESET == _A_DIVIDER_RESET
        frozen = in_reset or bool(self._cmos[_B] & _B_SET)
        if frozen and not self._frozen:
            self._latch_registers()
            self._divider_was_reset = False
        self._divider_was_reset |= in_reset
        if self._frozen and not frozen:
            # The first update comes half a second after the divider is released (data sheet, DV).
            self._take_time(NANOSECONDS // 2 if self._divider_was_reset else 0)
        self._frozen = frozen

    def _encode(self, value: int) -> int:
        return value if self._cmos[_B] & _B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._cmos[_B] & _B_BINARY else (value >> 4) * 10 + (value & 0x0F)

    def _encode_hour(self, hour: int) -> int:
        if self._cmos[_B] & _B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (_PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._cmos[_B] & _B_24_HOURS:
            return self._decode(value)
        return self._decode(value & ~_PM) % 12 + (12 if value & _PM else 0)

    # Interrupts

    def _period(self) -> int:
        """Nanoseconds of 32,768 periods of the periodic interrupt, 0 when it is off (table 5)."""
        rate = self._cmos[_A] & 0x0F
        if rate == 0:
            return 0
        return NANOSECONDS << (rate + 6 if rate < 3 else rate - 1)

    def _tick(self) -> int:
        period = self._period()
        return self._clock.now() * _OSCILLATOR // period if period else 0

    def _seconds_to_alarm(self, second: int) -> int | None:
        """Seconds after `second` at which the alarm next matches (1 to 86,400); None if it never does."""
        hours, minutes, seconds = (
            range(limit)
            if self._cmos[alarm] >= 0xC0
            else [decode(self._cmos[alarm])]
            if decode(self._cmos[alarm]) < limit
            else []
            for alarm, decode, limit in zip(
                _ALARMS, (self._decode_hour, self._decode, self._decode), (24, 60, 60), strict=True
            )
        )
        if not (hours and minutes and seconds):
            return None
        of_day = second % _DAY_SECONDS
        for hour in hours:
            if hour < of_day // 3600:
                continue
            for minute in minutes:
                if hour * 60 + minute < of_day // 60:
                    continue
                for last in seconds:
                    if (match := (hour * 60 + minute) * 60 + last) > of_day:
                        return match - of_day
        return (hours[0] * 60 + minutes[0]) * 60 + seconds[0] + _DAY_SECONDS - of_day

    def _catch_up(self) -> None:
        """Set the flags of everything that has happened since the last look."""
        if not self._frozen:
            second = self._time() // NANOSECONDS
            if second > self._seen_second:
                self._flags |= _C_UPDATE
                until_alarm = self._seconds_to_alarm(self._seen_second)
                if until_alarm is not None and until_alarm <= second - self._seen_second:
                    self._flags |= _C_ALARM
                self._seen_second = second
        tick = self._tick()
        if tick > self._seen_tick:
            self._flags |= _C_PERIODIC
            self._seen_tick = tick

    def _raise_if_wanted(self) -> None:
        wanted = self._flags & self._cmos[_B] & (_C_PERIODIC | _C_ALARM | _C_UPDATE)
        if wanted:
            self._flags |= _C_REQUEST
        elif self._flags & _C_REQUEST:
            self._flags &= ~_C_REQUEST
        self._irq(bool(wanted))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._cmos[_B] & ~self._flags
        deadlines = []
        if waiting & _C_PERIODIC and (period := self._period()):
            deadlines.append(-(-(self._seen_tick + 1) * period // _OSCILLATOR))
        if not self._frozen:
            until_alarm = self._seconds_to_alarm(self._seen_second) if waiting & _C_ALARM else None
            seconds = 1 if waiting & _C_UPDATE else until_alarm
            if seconds is not None:
                ahead = (self._seen_second + seconds) * NANOSECONDS - self._time()
                deadlines.append(self._clock.now() + ahead)
        if deadlines:
            self._timer = self._clock.call_at(min(deadlines), self._timer_due)

    def _timer_due(self) -> None:
        self._catch_up()
        self._raise_if_wanted()
        self._arm()


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Days of the proleptic Gregorian calendar; months beyond 12 run into the following years."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    if month < 3:
        year -= 1
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + in_year - 719_468
