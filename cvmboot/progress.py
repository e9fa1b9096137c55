"""A progress bar on standard error, for what usually takes no time: it appears once a second has passed."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 1.0
_INTERVAL = 0.1


class SlowBar:
    """Use as a context manager; `show(done, total)` draws. Without a thread of its own, so that who draws may fork."""

    def __init__(self, title: str, *, of_bytes: bool = False) -> None:
        self._title = title
        self._of_bytes = of_bytes
        self._next = time.monotonic() + _PATIENCE
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def show(self, done: int, total: int) -> None:
        """Tell how much is done, in any unit, or in bytes."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        if self._bar is None:
            self._bar = self._made()
            self._task = self._bar.add_task(self._title, total=total)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def _made(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("{task.description}"), BarColumn(), *([DownloadColumn(True)] if self._of_bytes else [])]
        console = Console(stderr=True)
        return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> "SlowBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function of (bytes done, bytes in all) for the block; None where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with SlowBar(title, of_bytes=True) as bar:
        yield bar.show
