"""The state of an EFI text console and what it sends to the terminal or pipe behind it (UEFI 2.10, 12.4)."""

from collections.abc import Callable
from typing import Any

from uefi.console.escapes import EscapeFilter

Sink = Callable[[bytes], object]

DEFAULT_ATTRIBUTE = 0x07
"""EFI_LIGHTGRAY on EFI_BACKGROUND_BLACK."""

# Mode 0 and 1 are fixed by 12.4.1; 100x31 is what an 800x600 screen holds, and firmware usually has it as mode 2.
STANDARD_MODES = ((80, 25), (80, 50), (100, 31))

# EFI colour numbers run black, blue, green, cyan, red, magenta, brown, light gray; ANSI ones swap red and blue.
_ANSI_COLOUR = (0, 4, 2, 6, 1, 5, 3, 7)

_TAB = 8
_FIRST_WIDE = "\u1100"
# EFI_WIDE and NARROW marks of HII text (UEFI 2.10, 33.2.6.2.2): they set the width of glyphs and print nothing.
_WIDTH_MARKS = "\ufff0\ufff1"


class TextScreen:
    """One text console: modes, cursor and attribute, kept whether or not there is a terminal.

    With `ansi`, escape sequences move and colour a real terminal. Without it only text leaves, and a cursor move that
    changes the line starts a new one, so that menus stay readable in a pipe. `sink` gets UTF-8 bytes at once.
    """

    __slots__ = (
        "_ansi",
        "_at_origin",
        "_escapes",
        "_shown_attribute",
        "_sink",
        "_terminal_rows",
        "_wide",
        "attribute",
        "column",
        "columns",
        "cursor_visible",
        "mode",
        "modes",
        "row",
        "rows",
    )

    def __init__(self, sink: Sink, *, ansi: bool = False, terminal: tuple[int, int] | None = None) -> None:
        """`terminal` is the real one's (columns, rows); it becomes a further mode, and the one in use."""
        self._sink = sink
        self._ansi = ansi
        self._escapes = EscapeFilter()
        self._shown_attribute = DEFAULT_ATTRIBUTE
        # True while row 0 of the mode is row 0 of the terminal, so that absolute positions are right.
        self._at_origin = False
        self._wide: Callable[[str], str] | None = None
        self._terminal_rows = terminal[1] if terminal else 0
        self.modes: list[tuple[int, int]] = list(STANDARD_MODES)
        self.mode = 0
        if terminal and terminal[0] >= 20 and terminal[1] >= 5:
            if terminal not in self.modes:
                self.modes.append(terminal)
            self.mode = self.modes.index(terminal)
        self.columns, self.rows = self.modes[self.mode]
        self.column = 0
        self.row = 0
        self.attribute = DEFAULT_ATTRIBUTE
        self.cursor_visible = True

    def __getstate__(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in self.__slots__}, "_wide": None}

    def adapt(self, *, ansi: bool) -> None:
        """Another terminal, or a pipe, is behind the sink now; modes stay as the guest knows them."""
        self._ansi = ansi
        self._at_origin = False

    def output(self, text: str) -> bool:
        """Print CHAR16 text as 12.4.3 says: CR, LF and BS move, the end of a line wraps, the last line scrolls.

        Escape sequences go through to a terminal and are dropped otherwise. Returns False when some character cannot
        be shown (EFI_WARN_UNKNOWN_GLYPH); a "?" stands for it.
        """
        if (
            len(text) == 1
            and " " <= text <= "~"
            and self.column < self.columns - 1
            and self.attribute == self._shown_attribute
            and not self._escapes.inside
        ):
            self.column += 1
            self._sink(text.encode())
            return True
        return self._print(text)

    def test(self, text: str) -> bool:
        """Whether output() could show every character (TestString, 12.4.4)."""
        return all(character >= " " or character in "\b\t\n\r\x07\x1b" for character in text)

    def set_mode(self, mode: int) -> bool:
        """Switch to a mode and clear; False when there is no such mode (12.4.6)."""
        if not 0 <= mode < len(self.modes):
            return False
        self.mode = mode
        self.columns, self.rows = self.modes[mode]
        self.clear()
        return True

    def set_attribute(self, attribute: int) -> bool:
        """Foreground in bits 0 to 3, background in bits 4 to 6; False for others (12.4.7)."""
        if not 0 <= attribute <= 0x7F:
            return False
        self.attribute = attribute
        return True

    def clear(self) -> None:
        """Fill the screen with the background; the cursor goes to 0, 0 (12.4.8)."""
        if self._ansi:
            self._sink(self._colour() + b"\x1b[2J\x1b[H")
            self._at_origin = True
        elif self.column:
            self._sink(b"\r\n")
        self.column = self.row = 0

    def set_cursor(self, column: int, row: int) -> bool:
        """Move the cursor; False outside the mode's columns and rows (12.4.9)."""
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            return False
        if column != self.column or row != self.row:
            self._sink(self._move_terminal(column, row) if self._ansi else self._move_plain(column, row))
            self.column, self.row = column, row
        return True

    def enable_cursor(self, visible: bool) -> None:
        """Show or hide the cursor (12.4.10)."""
        if visible != self.cursor_visible:
            self.cursor_visible = visible
            if self._ansi:
                self._sink(b"\x1b[?25h" if visible else b"\x1b[?25l")

    def reset(self) -> None:
        """Default attribute, visible cursor, cleared screen, in the mode in use (12.4.2)."""
        self.attribute = DEFAULT_ATTRIBUTE
        self.enable_cursor(True)
        self.clear()

    def close(self) -> None:
        """Leave the terminal as a shell wants it: default colours, visible cursor, a fresh line. The state stays."""
        if self._ansi:
            if self._at_origin and self.row < self.rows - 1:
                self._sink(self._move_terminal(0, self.rows - 1))
            tail = b"\r\n" if self.column or self._at_origin else b""
            tail += b"" if self._shown_attribute == DEFAULT_ATTRIBUTE else b"\x1b[0m"
            self._shown_attribute = DEFAULT_ATTRIBUTE
            self._sink(tail + (b"" if self.cursor_visible else b"\x1b[?25h"))

    def save(self) -> dict[str, int]:
        """The state as plain data."""
        return {
            "mode": self.mode,
            "attribute": self.attribute,
            "column": self.column,
            "row": self.row,
            "cursor_visible": int(self.cursor_visible),
        }

    def load(self, state: dict[str, int]) -> None:
        """Take over a saved state; the terminal is told nothing. A mode that this screen lacks becomes mode 0."""
        self.mode = state["mode"] if state["mode"] < len(self.modes) else 0
        self.columns, self.rows = self.modes[self.mode]
        self.attribute = state["attribute"] & 0x7F
        self.column = min(state["column"], self.columns - 1)
        self.row = min(state["row"], self.rows - 1)
        self.cursor_visible = bool(state["cursor_visible"])
        self._at_origin = False

    def _print(self, text: str) -> bool:
        known = True
        out: list[str] = []
        takes = self._escapes.takes
        for character in text:
            if (character == "\x1b" or self._escapes.inside) and takes(character):
                if self._ansi:
                    out.append(character)
            elif character >= " ":
                if character not in _WIDTH_MARKS:
                    self._advance(character, out)
            elif character in "\b\t\n\r":
                self._control(character, out)
            elif character == "\x07":
                if self._ansi:
                    out.append(character)
            else:
                known = False
                self._advance("?", out)
        if out:
            self._send("".join(out))
        return known

    def _send(self, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            # CHAR16 text may hold surrogate pairs, which UCS-2 counts as two characters, or halves of them.
            data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
        self._sink(self._colour() + data)

    def _width(self, character: str) -> int:
        if character < _FIRST_WIDE:
            return 1
        if self._wide is None:
            from unicodedata import east_asian_width

            self._wide = east_asian_width
        return 2 if self._wide(character) in "WF" else 1

    def _advance(self, character: str, out: list[str]) -> None:
        width = self._width(character)
        if self.column + width > self.columns:
            self._wrap(out)
        out.append(character)
        self.column += width
        if self.column >= self.columns:
            self._wrap(out)

    def _wrap(self, out: list[str]) -> None:
        """The end of a line acts as CR LF. A pipe has no width, so its line goes on."""
        self.column = 0
        self._line_down()
        if self._ansi:
            out.append("\r\n")

    def _line_down(self) -> None:
        if self.row < self.rows - 1:
            self.row += 1
        elif self._terminal_rows != self.rows:
            # The terminal's own last line lies elsewhere: it did not scroll, and the origins part.
            self._at_origin = False

    def _control(self, character: str, out: list[str]) -> None:
        if character == "\n":
            self._line_down()
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            if not self.column:
                return
            self.column -= 1
        else:
            self.column = min((self.column // _TAB + 1) * _TAB, self.columns - 1)
        out.append(character)

    def _colour(self) -> bytes:
        """The sequence that makes the terminal's colours those of `attribute`; nothing when they are."""
        attribute = self.attribute
        if attribute == self._shown_attribute:
            return b""
        self._shown_attribute = attribute
        if not self._ansi:
            return b""
        # The default is the user's own pair of colours, which may be dark on light.
        if attribute == DEFAULT_ATTRIBUTE:
            return b"\x1b[0m"
        foreground = _ANSI_COLOUR[attribute & 7] + (90 if attribute & 8 else 30)
        return b"\x1b[0;%d;%dm" % (foreground, 40 + _ANSI_COLOUR[attribute >> 4])

    def _move_terminal(self, column: int, row: int) -> bytes:
        if self._at_origin:
            return b"\x1b[%d;%dH" % (row + 1, column + 1)
        # Unlike CSI B, a line feed scrolls a terminal whose last line is reached.
        vertical = b"\x1b[%dA" % (self.row - row) if row < self.row else b"\n" * (row - self.row)
        horizontal = b"\r" + (b"\x1b[%dC" % column if column else b"")
        return vertical + horizontal

    def _move_plain(self, column: int, row: int) -> bytes:
        if row == self.row and column > self.column:
            return b" " * (column - self.column)
        return (b"\r\n" if self.column else b"") + b" " * column
