"""A progress bar on standard error, for what takes longer than a second and only on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 1.0
_INTERVAL = 0.1


class _Bar:
    """Appears when a second has passed and the end is not reached."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = time.monotonic()
        self._next = self._begin + _PATIENCE
        self._shown: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._shown.add_task(self._title, total=total)
            self._shown.start()
        assert self._task is not None
        self._shown.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Takes the bar away."""
        if self._shown is not None:
            self._shown.stop()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (bytes done, bytes in all) for the block; None where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(title)
    try:
        yield bar
    finally:
        bar.close()
