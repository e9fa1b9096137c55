"""Pool memory (UEFI 2.10, 7.2: AllocatePool, FreePool): small pieces carved from pages of their memory type."""

from uefi import memory_types as mt
from uefi.memory_map import PAGE, MemoryMap
from uefi.status import EfiError, Status

_CLASSES = (32, 64, 128, 256, 512, 1024, 2048)


class Pool:
    """Pieces of at most 2 KiB come from a page shared by pieces of their size and type; larger ones get whole pages.

    All pieces are aligned to 16 bytes at least. A page goes back when its last piece is freed.
    """

    def __init__(self, memory_map: MemoryMap) -> None:
        self._map = memory_map
        self._large: dict[int, int] = {}
        self._slabs: dict[int, tuple[int, int, set[int]]] = {}  # page -> (piece size, type, free offsets)
        self._open: dict[tuple[int, int], list[int]] = {}  # (piece size, type) -> pages with free pieces

    def allocate(self, size: int, memory_type: int = mt.BOOT_DATA) -> int:
        """`size` bytes; EfiError(OUT_OF_RESOURCES) when RAM is used up."""
        piece = next((c for c in _CLASSES if size <= c), 0)
        if not piece:
            pages = -(-size // PAGE)
            address = self._map.allocate(pages, memory_type)
            self._large[address] = pages
            return address
        pages_open = self._open.setdefault((piece, memory_type), [])
        if not pages_open:
            page = self._map.allocate(1, memory_type)
            self._slabs[page] = (piece, memory_type, set(range(0, PAGE, piece)))
            pages_open.append(page)
        page = pages_open[-1]
        free = self._slabs[page][2]
        offset = free.pop()
        if not free:
            pages_open.pop()
        return page + offset

    def free(self, address: int) -> None:
        """Give a piece back. EfiError(INVALID_PARAMETER) if it is none, or was freed already."""
        pages = self._large.pop(address, None)
        if pages is not None:
            self._map.free(address, pages)
            return
        page = address & ~(PAGE - 1)
        slab = self._slabs.get(page)
        if slab is None or (address - page) % slab[0] or address - page in slab[2]:
            raise EfiError(Status.INVALID_PARAMETER)
        piece, memory_type, free = slab
        pages_open = self._open[(piece, memory_type)]
        if not free:
            pages_open.append(page)
        free.add(address - page)
        if len(free) == PAGE // piece and len(pages_open) > 1:
            pages_open.remove(page)
            del self._slabs[page]
            self._map.free(page, 1)
