"""What a person sees while a deployment goes on: lines on standard error, and a bar (a line now and then without a terminal)."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

_QUIET_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Bar(Protocol):
    """A running transfer. Any thread may call it."""

    def advance(self, count: int) -> None:
        """So many bytes more are done."""


class Report:
    """Where a deployment tells what it does: `output` is standard error. Quiet with `quiet`, a bar on a terminal."""

    def __init__(self, output: IO[str] | None = None, *, quiet: bool = False) -> None:
        self.output = output or sys.stderr
        self.quiet = quiet

    def say(self, line: str) -> None:
        """One line."""
        if not self.quiet:
            try:
                self.output.write(line + "\n")
                self.output.flush()
            except (OSError, ValueError):
                self.quiet = True  # nobody listens

    @contextmanager
    def transfer(self, title: str, total: int) -> Iterator[Bar]:
        """Show a transfer of `total` bytes: bytes, rate, time left."""
        if self.quiet:
            yield _Silent()
        elif self.output.isatty():
            yield from self._bar(title, total)
        else:
            lines = _Lines(self, title, total)
            yield lines
            lines.end()

    def _bar(self, title: str, total: int) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(file=self.output, highlight=False)) as progress:
            task = progress.add_task(title, total=total)
            yield _RichBar(lambda count: progress.advance(task, count))


class _Silent:
    def advance(self, count: int) -> None:
        pass


class _RichBar:
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance


class _Lines:
    def __init__(self, report: Report, title: str, total: int) -> None:
        self._report, self._title, self._total = report, title, total
        self._done = 0
        self._begun = self._told = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._told < _QUIET_SECONDS:
                return
            self._told = now
            text = self._text(now)
        self._report.say(text)

    def _text(self, now: float) -> str:
        rate = self._done / max(now - self._begun, 1e-6)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        return f"{self._title}: {size_text(self._done)} of {size_text(self._total)}, {size_text(int(rate))}/s{left}"

    def end(self) -> None:
        self._report.say(self._text(time.monotonic()))


def size_text(count: int) -> str:
    """Bytes for people: 1536 gives "1.5 KiB"."""
    value, index = float(count), 0
    while value >= 1024 and index < len(_UNITS) - 1:
        value, index = value / 1024, index + 1
    return f"{count} B" if not index else f"{value:.1f} {_UNITS[index]}"
