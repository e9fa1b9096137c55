"""Firmware images: what is read from their tables, and that damaged ones are refused in one line."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_firmware import (
    AP_RESET,
    HASH_TABLE_GPA,
    METADATA_FROM_END,
    SECTIONS,
    entry,
    image,
    standard_entries,
    svsm_image,
)

from sev.measure import Firmware, MalformedFirmware, MeasureError, snp_launch_digest
from sev.measure.firmware import SEV_ES_RESET_BLOCK, SEV_METADATA, guid_bytes, guid_text

SIZE = 0x4000
GUID = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"


def test_tables_of_an_image() -> None:
    firmware = Firmware(image(SIZE))
    assert firmware.gpa == (1 << 32) - SIZE
    assert firmware.reset_address == AP_RESET
    assert firmware.hash_table_gpa == HASH_TABLE_GPA
    assert [(part.gpa, part.size, part.kind) for part in firmware.sections or ()] == list(SECTIONS)


def test_svsm_entry_is_relative_to_the_image() -> None:
    svsm = Firmware(svsm_image(0x2000), 0xFF000000)
    assert (svsm.gpa, svsm.svsm_entry) == (0xFEFFE000, 0xFEFFE040)


def test_guid_order_in_memory() -> None:
    assert guid_bytes(GUID).hex() == "de71f7007e1acb4f890e68c77e2fb44e"
    assert guid_text(guid_bytes(GUID)) == GUID


def test_image_without_tables() -> None:
    firmware = Firmware(bytes(SIZE))
    assert (firmware.table, firmware.sections, firmware.hash_table_gpa) == ({}, None, None)
    with pytest.raises(MalformedFirmware, match="SEV-ES reset block"):
        _ = firmware.reset_address
    with pytest.raises(MalformedFirmware, match="SVSM info"):
        _ = firmware.svsm_entry


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "of 0 bytes"),
        (bytes(4095), "of 4095 bytes"),
        (bytes((64 << 20) + 1), "67108865 bytes"),
        (image(sections=[(0x800800, 0x1000, 1)]), "section 0 at 0x800800"),
        (image(sections=[(0x800000, 0x800, 1)]), "0x800 bytes"),
        (image(sections=[(0xFFFFF000, 0x2000, 1)]), "below 4 GiB"),
        (image(sections=[(0, 0xF0000000, 1)]), "983040 pages"),
        (image(version=2), "version 2"),
        (image(sections=None), "begins with"),
        (image(entries=[entry(SEV_METADATA, b"\1")]), "has 1 bytes"),
        (image(entries=[entry(SEV_METADATA, struct.pack("<I", SIZE + 1))]), "0x4001 bytes before the end"),
        (image(entries=[entry(SEV_METADATA, struct.pack("<I", 15))]), "0xf bytes before the end"),
        (image(entries=[*standard_entries(), *standard_entries()]), "two entries"),
        (image(entries=[struct.pack("<H", 17) + guid_bytes(GUID)]), "has size 17"),
        (image(entries=[struct.pack("<H", 19) + guid_bytes(GUID)]), "has size 19"),
        (image(entries=[b"12345", entry(GUID, b"")]), "5 bytes that are no entry"),
    ],
)
def test_refusals(data: bytes, words: str) -> None:
    with pytest.raises(MalformedFirmware) as caught:
        Firmware(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_short_reset_block() -> None:
    firmware = Firmware(image(sections=None, entries=[entry(SEV_ES_RESET_BLOCK, b"\1\2")]))
    with pytest.raises(MalformedFirmware, match="has 2 bytes"):
        _ = firmware.reset_address


def test_footer_larger_than_the_image() -> None:
    data = bytearray(image())
    struct.pack_into("<H", data, len(data) - 50, 0xFFFF)
    with pytest.raises(MalformedFirmware, match="footer table of 65535 bytes"):
        Firmware(bytes(data))


def test_metadata_that_says_it_has_more_than_it_has() -> None:
    data = bytearray(image())
    struct.pack_into("<I", data, len(data) - METADATA_FROM_END + 12, 0xFFFFFFFF)
    with pytest.raises(MalformedFirmware, match="4294967295 sections"):
        Firmware(bytes(data))


def measure(data: bytes) -> None:
    """Measure an image that may be damaged; only the package's own errors are expected."""
    try:
        snp_launch_digest(Firmware(data), vcpus=2, signature=0xA00F11)
    except MeasureError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(SIZE - METADATA_FROM_END, SIZE - 1), st.integers(0, 255)), min_size=1, max_size=12)
)
def test_flipped_tables(changes: list[tuple[int, int]]) -> None:
    data = bytearray(image(SIZE))
    for offset, value in changes:
        data[offset] = value
    measure(bytes(data))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, SIZE), st.binary(max_size=64))
def test_cut_and_grown_images(size: int, rest: bytes) -> None:
    measure(image(SIZE)[:size] + rest)
    measure(rest + image(SIZE)[size:])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=8),
    st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=40)), max_size=8),
)
def test_made_up_tables(sections: list[tuple[int, int, int]], entries: list[tuple[bytes, bytes]]) -> None:
    extra = [data + struct.pack("<H", len(data) + 18) + guid for guid, data in entries]
    measure(image(SIZE, sections, [*extra, *standard_entries()]))
