"""Watches how much processor time the engine's thread wants, to find the moment from which a guest computes for long."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_OFTEN, _SELDOM = 0.1, 1.0
"""Seconds between two looks: at a guest that computes, and at one that has been idle for a while."""
_BUSY = 0.7
"""The share of its time that a thread runs, or waits for a processor that others have, from which on its guest computes."""
_LONG = 750_000_000
"""Nanoseconds of processor time, in busy looks one after the other, that are a long computation: more than a boot takes."""


class LoadWatch:
    """A thread that calls `ask()` while the thread that called `begin` is busy, until `end`.

    With `busy_only` False it asks only when `again` has said so.
    """

    def __init__(self, ask: Callable[[], None], busy_only: bool) -> None:
        self._ask = ask
        self._busy_only = busy_only
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._watched: int | None = None
        self._at: float | None = None
        self._closed = False

    def begin(self) -> None:
        """Watch the calling thread. Cheap if it is watched already."""
        if self._watched is not None or self._closed or not self._busy_only:
            return
        with self._condition:
            self._watched = threading.get_native_id()
            self._start()
            self._condition.notify()

    def end(self) -> None:
        """Nobody is to be watched for now."""
        with self._condition:
            self._watched = None
            self._condition.notify()

    def again(self, seconds: float) -> None:
        """Ask once, in so many seconds."""
        with self._condition:
            self._at = time.monotonic() + seconds
            self._start()
            self._condition.notify()

    def _start(self) -> None:
        # A machine that nobody closed may run while the interpreter ends: a thread would wait for its start for ever.
        if self._thread is None and not self._closed and not sys.is_finalizing():
            self._thread = threading.Thread(target=self._run, name="cvmboot-load", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                if self._at is not None:
                    left = self._at - time.monotonic()
                    if left > 0:
                        self._condition.wait(left)
                    else:
                        self._at = None
                        self._ask()
                elif self._watched is None:
                    self._condition.wait()
                else:
                    self._watch()

    def _watch(self) -> None:
        interval, since = _OFTEN, 0
        watched = self._watched
        wall, before = time.monotonic_ns(), self._spent(watched)
        while self._watched == watched and not self._closed and before is not None:
            self._condition.wait(interval)
            now, spent = time.monotonic_ns(), self._spent(watched)
            if spent is None:
                before = None
            elif self._watched == watched and not self._closed:
                if sum(spent) - sum(before) >= _BUSY * (now - wall):
                    since, interval = since or before[0], _OFTEN
                    if spent[0] - since >= _LONG:
                        self._ask()
                else:
                    since, interval = 0, min(2 * interval, _SELDOM)
                wall, before = now, spent
        if before is None:  # the thread is gone, or the kernel does not tell
            self._watched, self._busy_only = None, False

    @staticmethod
    def _spent(thread: int | None) -> tuple[int, int] | None:
        """Nanoseconds for which a thread has run, and has waited for a processor (Linux, scheduler/sched-stats.rst)."""
        try:
            running, waiting, _ = Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()
        except (OSError, ValueError):
            return None
        return int(running), int(waiting)

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
