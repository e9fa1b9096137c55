"""Recognises a guest that only waits, so that the host can sleep.

TamaGo at its prompt never halts: it reads the TSC in its scheduler and looks at the UART or ReadKeyStroke every 10 ms.
Nothing else that the outside could notice happens meanwhile. Such a run of polls, one shortly after the other, is idling;
any other trap, or a long computation between two polls, is not.
"""

from collections.abc import Callable
from time import perf_counter_ns

NEAR = 60_000
"""Nanoseconds: two polls further apart than this had a computation between them."""

RUN = 48
"""Polls in a row that make an idle guest."""

SHORT, LONG = 1_000_000, 3_000_000
"""Nanoseconds of one sleep, how late a poll may see its time come: at first, and of a guest that has idled for a while."""

WHILE = 100
"""So many sleeps in a row."""


class IdleDetector:
    """Counts polls; `sleep(ns)` is called once the guest idles, and returns early when there is input."""

    __slots__ = ("_inputs", "_last", "_now", "_polls", "_sleep", "_sleeps", "slept")

    def __init__(self, sleep: Callable[[int], None], now: Callable[[], int] = perf_counter_ns) -> None:
        """`now` is in nanoseconds: the host's time, or the machine's where that is virtual."""
        self._sleep = sleep
        self._now = now
        self._polls = 0
        self._inputs = 0
        self._sleeps = 0
        self._last = 0
        self.slept = 0

    def effect(self) -> None:
        """The guest did something that matters."""
        self._polls = self._inputs = self._sleeps = 0

    def input_poll(self) -> None:
        """The guest looked for input, and there was none."""
        self._inputs += 1
        self.time_poll()

    def time_poll(self) -> None:
        """The guest read a clock."""
        now = self._now()
        if now - self._last > NEAR:
            self._polls = self._sleeps = 0
        self._polls += 1
        if self._polls >= RUN and self._inputs > 1:
            self._sleep(SHORT if self._sleeps < WHILE else LONG)
            self._sleeps += 1
            self.slept += 1
            now = self._now()
        self._last = now
