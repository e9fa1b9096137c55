"""Notification blocks: one interrupt for a queue or two, with a doorbell by which the driver arms it."""

from collections.abc import Callable
from typing import Any

ACK, MASK, EVENT = 1 << 31, 1 << 30, 1 << 29
"""Doorbell bits of the in-order formats (the doorbell is big-endian)."""

ENABLE, CLEAR_PENDING = 1 << 0, 1 << 1
"""Doorbell bits of the out-of-order formats (little-endian); bits 3 and up set an interval, of which there is none."""


class NotificationBlock:
    """Calls `notify(vector)` for events while it is armed. Firing disarms it, and an event is pending meanwhile."""

    __slots__ = ("_notify", "armed", "pending", "vector")

    def __init__(self, vector: int, notify: Callable[[int], object]) -> None:
        self.vector = vector
        self._notify = notify
        self.armed = False
        self.pending = False

    def event(self) -> None:
        """A queue of the block has done something."""
        self.pending = True
        self._fire()

    def write_in_order(self, value: int) -> None:
        """The doorbell with a GQI format: MASK disarms, all else arms. ACK drops what is pending: the driver looks."""
        if value & ACK:
            self.pending = False
        self.armed = not value & MASK
        self._fire()

    def write_out_of_order(self, value: int) -> None:
        """The doorbell with a DQO format. What is pending when the driver arms the block fires at once."""
        if value & CLEAR_PENDING:
            self.pending = False
        self.armed = bool(value & ENABLE)
        self._fire()

    def _fire(self) -> None:
        if self.armed and self.pending:
            self.armed = self.pending = False
            self._notify(self.vector)

    def save(self) -> list[Any]:
        """Plain data for `load`."""
        return [self.vector, self.armed, self.pending]

    def load(self, state: list[Any]) -> None:
        """Take over a saved state."""
        self.vector, self.armed, self.pending = state
