"""The statistics report: counters that the device stores in the driver's memory, now and at an interval.

{be64 written, then entries {be32 name, be32 queue, be64 value}}. The driver's own entries come first, six for each of its
transmit queues and two for each receive queue; the device writes four for each receive queue behind them.
"""

import struct
from typing import Any

from machine.clock import Clock, Timer
from machine.devices.dma import Dma
from machine.devices.gvnic.errors import INVALID_ARGUMENT, Refused
from machine.devices.gvnic.resources import Resources
from machine.errors import BadAddress

_HEADER = 8
_ENTRY = struct.Struct(">IIQ")
_DRIVER_PER_TX, _DRIVER_PER_RX = 6, 2
_MOST_BYTES = 1 << 16
_LEAST_INTERVAL_MS = 100
_NANOSECONDS = 1_000_000

QUEUE_DROPS, NO_BUFFERS, OVER_MRU, INVALID_CHECKSUM = 65, 66, 67, 68
"""Names of what the device counts for each receive queue."""


class ReceiveStatistics:
    """What became of frames that the driver did not get."""

    __slots__ = ("no_buffers", "over_mru")

    def __init__(self) -> None:
        self.no_buffers = 0
        """Times that a frame came and no buffer was posted; it waits."""
        self.over_mru = 0
        """Frames longer than the MTU allows, which are lost."""


class StatsReport:
    """Where the driver wants the report. `write` is called by the device with what is to be told."""

    def __init__(self, dma: Dma, clock: Clock | None) -> None:
        self._dma = dma
        self._clock = clock
        self._timer: Timer | None = None
        self._address = self._length = self._interval = 0
        self._resources: Resources | None = None
        self.statistics = ReceiveStatistics()

    def configure(self, length: int, address: int, interval_ms: int, resources: Resources) -> None:
        """Report into `length` bytes at `address`, for the queues that there are, now and every `interval_ms` (0: once).

        Refused for a length or an interval that cannot be meant, BadAddress.
        """
        if not _HEADER <= length <= _MOST_BYTES:
            raise Refused(INVALID_ARGUMENT, f"a report of {length} bytes, wanted {_HEADER} to {_MOST_BYTES}")
        if interval_ms and interval_ms < _LEAST_INTERVAL_MS:
            raise Refused(INVALID_ARGUMENT, f"a report every {interval_ms} ms, wanted at least {_LEAST_INTERVAL_MS}")
        self._dma.read(address, length)
        self.clear()
        self._address, self._length, self._interval = address, length, interval_ms
        self._resources = resources
        self._write()
        self._again()

    def clear(self) -> None:
        """Report no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._address = self._length = self._interval = 0
        self._resources = None

    def _write(self) -> None:
        """Store the device's entries, unless the driver has made queues that it left no room for."""
        if self._resources is None:
            return
        queues = sorted(self._resources.receive)
        first = _DRIVER_PER_TX * len(self._resources.transmit) + _DRIVER_PER_RX * len(queues)
        told = b""
        for queue in queues:
            mine = self.statistics if queue == queues[0] else ReceiveStatistics()
            told += _ENTRY.pack(QUEUE_DROPS, queue, mine.over_mru) + _ENTRY.pack(NO_BUFFERS, queue, mine.no_buffers)
            told += _ENTRY.pack(OVER_MRU, queue, mine.over_mru) + _ENTRY.pack(INVALID_CHECKSUM, queue, 0)
        at = _HEADER + first * _ENTRY.size
        if at + len(told) <= self._length:
            self._dma.write(self._address + at, told)

    def _again(self) -> None:
        if self._interval and self._clock is not None:
            due = self._clock.now() + min(self._interval, 1 << 40) * _NANOSECONDS
            self._timer = self._clock.call_at(due, self._due)

    def _due(self) -> None:
        try:
            self._write()
        except BadAddress:  # the driver has made its page private, or the like: it wants no report
            self.clear()
        self._again()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "place": [self._address, self._length, self._interval],
            "counts": [self.statistics.no_buffers, self.statistics.over_mru],
        }

    def load(self, state: dict[str, Any], resources: Resources | None) -> None:
        """Take over a saved state."""
        self.clear()
        self._address, self._length, self._interval = state["place"]
        self._resources = resources
        self.statistics.no_buffers, self.statistics.over_mru = state["counts"]
        self._again()
