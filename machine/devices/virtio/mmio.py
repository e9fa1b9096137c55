"""VirtIO over MMIO: a page of registers and one interrupt line (VirtIO 1.2, 4.2)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.devices.virtio.device import VirtioDevice
from machine.devices.virtio.queue import SplitQueue

if TYPE_CHECKING:
    from machine.cpu import Cpu

SIZE = 0x200
"""Bytes of a device's registers, as the virtual machine monitors place them one behind the other."""

MAGIC, VERSION, VENDOR = 0x7472_6976, 2, 0x554D_4551
_CONFIG = 0x100
_MAGIC, _VERSION, _DEVICE, _VENDOR = 0x000, 0x004, 0x008, 0x00C
_DEVICE_FEATURES, _DEVICE_FEATURES_SELECT, _DRIVER_FEATURES, _DRIVER_FEATURES_SELECT = 0x010, 0x014, 0x020, 0x024
_QUEUE_SELECT, _QUEUE_SIZE_MAX, _QUEUE_SIZE, _QUEUE_READY, _QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
_INTERRUPT_STATUS, _INTERRUPT_ACK, _STATUS = 0x060, 0x064, 0x070
_DESCRIPTORS, _DRIVER_AREA, _DEVICE_AREA = 0x080, 0x090, 0x0A0
_SHM_LENGTH, _SHM_END, _CONFIG_GENERATION = 0x0B0, 0x0C0, 0x0FC
_QUEUE, _CONFIGURATION = 1, 2
_ADDRESSES = {_DESCRIPTORS: "descriptors", _DRIVER_AREA: "available", _DEVICE_AREA: "used"}


def read_empty(_cpu: "Cpu", offset: int, size: int) -> int:
    """A slot without a device: DeviceID is 0 (4.2.2)."""
    word = {_MAGIC: MAGIC, _VERSION: VERSION}.get(offset & ~3, 0)
    return word >> 8 * (offset & 3) & (1 << 8 * size) - 1


class VirtioMmio:
    """The registers of one device. `line(level)` is its interrupt."""

    def __init__(self, virtio: VirtioDevice, line: Callable[[bool], None]) -> None:
        self.virtio = virtio
        self._line = line
        self._device_features_select = self._driver_features_select = self._queue_select = 0
        self._interrupt_status = 0
        virtio.on_queue_interrupt = self._queue_interrupt
        virtio.on_config_interrupt = self._config_interrupt

    def is_polled(self) -> bool:
        """Whether the driver receives without interrupts: it can only look at the rings."""
        return self.virtio.polled

    def _queue_interrupt(self, _queue: SplitQueue) -> None:
        self._interrupt(_QUEUE)

    def _config_interrupt(self) -> None:
        self._interrupt(_CONFIGURATION)

    def reset(self) -> None:
        """What a driver's write of 0 to Status does."""
        self._set_status(0)

    def read(self, _cpu: "Cpu", offset: int, size: int) -> int:
        """A load. Registers are read by aligned 32-bit accesses (4.2.2.2); of others the bytes are given all the same."""
        if offset >= _CONFIG:
            config = self.virtio.config()
            return int.from_bytes(config[offset - _CONFIG : offset - _CONFIG + size], "little")
        value = self._register(offset & ~3)
        if size == 8:
            value |= self._register((offset & ~3) + 4) << 32
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, _cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """A store. One to a register that is not 32 bits wide and aligned does nothing."""
        if offset >= _CONFIG:
            self.virtio.write_config(offset - _CONFIG, value.to_bytes(size, "little"))
        elif size == 4 and not offset & 3:
            self._store(offset, value)

    def _selected(self) -> SplitQueue | None:
        queues = self.virtio.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    def _register(self, offset: int) -> int:
        virtio = self.virtio
        if offset == _DEVICE_FEATURES:
            shift = 32 * self._device_features_select
            return (virtio.offered >> shift) & 0xFFFF_FFFF if shift < 64 else 0
        if offset in (_QUEUE_SIZE_MAX, _QUEUE_READY):
            queue = self._selected()
            if queue is None:
                return 0
            return queue.maximum if offset == _QUEUE_SIZE_MAX else int(queue.enabled)
        if _SHM_LENGTH <= offset < _SHM_END:
            return 0xFFFF_FFFF  # there is no shared memory region (4.2.2)
        return {
            _MAGIC: MAGIC,
            _VERSION: VERSION,
            _DEVICE: virtio.DEVICE_ID,
            _VENDOR: VENDOR,
            _INTERRUPT_STATUS: self._interrupt_status,
            _STATUS: virtio.status,
            _CONFIG_GENERATION: virtio.generation,
        }.get(offset, 0)

    def _store(self, offset: int, value: int) -> None:
        virtio = self.virtio
        if offset == _QUEUE_NOTIFY:
            virtio.notify(value & 0xFFFF)
        elif offset == _INTERRUPT_ACK:
            self._interrupt_status &= ~value
            self._line(bool(self._interrupt_status))
        elif offset == _STATUS:
            self._set_status(value)
        elif offset == _DEVICE_FEATURES_SELECT:
            self._device_features_select = value
        elif offset == _DRIVER_FEATURES_SELECT:
            self._driver_features_select = value
        elif offset == _DRIVER_FEATURES and self._driver_features_select < 2:
            shift = 32 * self._driver_features_select
            virtio.set_features(virtio.features & ~(0xFFFF_FFFF << shift) | value << shift)
        elif offset == _QUEUE_SELECT:
            self._queue_select = value
        else:
            self._set_up_queue(offset, value)

    def _set_up_queue(self, offset: int, value: int) -> None:
        queue = self._selected()
        if queue is None:
            return
        if offset == _QUEUE_READY:
            if value == 1 and not queue.enabled:
                self.virtio.enable_queue(queue)
            elif not value and queue.enabled:
                queue.enabled = False
        elif not queue.enabled:
            name = _ADDRESSES.get(offset & ~4)
            if offset == _QUEUE_SIZE:
                queue.size = value & 0xFFFF
            elif name is not None:
                shift = 8 * (offset & 4)
                setattr(queue, name, getattr(queue, name) & ~(0xFFFF_FFFF << shift) | value << shift)

    def _set_status(self, value: int) -> None:
        self.virtio.set_status(value, True)
        if not value & 0xFF:
            self._device_features_select = self._driver_features_select = self._queue_select = 0
            self._interrupt_status = 0
            self._line(False)

    def _interrupt(self, bit: int) -> None:
        """A pulse for each event, as KVM's irqfd and QEMU's I/O APIC make it: TamaGo's driver acknowledges nothing."""
        self._interrupt_status |= bit
        self._line(False)
        self._line(True)

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {
            "virtio": self.virtio.save(),
            "selects": [self._device_features_select, self._driver_features_select, self._queue_select],
            "interrupt_status": self._interrupt_status,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.virtio.load(state["virtio"])
        self._device_features_select, self._driver_features_select, self._queue_select = state["selects"]
        self._interrupt_status = state["interrupt_status"]
