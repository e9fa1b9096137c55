"""How far a matrix is: on a terminal a table of what runs, below the lines of what is finished; otherwise the lines alone."""

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cvmboot.matrix.report import details, headline, plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cvmboot.matrix.run import Matrix

_INTERVAL = 0.2
"""Seconds between two pictures of the table."""
_ROWS_FOR_OTHERS = 6
_STYLES = {"ok": "green", "FA": "bold red", "ER": "bold magenta"}
Result = dict[str, Any]


class Lines:
    """Plain lines, as soon as a case is finished."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, result: Result) -> None:
        """Tell of a finished case."""
        lines = [headline(result), *(f"       {line}" for line in details(result))]
        self._write("".join(f"{line}\n" for line in lines))

    def progress(self, matrix: "Matrix") -> None:
        """Nothing to see here."""


class JsonLines(Lines):
    """For machines: each result as an object on a line."""

    def show(self, result: Result) -> None:
        self._write(json.dumps(result, separators=(",", ":")) + "\n")


class Table(Lines):
    """The same with a live table below, on standard output, which is a terminal. Who prints otherwise meanwhile spoils it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(sys.stdout.write)
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> "Table":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update("")
        self._live.stop()

    def show(self, result: Result) -> None:
        from rich.text import Text

        line = headline(result)
        text = Text.assemble((line[:6], _STYLES[line[:2]]), line[6:])
        for detail in details(result):
            text.append(f"\n       {detail}", style={"-": "red", "+": "green", "|": "dim"}.get(detail[:1]))
        self._console.print(text, soft_wrap=True)

    def progress(self, matrix: "Matrix") -> None:
        """Draw, unless it was drawn a moment ago."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._live.update(self._picture(matrix, now), refresh=True)

    def _picture(self, matrix: "Matrix", now: float) -> "RenderableType":
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(ratio=4, no_wrap=True, overflow="ellipsis")
        rows = max(self._console.size.height - _ROWS_FOR_OTHERS, 1)
        running = list(matrix.running.items())
        for name, (since, what) in running[:rows]:
            grid.add_row(Text(plain_text(name)), f"{now - since:.1f} s", Text(plain_text(what).replace("\n", " ")))
        tally = matrix.tally
        bad = tally.total() - tally[0]
        more = f", {len(running) - rows} more running" if len(running) > rows else ""
        bottom = Text.assemble(
            (f"{tally.total()} of {len(matrix.cases)}: {tally[0]} as expected", "bold"),
            (f", {bad} not" if bad else "", "bold red"),
            f"{more}, {now - self._began:.0f} s",
        )
        return Group(grid, bottom)
