"""EFI_TIME packing, validation and conversion, beside Python's own calendar."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uefi.time import UNSPECIFIED_TIMEZONE, BadTimeError, EfiTime

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 31, 23, 59, 59))
EPOCH = datetime(1970, 1, 1)


@settings(deadline=None)
@given(MOMENTS)
def test_nanoseconds_agree_with_the_calendar(moment: datetime) -> None:
    ns = (moment - EPOCH) // timedelta(microseconds=1) * 1000 + 7
    time = EfiTime.from_ns(ns)
    assert (time.year, time.month, time.day) == (moment.year, moment.month, moment.day)
    assert (time.hour, time.minute, time.second) == (moment.hour, moment.minute, moment.second)
    assert time.nanosecond == moment.microsecond * 1000 + 7
    time.validate()
    assert time.to_ns() == ns
    assert EfiTime.unpack(time.pack()) == time


def test_the_bytes_are_those_of_the_specification() -> None:
    time = EfiTime(2023, 10, 2, hour=3, minute=53, second=39, nanosecond=123456789, timezone=-60, daylight=1)
    assert time.pack().hex() == "e7070a020335270015cd5b07c4ff0100"


def test_local_time_is_utc_minus_timezone() -> None:
    utc = datetime(2024, 2, 29, 12, 0, tzinfo=UTC)
    assert EfiTime(2024, 2, 29, hour=13, timezone=-60).to_ns() == int(utc.timestamp()) * 10**9
    assert EfiTime(2024, 2, 29, hour=12, timezone=UNSPECIFIED_TIMEZONE).to_ns() == int(utc.timestamp()) * 10**9


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"year": 1899}, "Year"),
        ({"year": 10000}, "Year"),
        ({"month": 0}, "Month"),
        ({"month": 13}, "Month"),
        ({"day": 0}, "Day"),
        ({"day": 32}, "Day"),
        ({"year": 2023, "month": 2, "day": 29}, "Day"),
        ({"year": 2100, "month": 2, "day": 29}, "Day"),
        ({"hour": 24}, "Hour"),
        ({"minute": 60}, "Minute"),
        ({"second": 60}, "Second"),
        ({"nanosecond": 10**9}, "Nanosecond"),
        ({"timezone": 1441}, "TimeZone"),
        ({"timezone": -1441}, "TimeZone"),
        ({"daylight": 4}, "Daylight"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict[str, int], name: str) -> None:
    good = {"year": 2024, "month": 1, "day": 31}
    EfiTime(**good).validate()
    with pytest.raises(BadTimeError, match=rf"EFI_TIME\.{name} is"):
        EfiTime(**(good | fields)).validate()


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_kept(raw: bytes) -> None:
    if len(raw) != 16:
        with pytest.raises(BadTimeError):
            EfiTime.unpack(raw)
    else:
        time = EfiTime.unpack(raw)
        assert time.pack() == raw
        try:
            time.validate()
        except BadTimeError:
            with pytest.raises(BadTimeError):
                time.to_ns()
        else:
            time.to_ns()


@settings(deadline=None)
@given(st.integers())
def test_any_number_of_nanoseconds_is_a_time_or_refused(ns: int) -> None:
    try:
        EfiTime.from_ns(ns).validate()
    except BadTimeError as error:
        assert "1900" in str(error)


def test_sort_key_orders_time_stamps() -> None:
    assert EfiTime(2023, 1, 1).sort_key() < EfiTime(2023, 1, 1, second=1).sort_key() < EfiTime(2024, 1, 1).sort_key()
