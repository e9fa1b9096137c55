"""The legacy interface: registers in I/O ports (VirtIO 1.2, 4.1.4.10), for drivers of before VirtIO 1.0.

The device is legacy-only: TamaGo refuses a transitional one for its vendor capabilities.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.devices.virtio.device import LEGACY_FEATURES, VirtioDevice
from machine.devices.virtio.pci import REGISTERS_BAR, VirtioPci
from machine.devices.virtio.queue import NO_VECTOR
from machine.pci.device import IO

if TYPE_CHECKING:
    from machine.cpu import Cpu

FIRST_DEVICE = 0x1000
PORTS = 64
PAGE = 4096

_DEVICE_FEATURES, _DRIVER_FEATURES, _QUEUE_ADDRESS, _QUEUE_SIZE, _QUEUE_SELECT = 0, 4, 8, 12, 14
_QUEUE_NOTIFY, _STATUS, _ISR, _CONFIG_VECTOR, _QUEUE_VECTOR = 16, 18, 19, 20, 22
_CONFIG, _CONFIG_WITH_MSIX = 20, 24

_WIDTHS = {
    **{_DEVICE_FEATURES: 4, _DRIVER_FEATURES: 4, _QUEUE_ADDRESS: 4, _QUEUE_SIZE: 2, _QUEUE_SELECT: 2},
    **{_QUEUE_NOTIFY: 2, _STATUS: 1, _ISR: 1, _CONFIG_VECTOR: 2, _QUEUE_VECTOR: 2},
}


class VirtioPciLegacy(VirtioPci):
    """Transitional device IDs start at 0x1000: network card first, with the device type as the subsystem."""

    def __init__(self, virtio: VirtioDevice, deliver: Callable[[int, int], None]) -> None:
        super().__init__(
            virtio,
            deliver,
            device=FIRST_DEVICE + virtio.DEVICE_ID - 1,
            revision=0,
            subsystem=virtio.DEVICE_ID,
        )
        self.add_bar(REGISTERS_BAR, IO, PORTS, self.read, self.write)
        self._page_number = [0] * len(virtio.queues)

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes. A wide one reads neighbours as well, with what reading them does (ISR)."""
        value = at = 0
        while at < size:
            width, field = self._field(offset + at)
            part = self._get(field) >> 8 * (offset + at - field)
            value |= part << 8 * at
            at += width - (offset + at - field)
        return value & (1 << 8 * size) - 1

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes; a field takes whole writes only, except configuration bytes."""
        start = self._config_start
        if offset >= start:
            self.virtio.write_config(offset - start, value.to_bytes(size, "little"))
            return
        width, field = self._field(offset)
        if field == offset and size >= width:
            self._set(field, value & (1 << 8 * width) - 1)

    @property
    def _config_start(self) -> int:
        return _CONFIG_WITH_MSIX if self.msix.enabled else _CONFIG

    def _field(self, offset: int) -> tuple[int, int]:
        """(width, first byte) of the field at a port."""
        if offset >= self._config_start:
            return 1, offset
        for field, width in _WIDTHS.items():
            if field <= offset < field + width:
                return width, field
        return 1, offset

    def _get(self, field: int) -> int:
        queue = self.selected
        if field >= self._config_start:
            config = self.virtio.config()
            at = field - self._config_start
            return config[at] if at < len(config) else 0
        if field == _DEVICE_FEATURES:
            return self.virtio.offered & LEGACY_FEATURES
        if field == _DRIVER_FEATURES:
            return self.virtio.features
        if field == _QUEUE_ADDRESS:
            return self._page_number[queue.index] if queue is not None else 0
        if field == _QUEUE_SIZE:
            return queue.maximum if queue is not None else 0
        if field == _QUEUE_SELECT:
            return self.queue_select
        if field == _STATUS:
            return self.virtio.status
        if field == _ISR:
            return self.read_isr()
        if field == _CONFIG_VECTOR:
            return self.config_vector
        if field == _QUEUE_VECTOR:
            return queue.vector if queue is not None else NO_VECTOR
        return 0

    def _set(self, field: int, value: int) -> None:
        queue = self.selected
        if field == _DRIVER_FEATURES:
            self.virtio.set_features(value & self.virtio.offered)
        elif field == _QUEUE_ADDRESS and queue is not None:
            self._set_address(queue.index, value)
        elif field == _QUEUE_SELECT:
            self.queue_select = value
        elif field == _QUEUE_NOTIFY:
            self.virtio.notify(value)
        elif field == _STATUS:
            self.set_status(value, modern=False)
        elif field == _CONFIG_VECTOR:
            self.config_vector = self.vector_or_none(value)
        elif field == _QUEUE_VECTOR and queue is not None:
            queue.vector = self.vector_or_none(value)

    def _set_address(self, index: int, page_number: int) -> None:
        """Queue Address: the ring's layout follows from its size (2.7.2); 0 takes the queue away."""
        queue = self.virtio.queues[index]
        self._page_number[index] = page_number
        if not page_number:
            vector = queue.vector
            queue.reset()
            queue.vector = vector
            return
        queue.descriptors = page_number * PAGE
        queue.available = queue.descriptors + 16 * queue.size
        queue.used = -(-(queue.available + 2 * (3 + queue.size)) // PAGE) * PAGE
        self.virtio.enable_queue(queue)

    def transport_reset(self) -> None:
        """No queue has an address."""
        self._page_number = [0] * len(self.virtio.queues)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {**super().save(), "page_numbers": list(self._page_number)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().load(state)
        self._page_number = list(state["page_numbers"])
