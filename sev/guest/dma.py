"""What a device sees of a confidential guest's memory: pages that are shared (machine.devices.dma.Dma)."""

from machine.errors import BadAddress
from machine.memory import PhysicalMemory
from sev.guest.checker import Checker


class GuestDma:
    """Physical memory for one device. Private pages are reported, and with a strict checker there is no memory there.

    Every method raises BadAddress where the device may not go. VMPCKs in what is read or written are reported.
    """

    def __init__(self, memory: PhysicalMemory, checker: Checker, device: str) -> None:
        self._memory = memory
        self._checker = checker
        self._device = f"DMA of {device}"

    def _check(self, address: int, size: int) -> None:
        if not self._checker.host_access(address, size, self._device) and self._checker.strict:
            raise BadAddress(address, size)

    def read(self, address: int, size: int) -> bytes:
        """The `size` bytes at physical `address`."""
        self._check(address, size)
        data = self._memory.read(address, size)
        self._checker.look_for_keys_in(data, address, f"in the {self._device}")
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at physical `address`."""
        self._check(address, len(data))
        self._memory.write(address, data)

    def u16(self, address: int) -> int:
        """The 16-bit value at physical `address`."""
        self._check(address, 2)
        return self._memory.u16(address)

    def set_u16(self, address: int, value: int) -> None:
        """Store a 16-bit value at physical `address`."""
        self._check(address, 2)
        self._memory.set_u16(address, value)
