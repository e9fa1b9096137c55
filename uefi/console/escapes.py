"""Escape sequences that a guest prints: found, so that they take no column and can be kept out of plain text."""

_TEXT, _ESCAPE, _CSI, _STRING, _STRING_ESCAPE, _CHARSET = range(6)


class EscapeFilter:
    """Tells the characters of VT escape sequences (ECMA-48: ESC x, CSI, OSC and DCS strings) from printed ones.

    A sequence may be cut anywhere between two calls. A control character ends an unfinished one.
    """

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = _TEXT

    @property
    def inside(self) -> bool:
        """True while a sequence is unfinished."""
        return self._state != _TEXT

    def takes(self, character: str) -> bool:
        """Whether this next character belongs to a sequence."""
        state = self._state
        if state == _TEXT:
            if character != "\x1b":
                return False
            self._state = _ESCAPE
            return True
        if state in (_STRING, _STRING_ESCAPE):
            self._string(character)
            return True
        if character == "\x1b":
            self._state = _ESCAPE
            return True
        if character < " ":
            self._state = _TEXT
            return False
        self._advance(character)
        return True

    def _string(self, character: str) -> None:
        """OSC, DCS, APC, PM: up to BEL or ESC backslash, or a line's end where the guest forgot it."""
        if character in "\x07\r\n" or (self._state == _STRING_ESCAPE and character == "\\"):
            self._state = _TEXT
        else:
            self._state = _STRING_ESCAPE if character == "\x1b" else _STRING

    def _advance(self, character: str) -> None:
        if self._state == _ESCAPE:
            if character == "[":
                self._state = _CSI
            elif character in "]PX^_":
                self._state = _STRING
            elif character in " #%()*+-./":
                self._state = _CHARSET
            else:
                self._state = _TEXT
        elif self._state == _CHARSET or "@" <= character <= "~" or character > "~":
            self._state = _TEXT
