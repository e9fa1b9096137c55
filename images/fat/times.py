"""FAT's dates and times (FAT specification 1.03, "Date and Time Formats") from and to nanoseconds since 1970."""

import time

_FIRST = 315532800  # 1980-01-01 00:00:00
_LAST = 4354819198  # 2107-12-31 23:59:58
NS = 10**9


def encode(moment: int) -> tuple[int, int, int]:
    """(date, time, hundredths of the two seconds) of `moment` in ns since 1970; clamped to what FAT can say."""
    seconds, rest = divmod(moment, NS)
    if not _FIRST <= seconds <= _LAST:
        seconds, rest = (_FIRST, 0) if seconds < _FIRST else (_LAST, 0)
    at = time.gmtime(seconds)
    date = at.tm_year - 1980 << 9 | at.tm_mon << 5 | at.tm_mday
    return date, at.tm_hour << 11 | at.tm_min << 5 | at.tm_sec >> 1, (at.tm_sec & 1) * 100 + rest // 10_000_000


def decode(date: int, clock: int = 0, hundredths: int = 0) -> int | None:
    """Nanoseconds since 1970, None where the date is zero or no date."""
    year, month, day = (date >> 9) + 1980, date >> 5 & 15, date & 31
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    seconds = min(clock >> 11, 23) * 3600 + min(clock >> 5 & 63, 59) * 60 + min(clock & 31, 29) * 2
    return (_days(year, month, day) * 86400 + seconds) * NS + min(hundredths, 199) * 10_000_000


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01, by counting months from March so that the leap day comes last."""
    year -= month <= 2
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + of_year - 719468
