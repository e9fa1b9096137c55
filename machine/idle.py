"""Recognises a guest that only waits, so that the host can sleep.

TamaGo at its prompt never halts: it reads the TSC in its scheduler and looks at the UART or ReadKeyStroke every 10 ms.
Nothing else that the outside could notice happens meanwhile. Such a run of polls, one shortly after the other, is idling;
any other trap, or a long computation between two polls, is not.

A driver that polls its network device's rings, as TamaGo's for gVNIC does, looks at nothing but RAM and the TSC. Where the
device knows that it is polled, a much longer run of TSC polls is idling, too. Each frame, either way, ends it.
"""

from collections.abc import Callable
from time import perf_counter_ns

from machine.callbacks import never

NEAR = 60_000
"""Nanoseconds: two polls further apart than this had a computation between them."""

RUN = 48
"""Polls in a row that make an idle guest."""

RUN_OF_DRIVER = 2000
"""Polls in a row of a guest whose network driver takes no interrupts: as long as others take for two looks at their input."""

SHORT, LONG = 1_000_000, 3_000_000
"""Nanoseconds of one sleep, how late a poll may see its time come: at first, and of a guest that has idled for a while."""

WHILE = 100
"""So many sleeps in a row."""


class IdleDetector:
    """Counts polls; `sleep(ns)` is called once the guest idles, and returns early when there is input.

    Where several CPUs take turns, "the guest" is the one whose turn it is.
    """

    __slots__ = (
        *("_cpu", "_driver_polls", "_inputs", "_last", "_now", "_others", "_polls", "_sleep", "_sleeps"),
        *("polled", "slept", "spun"),
    )

    def __init__(self, sleep: Callable[[int], None], now: Callable[[], int] = perf_counter_ns) -> None:
        """`now` is in nanoseconds: the host's time, or the machine's where that is virtual."""
        self._sleep = sleep
        self._now = now
        self._cpu = 0
        self._others: dict[int, tuple[int, int, int, int]] = {}
        self._polls = 0
        self._driver_polls = 0
        self._inputs = 0
        self._sleeps = 0
        self._last = 0
        self.slept = 0
        self.polled: Callable[[], bool] = never
        """Whether the guest's driver of a network device can only notice frames by looking for them."""
        self.spun: Callable[[bool], None] | None = None
        """Where there are several CPUs: this one reads the clock over and over. True: it has for long, with no effect."""

    def switch(self, cpu: int) -> None:
        """From now on `cpu` polls. Each CPU has its own counts, and no time passes for it while others run."""
        self._others[self._cpu] = (self._polls, self._driver_polls, self._inputs, self._sleeps)
        self._cpu = cpu
        self._polls, self._driver_polls, self._inputs, self._sleeps = self._others.get(cpu, (0, 0, 0, 0))
        self._last = self._now()

    def effect(self) -> None:
        """The guest did something that matters."""
        self._polls = self._driver_polls = self._inputs = self._sleeps = 0

    def input_poll(self) -> None:
        """The guest looked for input, and there was none."""
        self._inputs += 1
        self.time_poll()

    def time_poll(self) -> None:
        """The guest read a clock."""
        now = self._now()
        if now - self._last > NEAR:
            # A busy host interrupts a guest, too: that costs a driver's long run a part of it only.
            self._driver_polls = max(self._driver_polls - RUN_OF_DRIVER // 32, 0)
            self._polls = self._sleeps = 0
        self._polls += 1
        self._driver_polls = min(self._driver_polls + 1, RUN_OF_DRIVER)
        driver = self._driver_polls >= RUN_OF_DRIVER and self.polled()
        if driver or (self._polls >= RUN and self._inputs > 1):
            self._sleep(LONG if driver or self._sleeps >= WHILE else SHORT)
            self._sleeps += 1
            self.slept += 1
            now = self._now()
        elif self.spun is not None and self._polls >= RUN:
            self.spun(self._driver_polls >= RUN_OF_DRIVER)
        self._last = now
