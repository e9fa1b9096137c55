"""The 8254 interval timer at ports 0x40 to 0x43, and port 0x61 that gates counter 2 (Intel 8254 data sheet; ICH9 13.3).

Counters are worked out from the clock when somebody looks; only counter 0, whose output is IRQ 0, keeps a timer.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.callbacks import nothing
from machine.clock import NANOSECONDS, Clock, Timer

if TYPE_CHECKING:
    from machine.cpu import Cpu

PORT = 0x40
PORTS = 4
STATUS_PORT = 0x61
FREQUENCY = 1_193_182
"""Hz of all three counters."""

_CONTROL = 3
_GATE_2, _SPEAKER_BITS, _REFRESH, _OUT_2 = 0x01, 0x0F, 0x10, 0x20
_REFRESH_HALF_PERIOD = 15_085
"""ns between two changes of the refresh bit, which old guests count to wait."""

_SHORTEST_PERIOD = 20_000
"""ns: a faster periodic IRQ 0 would leave the guest no time between two."""
_SHORTEST_OWED = 500_000
"""ns: ticks that come faster are not made up for: a guest under load would do nothing else."""


class Counter:
    """One of the three counters. `now` gives nanoseconds; counting begins at `_start` unless the gate is closed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.mode = 0
        self.loaded = False
        self.count = 0x10000
        self.gate = True
        self._access = 3
        self._bcd = False
        self._start = 0
        self._stopped_at: int | None = 0
        self._low_written: int | None = None
        self._read_high = False
        self._latched: list[int] = []
        self._latched_status: int | None = None

    def control(self, value: int) -> None:
        """Take the control word's access, mode and BCD bits; counting waits for a count (figure 7)."""
        self._access = value >> 4 & 3
        mode = value >> 1 & 7
        self.mode = mode & 3 if mode > 5 else mode
        self._bcd = bool(value & 1)
        self.loaded = False
        self._low_written = None
        self._read_high = False
        self._latched = []
        self._latched_status = None

    def write(self, value: int) -> bool:
        """One byte of the count; True when the count is complete and counting (re)starts."""
        if self._access == 3 and self._low_written is None:
            self._low_written = value
            return False
        low, self._low_written = self._low_written or 0, None
        initial = value if self._access == 1 else value << 8 | low
        if self._bcd:
            initial = sum((initial >> 4 * digit & 0xF) * 10**digit for digit in range(4))
        self.count = initial or (10_000 if self._bcd else 0x10000)
        if self.count == 1 and self.mode in (2, 3):
            self.count = 2  # 1 is illegal in these modes (mode definitions)
        self.loaded = True
        self._start = self._clock.now()
        self._stopped_at = 0 if self.mode in (1, 5) or not self.gate else None
        return True

    def read(self) -> int:
        """The next byte: a latched status, a latched count, or the running count."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        value = self._value()
        if self._access == 1:
            return value & 0xFF
        if self._access == 2:
            return value >> 8
        self._read_high = not self._read_high
        return value & 0xFF if self._read_high else value >> 8

    def latch_count(self) -> None:
        """Hold the count for the next reads; a count that is already held stays."""
        if not self._latched:
            value = self._value()
            self._latched = [[], [value & 0xFF], [value >> 8], [value & 0xFF, value >> 8]][self._access]

    def latch_status(self) -> None:
        """Hold the status byte for the next read (figure 12)."""
        if self._latched_status is None:
            null = 0 if self.loaded else 0x40
            self._latched_status = self.output() << 7 | null | self._access << 4 | self.mode << 1 | self._bcd

    def set_gate(self, gate: bool) -> None:
        """Open or close the gate: it holds, restarts or triggers the counter as its mode says (figure 18)."""
        before, self.gate = self.gate, gate
        if gate == before or not self.loaded:
            return
        if gate:
            if self.mode in (0, 4) and self._stopped_at is not None:
                self._start = self._clock.now() - self._stopped_at * NANOSECONDS // FREQUENCY
            else:
                self._start = self._clock.now()
            self._stopped_at = None
        elif self.mode not in (1, 5):
            self._stopped_at = self._elapsed()

    def output(self) -> bool:
        """The level of OUT."""
        if not self.loaded:
            return self.mode != 0
        elapsed, count = self._elapsed(), self.count
        if self.mode in (0, 1):
            return elapsed >= count or (self.mode == 1 and self._stopped_at is not None)
        if not self.gate:
            return True
        if self.mode == 2:
            return elapsed % count != count - 1
        if self.mode == 3:
            return elapsed % count < (count + 1) // 2
        return elapsed != count

    def next_rise(self) -> int | None:
        """When OUT rises next (ns since power on); None if it will not."""
        if not self.loaded or self._stopped_at is not None:
            return None
        elapsed = self._elapsed()
        if self.mode in (2, 3):
            ticks = (elapsed // self.count + 1) * self.count
        else:
            ticks = self.count + (1 if self.mode in (4, 5) else 0)
            if elapsed >= ticks:
                return None
        return self._start + -(-ticks * NANOSECONDS // FREQUENCY)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {name.strip("_"): getattr(self, name) for name in _COUNTER_STATE} | {"latched": list(self._latched)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name in _COUNTER_STATE:
            setattr(self, name, state[name.strip("_")])
        self._latched = list(state["latched"])

    def _elapsed(self) -> int:
        if self._stopped_at is not None:
            return self._stopped_at
        return (self._clock.now() - self._start) * FREQUENCY // NANOSECONDS

    def _value(self) -> int:
        """The counting element as 16 bits."""
        elapsed, count = self._elapsed(), self.count
        modulus = 10_000 if self._bcd else 0x10000
        if self.mode == 2:
            value = count - elapsed % count
        elif self.mode == 3:
            value = count - 2 * elapsed % count & ~1
        else:
            value = count - elapsed
        value %= modulus
        return int(str(value), 16) if self._bcd else value


_COUNTER_STATE = (
    "mode",
    "loaded",
    "count",
    "gate",
    "_access",
    "_bcd",
    "_start",
    "_stopped_at",
    "_low_written",
    "_read_high",
    "_latched_status",
)


class I8254:
    """Three counters and port 0x61. `irq` is the line of IRQ 0; each rise of OUT 0 is a pulse on it.

    `missed(count)` is told of rises of a periodic counter for which there was no time.
    """

    def __init__(self, clock: Clock, irq: Callable[[bool], None], missed: Callable[[int], None] = nothing) -> None:
        self._clock = clock
        self._irq = irq
        self._missed = missed
        self._timer: Timer | None = None
        self._counters = [Counter(clock) for _ in range(3)]
        self._counters[2].gate = False
        self._port_61 = 0

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port read of a counter; the control word register cannot be read."""
        return 0xFF if offset == _CONTROL else self._counters[offset].read()

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port write: a byte of a count, or a control word with its latch and read-back forms."""
        value &= 0xFF
        if offset != _CONTROL:
            if self._counters[offset].write(value) and offset == 0:
                self._arm()
        elif value >> 6 == 3:
            for number, counter in enumerate(self._counters):
                if value & 2 << number:
                    if not value & 0x20:
                        counter.latch_count()
                    if not value & 0x10:
                        counter.latch_status()
        elif value & 0x30 == 0:
            self._counters[value >> 6].latch_count()
        else:
            self._counters[value >> 6].control(value)
            if value >> 6 == 0:
                self._arm()

    def read_61(self, cpu: "Cpu", offset: int, size: int) -> int:
        """Port 0x61: gate and speaker bits as written, the refresh toggle (bit 4) and OUT 2 (bit 5)."""
        value = self._port_61
        if self._clock.now() // _REFRESH_HALF_PERIOD & 1:
            value |= _REFRESH
        return value | (_OUT_2 if self._counters[2].output() else 0)

    def write_61(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Port 0x61: bit 0 opens the gate of counter 2."""
        self._port_61 = value & _SPEAKER_BITS
        self._counters[2].set_gate(bool(value & _GATE_2))

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "counters": [counter.save() for counter in self._counters],
            "port_61": self._port_61,
            "deadline": self._timer.deadline if self._timer is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state and arm the timer again. The clock must have been loaded before."""
        for counter, saved in zip(self._counters, state["counters"], strict=True):
            counter.load(saved)
        self._port_61 = state["port_61"]
        self._call_at(state["deadline"])

    def _arm(self) -> None:
        deadline = self._counters[0].next_rise()
        if deadline is not None and self._counters[0].mode in (2, 3):
            deadline = max(deadline, self._clock.now() + _SHORTEST_PERIOD)
        self._call_at(deadline)

    def _call_at(self, deadline: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._clock.call_at(deadline, self._timer_due)

    def _timer_due(self) -> None:
        deadline = self._timer.deadline if self._timer is not None else self._clock.now()
        self._timer = None
        self._irq(True)
        self._irq(False)
        counter = self._counters[0]
        period = counter.count * NANOSECONDS // FREQUENCY
        late = self._clock.now() - deadline
        if counter.mode in (2, 3) and late >= period >= _SHORTEST_OWED:
            self._missed(late // period)
        self._arm()
