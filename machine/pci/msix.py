"""The MSI-X capability: message table, pending bits and masks (PCI Local Bus 3.0, 6.8.2)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.pci.config_space import COMMAND
from machine.pci.device import MEMORY32, PciDevice

if TYPE_CHECKING:
    from machine.cpu import Cpu

CAPABILITY_ID = 0x11
MAX_VECTORS = 2048

_ENTRY = 16
_VECTOR_CONTROL = 12
_CONTROL_ENABLE, _CONTROL_MASK = 0x8000, 0x4000


class Msix:
    """MSI-X of one function, in a memory BAR of its own: the table at 0, the pending bits in the upper half.

    `deliver(address, data)` sends a message. What cannot be sent now (masked, or bus mastering off) is pending.
    """

    def __init__(self, device: PciDevice, vectors: int, bar_index: int, deliver: Callable[[int, int], None]) -> None:
        if not 1 <= vectors <= MAX_VECTORS:
            raise ValueError(f"{vectors} MSI-X vectors, wanted 1 to {MAX_VECTORS}")
        self._device = device
        self._deliver = deliver
        self.vectors = vectors
        self._table = bytearray(_ENTRY * vectors)
        self._table[_VECTOR_CONTROL::_ENTRY] = b"\x01" * vectors
        self._pending: set[int] = set()
        self._pba_offset = max(2048, 1 << (_ENTRY * vectors - 1).bit_length())
        device.add_bar(bar_index, MEMORY32, 2 * self._pba_offset, self.read, self.write)
        body = (vectors - 1).to_bytes(2, "little")
        body += bar_index.to_bytes(4, "little") + (self._pba_offset | bar_index).to_bytes(4, "little")
        self.capability = device.config.add_capability(CAPABILITY_ID, body, b"\x00\xc0")
        device.config.watch(self.capability + 2, 2, self._send_pending)
        device.config.watch(COMMAND, 2, self._send_pending)

    @property
    def enabled(self) -> bool:
        """True when the guest has switched MSI-X on: the function must not use INTx then (6.8.2.3)."""
        return bool(self._control & _CONTROL_ENABLE)

    def notify(self, vector: int) -> bool:
        """Send the message of `vector`, or remember it while masked. False when MSI-X is off (use INTx then)."""
        if not self._control & _CONTROL_ENABLE:
            return False
        if vector < self.vectors:
            if self._can_send(vector):
                self._send(vector)
            else:
                self._pending.add(vector)
        return True

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """The table and the pending bits; the rest of the BAR reads as 0."""
        if offset >= self._pba_offset:
            bits = sum(1 << vector for vector in self._pending)
            return bits >> 8 * (offset - self._pba_offset) & (1 << 8 * size) - 1
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Change the table; the pending bits are read-only. Unmasking a vector sends what was pending."""
        end = min(offset + size, len(self._table))
        if offset >= end:
            return
        self._table[offset:end] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")[: end - offset]
        for vector in range(offset // _ENTRY, (end - 1) // _ENTRY + 1):
            at = vector * _ENTRY
            self._table[at] &= 0xFC  # messages are aligned to 4 bytes
            self._table[at + _VECTOR_CONTROL : at + _ENTRY] = bytes((self._table[at + _VECTOR_CONTROL] & 1, 0, 0, 0))
        self._send_pending()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`; the message control word is part of the configuration space."""
        return {"table": bytes(self._table), "pending": sorted(self._pending)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._table[:] = state["table"]
        self._pending = set(state["pending"])

    @property
    def _control(self) -> int:
        return self._device.config.get(self.capability + 2, 2)

    def _can_send(self, vector: int) -> bool:
        masked = self._control & _CONTROL_MASK or self._table[vector * _ENTRY + _VECTOR_CONTROL] & 1
        return not masked and self._device.bus_master

    def _send(self, vector: int) -> None:
        at = vector * _ENTRY
        address = int.from_bytes(self._table[at : at + 8], "little")
        self._deliver(address, int.from_bytes(self._table[at + 8 : at + 12], "little"))

    def _send_pending(self) -> None:
        if not self._pending or not self._control & _CONTROL_ENABLE:
            return
        for vector in sorted(self._pending):
            if self._can_send(vector):
                self._pending.discard(vector)
                self._send(vector)
