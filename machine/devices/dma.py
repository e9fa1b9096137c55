"""What a device sees of guest memory: reads and writes at physical addresses, as a bus master does them."""

from typing import Protocol


class Dma(Protocol):
    """`PhysicalMemory` is one; a confidential machine hands out a view that checks page states.

    Every method raises `machine.errors.BadAddress` where there is no memory that the device may touch. Values are
    little-endian.
    """

    def read(self, address: int, size: int) -> bytes:
        """The `size` bytes at physical `address`."""
        ...

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at physical `address`."""
        ...

    def u16(self, address: int) -> int:
        """The 16-bit value at physical `address`."""
        ...

    def set_u16(self, address: int, value: int) -> None:
        """Store a 16-bit value at physical `address`."""
        ...
