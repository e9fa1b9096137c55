"""Decompress, RNG, timestamp and Unicode collation through guest memory."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_harness import RAM, Harness

from uefi import guids
from uefi.protocols.decompress import SCRATCH_SIZE, Decompress
from uefi.protocols.rng import Rng
from uefi.protocols.timestamp import Timestamp
from uefi.protocols.unicode_collation import UnicodeCollation, UnicodeCollation1, matches, to_fat
from uefi.status import Status


@pytest.fixture
def firmware() -> Harness:
    return Harness()


def stream() -> bytes:
    """Seven times "a" in one block: the only literal, so that it takes no bits."""
    bits = "0000000000000111" + "00000" * 2 + "000000000" + format(ord("a"), "09b") + "0000" * 2
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return len(body).to_bytes(4, "little") + (7).to_bytes(4, "little") + body


def test_decompress(firmware: Harness) -> None:
    protocol = Decompress(firmware)  # type: ignore[arg-type]
    protocol.place()
    data = stream()
    source, size, scratch = firmware.put(data), firmware.room(4), firmware.room(4)
    assert firmware.call(protocol, "GetInfo", source, len(data), size, scratch) == Status.SUCCESS
    assert (firmware.memory.read_u32(size), firmware.memory.read_u32(scratch)) == (7, SCRATCH_SIZE)
    out, work = firmware.room(16), firmware.room(SCRATCH_SIZE)
    good = (source, len(data), out, 7, work, SCRATCH_SIZE)
    assert firmware.call(protocol, "Decompress", *good) == Status.SUCCESS
    assert firmware.memory.read(out, 8) == b"aaaaaaa\0"
    for place, value in ((1, len(data) - 1), (3, 6), (5, 100), (0, 0), (2, 0), (0, 1 << 60), (2, RAM)):
        wrong = [*good[:place], value, *good[place + 1 :]]
        assert firmware.call(protocol, "Decompress", *wrong) == Status.INVALID_PARAMETER
    for arguments in ((0, 20, size, scratch), (source, 7, size, scratch), (source, len(data) - 1, size, scratch)):
        assert firmware.call(protocol, "GetInfo", *arguments) == Status.INVALID_PARAMETER


def test_rng(firmware: Harness) -> None:
    asked: list[int] = []

    def source(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    protocol = Rng(firmware, source)  # type: ignore[arg-type]
    protocol.place()
    size, found = firmware.room(), firmware.room(32)
    assert firmware.call(protocol, "GetInfo", size, 0) == Status.BUFFER_TOO_SMALL
    assert firmware.memory.read_u64(size) == 16
    assert firmware.call(protocol, "GetInfo", size, found) == Status.SUCCESS
    assert firmware.memory.read_guid(found) == guids.RNG_ALGORITHM_RAW
    assert firmware.call(protocol, "GetInfo", 0, found) == Status.INVALID_PARAMETER
    value = firmware.room(70000)
    for algorithm in (0, found):
        assert firmware.call(protocol, "GetRNG", algorithm, 8, value) == Status.SUCCESS
    assert firmware.memory.read(value, 9) == b"\x02" * 8 + b"\0"
    assert firmware.call(protocol, "GetRNG", 0, 70000, value) == Status.SUCCESS
    assert sum(asked[2:]) == 70000
    other = firmware.put(bytes(guids.RNG_ALGORITHM_X9_31_AES))
    assert firmware.call(protocol, "GetRNG", other, 8, value) == Status.UNSUPPORTED
    count = len(asked)
    for arguments in ((0, 0, value), (0, 8, 0), (0, 1 << 62, value), (0, 8, RAM - 4)):
        assert firmware.call(protocol, "GetRNG", *arguments) == Status.INVALID_PARAMETER
    assert len(asked) == count


def test_timestamp(firmware: Harness) -> None:
    protocol = Timestamp(firmware)  # type: ignore[arg-type]
    protocol.place()
    first = firmware.call(protocol, "GetTimestamp")
    firmware.clock.jump_to(firmware.clock.now() + 1_000_000_000)
    elapsed = firmware.call(protocol, "GetTimestamp") - first
    properties = firmware.room(16)
    assert firmware.call(protocol, "GetProperties", properties) == Status.SUCCESS
    frequency = firmware.memory.read_u64(properties)
    assert abs(elapsed - frequency) <= frequency // 1000
    assert firmware.memory.read_u64(properties + 8) == (1 << 64) - 1
    assert firmware.call(protocol, "GetProperties", 0) == Status.INVALID_PARAMETER


def test_collation_calls(firmware: Harness) -> None:
    protocol, old = UnicodeCollation(firmware), UnicodeCollation1(firmware)  # type: ignore[arg-type]
    for interface, languages in ((protocol, b"en\0"), (old, b"eng\0")):
        interface.place()
        assert firmware.memory.read(firmware.memory.read_u64(interface.address + 0x30), len(languages)) == languages
    text = firmware.put_text
    assert firmware.call(protocol, "StriColl", text("abc"), text("ABC")) == 0
    assert firmware.call(protocol, "StriColl", text("b"), text("ABC")) == 1
    assert firmware.call(old, "StriColl", text("a"), text("B")) == (1 << 64) - 1
    assert firmware.call(protocol, "MetaiMatch", text("BOOTX64.EFI"), text("boot*.efi")) == 1
    assert firmware.call(protocol, "MetaiMatch", text("x"), text("y")) == 0
    folded = text("Gr\u00fc\u00dfE")
    firmware.call(protocol, "StrUpr", folded)
    assert firmware.memory.read_ucs2(folded) == "GR\u00dc\u00dfE"
    firmware.call(protocol, "StrLwr", folded)
    assert firmware.memory.read_ucs2(folded) == "gr\u00fc\u00dfe"
    out = firmware.room(64)
    firmware.call(protocol, "FatToStr", 4, firmware.put(b"ABCDEF"), out)
    assert firmware.memory.read_ucs2(out) == "ABCD"
    firmware.call(protocol, "FatToStr", 8, firmware.put(b"AB\0DEF\0\0"), out)
    assert firmware.memory.read_ucs2(out) == "AB"
    firmware.memory.write(out, b"\xff" * 16)
    assert firmware.call(protocol, "StrToFat", text("a b.c\u20acdefghijk"), 8, out) == 1
    assert firmware.memory.read(out, 9) == b"ABC_DEFG\xff"
    assert firmware.call(protocol, "StrToFat", text("plain"), 8, out) == 0
    assert firmware.call(protocol, "StriColl", 1 << 60, text("a")) == Status.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("text", "pattern", "fits"),
    [
        ("", "", True), ("", "*", True), ("a", "", False), ("abc", "a?c", True), ("ac", "a?c", False),
        ("abc", "*", True), ("abc", "**c", True), ("abc", "*b", False), ("a1", "a[0-9]", True), ("ax", "a[0-9]", False),
        ("b", "[abc]", True), ("-", "[a-]", True), ("B", "[a-c]", True), ("a", "[a", False), ("", "[]", False),
        ("x]", "x]", True), ("startup.nsh", "*.NSH", True), ("aab", "*a*b", True),
    ],
)  # fmt: skip
def test_patterns(text: str, pattern: str, fits: bool) -> None:
    assert matches(text, pattern) is fits


@given(st.text("abAB", max_size=12), st.text("abAB?*", max_size=8))
def test_wildcards_agree_with_fnmatch(text: str, pattern: str) -> None:
    assert matches(text, pattern) == fnmatch.fnmatchcase(text.upper(), pattern.upper())


def test_an_evil_pattern_ends() -> None:
    assert not matches("a" * 3000, "*a" * 200 + "b")


@given(st.text(), st.text(max_size=30), st.integers(0, 20))
def test_any_text_is_handled(text: str, pattern: str, size: int) -> None:
    assert matches(text, pattern) in (True, False)
    name, _ = to_fat(text, size)
    assert len(name) <= size
