"""The 256 bytes of configuration space of one PCI function with a type 0 header (PCI Local Bus 3.0, chapter 6)."""

from collections.abc import Callable

SIZE = 256

VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION, CLASS_CODE = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
CACHE_LINE_SIZE, LATENCY_TIMER, HEADER_TYPE = 0x0C, 0x0D, 0x0E
BASE_ADDRESS, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID = 0x10, 0x2C, 0x2E
ROM_ADDRESS, CAPABILITIES, INTERRUPT_LINE, INTERRUPT_PIN = 0x30, 0x34, 0x3C, 0x3D

COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_NO_INTX = 0x0001, 0x0002, 0x0004, 0x0400
STATUS_INTX, STATUS_CAPABILITIES = 0x0008, 0x0010
MULTI_FUNCTION = 0x80

_COMMAND_WRITABLE = 0x0547
_STATUS_CLEARED_BY_ONE = 0xF900
_FIRST_CAPABILITY = 0x40


class ConfigSpace:
    """Bytes, which bits of them the guest can write, and which it clears by writing 1."""

    def __init__(
        self, *, vendor: int, device: int, class_code: int, revision: int, subsystem_vendor: int, subsystem: int
    ) -> None:
        self.data = bytearray(SIZE)
        self.writable = bytearray(SIZE)
        self._cleared_by_one = bytearray(SIZE)
        self._watchers: list[tuple[int, int, Callable[[], None]]] = []
        self._last_capability = CAPABILITIES - 1
        self._next_free = _FIRST_CAPABILITY
        self.set(VENDOR_ID, 2, vendor)
        self.set(DEVICE_ID, 2, device)
        self.set(REVISION, 1, revision)
        self.set(CLASS_CODE, 3, class_code)
        self.set(SUBSYSTEM_VENDOR_ID, 2, subsystem_vendor)
        self.set(SUBSYSTEM_ID, 2, subsystem)
        self.allow(COMMAND, 2, _COMMAND_WRITABLE)
        self.allow(CACHE_LINE_SIZE, 1, 0xFF)
        self.allow(LATENCY_TIMER, 1, 0xFF)
        self.allow(INTERRUPT_LINE, 1, 0xFF)
        self._cleared_by_one[STATUS : STATUS + 2] = _STATUS_CLEARED_BY_ONE.to_bytes(2, "little")

    def get(self, offset: int, size: int) -> int:
        """The little-endian value of `size` bytes; bytes beyond the space read as ones."""
        if offset + size > SIZE:
            return int.from_bytes(self.data[offset:].ljust(size, b"\xff"), "little")
        return int.from_bytes(self.data[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int) -> None:
        """Store a value from the device's side, whatever the guest may write."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def allow(self, offset: int, size: int, mask: int) -> None:
        """Let the guest write the bits of `mask` in `size` bytes at `offset`, and no others there."""
        self.writable[offset : offset + size] = mask.to_bytes(size, "little")

    def watch(self, offset: int, size: int, callback: Callable[[], None]) -> None:
        """Call back after the guest has written any of `size` bytes at `offset`."""
        self._watchers.append((offset, offset + size, callback))

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest's write: changes what is writable, clears what is cleared by ones, and calls the watchers."""
        end = min(offset + size, SIZE)
        for at in range(offset, end):
            byte = value >> 8 * (at - offset) & 0xFF
            mask = self.writable[at]
            self.data[at] = (self.data[at] & ~mask | byte & mask) & ~(byte & self._cleared_by_one[at])
        for first, last, callback in self._watchers:
            if offset < last and end > first:
                callback()

    def add_capability(self, identity: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability to the list (6.7) and return its offset.

        `body` is what follows the two bytes of ID and next pointer; `writable` is a mask of the same layout (missing
        bytes: read-only). Raises ValueError when the 192 bytes behind the header are used up.
        """
        offset = self._next_free
        size = 2 + len(body)
        if offset + size > SIZE:
            raise ValueError(
                f"capability {identity:#x} of {size} bytes does not fit at {offset:#x}, space ends at 0x100"
            )
        self.data[self._last_capability + 1] = offset
        self.data[offset] = identity
        self.data[offset + 2 : offset + size] = body
        self.writable[offset + 2 : offset + 2 + len(writable)] = writable
        self._last_capability = offset
        self._next_free = offset + size + 3 & ~3
        self.set(STATUS, 2, self.get(STATUS, 2) | STATUS_CAPABILITIES)
        return offset
