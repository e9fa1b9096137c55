"""A split virtqueue, the device's side (VirtIO 1.2, 2.7), which believes nothing that the driver wrote.

Offsets: a descriptor is 16 bytes {u64 address, u32 length, u16 flags, u16 next}; the available ring {u16 flags, u16 index,
u16 ring[size], u16 used_event}; the used ring {u16 flags, u16 index, {u32 id, u32 length} ring[size], u16 avail_event}.
"""

import struct
from typing import Any

from machine.devices.dma import Dma
from machine.errors import BadAddress, MachineError

MAXIMUM_SIZE = 32768
NO_VECTOR = 0xFFFF

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1


class BrokenRing(MachineError):
    """The driver has put something into a ring that VirtIO forbids: the device needs a reset (2.1.2)."""


class Chain:
    """One buffer of the driver's: (address, length) of what the device reads, and of what it writes, in order."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[tuple[int, int]] = []
        self.writable: list[tuple[int, int]] = []

    def gather(self, dma: Dma, limit: int) -> bytes:
        """The first `limit` bytes of what the device reads. BadAddress outside memory."""
        readable = self.readable
        if len(readable) == 1:
            address, length = readable[0]
            return dma.read(address, min(length, limit))
        parts = []
        for address, length in readable:
            parts.append(dma.read(address, min(length, limit)))
            limit -= len(parts[-1])
            if not limit:
                break
        return b"".join(parts)

    def scatter(self, dma: Dma, data: bytes) -> int:
        """Store as much of `data` as fits and give the number of bytes. BadAddress outside memory."""
        writable, size = self.writable, len(data)
        if writable and 0 < size <= writable[0][1]:
            dma.write(writable[0][0], data)
            return size
        done = 0
        for address, length in writable:
            part = data[done : done + length] if done or length < len(data) else data
            if not part:
                break
            dma.write(address, part)
            done += len(part)
        return done

    @property
    def room(self) -> int:
        """Bytes that the device may write."""
        writable = self.writable
        return writable[0][1] if len(writable) == 1 else sum(length for _, length in writable)

    @property
    def length(self) -> int:
        """Bytes that the device may read."""
        return sum(length for _, length in self.readable)


class SplitQueue:
    """One virtqueue of at most `maximum` entries, a power of two. The transport sets the addresses and `enabled`.

    `event_index` and `indirect` say whether VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC were negotiated.
    """

    def __init__(self, dma: Dma, index: int, maximum: int) -> None:
        self._dma = dma
        self.index = index
        self.maximum = maximum
        self.event_index = False
        self.indirect = False
        self.reset()

    def reset(self) -> None:
        """As after power on."""
        self.size = self.maximum
        self.descriptors = self.available = self.used = 0
        self.enabled = False
        self.vector = NO_VECTOR
        self._seen = self._next = 0
        self._used_index = self._told = 0
        self._silent = True

    def enable(self) -> None:
        """Start using the ring. BrokenRing if its size or addresses are none (2.7.1, 2.7)."""
        size = self.size
        if not 0 < size <= self.maximum or size & (size - 1):
            raise BrokenRing(f"queue {self.index} of {size} entries, wanted a power of two up to {self.maximum}")
        for name, address, alignment in (
            ("descriptor table", self.descriptors, 16),
            ("available ring", self.available, 2),
            ("used ring", self.used, 4),
        ):
            if address % alignment:
                raise BrokenRing(f"queue {self.index}: {name} at {address:#x}, wanted a multiple of {alignment}")
        self.enabled = True

    def pop(self) -> Chain | None:
        """The next buffer that the driver has made available, or None. BrokenRing, BadAddress."""
        at = self._next
        if self._seen == at:
            self._seen = seen = self._dma.u16(self.available + 2)
            if seen == at:
                return None
            if seen - at & 0xFFFF > self.size:
                raise BrokenRing(
                    f"queue {self.index}: available index jumps from {at} to {seen}, wanted at most {self.size} more"
                )
        head = self._dma.u16(self.available + 4 + 2 * (at & self.size - 1))
        chain = self._walk(head)
        self._next = at + 1 & 0xFFFF
        return chain

    def unpop(self, count: int = 1) -> None:
        """Put the last `count` buffers back, which were not used."""
        self._next = self._next - count & 0xFFFF

    def _walk(self, head: int) -> Chain:
        chain = Chain(head)
        table, entries, index, count = self.descriptors, self.size, head, 0
        if index < entries:  # most buffers are one descriptor
            address, length, flags, _ = _DESCRIPTOR.unpack(self._dma.read(table + 16 * index, 16))
            if length and not flags & (_NEXT | _INDIRECT):
                (chain.writable if flags & _WRITE else chain.readable).append((address, length))
                return chain
        nested = False
        while True:
            if index >= entries:
                raise BrokenRing(f"queue {self.index}: descriptor {index} of {entries}")
            address, length, flags, following = _DESCRIPTOR.unpack(self._dma.read(table + 16 * index, 16))
            if flags & _INDIRECT:
                self._check_indirect(index, length, flags, nested)
                table, entries, index, nested = address, length // 16, 0, True
                continue
            count += 1
            if count > self.size:
                raise BrokenRing(
                    f"queue {self.index}: chain from descriptor {head} is longer than {self.size}, or loops"
                )
            if not length:
                raise BrokenRing(f"queue {self.index}: descriptor {index} has no length")
            if flags & _WRITE:
                chain.writable.append((address, length))
            elif chain.writable:
                raise BrokenRing(f"queue {self.index}: descriptor {index} is to be read behind one to be written")
            else:
                chain.readable.append((address, length))
            if not flags & _NEXT:
                return chain
            index = following

    def _check_indirect(self, index: int, length: int, flags: int, nested: bool) -> None:
        """2.7.5.3."""
        if not self.indirect:
            raise BrokenRing(f"queue {self.index}: descriptor {index} is indirect, which was not negotiated")
        if nested:
            raise BrokenRing(f"queue {self.index}: descriptor {index} of an indirect table is indirect itself")
        if flags & _NEXT:
            raise BrokenRing(f"queue {self.index}: descriptor {index} is indirect and goes on")
        if not length or length % 16:
            raise BrokenRing(f"queue {self.index}: indirect table of {length} bytes, wanted a multiple of 16")

    def push(self, head: int, written: int) -> None:
        """Give a buffer back with `written` bytes in it; the driver sees it after `publish`."""
        entry = self.used + 4 + 8 * (self._used_index & self.size - 1)
        self._dma.write(entry, _USED.pack(head, written))
        self._used_index = self._used_index + 1 & 0xFFFF

    def publish(self) -> bool:
        """Show the driver what was pushed; True if it wants an interrupt for that (2.7.7, 2.7.10)."""
        old, new = self._told, self._used_index
        if old == new:
            return False
        self._dma.set_u16(self.used + 2, new)
        self._told = new
        if not self.event_index:
            return not self._dma.u16(self.available) & _NO_INTERRUPT
        event = self._dma.u16(self.available + 4 + 2 * self.size)
        first, self._silent = self._silent, False
        return first or (new - event - 1 & 0xFFFF) < (new - old & 0xFFFF)

    @property
    def silenced(self) -> bool:
        """Whether the driver has asked for no interrupts, as far as the flag can say that (2.7.7)."""
        try:
            return not self.event_index and bool(self._dma.u16(self.available) & _NO_INTERRUPT)
        except BadAddress:
            return False

    @property
    def more(self) -> bool:
        """Whether buffers are known to be available."""
        return self._seen != self._next

    def ask_for_kick(self) -> bool:
        """Have the driver notify when it makes more available; True if it has done so already (2.7.10, avail_event)."""
        if self.event_index:
            self._dma.set_u16(self.used + 4 + 8 * self.size, self._seen)
        return self._dma.u16(self.available + 2) != self._seen

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {name: getattr(self, name) for name in _STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = (
    *("size", "descriptors", "available", "used", "enabled", "vector", "event_index", "indirect"),
    *("_seen", "_next", "_used_index", "_told", "_silent"),
)
