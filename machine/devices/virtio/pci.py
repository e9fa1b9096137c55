"""What both PCI transports of VirtIO share: identity, MSI-X, INTx and the ISR status (VirtIO 1.2, 4.1)."""

from collections.abc import Callable
from typing import Any

from machine.devices.virtio.device import VirtioDevice
from machine.devices.virtio.queue import NO_VECTOR, SplitQueue
from machine.pci.config_space import COMMAND
from machine.pci.device import PciDevice
from machine.pci.msix import Msix

VENDOR = 0x1AF4
CLASS_ETHERNET = 0x020000
ISR_QUEUE, ISR_CONFIG = 1, 2

REGISTERS_BAR, MSIX_BAR = 0, 1


class VirtioPci(PciDevice):
    """A VirtIO device as a PCI function. `deliver(address, data)` sends an MSI-X message."""

    def __init__(
        self,
        virtio: VirtioDevice,
        deliver: Callable[[int, int], None],
        *,
        device: int,
        revision: int,
        subsystem: int,
        class_code: int = CLASS_ETHERNET,
        msix_bar: int = MSIX_BAR,
    ) -> None:
        super().__init__(
            vendor=VENDOR,
            device=device,
            class_code=class_code,
            revision=revision,
            subsystem_vendor=VENDOR,
            subsystem=subsystem,
            interrupt_pin=1,
        )
        self.virtio = virtio
        self.msix = Msix(self, len(virtio.queues) + 1, msix_bar, deliver)
        self.config_vector = NO_VECTOR
        self.queue_select = 0
        self._isr = 0
        virtio.on_queue_interrupt = self._queue_interrupt
        virtio.on_config_interrupt = self._config_interrupt
        virtio.may_work = self._may_work
        self.config.watch(COMMAND, 2, virtio.resume)

    @property
    def selected(self) -> SplitQueue | None:
        """The queue that queue_select names, if there is one."""
        queues = self.virtio.queues
        return queues[self.queue_select] if self.queue_select < len(queues) else None

    def is_polled(self) -> bool:
        """Whether the driver receives without interrupts: it can only look at the rings."""
        return self.virtio.polled

    def _may_work(self) -> bool:
        return self.bus_master

    def vector_or_none(self, vector: int) -> int:
        """What a vector register holds after a write: NO_VECTOR for one that the table does not have (4.1.5.1.2)."""
        return vector if vector < self.msix.vectors else NO_VECTOR

    def set_status(self, value: int, modern: bool) -> None:
        """The driver writes the device status; 0 resets the transport, too."""
        self.virtio.set_status(value, modern)
        if not value & 0xFF:
            self.config_vector = NO_VECTOR
            self.queue_select = 0
            self._isr = 0
            self.set_intx(False)
            self.transport_reset()

    def reset(self) -> None:
        """What a driver's write of 0 to the device status does."""
        self.set_status(0, True)

    def transport_reset(self) -> None:
        """What else a transport resets."""

    def read_isr(self) -> int:
        """The ISR status: reading it clears it and releases INTx (4.1.4.5)."""
        value, self._isr = self._isr, 0
        self.set_intx(False)
        return value

    def _queue_interrupt(self, queue: SplitQueue) -> None:
        self._interrupt(queue.vector, ISR_QUEUE)

    def _config_interrupt(self) -> None:
        self._interrupt(self.config_vector, ISR_QUEUE | ISR_CONFIG)

    def _interrupt(self, vector: int, bits: int) -> None:
        if self.msix.enabled:
            if vector != NO_VECTOR:
                self.msix.notify(vector)
            return
        self._isr |= bits
        self.set_intx(True)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            **super().save(),
            "msix": self.msix.save(),
            "virtio": self.virtio.save(),
            "config_vector": self.config_vector,
            "queue_select": self.queue_select,
            "isr": self._isr,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.msix.load(state["msix"])
        self.virtio.load(state["virtio"])
        self.config_vector = state["config_vector"]
        self.queue_select = state["queue_select"]
        self._isr = state["isr"]
        super().load(state)
