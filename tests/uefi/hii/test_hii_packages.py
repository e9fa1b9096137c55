"""HII package lists, string packages and the database: layouts, all block types, hostile bytes."""

import struct

import pytest
from hii_builder import ENGLISH, GERMAN, KEYBOARD, LAYOUT, LIST, package, package_list, strings, text
from hypothesis import given
from hypothesis import strategies as st

from uefi.guids import Guid
from uefi.hii import database as db
from uefi.hii.database import Database, DatabaseFullError
from uefi.hii.packages import HiiError, Package, build_list, keyboard_layouts, parse_list
from uefi.hii.strings import Font, StringPackage


def texts(blocks: bytes) -> dict[int, str]:
    made = StringPackage.parse(parse_list(package_list(strings(b"en", blocks)))[1][0])
    return {number: value for number, (value, _) in made.texts.items()}


def test_lists_go_both_ways() -> None:
    data = package_list(ENGLISH, package(1, bytes(LIST) + b"data"), KEYBOARD)
    guid, packages = parse_list(data + b"behind")
    assert guid == LIST
    assert [each.kind for each in packages] == [4, 1, 9]
    assert packages[1].guid == LIST
    assert packages[0].guid is None
    assert build_list(guid, packages) == data
    assert keyboard_layouts(packages[2]) == {LAYOUT: KEYBOARD[6:]}


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (b"\x10one\0\x00", {1: "one"}),
        (b"\x11\x05one\0\x00", {1: "one"}),
        (b"\x12\x02\x00one\0two\0\x00", {1: "one", 2: "two"}),
        (b"\x13\x05\x02\x00one\0tw\xf6\0\x00", {1: "one", 2: "tw\u00f6"}),
        (b"\x14" + text("\u4e2d") + b"\x00", {1: "\u4e2d"}),
        (b"\x15\x01" + text("one") + b"\x00", {1: "one"}),
        (b"\x16\x02\x00" + text("a") + text("\u0100\u0001") + b"\x00", {1: "a", 2: "\u0100\u0001"}),
        (b"\x17\x01\x01\x00" + text("a") + b"\x00", {1: "a"}),
        (b"\x22\x03\x14" + text("four") + b"\x00", {4: "four"}),
        (b"\x21\x2c\x01\x14" + text("far") + b"\x00", {301: "far"}),
        (b"\x14" + text("a") + b"\x20\x01\x00\x20\x02\x00\x00", {1: "a", 2: "a", 3: "a"}),
        (b"\x20\x02\x00\x14" + text("later") + b"\x00", {1: "later", 2: "later"}),
        (b"\x20\x09\x00\x20\x02\x00\x00", {}),
        (b"\x30\x99\x04x\x31\x99\x05\x00x\x32\x99\x07\x00\x00\x00x\x14" + text("a") + b"\x00", {1: "a"}),
        (b"\x14" + text("") + b"\x00", {1: ""}),
    ],
)
def test_every_block_type(blocks: bytes, expected: dict[int, str]) -> None:
    assert texts(blocks) == expected


def test_fonts_and_reencoding() -> None:
    font = b"\x07" + struct.pack("<HI", 19, 1) + text("Sans")
    blocks = b"\x31\x40" + struct.pack("<H", 4 + len(font)) + font
    blocks += b"\x15\x07" + text("bold") + b"\x22\x05" + b"\x14" + text("plain") + b"\x22\x02\x00"
    raw = strings(b"fr;fr-CH", blocks)
    made = StringPackage.parse(Package(4, raw[4:]))
    assert made.to_package().to_bytes() == raw
    assert made.languages == ["fr", "fr-CH"]
    assert made.font_of(1) == Font(1, 19, "Sans")
    assert made.font_of(7) is None
    assert made.next_id == 10
    made.put(8, "new", Font(2, 10, "Mono"))
    again = StringPackage.parse(made.to_package())
    assert {number: value for number, (value, _) in again.texts.items()} == {1: "bold", 7: "plain", 8: "new"}
    assert again.font_of(8) == Font(2, 10, "Mono")
    assert (again.next_id, again.languages, again.language_name) == (10, ["fr", "fr-CH"], 1)


@given(
    st.dictionaries(
        st.integers(1, 0xFFFF), st.text(st.characters(blacklist_characters="\0", max_codepoint=0xD7FF)), max_size=8
    )
)
def test_strings_survive_encoding(values: dict[int, str]) -> None:
    made = StringPackage("en")
    for number, value in values.items():
        made.put(number, value)
    again = StringPackage.parse(made.to_package())
    assert {number: value for number, (value, _) in again.texts.items()} == values


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(20), bytes(16) + b"\x14\0\0\0",
        bytes(16) + b"\x18\0\0\0" + b"\x03\0\0\x04", bytes(16) + b"\xff\xff\xff\xff",
        bytes(16) + b"\x18\0\0\0" + b"\x05\0\0\x04", bytes(16) + b"\x18\0\0\0" + b"\x04\0\0\x04", package_list()[:-1],
    ],
)  # fmt: skip
def test_malformed_lists(data: bytes) -> None:
    with pytest.raises(HiiError):
        parse_list(data)


@pytest.mark.parametrize(
    "blocks",
    [
        b"", b"\x14a", b"\x10abc", b"\x55\0", b"\x21\xff\xff\x21\x01\x00\0", b"\x12\x05\x00a\0\0", b"\x30\x40\x02\0",
        b"\x31\x40\x03\x00\0", b"\x32\x40\xff\xff\xff\xff\0", b"\x20\x01", b"\x16\xff\xff", b"\x21\xff\xff" * 3 + b"\0",
    ],
)  # fmt: skip
def test_malformed_string_blocks(blocks: bytes) -> None:
    with pytest.raises(HiiError):
        texts(blocks)


@pytest.mark.parametrize(
    "body", [b"", bytes(41), bytes(42) + b"x" * 2000, struct.pack("<II32sH", 49, 40, bytes(32), 1) + b"en\0\0"]
)
def test_malformed_string_headers(body: bytes) -> None:
    with pytest.raises(HiiError):
        StringPackage.parse(Package(4, body))


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    header = bytes(16) + struct.pack("<I", 20 + len(data))
    for attempt in (
        data,
        header + data,
        package_list(strings(b"en", data)),
        package_list(package(9, data)),
        package_list(package(4, data)),
    ):
        try:
            Database().new(attempt)
        except HiiError:
            continue


def test_database_handles() -> None:
    base = Database()
    first, second = base.new(package_list(ENGLISH), driver=5), base.new(package_list(KEYBOARD), driver=6)
    assert first != second
    assert base.find(0) == [first, second]
    assert base.find(4) == [first]
    assert base.find(9) == [second]
    assert base.find(2) == []
    with pytest.raises(HiiError, match="already"):
        base.new(package_list(ENGLISH), driver=5)
    base.remove(first)
    third = base.new(package_list(ENGLISH), driver=5)
    assert third not in (first, second)
    with pytest.raises(KeyError):
        base.remove(first)
    with pytest.raises(KeyError):
        base.update(first, package_list(ENGLISH))
    assert base.keyboard_layouts() == {LAYOUT: KEYBOARD[6:]}


def test_saved_state_comes_back() -> None:
    base = Database()
    gone = base.new(package_list(ENGLISH))
    kept = base.new(package_list(ENGLISH, KEYBOARD), driver=7)
    base.lists[kept].new_string("en-US", "more", None, None)
    base.layout = LAYOUT
    base.remove(gone)
    other = Database()
    other.load(base.save())
    assert other.save() == base.save()
    assert (list(other.lists), other.lists[kept].driver, other.layout) == ([kept], 7, LAYOUT)
    assert other.new(package_list(ENGLISH)) == base.new(package_list(ENGLISH))


def test_guid_packages_are_found_by_their_guid() -> None:
    base = Database()
    other = Guid(bytes(range(16)))
    handle = base.new(package_list(package(1, bytes(other) + b"x")))
    assert base.find(1, other) == [handle]
    assert base.find(1, LIST) == []


def test_update_replaces_whole_types() -> None:
    base = Database()
    handle = base.new(package_list(ENGLISH, KEYBOARD))
    gone, come = base.update(handle, package_list(GERMAN))
    assert [each.to_bytes() for each in gone] == [ENGLISH]
    assert [each.to_bytes() for each in come] == [GERMAN]
    known = base.lists[handle]
    assert known.language("en-US") is None
    assert known.language("DE") is not None
    assert base.find(9) == [handle]
    with pytest.raises(HiiError):
        base.update(handle, package_list(strings(b"en", b"\x55")))
    assert known.language("de") is not None


def test_new_strings_have_one_identifier_in_all_languages() -> None:
    base = Database()
    known = base.lists[base.new(package_list(ENGLISH, GERMAN))]
    assert known.new_string("en-us", "third", None, None) == 3
    assert known.new_string("de", "vierte", None, None) == 4
    with pytest.raises(HiiError, match="no name"):
        known.new_string("fr", "x", None, None)
    assert known.new_string("fr", "cinq", None, "fran\u00e7ais") == 5
    french = known.language("fr")
    assert french is not None
    assert french.texts == {1: ("fran\u00e7ais", 0), 5: ("cinq", 0)}
    again = Database()
    copy = again.lists[again.new(known.to_bytes())]
    german = copy.language("de")
    assert german is not None
    assert german.texts[4] == ("vierte", 0)
    assert 3 not in german.texts


def test_the_database_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = package_list(ENGLISH)
    monkeypatch.setattr(db, "MAX_DATABASE_SIZE", 3 * len(data))
    base = Database()
    handles = [base.new(data) for _ in range(3)]
    with pytest.raises(DatabaseFullError):
        base.new(data)
    with pytest.raises(DatabaseFullError):
        base.grow(handles[0], 1)
    base.remove(handles[1])
    assert base.new(data)
