"""The console back end of the firmware: one screen and one keyboard."""

from collections.abc import Callable
from typing import Any

from uefi.console.keyboard import InputSource, Keyboard
from uefi.console.text_screen import Sink, TextScreen


class Console:
    """What ConIn, ConInEx, ConOut and StdErr share."""

    __slots__ = ("keyboard", "screen")

    def __init__(
        self,
        sink: Sink,
        source: InputSource,
        now: Callable[[], int],
        *,
        ansi: bool = False,
        terminal: tuple[int, int] | None = None,
    ) -> None:
        """`sink` takes output bytes, `source` gives typed bytes, `now` the clock's nanoseconds.

        `ansi` is True where a terminal understands escape sequences, `terminal` its (columns, rows).
        """
        self.screen = TextScreen(sink, ansi=ansi, terminal=terminal)
        self.keyboard = Keyboard(source, now)

    def close(self) -> None:
        """Leave the terminal with its own colours and a visible cursor."""
        self.screen.close()

    def save(self) -> dict[str, Any]:
        """Both states as plain data."""
        return {"screen": self.screen.save(), "keyboard": self.keyboard.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over saved states."""
        self.screen.load(state["screen"])
        self.keyboard.load(state["keyboard"])
