"""A VirtIO device without its transport: status, features, queues, and what a broken driver does to it (VirtIO 1.2, 2)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from machine.callbacks import always, nothing
from machine.devices.dma import Dma
from machine.devices.virtio.queue import BrokenRing, SplitQueue
from machine.errors import BadAddress

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 0x01, 0x02, 0x04, 0x08, 0x40, 0x80
"""Device status bits (2.1)."""

ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1, ACCESS_PLATFORM = 1 << 27, 1 << 28, 1 << 29, 1 << 32, 1 << 33
"""Feature bits that belong to the transport and the rings (6)."""

LEGACY_FEATURES = (1 << 32) - 1


class VirtioDevice:
    """What all device types share. A subclass says what its queues carry and has configuration fields.

    A transport sets `on_queue_interrupt(queue)`, `on_config_interrupt()` and `may_work()` (bus mastering), and calls
    `set_status`, `set_features`, `notify`. `defer(action)` has the engine thread call `action` soon: a queue that never
    gets empty must not hold the machine.

    With `strict`, a driver that does not accept VIRTIO_F_VERSION_1 of a modern device is refused (6.1). Without it such
    a driver gets the layouts of the legacy interface, as with QEMU: TamaGo's negotiates no feature at all.
    """

    DEVICE_ID = 0

    def __init__(
        self,
        dma: Dma,
        queue_sizes: Sequence[int],
        features: int,
        *,
        defer: Callable[[Callable[[], None]], None],
        strict: bool = False,
    ) -> None:
        self.dma = dma
        self.queues = [SplitQueue(dma, index, size) for index, size in enumerate(queue_sizes)]
        self.offered = features | INDIRECT_DESC | EVENT_IDX
        self.features = 0
        self.status = 0
        self.generation = 0
        self.problem = ""
        """Why the device needs a reset; for people."""
        self._strict = strict
        self._defer = defer
        self.on_queue_interrupt: Callable[[SplitQueue], None] = nothing
        self.on_config_interrupt: Callable[[], None] = nothing
        self.may_work: Callable[[], bool] = always

    # -- what a device type adds

    def config(self) -> bytes:
        """The device-specific configuration fields."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes configuration fields."""

    def process(self, queue: SplitQueue) -> bool:
        """Handle what the driver made available; True if there is more to do. BrokenRing, BadAddress."""
        raise NotImplementedError

    def started(self) -> None:
        """The driver has set DRIVER_OK."""

    def stopped(self) -> None:
        """The device is being reset."""

    # -- what a transport calls

    @property
    def live(self) -> bool:
        """Whether the driver is ready, and nothing is broken."""
        return self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK

    @property
    def polled(self) -> bool:
        """Whether the driver wants no interrupt for what comes in."""
        return False

    def set_status(self, value: int, modern: bool = True) -> None:
        """A write of the device status field; 0 resets (2.1, 3.1.1)."""
        value &= 0xFF
        if not value:
            self.reset()
            return
        fresh = value & ~self.status
        if fresh & FEATURES_OK and not self._acceptable(modern):
            value &= ~FEATURES_OK
        self.status = value & ~NEEDS_RESET | self.status & NEEDS_RESET
        if fresh & DRIVER_OK and self.live:
            for queue in self.queues:
                queue.event_index = bool(self.features & EVENT_IDX)
                queue.indirect = bool(self.features & INDIRECT_DESC)
            self.started()
            self.resume()

    def set_features(self, features: int) -> None:
        """The driver's choice; counts until FEATURES_OK or DRIVER_OK is set."""
        if not self.status & (FEATURES_OK | DRIVER_OK):
            self.features = features

    def _acceptable(self, modern: bool) -> bool:
        """Whether FEATURES_OK may stick (2.2.2)."""
        if self.features & ~self.offered:
            return False
        return not (modern and self._strict) or bool(self.features & VERSION_1)

    def reset(self) -> None:
        """As after power on (2.4)."""
        self.stopped()
        self.status = 0
        self.features = 0
        self.problem = ""
        for queue in self.queues:
            queue.reset()

    def notify(self, index: int) -> None:
        """The driver says that queue `index` has something; numbers that are no queue are ignored."""
        if index >= len(self.queues):
            return
        queue = self.queues[index]
        if queue.enabled:
            self.guarded(lambda: self._work(queue))

    def resume(self) -> None:
        """Look at every queue: the device may work now."""
        for queue in self.queues:
            self.notify(queue.index)

    def enable_queue(self, queue: SplitQueue) -> None:
        """The driver has set a queue up."""
        try:
            queue.enable()
        except BrokenRing as error:
            self.broken(str(error))

    def guarded(self, action: Callable[[], None]) -> None:
        """Touch rings, if the device may; what is wrong in them breaks the device and nothing else."""
        if not self.live or not self.may_work():
            return
        try:
            action()
        except (BrokenRing, BadAddress) as error:
            self.broken(str(error))

    def _work(self, queue: SplitQueue) -> None:
        if self.process(queue):
            self._defer(partial(self.notify, queue.index))

    def finish(self, queue: SplitQueue) -> None:
        """Publish what was pushed, and interrupt if the driver wants that."""
        if queue.publish():
            self.on_queue_interrupt(queue)

    def broken(self, problem: str) -> None:
        """Enter the state in which only a reset helps (2.1.2)."""
        self.problem = problem
        self.status |= NEEDS_RESET
        if self.status & DRIVER_OK:
            self.generation = self.generation + 1 & 0xFF
            self.on_config_interrupt()

    def config_changed(self) -> None:
        """A configuration field has changed by itself."""
        self.generation = self.generation + 1 & 0xFF
        if self.live:
            self.on_config_interrupt()

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "status": self.status,
            "features": self.features,
            "generation": self.generation,
            "problem": self.problem,
            "queues": [queue.save() for queue in self.queues],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.status = state["status"]
        self.features = state["features"]
        self.generation = state["generation"]
        self.problem = state["problem"]
        for queue, saved in zip(self.queues, state["queues"], strict=True):
            queue.load(saved)
