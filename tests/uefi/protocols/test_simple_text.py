"""ConOut, ConIn and ConInEx through guest memory: the Mode structure, keys, notifications, hostile pointers."""

import struct

import pytest
from protocol_harness import RAM, Harness

from uefi.console.console import Console
from uefi.console.keyboard import ESCAPE_WAIT_NS
from uefi.protocols.simple_text_input import SimpleTextInput
from uefi.protocols.simple_text_input_ex import LOOK_INTERVAL, SimpleTextInputEx
from uefi.protocols.simple_text_output import SimpleTextOutput
from uefi.status import Status

SHIFT_VALID, CONTROL = 0x80000000, 0x08


class Source:
    def __init__(self) -> None:
        self.data = bytearray()

    def read_byte(self) -> int | None:
        return self.data.pop(0) if self.data else None

    def pending(self) -> bool:
        return bool(self.data)


class Board:
    def __init__(self) -> None:
        self.firmware = Harness()
        self.sent = bytearray()
        self.source = Source()
        self.console = Console(self.sent.extend, self.source, self.firmware.clock.now)
        self.out = SimpleTextOutput(self.firmware, self.console.screen)  # type: ignore[arg-type]
        self.input = SimpleTextInput(self.firmware, self.console.keyboard)  # type: ignore[arg-type]
        self.input_ex = SimpleTextInputEx(self.firmware, self.console.keyboard)  # type: ignore[arg-type]
        for protocol in (self.out, self.input, self.input_ex):
            protocol.place()

    def mode(self) -> tuple[int, ...]:
        address = self.firmware.memory.read_u64(self.out.address + 0x48)
        return struct.unpack("<5iB", self.firmware.memory.read(address, 21))

    def key_data(self, address: int) -> tuple[int, ...]:
        return struct.unpack("<HHIB", self.firmware.memory.read(address, 9))


@pytest.fixture
def board() -> Board:
    return Board()


def test_output_and_mode_structure(board: Board) -> None:
    call, put_text = board.firmware.call, board.firmware.put_text
    assert board.mode() == (3, 0, 0x07, 0, 0, 1)
    assert call(board.out, "OutputString", put_text("Hello\r\nab")) == Status.SUCCESS
    assert bytes(board.sent) == b"Hello\r\nab"
    assert board.mode() == (3, 0, 0x07, 2, 1, 1)
    assert call(board.out, "SetAttribute", 0x1E) == Status.SUCCESS
    assert call(board.out, "SetCursorPosition", 5, 7) == Status.SUCCESS
    assert call(board.out, "EnableCursor", 0) == Status.SUCCESS
    assert board.mode() == (3, 0, 0x1E, 5, 7, 0)
    assert call(board.out, "SetMode", 2) == Status.SUCCESS
    assert board.mode() == (3, 2, 0x1E, 0, 0, 0)
    assert call(board.out, "OutputString", put_text("x")) == Status.SUCCESS
    assert call(board.out, "ClearScreen") == Status.SUCCESS
    assert call(board.out, "Reset", 0) == Status.SUCCESS
    assert board.mode() == (3, 2, 0x07, 0, 0, 1)


def test_output_statuses(board: Board) -> None:
    call, put_text = board.firmware.call, board.firmware.put_text
    assert call(board.out, "OutputString", put_text("\x02")) == Status.WARN_UNKNOWN_GLYPH
    assert call(board.out, "TestString", put_text("\x02")) == Status.UNSUPPORTED
    assert call(board.out, "TestString", put_text("ok\u2500")) == Status.SUCCESS
    assert call(board.out, "SetAttribute", 0x80) == Status.UNSUPPORTED
    assert call(board.out, "SetCursorPosition", 80, 0) == Status.UNSUPPORTED
    assert call(board.out, "SetMode", 1 << 40) == Status.UNSUPPORTED
    columns, rows = board.firmware.room(), board.firmware.room()
    assert call(board.out, "QueryMode", 1, columns, rows) == Status.SUCCESS
    assert (board.firmware.memory.read_u64(columns), board.firmware.memory.read_u64(rows)) == (80, 50)
    assert call(board.out, "QueryMode", 9, columns, rows) == Status.UNSUPPORTED
    assert call(board.out, "QueryMode", 0, 0, 0) == Status.INVALID_PARAMETER


def test_strings_without_end_are_cut_and_wild_ones_refused(board: Board) -> None:
    firmware = board.firmware
    firmware.memory.write(RAM - 6, "abc".encode("utf-16-le"))
    assert firmware.call(board.out, "OutputString", RAM - 6) == Status.SUCCESS
    assert bytes(board.sent) == b"abc"
    firmware.memory.write(RAM - 2, b"z\0")
    assert firmware.call(board.out, "OutputString", RAM - 2) == Status.SUCCESS
    board.sent.clear()
    start = firmware.put(b"y\0" * 0x20000)
    assert firmware.call(board.out, "OutputString", start) == Status.SUCCESS
    assert bytes(board.sent) == b"y" * 0x10000
    board.sent.clear()
    for address in (0, RAM, 1 << 60):
        assert firmware.call(board.out, "OutputString", address) == Status.INVALID_PARAMETER
    assert firmware.call(board.out, "OutputString", firmware.put_text("")) == Status.SUCCESS
    assert not board.sent


def test_keys_one_by_one(board: Board) -> None:
    firmware = board.firmware
    key = firmware.room(4)
    wait = firmware.events.get(firmware.memory.read_u64(board.input.address + 0x10))
    assert not firmware.events.check(wait)
    assert firmware.call(board.input, "ReadKeyStroke", key) == Status.NOT_READY
    assert firmware.computer.idle.polls == 1
    board.source.data += b"a\n\x1b[A\x03"
    assert firmware.events.check(wait)
    expected = [(0, ord("a")), (0, 13), (1, 0), (0, 3)]
    for scan_code, character in expected:
        assert firmware.call(board.input, "ReadKeyStroke", key) == Status.SUCCESS
        assert struct.unpack("<HH", firmware.memory.read(key, 4)) == (scan_code, character)
    assert firmware.call(board.input, "ReadKeyStroke", key) == Status.NOT_READY
    assert firmware.call(board.input, "ReadKeyStroke", 0) == Status.INVALID_PARAMETER


def test_reset_keeps_what_was_typed_ahead(board: Board) -> None:
    board.source.data += b"q"
    assert board.firmware.call(board.input, "Reset", 1) == Status.SUCCESS
    assert board.firmware.call(board.input_ex, "Reset", 1) == Status.SUCCESS
    assert board.firmware.call(board.input, "ReadKeyStroke", board.firmware.room()) == Status.SUCCESS


def test_wild_key_pointer_loses_no_machine(board: Board) -> None:
    board.source.data += b"q"
    assert board.firmware.call(board.input, "ReadKeyStroke", 1 << 60) == Status.INVALID_PARAMETER


def test_a_waiting_escape_sets_a_timer(board: Board) -> None:
    firmware = board.firmware
    wait = firmware.events.get(firmware.memory.read_u64(board.input_ex.address + 0x10))
    board.source.data += b"\x1b"
    assert not firmware.events.check(wait)
    deadline = firmware.clock.next_deadline()
    assert deadline is not None
    assert deadline <= firmware.clock.now() + ESCAPE_WAIT_NS
    firmware.clock.jump_to(deadline)
    firmware.clock.run_due()
    assert firmware.events.check(wait)
    data = firmware.room(12)
    assert firmware.call(board.input_ex, "ReadKeyStrokeEx", data) == Status.SUCCESS
    assert board.key_data(data)[:2] == (0x17, 0)


def test_extended_keys_carry_their_state(board: Board) -> None:
    firmware = board.firmware
    data = firmware.put(b"\xff" * 12)
    assert firmware.call(board.input_ex, "ReadKeyStrokeEx", data) == Status.NOT_READY
    assert board.key_data(data) == (0, 0, SHIFT_VALID, 0x80)
    board.source.data += b"\x03\x1b[1;5C"
    assert firmware.call(board.input_ex, "ReadKeyStrokeEx", data) == Status.SUCCESS
    assert board.key_data(data) == (0, ord("c"), SHIFT_VALID | CONTROL, 0x80)
    assert firmware.call(board.input_ex, "ReadKeyStrokeEx", data) == Status.SUCCESS
    assert board.key_data(data) == (3, 0, SHIFT_VALID | CONTROL, 0x80)
    assert firmware.call(board.input_ex, "ReadKeyStrokeEx", 0) == Status.INVALID_PARAMETER


def test_toggle_state(board: Board) -> None:
    firmware = board.firmware
    assert firmware.call(board.input_ex, "SetState", firmware.put(b"\x84")) == Status.SUCCESS
    data = firmware.room(12)
    firmware.call(board.input_ex, "ReadKeyStrokeEx", data)
    assert board.key_data(data)[3] == 0x84
    assert firmware.call(board.input_ex, "SetState", firmware.put(b"\x04")) == Status.UNSUPPORTED
    assert firmware.call(board.input_ex, "SetState", firmware.put(b"\x90")) == Status.UNSUPPORTED
    assert firmware.call(board.input_ex, "SetState", 0) == Status.INVALID_PARAMETER


def register(board: Board, character: str, shift: int, notify: int) -> int:
    firmware = board.firmware
    data = firmware.put(struct.pack("<HHIB3x", 0, ord(character), shift, 0))
    handle = firmware.room()
    assert firmware.call(board.input_ex, "RegisterKeyNotify", data, notify, handle) == Status.SUCCESS
    return firmware.memory.read_u64(handle)


def test_notification_when_a_key_is_read(board: Board) -> None:
    firmware = board.firmware
    register(board, "c", SHIFT_VALID | CONTROL, 0x1000)
    register(board, "c", 0, 0x2000)
    register(board, "d", 0, 0x3000)
    board.source.data += b"c\x03"
    key = firmware.room()
    firmware.call(board.input, "ReadKeyStroke", key)
    assert [function for function, _, _ in firmware.notified()] == [0x2000]
    firmware.call(board.input, "ReadKeyStroke", key)
    calls = firmware.notified()
    assert {function for function, _, _ in calls} == {0x1000, 0x2000}
    for _, data, _ in calls:
        assert board.key_data(data) == (0, ord("c"), SHIFT_VALID | CONTROL, 0x80)


def test_notification_without_anybody_reading(board: Board) -> None:
    firmware = board.firmware
    handle = register(board, "\x03", SHIFT_VALID | CONTROL, 0x1000)
    board.source.data += b"\x03"
    assert firmware.notified() == []
    firmware.clock.jump_to(firmware.clock.now() + LOOK_INTERVAL)
    firmware.clock.run_due()
    assert [function for function, _, _ in firmware.notified()] == [0x1000]
    firmware.clock.jump_to(firmware.clock.now() + LOOK_INTERVAL)
    firmware.clock.run_due()
    assert firmware.notified() == []
    assert firmware.call(board.input_ex, "UnregisterKeyNotify", handle) == Status.SUCCESS
    assert firmware.call(board.input_ex, "UnregisterKeyNotify", handle) == Status.INVALID_PARAMETER
    assert firmware.clock.next_deadline() is None
    assert firmware.call(board.input, "ReadKeyStroke", firmware.room()) == Status.SUCCESS


def test_registering_wants_all_its_pointers(board: Board) -> None:
    firmware = board.firmware
    data, handle = firmware.room(12), firmware.room()
    for arguments in ((0, 1, handle), (data, 0, handle), (data, 1, 0), (1 << 60, 1, handle)):
        assert firmware.call(board.input_ex, "RegisterKeyNotify", *arguments) == Status.INVALID_PARAMETER


def test_a_guest_that_closes_the_handle_as_an_event(board: Board) -> None:
    handle = register(board, "x", 0, 0x1000)
    board.firmware.events.close(handle)
    board.source.data += b"x"
    assert board.firmware.call(board.input, "ReadKeyStroke", board.firmware.room()) == Status.SUCCESS
    assert board.firmware.notified() == []
