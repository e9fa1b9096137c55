"""Guest RAM: one memfd, seen at physical addresses below and above the hole under 4 GiB.

Low RAM ends at 3 GiB at the latest; what does not fit starts at 4 GiB, as on a PC with a PCI hole. The host reads and
writes in place: no copy is ever made for a guest's sake. The RAM of a restored machine is a private mapping of its snapshot:
the kernel copies a page when somebody writes to it.
"""

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Callable, Iterator

from machine import private_pages
from machine.callbacks import never, nothing
from machine.errors import BadAddress, MachineError

PAGE = 4096
HOLE_START = 0xC000_0000
HIGH_START = 0x1_0000_0000
LARGE_PAGE = 2 << 20
MINIMUM = 64 << 20
_WORTH_DISCARDING = 64 << 10
"""Bytes of zeros from which on it is quicker to give pages back, and to get fresh ones where they are needed again."""
MAXIMUM = 1 << 40

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class PhysicalMemory:
    """`size` bytes of zeroed RAM (a multiple of 2 MiB, 64 MiB to 1 TiB; MachineError otherwise).

    `code_pages` holds the page frame numbers that were filled for execution; a host write to one of them calls
    `on_code_write(first, size)` so that an engine drops what it translated.
    """

    def __init__(self, size: int, source: tuple[int, int] | None = None) -> None:
        """`source`: a descriptor, which stays the caller's, and a multiple of the page size: what RAM holds at first is there in
        the file, which must stay as it is and be long enough.
        """
        if not MINIMUM <= size <= MAXIMUM or size % LARGE_PAGE:
            raise MachineError(f"RAM of {size:#x} bytes: wanted a multiple of 2 MiB from 64 MiB to 1 TiB")
        self.size = size
        self.low_size = min(size, HOLE_START)
        self.high_size = size - self.low_size
        self.end = HIGH_START + self.high_size if self.high_size else self.low_size
        self._private = source is not None
        self._descriptor = -1
        try:
            if source is not None:
                self._descriptor, self._start = os.dup(source[0]), source[1]
                kind = mmap.MAP_PRIVATE
            else:
                self._descriptor, self._start = os.memfd_create("cvmboot-ram", os.MFD_CLOEXEC), 0
                os.ftruncate(self._descriptor, size)
                kind = mmap.MAP_SHARED
            kind |= getattr(mmap, "MAP_NORESERVE", 0x4000)
            self._map = mmap.mmap(self._descriptor, size, kind, offset=self._start)
        except (OSError, ValueError, OverflowError) as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            raise MachineError(f"cannot map {size >> 20} MiB of guest RAM: {error}; try a smaller --memory") from None
        self.view = memoryview(self._map)
        self.host_address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.code_pages: set[int] = set()
        self.on_code_write: Callable[[int, int], None] = nothing
        self.gather: Callable[[], bool] = never
        """Has all processors come out of guest code, before RAM is read, changed and written back; whether any was in there."""

    def offset(self, address: int, size: int) -> int:
        """Where the `size` bytes at physical `address` lie in `view`; BadAddress unless all of them are RAM."""
        if address >= 0 and address + size <= self.low_size:
            return address
        if address >= HIGH_START and address + size <= self.end:
            return address - HIGH_START + self.low_size
        raise BadAddress(address, size)

    def is_ram(self, address: int) -> bool:
        """Whether physical `address` is backed by RAM."""
        return 0 <= address < self.low_size or HIGH_START <= address < self.end

    def window(self, address: int, size: int) -> memoryview:
        """A writable view of RAM itself. The caller reports code that it writes there through `wrote`."""
        start = self.offset(address, size)
        return self.view[start : start + size]

    def read(self, address: int, size: int) -> bytes:
        """The `size` bytes at physical `address`; BadAddress outside RAM."""
        start = self.offset(address, size)
        return bytes(self.view[start : start + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at physical `address`; BadAddress outside RAM."""
        size = len(data)
        start = self.offset(address, size)
        self.view[start : start + size] = data
        self.wrote(address, size)

    def fill(self, address: int, size: int, value: int = 0) -> None:
        """Set `size` bytes at physical `address` to `value`, in pieces of at most 1 MiB."""
        start = self.offset(address, size)
        if not value and size >= _WORTH_DISCARDING:
            first, last = -(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE
            self._forget(first, last - first)
            self.view[start:first] = bytes(first - start)
            self.view[last : start + size] = bytes(start + size - last)
        else:
            block = bytes([value]) * min(size, 1 << 20)
            for at in range(start, start + size, 1 << 20):
                n = min(1 << 20, start + size - at)
                self.view[at : at + n] = block[:n]
        self.wrote(address, size)

    def discard(self, address: int, size: int) -> None:
        """Zero whole pages and give their memory back to the host."""
        start = self.offset(address, size)
        if start % PAGE or size % PAGE:
            raise MachineError(f"discard of {address:#x} (+{size:#x}): wanted whole pages")
        self._forget(start, size)
        self.wrote(address, size)

    def _forget(self, start: int, size: int) -> None:
        """Whole pages from offset `start` become zeros, and take no memory any more."""
        if not self._private:
            self._map.madvise(mmap.MADV_REMOVE, start, size)
        elif not private_pages.replace_by_zeros(self.host_address + start, size):
            for at in range(start, start + size, 1 << 20):
                n = min(1 << 20, start + size - at)
                self.view[at : at + n] = bytes(n)

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset in `view`, size), in order, of all pages that may hold anything but zeros."""
        found = private_pages.data_in_file(self._descriptor, self._start, self.size)
        if not self._private:
            return found
        return private_pages.merged([*found, *private_pages.written(self.host_address, self.size)])

    def close(self) -> None:
        """Give the RAM back to the host, at once and whoever still holds a view of it. It cannot be used afterwards."""
        self._map.madvise(mmap.MADV_DONTNEED if self._private else mmap.MADV_REMOVE, 0, self.size)
        os.close(self._descriptor)
        self.view.release()
        with contextlib.suppress(BufferError):  # a window is still held: the address range goes with it
            self._map.close()

    def wrote(self, address: int, size: int) -> None:
        """Tell that the host stored `size` bytes at physical `address`: translated code there is dropped."""
        pages = self.code_pages
        if not pages or not size:
            return
        first, last = address >> 12, (address + size - 1) >> 12
        if first == last:
            hit = first in pages
        elif last - first < len(pages):
            hit = any(page in pages for page in range(first, last + 1))
        else:
            hit = any(first <= page <= last for page in pages)
        if hit:
            self.on_code_write(address, size)

    def u8(self, address: int) -> int:
        """The byte at physical `address`."""
        return self.view[self.offset(address, 1)]

    def u16(self, address: int) -> int:
        """The little-endian 16-bit value at physical `address`."""
        value: int = _U16.unpack_from(self.view, self.offset(address, 2))[0]
        return value

    def u32(self, address: int) -> int:
        """The little-endian 32-bit value at physical `address`."""
        value: int = _U32.unpack_from(self.view, self.offset(address, 4))[0]
        return value

    def u64(self, address: int) -> int:
        """The little-endian 64-bit value at physical `address`."""
        value: int = _U64.unpack_from(self.view, self.offset(address, 8))[0]
        return value

    def set_u8(self, address: int, value: int) -> None:
        """Store a byte at physical `address`."""
        self.view[self.offset(address, 1)] = value
        self.wrote(address, 1)

    def set_u16(self, address: int, value: int) -> None:
        """Store a 16-bit value at physical `address`."""
        _U16.pack_into(self.view, self.offset(address, 2), value)
        self.wrote(address, 2)

    def set_u32(self, address: int, value: int) -> None:
        """Store a 32-bit value at physical `address`."""
        _U32.pack_into(self.view, self.offset(address, 4), value)
        self.wrote(address, 4)

    def set_u64(self, address: int, value: int) -> None:
        """Store a 64-bit value at physical `address`."""
        _U64.pack_into(self.view, self.offset(address, 8), value)
        self.wrote(address, 8)
