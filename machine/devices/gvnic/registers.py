"""The gVNIC's registers (BAR0): big-endian, 32 bits wide but for the driver version (8) and the queue length (16)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine.cpu import Cpu

SIZE = 0x1000

DEVICE_STATUS, DRIVER_STATUS = 0x00, 0x04
MAX_TX_QUEUES, MAX_RX_QUEUES = 0x08, 0x0C
ADMINQ_PFN, ADMINQ_DOORBELL, ADMINQ_EVENT_COUNTER = 0x10, 0x14, 0x18
DRIVER_VERSION = 0x1F
ADMINQ_BASE_HI, ADMINQ_BASE_LO, ADMINQ_LENGTH = 0x20, 0x24, 0x28

STATUS_RESET, STATUS_LINK_UP, STATUS_IS_RESET = 1 << 1, 1 << 2, 1 << 4
"""DEVICE_STATUS: the device wants to be reset, its link is up, it has been reset and has no admin queue yet."""

DRIVER_RUN, DRIVER_RESET = 1 << 0, 1 << 1
"""DRIVER_STATUS: the driver uses the device, the driver wants it reset."""

_WRITABLE = frozenset((DRIVER_STATUS, ADMINQ_PFN, ADMINQ_DOORBELL, ADMINQ_BASE_HI, ADMINQ_BASE_LO, ADMINQ_LENGTH))
_VERSION_LIMIT = 128


class Registers:
    """What the driver wrote, and `read_only(offset)` for what the device tells (None: no such register).

    `written(offset)` is called after a register has changed. Writes in odd widths or places are lost, as are those to
    read-only registers; a 64-bit access is two of 32 bits.
    """

    def __init__(self, read_only: Callable[[int], int | None], written: Callable[[int], None]) -> None:
        self._read_only = read_only
        self._written = written
        self._words = dict.fromkeys(_WRITABLE, 0)
        self._version = b""

    def __getitem__(self, offset: int) -> int:
        """The value of a register that the driver writes; ADMINQ_LENGTH in bytes."""
        word = self._words[offset]
        return word >> 16 if offset == ADMINQ_LENGTH else word

    @property
    def driver_version(self) -> str:
        """What the driver said about itself, as far as it is printable: it writes a line, a byte at a time."""
        return "".join(char for char in self._version.decode("ascii", "replace") if char.isprintable())

    def restore(self, offset: int, value: int) -> None:
        """Put the 32 bits of a register back, as if the driver had written them; nobody is told."""
        self._words[offset] = value

    def clear_queue(self) -> None:
        """Forget where the admin queue is; a PFN of 0 tells the driver that the device has let go of it."""
        for offset in _WRITABLE - {DRIVER_STATUS}:
            self._words[offset] = 0

    def read(self, cpu: "Cpu", offset: int, size: int) -> int:
        """`size` bytes (1, 2, 4, 8) as they lie in the BAR; what is no register reads as 0."""
        first = offset & ~3
        lying = b"".join(self._word(at).to_bytes(4, "big") for at in range(first, offset + size, 4))
        return int.from_bytes(lying[offset - first : offset - first + size], "little")

    def write(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """The driver's write of `size` bytes (1, 2, 4, 8)."""
        lying = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        if size == 1:
            if offset == DRIVER_VERSION:
                self._version_byte(lying)
        elif size == 2:
            if offset == ADMINQ_LENGTH:
                self._store(offset, int.from_bytes(lying + b"\0\0", "big"))
        elif not offset & 3:
            for at in range(0, size, 4):
                self._store(offset + at, int.from_bytes(lying[at : at + 4], "big"))

    def _word(self, offset: int) -> int:
        value = self._read_only(offset)
        return self._words.get(offset, 0) if value is None else value

    def _store(self, offset: int, value: int) -> None:
        if offset in _WRITABLE:
            self._words[offset] = value
            self._written(offset)

    def _version_byte(self, byte: bytes) -> None:
        if self._version.endswith(b"\n"):
            self._version = b""
        if len(self._version) < _VERSION_LIMIT:
            self._version += byte

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"words": [[offset, value] for offset, value in sorted(self._words.items())], "version": self._version}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._words.update(dict(state["words"]))
        self._version = state["version"]
