"""A progress bar for what usually takes no time: it appears on standard error once a second has passed."""

import time
from types import TracebackType
from typing import Any

QUIET_SECONDS = 1.0


class SlowBar:
    """Use as a context manager; `show(done, total)` draws. Without a thread of its own, so that who draws may fork."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begin = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def show(self, done: int, total: int) -> None:
        """Tell how much is done, in any unit."""
        if self._bar is None:
            if time.monotonic() - self._begin < QUIET_SECONDS:
                return
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._task = self._bar.add_task(self._title, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def __enter__(self) -> "SlowBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
