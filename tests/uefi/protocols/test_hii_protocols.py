"""The HII protocols through guest memory: package lists, strings, notifications, what is not there."""

import struct
import sys
from pathlib import Path

import pytest
from protocol_harness import RAM, Harness

from uefi import guids
from uefi.device_path import nodes, path
from uefi.hii.database import Database
from uefi.protocols.hii_config_routing import HiiConfigRouting
from uefi.protocols.hii_database import HiiDatabase
from uefi.protocols.hii_font import HiiFont
from uefi.protocols.hii_string import HiiString
from uefi.status import Status

sys.path.insert(0, str(Path(__file__).parents[1] / "hii"))
from hii_builder import ENGLISH, GERMAN, KEYBOARD, LAYOUT, LIST, package, package_list

INVALID = Status.INVALID_PARAMETER


class Board:
    def __init__(self) -> None:
        self.firmware = Harness()
        base = Database()
        self.database = HiiDatabase(self.firmware, base)  # type: ignore[arg-type]
        self.string = HiiString(self.firmware, base)  # type: ignore[arg-type]
        self.database.place()
        self.string.place()

    def new(self, data: bytes, driver: int = 0) -> int:
        room = self.firmware.room()
        assert (
            self.firmware.call(self.database, "NewPackageList", self.firmware.put(data), driver, room) == Status.SUCCESS
        )
        return self.firmware.memory.read_u64(room)

    def ascii(self, text: str) -> int:
        return self.firmware.put(text.encode() + b"\0")

    def get(self, handle: int, number: int, language: str = "en-US") -> str | int:
        room, size = self.firmware.room(256), self.firmware.put((256).to_bytes(8, "little"))
        status = self.firmware.call(self.string, "GetString", self.ascii(language), handle, number, room, size, 0)
        return self.firmware.memory.read_ucs2(room) if status == Status.SUCCESS else status


@pytest.fixture
def board() -> Board:
    return Board()


def test_layouts(board: Board) -> None:
    assert [slot.offset for slot in board.database.SLOTS] == list(range(0, 0x58, 8))
    assert [slot.offset for slot in board.string.SLOTS] == list(range(0, 0x28, 8))


def test_strings_of_a_package_list(board: Board) -> None:
    handle = board.new(package_list(ENGLISH, GERMAN))
    assert board.get(handle, 2) == "Hello"
    assert board.get(handle, 2, "EN-us") == "Hello"
    assert board.get(handle, 2, "de") == "Hallo"
    assert board.get(handle, 2, "fr") == Status.INVALID_LANGUAGE
    assert board.get(handle, 9) == Status.NOT_FOUND
    assert board.get(handle, 0) == INVALID
    assert board.get(handle + 7, 2) == Status.NOT_FOUND
    call, put = board.firmware.call, board.firmware.put
    size = put(bytes(8))
    english = board.ascii("en-US")
    assert call(board.string, "GetString", english, handle, 2, 0, size, 0) == Status.BUFFER_TOO_SMALL
    assert board.firmware.memory.read_u64(size) == 12
    assert call(board.string, "GetString", 0, handle, 2, 0, size, 0) == INVALID
    assert call(board.string, "GetString", put(b"x" * 3000), handle, 2, 0, size, 0) == INVALID


def test_new_and_changed_strings(board: Board) -> None:
    handle = board.new(package_list(ENGLISH))
    call, text = board.firmware.call, board.firmware.put_text
    number, english = board.firmware.room(), board.ascii("en-US")
    font = board.firmware.put(struct.pack("<IH", 1, 19) + "Sans\0".encode("utf-16-le"))
    assert call(board.string, "NewString", handle, number, english, 0, text("New"), font) == Status.SUCCESS
    assert board.firmware.memory.read_u16(number) == 3
    assert board.get(handle, 3) == "New"
    info, size, room = board.firmware.room(), board.firmware.put((64).to_bytes(8, "little")), board.firmware.room(64)
    assert call(board.string, "GetString", english, handle, 3, room, size, info) == Status.SUCCESS
    given = board.firmware.memory.read_u64(info)
    assert board.firmware.memory.read(given, 16) == struct.pack("<IH", 1, 19) + "Sans\0".encode("utf-16-le")
    assert call(board.string, "SetString", handle, 2, english, text("Hi"), 0) == Status.SUCCESS
    assert board.get(handle, 2) == "Hi"
    assert call(board.string, "SetString", handle, 77, english, text("Hi"), 0) == Status.NOT_FOUND
    assert call(board.string, "NewString", handle, number, board.ascii("fr"), 0, text("x"), 0) == INVALID
    assert call(board.string, "NewString", handle, number, board.ascii("fr"), text("F"), text("x"), 0) == Status.SUCCESS
    assert call(board.string, "NewString", 0, number, english, 0, text("x"), 0) == INVALID
    assert call(board.string, "NewString", handle, number, english, 0, 1 << 60, 0) == INVALID


def test_languages(board: Board) -> None:
    handle = board.new(package_list(ENGLISH, GERMAN))
    call = board.firmware.call
    size, room = board.firmware.room(), board.firmware.room(64)
    assert call(board.string, "GetLanguages", handle, room, size) == Status.BUFFER_TOO_SMALL
    assert call(board.string, "GetLanguages", handle, room, size) == Status.SUCCESS
    assert board.firmware.memory.read(room, 9) == b"en-US;de\0"
    assert call(board.string, "GetSecondaryLanguages", handle, board.ascii("de"), room, size) == Status.SUCCESS
    assert board.firmware.memory.read(room, 8) == b"gsw;bar\0"
    assert call(board.string, "GetSecondaryLanguages", handle, board.ascii("xx"), room, size) == Status.INVALID_LANGUAGE
    assert call(board.string, "GetLanguages", 99, room, size) == Status.NOT_FOUND


def test_lists_are_listed_exported_updated_and_removed(board: Board) -> None:
    call, memory = board.firmware.call, board.firmware.memory
    size, room = board.firmware.room(), board.firmware.room(1024)
    assert call(board.database, "ListPackageLists", 0, 0, size, room) == Status.NOT_FOUND
    first, second = board.new(package_list(ENGLISH)), board.new(package_list(KEYBOARD))
    assert call(board.database, "ListPackageLists", 0, 0, size, room) == Status.BUFFER_TOO_SMALL
    assert memory.read_u64(size) == 16
    assert call(board.database, "ListPackageLists", 0, 0, size, room) == Status.SUCCESS
    assert (memory.read_u64(room), memory.read_u64(room + 8)) == (first, second)
    assert call(board.database, "ListPackageLists", 1, 0, size, room) == INVALID
    assert call(board.database, "ListPackageLists", 4, board.firmware.put(bytes(LIST)), size, room) == INVALID
    memory.write_u64(size, 1024)
    assert call(board.database, "ExportPackageLists", first, size, room) == Status.SUCCESS
    assert memory.read(room, memory.read_u64(size)) == package_list(ENGLISH)
    memory.write_u64(size, 1024)
    assert call(board.database, "ExportPackageLists", 0, size, room) == Status.SUCCESS
    assert memory.read(room, memory.read_u64(size)) == package_list(ENGLISH) + package_list(KEYBOARD)
    memory.write_u64(size, 3)
    assert call(board.database, "ExportPackageLists", 0, size, room) == Status.BUFFER_TOO_SMALL
    assert call(board.database, "ExportPackageLists", 99, size, room) == Status.NOT_FOUND
    assert call(board.database, "UpdatePackageList", first, board.firmware.put(package_list(GERMAN))) == Status.SUCCESS
    assert board.get(first, 2, "de") == "Hallo"
    assert call(board.database, "UpdatePackageList", first, board.firmware.put(bytes(40))) == INVALID
    assert call(board.database, "UpdatePackageList", 99, board.firmware.put(package_list())) == Status.NOT_FOUND
    assert call(board.database, "RemovePackageList", first) == Status.SUCCESS
    assert call(board.database, "RemovePackageList", first) == Status.NOT_FOUND
    assert board.get(first, 2, "de") == Status.NOT_FOUND


def test_hostile_package_lists(board: Board) -> None:
    room = board.firmware.room()
    tail = board.firmware.put(package_list(ENGLISH))
    for address in (
        0,
        1 << 60,
        RAM - 8,
        board.firmware.put(b"\xff" * 64),
        board.firmware.put(package_list(package(4, b""))),
    ):
        assert board.firmware.call(board.database, "NewPackageList", address, 0, room) == INVALID
    assert board.firmware.call(board.database, "NewPackageList", tail, 0, 0) == INVALID


def test_a_drivers_device_path_becomes_a_package(board: Board) -> None:
    firmware = board.firmware
    raw = path.join(nodes.pci_root())
    driver = firmware.handles.install(None, guids.DEVICE_PATH_PROTOCOL, firmware.put(raw))
    handle = board.new(package_list(ENGLISH), driver)
    size, room = firmware.put((1024).to_bytes(8, "little")), firmware.room(1024)
    assert firmware.call(board.database, "ExportPackageLists", handle, size, room) == Status.SUCCESS
    assert package(8, raw) in firmware.memory.read(room, 1024)
    assert firmware.call(board.database, "GetPackageListHandle", handle, room) == Status.SUCCESS
    assert firmware.memory.read_u64(room) == driver
    assert firmware.call(board.database, "GetPackageListHandle", 99, room) == INVALID
    assert firmware.call(board.database, "NewPackageList", firmware.put(package_list(ENGLISH)), driver, room) == INVALID


def test_notifications(board: Board) -> None:
    firmware = board.firmware
    room = firmware.room()
    seen: list[tuple[int, ...]] = []

    def answer(target: int, arguments: tuple[int, ...]) -> int:
        kind, guid, at, handle, event = arguments
        seen.append((target, kind, handle, event))
        assert firmware.memory.read(at, len(ENGLISH)) == ENGLISH
        assert guid == 0
        return 0

    firmware.guest_answer = answer
    register = ("RegisterPackageNotify", 4, 0, 0x1000)
    assert firmware.call(board.database, *register, 1 | 2, room) == Status.SUCCESS
    notification = firmware.memory.read_u64(room)
    assert firmware.call(board.database, "RegisterPackageNotify", 4, 0, 0x2000, 4, room) == Status.SUCCESS
    handle = board.new(package_list(ENGLISH, KEYBOARD))
    firmware.call(board.database, "RemovePackageList", handle)
    assert seen == [(0x1000, 4, handle, 1), (0x1000, 4, handle, 2)]
    assert firmware.call(board.database, "UnregisterPackageNotify", notification) == Status.SUCCESS
    assert firmware.call(board.database, "UnregisterPackageNotify", notification) == Status.NOT_FOUND
    board.new(package_list(ENGLISH))
    assert len(seen) == 2
    assert firmware.call(board.database, "RegisterPackageNotify", 1, 0, 0x1000, 1, room) == INVALID
    assert firmware.call(board.database, "RegisterPackageNotify", 4, 0, 0, 1, room) == INVALID


def test_keyboard_layouts(board: Board) -> None:
    call, memory = board.firmware.call, board.firmware.memory
    size, room = board.firmware.put(b"\x10\0"), board.firmware.room(64)
    assert call(board.database, "FindKeyboardLayouts", size, room) == Status.SUCCESS
    assert memory.read_u16(size) == 0
    board.new(package_list(KEYBOARD))
    assert call(board.database, "FindKeyboardLayouts", size, room) == Status.BUFFER_TOO_SMALL
    assert call(board.database, "FindKeyboardLayouts", size, room) == Status.SUCCESS
    assert memory.read(room, 16) == bytes(LAYOUT)
    memory.write_u16(size, 64)
    assert call(board.database, "GetKeyboardLayout", 0, size, room) == Status.NOT_FOUND
    guid, other = board.firmware.put(bytes(LAYOUT)), board.firmware.put(bytes(LIST))
    assert call(board.database, "SetKeyboardLayout", other) == Status.NOT_FOUND
    assert call(board.database, "SetKeyboardLayout", guid) == Status.SUCCESS
    assert call(board.database, "GetKeyboardLayout", 0, size, room) == Status.SUCCESS
    assert memory.read(room, 23) == KEYBOARD[6:]


def test_what_is_not_there(board: Board) -> None:
    firmware = board.firmware
    font, routing = HiiFont(firmware), HiiConfigRouting(firmware)  # type: ignore[arg-type]
    font.place()
    routing.place()
    a, b = firmware.room(), firmware.room()
    assert firmware.call(font, "GetFontInfo", 0, 0, a, 0) == Status.NOT_FOUND
    assert firmware.call(font, "GetGlyph", 65, 0, a, 0) == Status.UNSUPPORTED
    assert firmware.call(font, "GetGlyph", 65, 0, 0, 0) == INVALID
    assert firmware.call(font, "StringToImage", 0, a, 0, b, 0, 0, 0, 0, 0) == Status.UNSUPPORTED
    assert firmware.call(font, "StringIdToImage", 0, 1, 1, 0, 0, b, 0, 0, 0, 0, 0) == Status.UNSUPPORTED
    request = firmware.put_text("GUID=00&NAME=00&PATH=00")
    assert firmware.call(routing, "ExtractConfig", request, a, b) == Status.NOT_FOUND
    assert firmware.memory.read_u64(a) == request
    assert firmware.call(routing, "ExtractConfig", 0, a, b) == INVALID
    assert firmware.call(routing, "RouteConfig", request, a) == Status.NOT_FOUND
    assert firmware.call(routing, "ExportConfig", a) == Status.SUCCESS
    assert firmware.memory.read_ucs2(firmware.memory.read_u64(a)) == ""
    assert firmware.call(routing, "GetAltConfig", request, 0, 0, 0, 0, a) == Status.NOT_FOUND
    assert firmware.call(routing, "BlockToConfig", request, a, 8, a, b) == Status.UNSUPPORTED
    assert firmware.call(routing, "ConfigToBlock", request, a, b, b) == Status.UNSUPPORTED
