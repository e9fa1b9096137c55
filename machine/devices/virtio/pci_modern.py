"""The modern PCI transport: registers in a memory BAR, found by vendor capabilities (VirtIO 1.2, 4.1.4)."""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.devices.virtio.device import VirtioDevice
from machine.devices.virtio.pci import MSIX_BAR, REGISTERS_BAR, VirtioPci
from machine.devices.virtio.queue import NO_VECTOR
from machine.pci.device import MEMORY32, MEMORY64, Bar

if TYPE_CHECKING:
    from machine.cpu import Cpu

FIRST_DEVICE = 0x1040
REVISION = 1

COMMON, ISR, DEVICE, NOTIFY, BAR_SIZE = 0x0000, 0x1000, 0x2000, 0x3000, 0x4000
"""Where the structures lie in the BAR, a page each: guests map pages."""

NOTIFY_MULTIPLIER = 8
"""Bytes from one queue's notify address to the next. A 64-bit store, which TamaGo uses, reaches only one of them."""

_VENDOR_CAPABILITY = 0x09
_CFG_COMMON, _CFG_NOTIFY, _CFG_ISR, _CFG_DEVICE, _CFG_PCI = 1, 2, 3, 4, 5
_ACCESS_BAR, _ACCESS_OFFSET, _ACCESS_LENGTH, _ACCESS_DATA = 4, 8, 12, 16
_ACCESS_WRITABLE = b"\0\0\xff\0\0\0" + b"\xff" * 12
_NOBODY: Any = None
"""Configuration cycles do not say which processor they come from, and no register here asks for it."""

_COMMON_LAYOUT = struct.Struct("<IIIIHHBBHHHHHQQQ")
_COMMON_SIZE = _COMMON_LAYOUT.size


class VirtioPciModern(VirtioPci):
    """Device IDs are 0x1040 and the device type. All structures are in BAR 0; MSI-X has BAR 1.

    With `wide` BAR 0 takes 64-bit addresses, and MSI-X has BAR 2. With `always_master` the device reads and writes memory
    whether the command register lets it or not.
    """

    def __init__(
        self,
        virtio: VirtioDevice,
        deliver: Callable[[int, int], None],
        *,
        wide: bool = False,
        always_master: bool = False,
    ) -> None:
        number = FIRST_DEVICE + virtio.DEVICE_ID
        self._always_master = always_master
        msix_bar = MSIX_BAR + wide
        super().__init__(virtio, deliver, device=number, revision=REVISION, subsystem=number, msix_bar=msix_bar)
        self.add_bar(REGISTERS_BAR, MEMORY64 if wide else MEMORY32, BAR_SIZE, self.read, self.write)
        notify_size = NOTIFY_MULTIPLIER * len(virtio.queues)
        self._add_structure(_CFG_COMMON, COMMON, _COMMON_SIZE)
        self._add_structure(_CFG_NOTIFY, NOTIFY, notify_size, NOTIFY_MULTIPLIER.to_bytes(4, "little"))
        self._add_structure(_CFG_ISR, ISR, 1)
        self._add_structure(_CFG_DEVICE, DEVICE, len(virtio.config()))
        self._access = self._add_structure(_CFG_PCI, 0, 0, bytes(4), _ACCESS_WRITABLE)
        self._feature_select = self._driver_feature_select = 0

    def _add_structure(self, kind: int, offset: int, length: int, more: bytes = b"", writable: bytes = b"") -> int:
        """A struct virtio_pci_cap (4.1.4), with what follows it; gives its place."""
        body = struct.pack("<BBBBHII", 16 + len(more), kind, REGISTERS_BAR, 0, 0, offset, length) + more
        return self.config.add_capability(_VENDOR_CAPABILITY, body, writable)

    @property
    def bus_master(self) -> bool:
        """True when the function may read and write memory, which messages (MSI-X) do, too."""
        return self._always_master or super().bus_master

    # -- the BAR

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """A load of 1 to 8 bytes."""
        return self._read_region(offset, size)

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """A store of 1 to 8 bytes; a wide one may arrive as two, which comes to the same."""
        self._write_region(offset, size, value)

    def _read_region(self, offset: int, size: int) -> int:
        if offset >= NOTIFY:
            return 0
        if offset >= DEVICE:
            data, at = self.virtio.config(), offset - DEVICE
        elif offset >= ISR:
            data, at = (bytes((self.read_isr(),)) if offset == ISR else b""), 0
        else:
            data, at = self._common(), offset
        return int.from_bytes(data[at : at + size], "little")

    def _write_region(self, offset: int, size: int, value: int) -> None:
        if offset >= NOTIFY:
            # The value is the queue's number (4.1.5.2). The upper half of a store of 8 bytes may come by itself.
            if offset % NOTIFY_MULTIPLIER == 0:
                self.virtio.notify(value & 0xFFFF)
        elif offset < _COMMON_SIZE:
            self._write_common(offset, size, value)

    # -- common configuration (4.1.4.3)

    def _common(self) -> bytes:
        virtio, queue = self.virtio, self.selected
        features = virtio.offered >> 32 * self._feature_select if self._feature_select < 2 else 0
        chosen = virtio.features >> 32 * self._driver_feature_select if self._driver_feature_select < 2 else 0
        head = (
            *(self._feature_select, features & 0xFFFFFFFF, self._driver_feature_select, chosen & 0xFFFFFFFF),
            *(self.config_vector, len(virtio.queues), virtio.status, virtio.generation, self.queue_select),
        )
        if queue is None:
            return _COMMON_LAYOUT.pack(*head, 0, NO_VECTOR, 0, 0, 0, 0, 0)
        return _COMMON_LAYOUT.pack(
            *head,
            *(queue.size, queue.vector, queue.enabled, queue.index),
            *(queue.descriptors, queue.available, queue.used),
        )

    def _write_common(self, offset: int, size: int, value: int) -> None:
        """Change the fields that the store touches; bytes of a field that it leaves out keep their value."""
        data = bytearray(self._common())
        end = min(offset + size, _COMMON_SIZE)
        data[offset:end] = value.to_bytes(size, "little")[: end - offset]
        for at, width, store in _FIELDS:
            if at < end and offset < at + width:
                store(self, int.from_bytes(data[at : at + width], "little"))

    def _set_feature_select(self, value: int) -> None:
        self._feature_select = value

    def _set_driver_feature_select(self, value: int) -> None:
        self._driver_feature_select = value

    def _set_driver_features(self, value: int) -> None:
        shift = 32 * self._driver_feature_select
        if shift < 64:
            kept = self.virtio.features & ~(0xFFFFFFFF << shift)
            self.virtio.set_features(kept | value << shift)

    def _set_config_vector(self, value: int) -> None:
        self.config_vector = self.vector_or_none(value)

    def _set_device_status(self, value: int) -> None:
        self.set_status(value, modern=True)

    def _set_queue_select(self, value: int) -> None:
        self.queue_select = value

    def _set_queue_size(self, value: int) -> None:
        if (queue := self.selected) is not None and not queue.enabled:
            queue.size = value

    def _set_queue_vector(self, value: int) -> None:
        if (queue := self.selected) is not None:
            queue.vector = self.vector_or_none(value)

    def _set_queue_enable(self, value: int) -> None:
        if value == 1 and (queue := self.selected) is not None and not queue.enabled:
            self.virtio.enable_queue(queue)

    def _set_descriptors(self, value: int) -> None:
        if (queue := self.selected) is not None and not queue.enabled:
            queue.descriptors = value

    def _set_available(self, value: int) -> None:
        if (queue := self.selected) is not None and not queue.enabled:
            queue.available = value

    def _set_used(self, value: int) -> None:
        if (queue := self.selected) is not None and not queue.enabled:
            queue.used = value

    def transport_reset(self) -> None:
        """The selectors go back to 0."""
        self._feature_select = self._driver_feature_select = 0

    # -- access through configuration space (4.1.4.9)

    def read_config(self, offset: int, size: int) -> int:
        """A read of the data field reads the BAR as the capability says."""
        if self._touches_data(offset, size) and (found := self._accessed()) is not None:
            bar, at, length = found
            self.config.set(self._access + _ACCESS_DATA, 4, bar.read(_NOBODY, at, length))
        return super().read_config(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A write of the data field writes the BAR as the capability says."""
        super().write_config(offset, size, value)
        if self._touches_data(offset, size) and (found := self._accessed()) is not None:
            bar, at, length = found
            bar.write(_NOBODY, at, length, self.config.get(self._access + _ACCESS_DATA, length))

    def _touches_data(self, offset: int, size: int) -> bool:
        start = self._access + _ACCESS_DATA
        return offset < start + 4 and offset + size > start

    def _accessed(self) -> tuple[Bar, int, int] | None:
        """(BAR, offset, length) that the capability names, None if the access makes no sense."""
        bar = self.bars.get(self.config.data[self._access + _ACCESS_BAR])
        at = self.config.get(self._access + _ACCESS_OFFSET, 4)
        length = self.config.get(self._access + _ACCESS_LENGTH, 4)
        if bar is None or length not in (1, 2, 4) or at % length or at + length > bar.size:
            return None
        return bar, at, length

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {**super().save(), "feature_selects": [self._feature_select, self._driver_feature_select]}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().load(state)
        self._feature_select, self._driver_feature_select = state["feature_selects"]


_FIELDS: tuple[tuple[int, int, Callable[[VirtioPciModern, int], None]], ...] = (
    (0, 4, VirtioPciModern._set_feature_select),
    (8, 4, VirtioPciModern._set_driver_feature_select),
    (12, 4, VirtioPciModern._set_driver_features),
    (16, 2, VirtioPciModern._set_config_vector),
    (20, 1, VirtioPciModern._set_device_status),
    (22, 2, VirtioPciModern._set_queue_select),
    (24, 2, VirtioPciModern._set_queue_size),
    (26, 2, VirtioPciModern._set_queue_vector),
    (28, 2, VirtioPciModern._set_queue_enable),
    (32, 8, VirtioPciModern._set_descriptors),
    (40, 8, VirtioPciModern._set_available),
    (48, 8, VirtioPciModern._set_used),
)
"""(offset, size, what a store does) of the fields that a driver writes."""
