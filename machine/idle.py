"""Recognises a guest that only waits, so that the host can sleep.

TamaGo at its prompt never halts: its scheduler reads the TSC, and between that it looks at the UART or asks ReadKeyStroke.
Nothing else that the outside could notice happens meanwhile. Such a run of polls, one shortly after the other, is idling;
any other trap, or a long computation between two polls, is not.

A driver that polls its network device's rings, as TamaGo's for gVNIC does, looks at nothing but RAM and the TSC. Where the
device knows that it is polled, a much longer run of TSC polls is idling, too. Each frame, either way, ends it.

How long to sleep? Input, frames, interrupts and the firmware's timers end a sleep at once. What a poller cannot be woken for is a
moment that it has reckoned itself and waits for by reading the TSC: time.Sleep of a TamaGo program. So a sleep is 1 ms at
first, and never longer than a part of the time that has passed since the guest last did something: what it has begun to
wait for then comes late by that part at most. Something that recurs without anything being seen of it, a goroutine with a
ticker, is recognised by its reading the clock more often between two looks for input than the guest does else: sleeps are
short again then. A guest that does not look for input has no such mark, and its sleeps stay shorter.
"""

from collections.abc import Callable, Iterable
from time import perf_counter_ns, thread_time_ns

from machine.callbacks import never

NEAR = 60_000
"""Nanoseconds: two polls further apart than this had a computation between them ..."""

NEAR_AFTER_SLEEP = 600_000
"""... unless the first one slept, and the guest has had no more of the processor than this: its caches were cold."""

NEAR_ON_KVM = 400_000
"""The same on an engine whose traps cost up to a hundred microseconds each."""

RUN = 48
"""Polls in a row that make an idle guest."""

RUN_OF_DRIVER = 2000
"""Polls in a row of a guest whose network driver takes no interrupts: as long as others take for two looks at their input."""

LOOKS = 256
"""Polls of a CPU that others may have work for, because something has come, before it is idle again."""

SHORT = 1_000_000
"""Nanoseconds of a sleep at first: how late a poll may see its time come that is near."""

PART = 64
"""Sleeps are at most this part of the time for which the guest has idled, but not shorter than SHORT ..."""

LONG, LONG_OF_DRIVER = 250_000_000, 10_000_000
"""... and never longer than this, where the guest looks for input, and where only its driver is known to poll."""


class _Polls:
    """What one CPU has polled since it last had an effect."""

    __slots__ = ("clocks", "driver", "inputs", "last", "most_clocks", "polls", "since", "woke")

    def __init__(self) -> None:
        self.last = 0
        # What the processor had spent on it when it woke, if it has done nothing since.
        self.woke: int | None = None
        self.forget()

    def forget(self) -> None:
        """The guest did something."""
        self.polls = self.driver = self.inputs = 0
        # Reads of the clock between two looks for input: now, and most of them so far.
        self.clocks = self.most_clocks = 0
        # When it began to sleep, or last seemed to do something.
        self.since: int | None = None


class IdleDetector:
    """Counts polls; `sleep(ns)` is called once the guest idles, and returns early when there is input.

    Where several CPUs take turns, "the guest" is the one whose turn it is.
    """

    __slots__ = (
        *("_beside", "_cpus", "_now", "_polls", "_sleep", "_spent"),
        *("acted", "looked", "near", "polled", "slept", "spun"),
    )

    def __init__(
        self,
        sleep: Callable[[int], int | None],
        now: Callable[[], int] = perf_counter_ns,
        spent: Callable[[], int] = thread_time_ns,
    ) -> None:
        """`sleep` may give how long it meant to, where other CPUs allowed less.

        `now` is in nanoseconds: the host's time, or the machine's where that is virtual; `spent` the processor's."""
        self._sleep = sleep
        self._now = now
        self._spent = spent
        self._beside = False
        self._polls = _Polls()
        self._cpus = {0: self._polls}
        self.slept = 0
        self.acted = self.looked = False
        """What the CPU whose turn it is has done since it began: something that matters; looked for input or at a clock."""
        self.near = NEAR
        self.polled: Callable[[], bool] = never
        """Whether the guest's driver of a network device can only notice frames by looking for them."""
        self.spun: Callable[[bool], None] | None = None
        """Where there are several CPUs: this one reads the clock over and over. True: it has for long, with no effect."""

    def switch(self, cpu: int) -> None:
        """From now on `cpu` polls. Each CPU has its own counts, and no time passes for it while others run."""
        self._polls = self._cpus.setdefault(cpu, _Polls())
        self.acted = self.looked = False
        self._polls.last = self._now()

    def resume(self, cpu: int, spent: Callable[[], int]) -> None:
        """From now on `cpu` polls, for which time has passed meanwhile: it ran beside others. `spent` is its own processor's."""
        self._polls = self._cpus.setdefault(cpu, _Polls())
        self._spent = spent
        self._beside = True

    def alone(self, cpu: int) -> None:
        """From now on `cpu` polls, on this thread."""
        self.switch(cpu)
        self._spent = thread_time_ns
        self._beside = False
        for polls in self._cpus.values():
            polls.woke = None

    def rested(self) -> None:
        """The CPU that polls now was left out for a while, because of its polls."""
        self._polls.last = self._now()
        self._polls.woke = self._spent()

    def disturbed(self, cpu: int) -> None:
        """Something has come while `cpu` was left out that it may have to act upon."""
        polls = self._cpus.get(cpu)
        if polls is not None:
            polls.since = None
            polls.polls = 0
            polls.driver = min(polls.driver, RUN_OF_DRIVER - LOOKS)

    def patience(self, cpus: Iterable[int]) -> int:
        """How long (ns) a sleep may be for the sake of these CPUs, which idle too."""
        now = self._now()
        return min((self._patience(self._cpus[cpu], now) for cpu in cpus if cpu in self._cpus), default=SHORT)

    def _patience(self, polls: _Polls, now: int) -> int:
        """How long a sleep may be for a CPU that has polled so. With several, who looks for input may change at any time."""
        looks = polls.polls >= RUN and polls.inputs > 1
        longest = LONG if looks and self.spun is None else LONG_OF_DRIVER
        return SHORT if polls.since is None else min(max((now - polls.since) // PART, SHORT), longest)

    def effect(self) -> None:
        """The guest did something that matters."""
        self.acted = True
        self._polls.forget()

    def input_poll(self) -> None:
        """The guest looked for input, and there was none."""
        polls = self._polls
        polls.inputs += 1
        if polls.since is None and polls.clocks > polls.most_clocks:
            polls.most_clocks = polls.clocks
        polls.clocks = 0
        self._poll(polls)

    def time_poll(self) -> None:
        """The guest read a clock."""
        polls = self._polls
        polls.clocks += 1
        self._poll(polls)

    def _poll(self, polls: _Polls) -> None:
        now = self._now()
        self.looked = True
        if now - polls.last > self.near and not self._host_was_busy(polls):
            # A busy host interrupts a guest, too: that costs a driver's long run a part of it only.
            polls.driver = max(polls.driver - RUN_OF_DRIVER // 32, 0)
            polls.polls = 0
            polls.since = None
        polls.woke = None
        polls.polls += 1
        polls.driver = min(polls.driver + 1, RUN_OF_DRIVER)
        looks = polls.polls >= RUN and polls.inputs > 1
        if looks or (polls.driver >= RUN_OF_DRIVER and self.polled()):
            if polls.since is None or (looks and polls.clocks > polls.most_clocks and self.spun is None):
                polls.since = now
            time = self._patience(polls, now)
            asked = self._sleep(time)
            if asked is not None:
                time = asked
            self.slept += 1
            polls.woke = self._spent()
            began, now = now, self._now()
            if now - began < time - time // 8:
                polls.since = None  # it was woken: something came that it may have to act upon
        elif self.spun is not None and polls.polls >= RUN:
            long = polls.driver >= RUN_OF_DRIVER
            if long and polls.since is None:
                polls.since = now
            self.spun(long)
        polls.last = now
        if self._beside:  # it may wait for the host's processor, or for us, as long as it computes
            polls.woke = self._spent()

    def _host_was_busy(self, polls: _Polls) -> bool:
        """Since the guest was woken it has hardly had the processor."""
        return polls.woke is not None and self._spent() - polls.woke <= NEAR_AFTER_SLEEP
