"""The memory map: who owns which pages (UEFI 2.10, 7.2: AllocatePages, FreePages, GetMemoryMap)."""

import struct
from bisect import bisect_right
from collections.abc import Callable

from machine.callbacks import nothing
from uefi import memory_types as mt
from uefi.status import EfiError, Status

PAGE = 4096
_DESCRIPTOR = struct.Struct("<IxxxxQQQQQ")


class Region:
    """Pages `start` (inclusive) to `end` (exclusive), byte addresses, of one type and with one set of attributes."""

    __slots__ = ("attributes", "end", "start", "type")

    def __init__(self, start: int, end: int, memory_type: int, attributes: int) -> None:
        self.start = start
        self.end = end
        self.type = memory_type
        self.attributes = attributes


class MemoryMap:
    """Sorted regions without overlap; neighbours that are alike are one. `key` changes with every change."""

    def __init__(self) -> None:
        self._regions: list[Region] = []
        self._starts: list[int] = []
        self.key = 1
        self.on_change: Callable[[], None] = nothing

    def add(self, start: int, end: int, memory_type: int, attributes: int = mt.CACHEABLE) -> None:
        """Describe memory that was not in the map yet."""
        at = bisect_right(self._starts, start)
        self._regions.insert(at, Region(start, end, memory_type, attributes))
        self._starts.insert(at, start)
        self._changed()

    def regions(self) -> list[Region]:
        """All regions by address."""
        return list(self._regions)

    def _changed(self) -> None:
        self.key += 1
        self.on_change()

    def _index(self, address: int) -> int | None:
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self._regions[at].end:
            return at
        return None

    def type_at(self, address: int) -> int | None:
        """The type of the page at `address`; None outside the map."""
        at = self._index(address)
        return None if at is None else self._regions[at].type

    def convert(self, start: int, end: int, wanted: int | None, memory_type: int) -> bool:
        """Give pages of type `wanted` (None: of any type but conventional) a new type.

        False, and no change, if they are not all so.
        """
        at = self._index(start)
        if at is None:
            return False
        first = at
        position = start
        while position < end:
            if at >= len(self._regions):
                return False
            region = self._regions[at]
            if region.start > position:
                return False
            if (region.type != wanted) if wanted is not None else (region.type == mt.CONVENTIONAL):
                return False
            position = region.end
            at += 1
        pieces: list[Region] = []
        for region in self._regions[first:at]:
            low, high = max(region.start, start), min(region.end, end)
            attributes = region.attributes & ~mt.RUNTIME
            if memory_type in mt.RUNTIME_TYPES:
                attributes |= mt.RUNTIME
            if region.start < low:
                pieces.append(Region(region.start, low, region.type, region.attributes))
            pieces.append(Region(low, high, memory_type, attributes))
            if high < region.end:
                pieces.append(Region(high, region.end, region.type, region.attributes))
        low_index = max(first - 1, 0)
        high_index = min(at + 1, len(self._regions))
        merged: list[Region] = []
        for region in [*self._regions[low_index:first], *pieces, *self._regions[at:high_index]]:
            last = merged[-1] if merged else None
            if last and last.end == region.start and last.type == region.type and last.attributes == region.attributes:
                merged[-1] = Region(last.start, region.end, last.type, last.attributes)
            else:
                merged.append(region)
        self._regions[low_index:high_index] = merged
        self._starts[low_index:high_index] = [region.start for region in merged]
        self._changed()
        return True

    def find_free(self, size: int, limit: int, alignment: int = PAGE) -> int | None:
        """The highest free start of `size` bytes that end at or below `limit`; low RAM is preferred to RAM above 4 GiB."""
        for ceiling in (min(limit, 1 << 32), limit):
            for region in reversed(self._regions):
                if region.type != mt.CONVENTIONAL or region.start >= ceiling:
                    continue
                start = (min(region.end, ceiling) - size) & ~(alignment - 1)
                if start >= region.start:
                    return start
        return None

    def allocate(self, pages: int, memory_type: int, limit: int = 1 << 63, alignment: int = PAGE) -> int:
        """Allocate `pages` 4 KiB pages as high as possible below `limit`. EfiError(OUT_OF_RESOURCES) if there is no room."""
        start = self.find_free(pages * PAGE, limit, alignment)
        if start is None or not self.convert(start, start + pages * PAGE, mt.CONVENTIONAL, memory_type):
            raise EfiError(Status.OUT_OF_RESOURCES)
        return start

    def allocate_at(self, start: int, pages: int, memory_type: int) -> None:
        """Allocate exactly these pages. EfiError(NOT_FOUND) if one of them is not free."""
        if not self.convert(start, start + pages * PAGE, mt.CONVENTIONAL, memory_type):
            raise EfiError(Status.NOT_FOUND)

    def free(self, start: int, pages: int) -> None:
        """Free allocated pages. EfiError(NOT_FOUND) if one of them is free already or no memory."""
        if not self.convert(start, start + pages * PAGE, None, mt.CONVENTIONAL):
            raise EfiError(Status.NOT_FOUND)

    def descriptors(self) -> bytes:
        """The map as an array of EFI_MEMORY_DESCRIPTOR, 48 bytes each."""
        parts = [
            _DESCRIPTOR.pack(r.type, r.start, 0, (r.end - r.start) // PAGE, r.attributes, 0) for r in self._regions
        ]
        return b"".join(parts)
