"""Bytes of a terminal or pipe to EFI keys: UTF-8, VT escape sequences, control characters (UEFI 2.10, 12.2, 12.3)."""

from collections.abc import Callable
from typing import Protocol

# EFI scan codes (12.1.2, table 12-2).
SCAN_UP = 0x01
SCAN_DOWN = 0x02
SCAN_RIGHT = 0x03
SCAN_LEFT = 0x04
SCAN_HOME = 0x05
SCAN_END = 0x06
SCAN_INSERT = 0x07
SCAN_DELETE = 0x08
SCAN_PAGE_UP = 0x09
SCAN_PAGE_DOWN = 0x0A
SCAN_F1 = 0x0B
SCAN_F11 = 0x15
SCAN_ESC = 0x17

# EFI_KEY_STATE (12.2.3): the valid bit, then the keys held.
SHIFT_STATE_VALID = 0x80000000
RIGHT_SHIFT = 0x01
LEFT_SHIFT = 0x02
LEFT_CONTROL = 0x08
LEFT_ALT = 0x20
TOGGLE_STATE_VALID = 0x80
KEY_STATE_EXPOSED = 0x40
TOGGLES = 0x07

ESCAPE_WAIT_NS = 30_000_000
"""How long a lone ESC waits for the rest of its sequence: enough for a slow line, too short to notice."""

_MAX_SEQUENCE = 16

_FINAL_KEYS = {
    "A": SCAN_UP, "B": SCAN_DOWN, "C": SCAN_RIGHT, "D": SCAN_LEFT, "H": SCAN_HOME, "F": SCAN_END,
    "P": SCAN_F1, "Q": SCAN_F1 + 1, "R": SCAN_F1 + 2, "S": SCAN_F1 + 3,
}  # fmt: skip
# VT220 and xterm "CSI number ~".
_NUMBERED_KEYS = {
    1: SCAN_HOME, 2: SCAN_INSERT, 3: SCAN_DELETE, 4: SCAN_END, 5: SCAN_PAGE_UP, 6: SCAN_PAGE_DOWN, 7: SCAN_HOME,
    8: SCAN_END, 11: 0x0B, 12: 0x0C, 13: 0x0D, 14: 0x0E, 15: 0x0F, 17: 0x10, 18: 0x11, 19: 0x12, 20: 0x13, 21: 0x14,
    23: 0x15, 24: 0x16,
}  # fmt: skip
# The Linux console's F1 to F5, "CSI [ letter".
_LINUX_KEYS = {"A": 0x0B, "B": 0x0C, "C": 0x0D, "D": 0x0E, "E": 0x0F}
# PC-ANSI and VT100+ keys of EFI terminals, "ESC digit" (12.1.3, table 12-3): F1 to F12, then the block of six.
_ESCAPED_KEYS = {
    **{str(number): SCAN_F1 + number - 1 for number in range(1, 10)}, "0": 0x14, "!": 0x15, "@": 0x16,
    "h": SCAN_HOME, "k": SCAN_END, "+": SCAN_INSERT, "-": SCAN_DELETE, "?": SCAN_PAGE_UP, "/": SCAN_PAGE_DOWN,
}  # fmt: skip


class InputSource(Protocol):
    """Where typed bytes wait: one queue, shared with the serial port."""

    def read_byte(self) -> int | None:
        """Take the next byte, None when there is none."""
        ...

    def pending(self) -> bool:
        """Whether read_byte() would give one."""
        ...


class Key:
    """EFI_INPUT_KEY with the shift state of its EFI_KEY_STATE. A control character is one, with LEFT_CONTROL."""

    __slots__ = ("scan_code", "shift_state", "unicode_char")

    def __init__(self, scan_code: int, unicode_char: int, shift_state: int = SHIFT_STATE_VALID) -> None:
        self.scan_code = scan_code
        self.unicode_char = unicode_char
        self.shift_state = shift_state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[int, int, int]:
        return self.scan_code, self.unicode_char, self.shift_state

    def __repr__(self) -> str:
        return f"Key(scan_code={self.scan_code:#x}, unicode_char={self.unicode_char:#x}, shift={self.shift_state:#x})"


class Keyboard:
    """Turns the bytes of an InputSource into keys, on demand: what is not asked for stays in the queue.

    `now` gives nanoseconds; it decides when a lone ESC is the ESC key. Each of `listeners` is called once with each
    key, as soon as it is known. `toggle_state` is what SetState (12.2.4) asked for; a serial line has no lamps.
    """

    __slots__ = ("_buffer", "_escape_since", "_keys", "_now", "_source", "listeners", "toggle_state")

    def __init__(self, source: InputSource, now: Callable[[], int]) -> None:
        self._source = source
        self._now = now
        self._buffer = bytearray()
        self._escape_since: int | None = None
        self._keys: list[Key] = []
        self.listeners: list[Callable[[Key], None]] = []
        self.toggle_state = TOGGLE_STATE_VALID

    def read(self) -> Key | None:
        """The next key, or None. An unfinished sequence stays for the next call."""
        if self._keys:
            return self._keys.pop(0)
        if not self._buffer and not self._source.pending():
            return None
        while not self._keys and self._step():
            pass
        return self._keys.pop(0) if self._keys else None

    def ready(self) -> bool:
        """Whether read() would give a key."""
        if self._keys:
            return True
        key = self.read()
        if key is None:
            return False
        self._keys.insert(0, key)
        return True

    def pending_deadline(self) -> int | None:
        """When a waiting lone ESC becomes a key, in the nanoseconds of `now`; None when none waits."""
        return None if self._escape_since is None else self._escape_since + ESCAPE_WAIT_NS

    def save(self) -> dict[str, bytes]:
        """The bytes taken from the source but not yet made keys, and finished keys, as plain data."""
        keys = b"".join(
            key.scan_code.to_bytes(2, "little")
            + key.unicode_char.to_bytes(2, "little")
            + key.shift_state.to_bytes(4, "little")
            for key in self._keys
        )
        return {"buffer": bytes(self._buffer), "keys": keys}

    def load(self, state: dict[str, bytes]) -> None:
        """Take over a saved state; a waiting ESC starts to wait anew."""
        raw = state["keys"]
        self._keys = [
            Key(*(int.from_bytes(raw[at + first : at + last], "little") for first, last in ((0, 2), (2, 4), (4, 8))))
            for at in range(0, len(raw), 8)
        ]
        self._buffer = bytearray(state["buffer"])
        self._escape_since = self._now() if self._buffer[:1] == b"\x1b" else None

    def _step(self) -> bool:
        """Take one byte and look whether the buffer is a key now; False when there is nothing more to do."""
        byte = self._source.read_byte()
        if byte is None:
            if self._escape_since is not None and self._now() - self._escape_since >= ESCAPE_WAIT_NS:
                self._give_up_escape()
                return True
            return False
        if not self._buffer and byte != 0x1B:
            if byte < 0x80:
                self._control_or_ascii(byte, 0)
            else:
                self._buffer.append(byte)
                self._utf8()
            return True
        self._buffer.append(byte)
        if self._buffer[0] == 0x1B:
            self._escape()
        else:
            self._utf8()
        return True

    def _push(self, scan_code: int, unicode_char: int, shift: int = 0) -> None:
        key = Key(scan_code, unicode_char, SHIFT_STATE_VALID | shift)
        self._keys.append(key)
        for listener in self.listeners:
            listener(key)

    def _control_or_ascii(self, byte: int, shift: int) -> None:
        # Scan code 0 with character 0 would be no key at all.
        if byte == 0:
            return
        if byte == 0x0A:
            byte = 0x0D
        elif byte == 0x7F:
            byte = 0x08
        # CR, BS, TAB are keys of their own; the other control characters are a letter with Ctrl.
        if byte < 0x20 and byte not in (0x08, 0x09, 0x0D):
            shift |= LEFT_CONTROL
        self._push(0, byte, shift)

    def _utf8(self) -> None:
        first = self._buffer[0]
        size = 2 if 0xC2 <= first < 0xE0 else 3 if first & 0xF0 == 0xE0 else 4 if 0xF0 <= first < 0xF5 else 1
        if len(self._buffer) > 1 and self._buffer[-1] & 0xC0 != 0x80:
            last = self._buffer[-1]
            self._buffer.clear()
            self._push(0, 0xFFFD)
            if last < 0x80 and last != 0x1B:
                self._control_or_ascii(last, 0)
            else:
                self._restart(last)
            return
        if len(self._buffer) < size:
            return
        text = self._buffer.decode("utf-8", "replace")
        self._buffer.clear()
        for character in text:
            # CHAR16 holds no more; UEFI input has no surrogate pairs.
            self._push(0, ord(character) if ord(character) <= 0xFFFF else 0xFFFD)

    def _restart(self, byte: int) -> None:
        self._buffer.append(byte)
        self._escape_since = self._now() if byte == 0x1B else None

    def _escape(self) -> None:
        """The buffer starts with ESC: is it a whole sequence?"""
        buffer = self._buffer
        if len(buffer) == 1:
            self._escape_since = self._now()
            return
        second = chr(buffer[1])
        if len(buffer) == 2:
            if second in "[O":
                return
            self._escaped(buffer[1])
            return
        last = chr(buffer[-1])
        if len(buffer) == 3 and second == "[" and last == "[":
            return
        if buffer[-1] == 0x1B or buffer[-1] < 0x20 or len(buffer) > _MAX_SEQUENCE:
            self._finish()
            if buffer[-1:] != b"\x1b" and last < " ":
                self._control_or_ascii(ord(last), 0)
            elif last == "\x1b":
                self._restart(0x1B)
            return
        if second == "O" or "@" <= last <= "~":
            self._sequence(buffer[2:-1].decode("latin-1"), last)
            self._finish()

    def _finish(self) -> None:
        self._buffer = bytearray()
        self._escape_since = None

    def _escaped(self, byte: int) -> None:
        """ESC and one more byte: an EFI terminal's key, a second ESC, or a letter with Alt."""
        self._finish()
        if byte == 0x1B:
            self._push(SCAN_ESC, 0)
            self._restart(0x1B)
        elif chr(byte) in _ESCAPED_KEYS:
            self._push(_ESCAPED_KEYS[chr(byte)], 0)
        elif byte < 0x80:
            self._control_or_ascii(byte, LEFT_ALT)
        else:
            self._push(SCAN_ESC, 0)
            self._restart(byte)

    def _sequence(self, parameters: str, final: str) -> None:
        numbers = [int(part) if part.isdigit() and len(part) < 4 else 0 for part in parameters.split(";")]
        shift = _modifiers(numbers[1]) if len(numbers) > 1 else 0
        if parameters == "[":
            scan_code = _LINUX_KEYS.get(final)
        elif final == "~":
            scan_code = _NUMBERED_KEYS.get(numbers[0])
        elif final == "Z":
            self._push(0, 0x09, LEFT_SHIFT)
            return
        elif final == "M" and not parameters:
            self._push(0, 0x0D)
            return
        else:
            scan_code = _FINAL_KEYS.get(final)
        # A sequence that no EFI key stands for is dropped whole.
        if scan_code is not None:
            self._push(scan_code, 0, shift)

    def _give_up_escape(self) -> None:
        """No more came: the ESC was a key, and what followed it were keys too."""
        rest = bytes(self._buffer[1:])
        self._finish()
        self._push(SCAN_ESC, 0)
        for byte in rest:
            self._control_or_ascii(byte & 0x7F, 0)


def _modifiers(number: int) -> int:
    """xterm's modifier parameter (1 + bits shift, alt, control) as EFI shift state."""
    bits = max(number - 1, 0)
    return LEFT_SHIFT * (bits & 1) | LEFT_ALT * (bits >> 1 & 1) | LEFT_CONTROL * (bits >> 2 & 1)
