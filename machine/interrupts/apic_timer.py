"""The timer of a local APIC: one-shot, periodic and TSC-deadline (Intel SDM volume 3, 11.5.4)."""

from collections.abc import Callable
from typing import Any

from machine.clock import NANOSECONDS, Clock, Timer

FREQUENCY = 25_000_000
"""Hz of the timer's input clock, before the divider. CPUID leaf 0x15 must name it as the crystal's frequency."""

ONE_SHOT, PERIODIC, TSC_DEADLINE = 0, 1, 2

_TICK = NANOSECONDS // FREQUENCY
_SHORTEST_PERIOD = 20_000
"""ns: a faster periodic timer would leave the guest no time between two interrupts."""
_SHORTEST_WAIT = 100_000
"""ns from the WRMSR of a deadline to its interrupt. Guests write the MSR and then halt, as TamaGo does; an interrupt in between
wakes nobody, and they sleep for ever. On a processor there are some nanoseconds between the two; here there is the way back
from a trap, on a host that has others to run as well, so that a deadline is often over when it is written."""


class ApicTimer:
    """Counts down from `initial`, or waits for a TSC value; calls `fire` unless masked.

    `tsc_offset` is what this processor's TSC is ahead of the clock's. While masked, time passes and no timer runs.
    """

    def __init__(self, clock: Clock, fire: Callable[[], None]) -> None:
        self._clock = clock
        self._fire = fire
        self._timer: Timer | None = None
        self._mode = ONE_SHOT
        self._masked = True
        self._initial = 0
        self._divide = 2
        self._start = 0
        self._target_tsc = 0
        self._not_before = 0
        self.tsc_offset = 0

    @property
    def initial(self) -> int:
        """The initial count register."""
        return self._initial

    def configure(self, mode: int, masked: bool) -> None:
        """Set the mode and mask of the LVT entry. To and from TSC-deadline mode the timer is disarmed (11.5.4.1)."""
        self._settle()
        if (mode == TSC_DEADLINE) != (self._mode == TSC_DEADLINE):
            self._initial = 0
            self._target_tsc = 0
        self._mode = mode
        self._masked = masked
        self._arm()

    def set_initial(self, count: int) -> None:
        """Start counting from a 32-bit count; 0 stops. Ignored in TSC-deadline mode."""
        if self._mode != TSC_DEADLINE:
            self._settle()
            self._initial = count
            self._start = self._clock.now()
            self._arm()

    def set_divide(self, divide: int) -> None:
        """Divide the input clock by 1 to 128; a running count goes on from where it is."""
        self._settle()
        remaining = self.current()
        self._divide = divide
        self._start = self._clock.now() - (self._initial - remaining) * divide * _TICK
        self._arm()

    def current(self) -> int:
        """The current count register: 0 when stopped or expired, and in TSC-deadline mode."""
        if self._initial == 0:
            return 0
        elapsed = (self._clock.now() - self._start) // (self._divide * _TICK)
        if self._mode == PERIODIC:
            return self._initial - elapsed % self._initial
        return max(0, self._initial - elapsed)

    @property
    def target_tsc(self) -> int:
        """IA32_TSC_DEADLINE: the armed value, 0 when disarmed or reached."""
        if self._target_tsc and self._clock.tsc() + self.tsc_offset >= self._target_tsc:
            self._settle()
            self._target_tsc = 0
        return self._target_tsc

    def set_target_tsc(self, value: int) -> None:
        """Arm for a 64-bit TSC value; 0 disarms. Ignored outside TSC-deadline mode."""
        if self._mode == TSC_DEADLINE:
            self._target_tsc = value
            self._not_before = self._clock.now() + _SHORTEST_WAIT
            self._arm()

    def shift_tsc(self, offset: int) -> None:
        """The processor's TSC is ahead of the clock's by so much from now on."""
        self._settle()
        self.tsc_offset = offset
        if self._mode == TSC_DEADLINE:
            self._arm()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "mode": self._mode,
            "masked": self._masked,
            "initial": self._initial,
            "divide": self._divide,
            "start": self._start,
            "target_tsc": self._target_tsc,
            "not_before": self._not_before,
            "tsc_offset": self.tsc_offset,
            "deadline": self._timer.deadline if self._timer is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state and arm the timer again. The clock must have been loaded before."""
        self._mode = state["mode"]
        self._masked = state["masked"]
        self._initial = state["initial"]
        self._divide = state["divide"]
        self._start = state["start"]
        self._target_tsc = state["target_tsc"]
        self._not_before = state["not_before"]
        self.tsc_offset = state["tsc_offset"]
        self._call_at(state["deadline"])

    def _settle(self) -> None:
        """Let a timer that is due, and has not been called yet, fire before anything changes."""
        if self._timer is not None and self._timer.deadline <= self._clock.now():
            self._timer.cancel()
            self._due()

    def _arm(self) -> None:
        self._call_at(None if self._masked else self._next())

    def _next(self) -> int | None:
        now = self._clock.now()
        if self._mode == TSC_DEADLINE:
            if not self._target_tsc:
                return None
            return max(self._clock.tsc_to_ns(self._target_tsc - self.tsc_offset), self._not_before)
        if self._initial == 0:
            return None
        period = self._initial * self._divide * _TICK
        if self._mode == PERIODIC:
            return max(self._start + ((now - self._start) // period + 1) * period, now + _SHORTEST_PERIOD)
        end = self._start + period
        return end if end > now else None

    def _call_at(self, deadline: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._clock.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._mode == PERIODIC:
            self._arm()
        elif self._mode == TSC_DEADLINE:
            self._target_tsc = 0
        self._fire()
