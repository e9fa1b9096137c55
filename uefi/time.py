"""EFI_TIME: the 16-byte date and time of the runtime services and of authenticated variables (UEFI 2.10, 8.3)."""

import struct
from time import gmtime

SIZE = 16
"""Bytes of an EFI_TIME."""

UNSPECIFIED_TIMEZONE = 0x7FF
"""EFI_UNSPECIFIED_TIMEZONE: the time is local time."""

ADJUST_DAYLIGHT = 0x01
IN_DAYLIGHT = 0x02

_LAYOUT = struct.Struct("<HBBBBBBIhBB")
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_NS = 1_000_000_000


class BadTimeError(ValueError):
    """An EFI_TIME that has the wrong length or a field out of its range."""


class EfiTime:
    """An EFI_TIME with the fields of the specification; any field value of the right width can be held."""

    __slots__ = (
        "day",
        "daylight",
        "hour",
        "minute",
        "month",
        "nanosecond",
        "pad1",
        "pad2",
        "second",
        "timezone",
        "year",
    )

    def __init__(
        self,
        year: int = 0,
        month: int = 0,
        day: int = 0,
        *,
        hour: int = 0,
        minute: int = 0,
        second: int = 0,
        nanosecond: int = 0,
        timezone: int = 0,
        daylight: int = 0,
    ) -> None:
        """`timezone` is minutes: local time = UTC - timezone, or UNSPECIFIED_TIMEZONE."""
        self.year = year
        self.month = month
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.pad1 = 0
        self.nanosecond = nanosecond
        self.timezone = timezone
        self.daylight = daylight
        self.pad2 = 0

    @classmethod
    def unpack(cls, raw: bytes) -> "EfiTime":
        """From the 16 bytes in memory, unchecked (see `validate`); BadTimeError for another length."""
        if len(raw) != SIZE:
            raise BadTimeError(f"an EFI_TIME has {SIZE} bytes, not {len(raw)}")
        time = cls()
        (
            time.year, time.month, time.day, time.hour, time.minute, time.second,
            time.pad1, time.nanosecond, time.timezone, time.daylight, time.pad2,
        ) = _LAYOUT.unpack(raw)  # fmt: skip
        return time

    @classmethod
    def from_ns(cls, ns: int) -> "EfiTime":
        """From nanoseconds since 1970-01-01 00:00 UTC, in UTC; BadTimeError outside the years 1900 to 9999."""
        seconds, nanosecond = divmod(ns, _NS)
        try:
            year, month, day, hour, minute, second = gmtime(seconds)[:6]
        except (OverflowError, ValueError, OSError):
            year = 0
        if not 1900 <= year <= 9999:
            raise BadTimeError(f"{seconds} s since 1970 lies outside the years 1900 to 9999")
        return cls(year, month, day, hour=hour, minute=minute, second=second, nanosecond=nanosecond)

    def pack(self) -> bytes:
        """The 16 bytes; BadTimeError if a field does not fit its width."""
        try:
            return _LAYOUT.pack(
                self.year, self.month, self.day, self.hour, self.minute, self.second,
                self.pad1, self.nanosecond, self.timezone, self.daylight, self.pad2,
            )  # fmt: skip
        except struct.error as error:
            raise BadTimeError(f"an EFI_TIME field does not fit: {error}") from None

    def to_ns(self) -> int:
        """Nanoseconds since 1970-01-01 00:00 UTC; BadTimeError if invalid.

        An unspecified time zone counts as UTC.
        """
        self.validate()
        # Days of the proleptic Gregorian calendar, with years that begin in March so that the leap day comes last.
        year = self.year - (self.month <= 2)
        day_of_year = (153 * ((self.month + 9) % 12) + 2) // 5 + self.day - 1
        days = year * 365 + year // 4 - year // 100 + year // 400 + day_of_year - 719468
        minutes = 0 if self.timezone == UNSPECIFIED_TIMEZONE else self.timezone
        seconds = ((days * 24 + self.hour) * 60 + self.minute + minutes) * 60 + self.second
        return seconds * _NS + self.nanosecond

    def validate(self) -> None:
        """Raise BadTimeError unless every field lies in the range that UEFI 2.10, 8.3 gives it."""
        for name, value, low, high in (
            ("Year", self.year, 1900, 9999),
            ("Month", self.month, 1, 12),
            ("Day", self.day, 1, self._days_of_month()),
            ("Hour", self.hour, 0, 23),
            ("Minute", self.minute, 0, 59),
            ("Second", self.second, 0, 59),
            ("Nanosecond", self.nanosecond, 0, _NS - 1),
        ):
            if not low <= value <= high:
                raise BadTimeError(f"EFI_TIME.{name} is {value}, wanted {low} to {high}")
        if self.timezone != UNSPECIFIED_TIMEZONE and not -1440 <= self.timezone <= 1440:
            raise BadTimeError(f"EFI_TIME.TimeZone is {self.timezone}, wanted -1440 to 1440 or {UNSPECIFIED_TIMEZONE}")
        if self.daylight & ~(ADJUST_DAYLIGHT | IN_DAYLIGHT):
            raise BadTimeError(f"EFI_TIME.Daylight is {self.daylight:#x}, wanted only the bits 0x1 and 0x2")

    def sort_key(self) -> tuple[int, int, int, int, int, int]:
        """Orders time stamps of authenticated variables, whose other fields are zero (UEFI 2.10, 8.2)."""
        return (self.year, self.month, self.day, self.hour, self.minute, self.second)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EfiTime) and self.pack() == other.pack()

    def __hash__(self) -> int:
        return hash(self.pack())

    def __repr__(self) -> str:
        date = f"{self.year:04}-{self.month:02}-{self.day:02}"
        return f"<EfiTime {date} {self.hour:02}:{self.minute:02}:{self.second:02}.{self.nanosecond:09}>"

    def _days_of_month(self) -> int:
        leap = self.year % 4 == 0 and (self.year % 100 != 0 or self.year % 400 == 0)
        if self.month == 2 and not leap:
            return 28
        return _MONTH_DAYS[self.month - 1] if 1 <= self.month <= 12 else 31
