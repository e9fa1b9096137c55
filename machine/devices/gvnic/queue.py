"""What transmit and receive queues of all formats have in common."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from machine.devices.dma import Dma
from machine.devices.gvnic.notification import NotificationBlock
from machine.devices.gvnic.page_lists import Buffers
from machine.net.port import NetworkPort

RESOURCES = struct.Struct(">II")
"""The doorbell's index and the event counter's, as the device tells them at the address of the queue's resources."""

FRAMES_AT_ONCE = 1024
"""Frames that a transmit queue sends before others get their turn."""


class Settings(NamedTuple):
    """What a queue is created with: addresses are physical, sizes in entries (buffer_size in bytes).

    `ring` holds descriptors; `other_ring` the transmit completions (DQO), or the buffers to receive into.
    """

    identity: int
    block: int
    page_list: int
    ring: int
    size: int
    other_ring: int
    other_size: int
    buffer_size: int


class Surroundings:
    """What a queue works with. `count(value)` stores its event counter; BadAddress."""

    __slots__ = ("block", "buffers", "count", "dma", "port")

    def __init__(
        self,
        dma: Dma,
        port: NetworkPort,
        buffers: Buffers,
        block: NotificationBlock,
        count: Callable[[int], None],
    ) -> None:
        self.dma = dma
        self.port = port
        self.buffers = buffers
        self.block = block
        self.count = count


class Queue(ABC):
    """One queue. `ring(value)` takes its doorbell: 32 bits as they lie in the little-endian BAR."""

    _STATE: tuple[str, ...] = ()

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self.settings = settings
        self.around = around

    @abstractmethod
    def ring(self, value: int) -> None:
        """The doorbell. BrokenQueue for a count that cannot be."""

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"settings": list(self.settings), **{name: getattr(self, name) for name in self._STATE}}

    def load(self, state: dict[str, Any]) -> None:
        """Take over the saved state of a queue with the same settings."""
        for name in self._STATE:
            setattr(self, name, state[name])


class TransmitQueue(Queue):
    """A queue by which the driver sends. `dropped` counts packets that were not what the driver said of them."""

    dropped = 0

    @abstractmethod
    def send(self) -> bool:
        """Send what the driver has posted; True if there is more. BrokenQueue, BadAddress."""


class ReceiveQueue(Queue):
    """A queue of buffers to receive into."""

    @abstractmethod
    def needed(self, length: int) -> int:
        """How many buffers a frame of `length` bytes takes."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many buffers are posted."""

    @abstractmethod
    def place(self, frame: bytes) -> None:
        """Store a frame; there must be room. BrokenQueue, BadAddress."""

    @abstractmethod
    def finish(self) -> None:
        """After a burst of `place`: count and interrupt. BadAddress."""


def read_ring(dma: Dma, base: int, size: int, entry: int, first: int, count: int) -> bytes:
    """`count` entries of `entry` bytes from index `first` on of a ring of `size`, across its end. BadAddress."""
    before = min(count, size - first)
    data = dma.read(base + first * entry, before * entry)
    return data if before == count else data + dma.read(base, (count - before) * entry)
