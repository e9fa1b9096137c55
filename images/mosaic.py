"""A read-only block device put together from pieces that are computed or read when asked for, zeros between them."""

from bisect import bisect_right
from collections.abc import Callable, Iterator

from images.block import check_range
from images.errors import ImageError, WriteProtected

Reader = Callable[[int, int], bytes]
"""Of a piece: (offset in it, count) gives exactly `count` bytes; only of what lies inside. May raise ImageError."""


class Mosaic:
    """A BlockDevice of `size` bytes whose pieces are placed before it is used."""

    read_only = True

    def __init__(self, size: int, block_size: int = 512) -> None:
        """Both in bytes; without pieces it is all zeros."""
        self.size = size
        self.block_size = block_size
        self._starts: list[int] = []
        self._pieces: list[tuple[int, Reader]] = []  # (size, reader) for each start

    def place(self, offset: int, size: int, read: Reader) -> None:
        """Puts a piece of `size` bytes at `offset`. Raises ImageError where it overlaps another or the device's end."""
        if size <= 0:
            return
        index = bisect_right(self._starts, offset)
        before = self._starts[index - 1] + self._pieces[index - 1][0] if index else 0
        after = self._starts[index] if index < len(self._starts) else self.size
        if not before <= offset <= offset + size <= after:
            raise ImageError(f"a piece of {size} bytes at {offset}: free are {before} to {after}")
        self._starts.insert(index, offset)
        self._pieces.insert(index, (size, read))

    def place_bytes(self, offset: int, data: bytes) -> None:
        """Puts bytes at `offset`; as place()."""
        self.place(offset, len(data), lambda start, count: data[start : start + count])

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of the pieces in their order; between them all is zero (images.sparse.Sparse)."""
        return zip(self._starts, (size for size, _ in self._pieces), strict=True)

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        check_range(self, offset, count)
        parts: list[bytes] = []
        end = offset + count
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or self._starts[index] + self._pieces[index][0] <= offset:
            index += 1
        while offset < end:
            start = self._starts[index] if index < len(self._starts) else end
            if start > offset:
                gap = min(start, end) - offset
                parts.append(bytes(gap))
                offset += gap
                continue
            size, read = self._pieces[index]
            length = min(end, start + size) - offset
            parts.append(read(offset - start, length))
            offset += length
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Refused: WriteProtected; an OverlayDevice over it takes changes."""
        raise WriteProtected("the disk is made up of files and takes no changes of its own")

    def flush(self) -> None:
        """Nothing to do."""
