"""The alarm: a thread that brings the engine out of guest code when a timer is due, or when a kick may have been lost."""

import sys
import threading
from collections.abc import Callable
from math import inf
from time import monotonic

_URGE = 0.0005


class Alarm:
    """Calls `ring()` when the time set has come. While `ring` returns True it is called again every half millisecond.

    The thread starts with the first time set: most short runs never need it.
    """

    def __init__(self, ring: Callable[[], bool]) -> None:
        self._ring = ring
        self._condition = threading.Condition()
        self._deadline: float | None = None
        self._waits_until = (
            -inf
        )  # what the thread waits for; -inf while it is awake, and will look at the deadline itself
        self._thread: threading.Thread | None = None
        self._closed = False

    def set(self, nanoseconds: int | None) -> None:
        """Ring in so many nanoseconds, or not at all."""
        if nanoseconds is None:
            self._deadline = None
            return
        self._at(monotonic() + max(nanoseconds, 0) / 1e9)

    def urge(self) -> None:
        """Ring soon and until it helps."""
        self._at(monotonic() + _URGE)

    def _at(self, deadline: float) -> None:
        self._deadline = deadline
        if self._thread is None and not self._closed:
            if sys.is_finalizing():  # a machine that nobody closed: a thread would wait for its start for ever
                return
            self._thread = threading.Thread(target=self._run, name="cvmboot-alarm", daemon=True)
            self._thread.start()
        elif deadline < self._waits_until:
            # A later deadline needs no word: the thread wakes, finds it, and waits on. Each word costs a switch of threads.
            with self._condition:
                self._condition.notify()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                deadline = self._deadline
                left = None if deadline is None else deadline - monotonic()
                if left is None or left > 0:
                    self._waits_until = inf if deadline is None else deadline
                    if self._deadline == deadline:  # else it was set before `set` could see that somebody waits
                        self._condition.wait(left)
                    self._waits_until = -inf
                    continue
                self._deadline = None
                if self._ring() and self._deadline is None:
                    self._deadline = monotonic() + _URGE

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        with self._condition:
            self._condition.notify()
