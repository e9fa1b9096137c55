"""The alarm: a thread that brings the engine out of guest code when a timer is due, or when a kick may have been lost."""

import sys
import threading
from collections.abc import Callable
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
        earlier = self._deadline is None or deadline < self._deadline
        self._deadline = deadline
        if self._thread is None and not self._closed:
            if sys.is_finalizing():  # a machine that nobody closed: a thread would wait for its start for ever
                return
            self._thread = threading.Thread(target=self._run, name="cvmboot-alarm", daemon=True)
            self._thread.start()
        elif earlier:
            with self._condition:
                self._condition.notify()

    def _run(self) -> None:
        with self._condition:
            while not self._closed:
                deadline = self._deadline
                if deadline is None:
                    self._condition.wait()
                    continue
                left = deadline - monotonic()
                if left > 0:
                    self._condition.wait(left)
                    continue
                self._deadline = None
                if self._ring() and self._deadline is None:
                    self._deadline = monotonic() + _URGE

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        with self._condition:
            self._condition.notify()
