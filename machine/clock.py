"""The one clock of a machine: TSC, RTC, timers and UEFI time are all derived from it.

`RealClock` follows the host's monotonic clock. `VirtualClock` takes nothing from the host: time moves by a fixed step
per trap and jumps to the next timer when the guest idles, so that the same input gives the same run twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import gcd
from time import perf_counter_ns, time_ns
from typing import Any

from machine.callbacks import nothing

NANOSECONDS = 1_000_000_000

TSC_FREQUENCY = 2_500_000_000
"""Hz. TamaGo keeps the frequency in 32 bits (under 4.29 GHz), and 5/2 ticks a nanosecond is exact in integers."""

VIRTUAL_EPOCH = 1_767_225_600 * NANOSECONDS
"""2026-01-01 00:00:00 UTC, the moment at which a virtual machine is switched on."""

VIRTUAL_STEP = 1_000
"""Nanoseconds that virtual time moves per trap: about what a trap costs on the real machine."""

_COMPACT_AT = 64


class Timer:
    """A callback that is due at `deadline` (ns since power on); made by `Clock.call_at`."""

    __slots__ = ("callback", "deadline", "of_host")

    def __init__(self, deadline: int, callback: Callable[[], None], of_host: bool = False) -> None:
        self.deadline = deadline
        self.of_host = of_host
        self.callback: Callable[[], None] | None = callback

    @property
    def active(self) -> bool:
        """True until the callback has been called or the timer cancelled."""
        return self.callback is not None

    def cancel(self) -> None:
        """Never call back. Does nothing when that has happened, or was cancelled before."""
        self.callback = None


class Clock(ABC):
    """Time since power on, the TSC, the time of day, and timers. Owned by the engine thread."""

    def __init__(self, tsc_frequency: int = TSC_FREQUENCY) -> None:
        if not 1 <= tsc_frequency < 1 << 32:
            raise ValueError(f"TSC frequency {tsc_frequency} Hz, wanted 1 to 4294967295")
        self.tsc_frequency = tsc_frequency
        divisor = gcd(tsc_frequency, NANOSECONDS)
        self._ticks = tsc_frequency // divisor
        self._per = NANOSECONDS // divisor
        self._heap: list[tuple[int, int, Timer]] = []
        self._sequence = 0
        self._compact_at = _COMPACT_AT
        self.adjustment = 0
        """Nanoseconds that the guest's firmware has put the time of day ahead by setting it."""
        self.on_earlier: Callable[[int], None] = nothing
        """Called with a deadline that comes before all others: who sleeps or runs guest code must see to it."""

    @abstractmethod
    def now(self) -> int:
        """Nanoseconds since power on."""

    @abstractmethod
    def tsc(self) -> int:
        """The time-stamp counter: ticks of `tsc_frequency` since power on."""

    @abstractmethod
    def wall(self) -> int:
        """Nanoseconds since 1970-01-01 00:00:00 UTC."""

    def trap(self) -> None:  # noqa: B027  real time needs nothing here; only virtual time moves by traps
        """The machine calls this once for each trap."""

    def tsc_to_ns(self, tsc: int) -> int:
        """The first nanosecond since power on at which `tsc()` is at least `tsc`."""
        return -(-tsc * self._per // self._ticks)

    def call_at(self, deadline: int, callback: Callable[[], None], *, of_host: bool = False) -> Timer:
        """Call `callback` from `run_due` once `now()` has reached `deadline` (ns since power on; may be past).

        A timer `of_host` belongs to the host's side of a device, and is no part of the machine's state.
        """
        timer = Timer(deadline, callback, of_host)
        if len(self._heap) >= self._compact_at:  # a guest may set and cancel a far timer for ever
            self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self._compact_at = max(_COMPACT_AT, 2 * len(self._heap))
        self._sequence += 1
        heappush(self._heap, (deadline, self._sequence, timer))
        if self._heap[0][2] is timer:
            self.on_earlier(deadline)
        return timer

    def next_deadline(self) -> int | None:
        """The earliest deadline of an active timer (ns since power on), or None."""
        heap = self._heap
        while heap:
            if heap[0][2].callback is not None:
                return heap[0][0]
            heappop(heap)
        return None

    def run_due(self) -> None:
        """Call every timer that is due, earliest first.

        A timer that a callback adds waits for the next call, even when it is due: a period shorter than the callback
        takes must not hold the machine for ever.
        """
        heap = self._heap
        if not heap or heap[0][0] > (now := self.now()):
            return
        due: list[Timer] = []
        while heap and heap[0][0] <= now:
            due.append(heappop(heap)[2])
        for timer in due:
            callback = timer.callback
            if callback is not None:
                timer.callback = None
                callback()

    def __getstate__(self) -> dict[str, Any]:
        heap = sorted(entry for entry in self._heap if entry[2].callback is not None and not entry[2].of_host)
        return {**self.__dict__, "_heap": heap, "on_earlier": nothing}

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """Plain data for `load`. Timers are not in it: each device arms its own again when it is loaded."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on at the saved time since power on, with no timers. Load the clock before the devices."""

    def _drop_timers(self) -> None:
        self._heap.clear()


class RealClock(Clock):
    """The host's monotonic clock; the time of day is the host's at power on, and does not follow later adjustments."""

    def __init__(self, tsc_frequency: int = TSC_FREQUENCY) -> None:
        super().__init__(tsc_frequency)
        self._start = perf_counter_ns()
        self._epoch = time_ns()

    def now(self) -> int:
        """Nanoseconds since power on."""
        return perf_counter_ns() - self._start

    def tsc(self) -> int:
        """The time-stamp counter: ticks of `tsc_frequency` since power on."""
        return (perf_counter_ns() - self._start) * self._ticks // self._per

    def wall(self) -> int:
        """Nanoseconds since 1970-01-01 00:00:00 UTC."""
        return self._epoch + self.adjustment + perf_counter_ns() - self._start

    def save(self) -> dict[str, Any]:
        """The time since power on, and how the guest has set the time of day."""
        return {"now": self.now(), "adjustment": self.adjustment}

    def load(self, state: dict[str, Any]) -> None:
        """Time since power on goes on where it was saved; the time of day is the host's present one."""
        self._drop_timers()
        self._start = perf_counter_ns() - state["now"]
        self._epoch = time_ns() - state["now"]
        self.adjustment = state.get("adjustment", 0)

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "now": self.now()}
        del state["_start"], state["_epoch"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        now = state.pop("now")
        self.__dict__.update(state)
        self._start = perf_counter_ns() - now
        self._epoch = time_ns() - now


class VirtualClock(Clock):
    """Time that moves `step` nanoseconds per trap, from a fixed `epoch` (ns since 1970 UTC)."""

    def __init__(
        self, step: int = VIRTUAL_STEP, epoch: int = VIRTUAL_EPOCH, tsc_frequency: int = TSC_FREQUENCY
    ) -> None:
        super().__init__(tsc_frequency)
        if step < 1:
            raise ValueError(f"virtual clock step {step} ns, wanted at least 1")
        self._step = step
        self._epoch = epoch
        self._now = 0

    def now(self) -> int:
        """Nanoseconds since power on."""
        return self._now

    def tsc(self) -> int:
        """The time-stamp counter: ticks of `tsc_frequency` since power on."""
        return self._now * self._ticks // self._per

    def wall(self) -> int:
        """Nanoseconds since 1970-01-01 00:00:00 UTC."""
        return self._epoch + self.adjustment + self._now

    def trap(self) -> None:
        """Move time by one step."""
        self._now += self._step

    def jump_to(self, deadline: int) -> None:
        """Let time pass until `deadline` (ns since power on); time never runs backwards."""
        self._now = max(self._now, deadline)

    def save(self) -> dict[str, Any]:
        """The time since power on, the step, the epoch, and how the guest has set the time of day."""
        return {"now": self._now, "step": self._step, "epoch": self._epoch, "adjustment": self.adjustment}

    def load(self, state: dict[str, Any]) -> None:
        """Go on exactly where it was saved."""
        self._drop_timers()
        self._now = state["now"]
        self._step = state["step"]
        self._epoch = state["epoch"]
        self.adjustment = state.get("adjustment", 0)
