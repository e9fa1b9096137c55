"""The user's terminal while a machine has it: raw mode, and the keys that are not for the guest."""

import contextlib
import errno
import os
import termios
from typing import Any

ESCAPE = 0x01
"""Ctrl-A, as in QEMU."""
HELP = (
    b"\r\ncvmboot: Ctrl-A X       leave\r\n"
    b"         Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
    b"         Ctrl-A H       this help\r\n"
)

# Indices of what termios.tcgetattr gives.
_INPUT, _OUTPUT, _CONTROL, _LOCAL, _CHARACTERS = 0, 1, 2, 3, 6
_NO_BREAKS = termios.IGNBRK | termios.BRKINT | termios.PARMRK
_NO_CHANGES = termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
_NO_EDITING = termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG
_SANE = b"\x1b[0m\x1b[?25h"
"""The terminal's own colours, and a visible cursor: the guest may have left others."""


def is_gone(descriptor: int) -> bool:
    """Whether the descriptor was a terminal that has been closed at the other end; it no longer counts as one."""
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return False


class Terminal:
    """A terminal that is raw between `enter` and `restore`; both may be called again and again, from one thread.

    Raw is what QEMU's console means by it: every key goes to the guest, Ctrl-C too, while LF still starts a new line.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    @property
    def raw(self) -> bool:
        """Whether the terminal is ours now."""
        return self._saved is not None

    def _in_foreground(self) -> bool:
        """Whether this process may read and change the terminal without being stopped for it."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True  # not the terminal that controls us, so that nobody stops us for using it

    def enter(self) -> None:
        """Take the terminal, unless we run in the background or it is gone."""
        if self._saved is not None or not self._in_foreground():
            return
        try:
            saved = termios.tcgetattr(self._descriptor)
            raw = [*saved]
            raw[_CHARACTERS] = [*saved[_CHARACTERS]]
            raw[_INPUT] &= ~(_NO_BREAKS | _NO_CHANGES)
            raw[_OUTPUT] |= termios.OPOST | termios.ONLCR
            raw[_CONTROL] = raw[_CONTROL] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            raw[_LOCAL] &= ~_NO_EDITING
            raw[_CHARACTERS][termios.VMIN] = 1
            raw[_CHARACTERS][termios.VTIME] = 0
            termios.tcsetattr(self._descriptor, termios.TCSANOW, raw)
        except termios.error:
            return
        self._saved = saved

    def restore(self) -> None:
        """Give the terminal back as it was."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, saved)
        self._show(_SANE)

    def help(self) -> None:
        """Show the keys of our own."""
        self._show(HELP)

    def _show(self, text: bytes) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone, or open for reading only
            os.write(self._descriptor, text)

    def size(self) -> tuple[int, int] | None:
        """(columns, rows), None if the terminal does not say."""
        try:
            columns, rows = os.get_terminal_size(self._descriptor)
        except OSError:
            return None
        return (columns, rows) if columns and rows else None


class EscapeKeys:
    """Takes our own keys out of what is typed: `filter` gives the rest, and sets `leave` or calls `on_help`."""

    def __init__(self) -> None:
        self._escaped = False
        self.leave = False
        self.help_wanted = False

    def filter(self, typed: bytes) -> bytes:
        """The bytes that are for the guest. What follows a leave is dropped."""
        if not self._escaped and ESCAPE not in typed:
            return typed
        passed = bytearray()
        for key in typed:
            if not self._escaped:
                if key == ESCAPE:
                    self._escaped = True
                else:
                    passed.append(key)
                continue
            self._escaped = False
            if key in b"xX":
                self.leave = True
                break
            if key in b"hH?":
                self.help_wanted = True
            elif key == ESCAPE:
                passed.append(key)
        return bytes(passed)
