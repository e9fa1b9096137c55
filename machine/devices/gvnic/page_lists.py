"""Queue page lists, and the three ways in which a queue's descriptors name their buffers."""

from typing import Protocol

from machine.devices.dma import Dma
from machine.devices.gvnic.errors import (
    ALREADY_EXISTS,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    BrokenQueue,
    Refused,
)

PAGE = 4096
RAW = 0xFFFFFFFF
"""The page list number of a queue that has none."""

Pages = tuple[int, ...]


class PageLists:
    """Pages (physical addresses) that the driver has registered under numbers of its own, `limit` in all."""

    def __init__(self, dma: Dma, limit: int) -> None:
        self._dma = dma
        self._limit = limit
        self._lists: dict[int, Pages] = {}

    def register(self, identity: int, count: int, addresses: int, page_size: int) -> None:
        """Read `count` be64 page addresses at `addresses`. TamaGo leaves the page size at 0. Refused, BadAddress."""
        if identity in self._lists:
            raise Refused(ALREADY_EXISTS, f"page list {identity:#x} is registered already")
        if identity == RAW or not count:
            raise Refused(INVALID_ARGUMENT, f"page list {identity:#x} of {count} pages")
        if page_size not in (0, PAGE):
            raise Refused(INVALID_ARGUMENT, f"pages of {page_size} bytes, wanted {PAGE}")
        if count + sum(map(len, self._lists.values())) > self._limit:
            raise Refused(RESOURCE_EXHAUSTED, f"{count} more pages, wanted at most {self._limit} in all")
        data = self._dma.read(addresses, 8 * count)
        pages = tuple(int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8))
        for page in pages:
            if page % PAGE:
                raise Refused(INVALID_ARGUMENT, f"page at {page:#x}, wanted a multiple of {PAGE}")
            self._dma.read(page, PAGE)
        self._lists[identity] = pages

    def unregister(self, identity: int) -> None:
        """Forget a list; who uses it must have been asked before. Refused."""
        self.pages(identity)
        del self._lists[identity]

    def pages(self, identity: int) -> Pages:
        """The pages of a list. Refused if there is no such list."""
        if identity not in self._lists:
            raise Refused(NOT_FOUND, f"no page list {identity:#x} is registered")
        return self._lists[identity]

    def clear(self) -> None:
        """Forget all lists."""
        self._lists.clear()

    def save(self) -> list[list[object]]:
        """Plain data for `load`."""
        return [[identity, list(pages)] for identity, pages in sorted(self._lists.items())]

    def load(self, state: list[list[list[int]]]) -> None:
        """Take over a saved state."""
        self._lists = {identity: tuple(pages) for identity, pages in state}  # type: ignore[misc]


class Buffers(Protocol):
    """Where a queue's buffers are: what the addresses in its descriptors mean. Plain DMA is the raw way (RDA)."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at a descriptor's `address`. BrokenQueue or BadAddress if that is none of the driver's memory."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at a descriptor's `address`. BrokenQueue or BadAddress, as `read`."""
        ...


class OffsetBuffers:
    """Offsets into a page list, as if its pages followed each other (GQI, QPL)."""

    def __init__(self, dma: Dma, pages: Pages) -> None:
        self._dma = dma
        self._pages = pages

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at an offset."""
        page, start = divmod(address, PAGE)
        if start + size <= PAGE and page < len(self._pages):
            return self._dma.read(self._pages[page] + start, size)
        return b"".join(self._dma.read(at, length) for at, length in self._pieces(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at an offset."""
        done = 0
        for at, length in self._pieces(address, len(data)):
            self._dma.write(at, data[done : done + length])
            done += length

    def _pieces(self, offset: int, size: int) -> list[tuple[int, int]]:
        if offset + size > len(self._pages) * PAGE:
            raise BrokenQueue(f"buffer at {offset:#x} (+{size}) of a list of {len(self._pages)} pages")
        pieces = []
        while size:
            page, start = divmod(offset, PAGE)
            length = min(size, PAGE - start)
            pieces.append((self._pages[page] + start, length))
            offset, size = offset + length, size - length
        return pieces


class RegisteredBuffers:
    """Physical addresses that must lie in the pages of a list (DQO, QPL)."""

    def __init__(self, dma: Dma, pages: Pages) -> None:
        self._dma = dma
        self._pages = frozenset(page // PAGE for page in pages)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at an address in registered pages."""
        self._check(address, size)
        return self._dma.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at an address in registered pages."""
        self._check(address, len(data))
        self._dma.write(address, data)

    def _check(self, address: int, size: int) -> None:
        for page in range(address // PAGE, (address + max(size, 1) - 1) // PAGE + 1):
            if page not in self._pages:
                raise BrokenQueue(f"buffer at {address:#x} (+{size}) is not in the queue's page list")
