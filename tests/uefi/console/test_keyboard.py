"""The keyboard: bytes of terminals to EFI keys, lone ESC by the clock, hostile bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi.console import keyboard as kb
from uefi.console.keyboard import Key, Keyboard


class Source:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def read_byte(self) -> int | None:
        return self.data.pop(0) if self.data else None

    def pending(self) -> bool:
        return bool(self.data)


class Clock:
    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time


def keys_of(data: bytes) -> list[Key]:
    clock = Clock()
    keyboard = Keyboard(Source(data), clock.now)
    found = []
    while key := keyboard.read():
        found.append(key)
    clock.time += kb.ESCAPE_WAIT_NS
    while key := keyboard.read():
        found.append(key)
    return found


def char(text: str, shift: int = 0) -> Key:
    return Key(0, ord(text), kb.SHIFT_STATE_VALID | shift)


def scan(code: int, shift: int = 0) -> Key:
    return Key(code, 0, kb.SHIFT_STATE_VALID | shift)


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"aZ ~", [char("a"), char("Z"), char(" "), char("~")]),
        (b"\n", [char("\r")]),
        (b"\r", [char("\r")]),
        (b"\x7f\x08\t", [char("\b"), char("\b"), char("\t")]),
        (b"\x03\x1a", [char("\x03", kb.LEFT_CONTROL), char("\x1a", kb.LEFT_CONTROL)]),
        (b"\x00a", [char("a")]),
        ("äß€".encode(), [char("ä"), char("ß"), char("€")]),
        ("\U0001f600x".encode(), [char("\ufffd"), char("x")]),
        (b"\xc3x", [char("\ufffd"), char("x")]),
        (b"\xe2\x82\xc3\xa4", [char("\ufffd"), char("ä")]),
        (b"\xff\x80\xc0a", [char("\ufffd"), char("\ufffd"), char("\ufffd"), char("a")]),
        (b"\x1b[A\x1b[B\x1b[C\x1b[D", [scan(1), scan(2), scan(3), scan(4)]),
        (b"\x1bOA\x1bOP\x1bOS", [scan(1), scan(0x0B), scan(0x0E)]),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~", [scan(5), scan(6), scan(5), scan(6)]),
        (b"\x1b[2~\x1b[3~\x1b[5~\x1b[6~", [scan(7), scan(8), scan(9), scan(0x0A)]),
        (b"\x1b[11~\x1b[15~\x1b[17~\x1b[21~", [scan(0x0B), scan(0x0F), scan(0x10), scan(0x14)]),
        (b"\x1b[23~\x1b[24~", [scan(0x15), scan(0x16)]),
        (b"\x1b[[A\x1b[[E", [scan(0x0B), scan(0x0F)]),
        (b"\x1b1\x1b0\x1b!\x1b@", [scan(0x0B), scan(0x14), scan(0x15), scan(0x16)]),
        (b"\x1b[1;5C", [scan(3, kb.LEFT_CONTROL)]),
        (b"\x1b[1;2A\x1b[3;3~", [scan(1, kb.LEFT_SHIFT), scan(8, kb.LEFT_ALT)]),
        (b"\x1b[Z", [char("\t", kb.LEFT_SHIFT)]),
        (b"\x1bx", [char("x", kb.LEFT_ALT)]),
        (b"\x1b", [scan(0x17)]),
        (b"\x1b\x1b", [scan(0x17), scan(0x17)]),
        (b"\x1b\x1b[A", [scan(0x17), scan(1)]),
        (b"\x1b[", [scan(0x17), char("[")]),
        (b"\x1b[99~x", [char("x")]),
        (b"\x1b[5\x1b[A", [scan(1)]),
        (b"\x1b[12\rb", [char("\r"), char("b")]),
        (b"\x1b[" + b"1" * 40 + b"~a", None),
    ],
)
def test_bytes_to_keys(data: bytes, keys: list[Key] | None) -> None:
    found = keys_of(data)
    if keys is None:
        assert found[-1] == char("a")
    else:
        assert found == keys


def test_every_function_key_has_its_own_scan_code() -> None:
    numbers = (11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24)
    assert [keys_of(b"\x1b[%d~" % number)[0].scan_code for number in numbers] == list(range(0x0B, 0x17))


def test_a_lone_escape_waits_for_the_clock() -> None:
    clock = Clock()
    source = Source(b"\x1b")
    keyboard = Keyboard(source, clock.now)
    assert keyboard.read() is None
    assert not keyboard.ready()
    assert keyboard.pending_deadline() == kb.ESCAPE_WAIT_NS
    clock.time = kb.ESCAPE_WAIT_NS
    assert keyboard.ready()
    assert keyboard.read() == scan(0x17)
    assert keyboard.pending_deadline() is None


def test_a_sequence_in_pieces_is_one_key() -> None:
    source = Source()
    keyboard = Keyboard(source, Clock().now)
    for byte in b"\x1b[1;5":
        source.data.append(byte)
        assert keyboard.read() is None
    source.data.append(ord("D"))
    assert keyboard.read() == scan(4, kb.LEFT_CONTROL)


def test_a_sequence_without_end_takes_no_memory() -> None:
    source = Source(b"\x1b[" + b"1" * 10000)
    keyboard = Keyboard(source, Clock().now)
    assert keyboard.read() == char("1")
    assert keyboard.save() == {"buffer": b"", "keys": b""}


def test_what_is_not_read_stays_in_the_queue() -> None:
    source = Source(b"abc")
    keyboard = Keyboard(source, Clock().now)
    assert keyboard.ready()
    assert keyboard.ready()
    assert bytes(source.data) == b"bc"
    assert keyboard.read() == char("a")
    assert bytes(source.data) == b"bc"


def test_listeners_hear_of_each_key_once() -> None:
    heard: list[Key] = []
    keyboard = Keyboard(Source(b"a\x03"), Clock().now)
    keyboard.listeners.append(heard.append)
    assert keyboard.ready()
    assert keyboard.ready()
    assert heard == [char("a")]
    keyboard.read()
    keyboard.read()
    assert heard == [char("a"), char("\x03", kb.LEFT_CONTROL)]


def test_saved_state_comes_back() -> None:
    source = Source(b"x\x1b[1;")
    keyboard = Keyboard(source, Clock().now)
    assert keyboard.ready()
    assert keyboard.read() == char("x")
    keyboard.ready()
    other_source = Source(b"5A")
    other = Keyboard(other_source, Clock().now)
    other.load(keyboard.save())
    assert other.read() == scan(1, kb.LEFT_CONTROL)
    waiting = Keyboard(Source("é".encode()), Clock().now)
    assert waiting.ready()
    other.load(waiting.save())
    assert other.read() == char("é")


@given(st.binary(max_size=200))
def test_any_bytes_become_keys_and_are_used_up(data: bytes) -> None:
    clock = Clock()
    source = Source(data)
    keyboard = Keyboard(source, clock.now)
    count = 0
    for _ in range(3):
        while key := keyboard.read():
            count += 1
            assert 0 <= key.unicode_char <= 0xFFFF
            assert key.scan_code or key.unicode_char
        clock.time += kb.ESCAPE_WAIT_NS
    assert not source.data
    assert count <= len(data) + 1
