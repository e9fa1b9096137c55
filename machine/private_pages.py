"""What the kernel knows of memory: which pages of a file hold data, and which of a private mapping were written to."""

import ctypes
import errno
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator

PAGE = 4096
_ENTRY = 8
_CHUNK = 1 << 19
"""Pages that are looked up at once: 2 GiB of them."""
_PRESENT_OR_SWAPPED, _OF_A_FILE = 3 << 62, 1 << 61
"""Bits of /proc/PID/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst)."""
_FIXED, _NORESERVE = 0x10, 0x4000

Extent = tuple[int, int]
"""(offset, size) in bytes."""


def data_in_file(descriptor: int, start: int, size: int) -> Iterator[Extent]:
    """Where the `size` bytes of a file from `start` on are no hole, relative to `start`; all of it if nobody can tell."""
    offset, end = start, start + size
    while offset < end:
        try:
            first = os.lseek(descriptor, offset, os.SEEK_DATA)
            last = os.lseek(descriptor, first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # that is: nothing but a hole follows
                yield offset - start, end - offset
            return
        if first >= end:
            return
        yield first - start, min(last, end) - first
        offset = last


def written(address: int, size: int) -> Iterator[Extent]:
    """Which pages of a private file mapping in this process are no longer the file's; all of them if nobody can tell."""
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield 0, size
        return
    try:
        pages = size // PAGE
        for first in range(0, pages, _CHUNK):
            count = min(_CHUNK, pages - first)
            raw = os.pread(descriptor, _ENTRY * count, _ENTRY * (address // PAGE + first))
            if len(raw) < _ENTRY * count:
                yield first * PAGE, size - first * PAGE
                return
            yield from _own_pages(array("Q", raw), first)
    finally:
        os.close(descriptor)


def _own_pages(entries: "array[int]", first: int) -> Iterator[Extent]:
    empty = bytes(_ENTRY * 512)
    view = memoryview(entries).cast("B")
    for block in range(0, len(entries), 512):
        if bytes(view[_ENTRY * block : _ENTRY * (block + 512)]) == empty[: _ENTRY * min(512, len(entries) - block)]:
            continue
        for n in range(block, min(block + 512, len(entries))):
            if entries[n] & _PRESENT_OR_SWAPPED and not entries[n] & _OF_A_FILE:
                yield (first + n) * PAGE, PAGE


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The union, in order; what touches becomes one."""
    start = end = -1
    for offset, size in sorted(extents):
        if offset > end:
            if end > start:
                yield start, end - start
            start, end = offset, offset + size
        else:
            end = max(end, offset + size)
    if end > start:
        yield start, end - start


def replace_by_zeros(address: int, size: int) -> bool:
    """Put fresh zero pages in the place of whole pages at `address`. False, and no change, if the kernel refuses."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED | _NORESERVE
    given = library.mmap(
        ctypes.c_void_p(address),
        ctypes.c_size_t(size),
        ctypes.c_int(mmap.PROT_READ | mmap.PROT_WRITE),
        ctypes.c_int(kind),
        ctypes.c_int(-1),
        ctypes.c_long(0),
    )
    return bool(given == address)
