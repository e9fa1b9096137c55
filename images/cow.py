"""Copy-on-write bytes: changes to a file or device kept in memory, in chunks, over a base that is never written."""

from collections.abc import Callable
from typing import Any

from images.errors import VolumeFull

CHUNK = 64 * 1024
_ZERO = bytes(CHUNK)


class Budget:
    """The memory that changes may take, shared by all files of a volume, so that no guest can fill the host's RAM."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self.limit = limit
        self.used = 0

    def take(self, count: int) -> None:
        """Counts `count` bytes as used; raises VolumeFull past the limit."""
        if self.used + count > self.limit:
            raise VolumeFull(f"changes need {self.used + count} bytes of memory, the limit is {self.limit}")
        self.used += count

    def give(self, count: int) -> None:
        """Returns `count` bytes."""
        self.used -= count


class CowBytes:
    """A resizable run of bytes over `base`; written chunks live in memory, a chunk of zeros costs nothing."""

    __slots__ = ("_base", "_base_size", "_budget", "_chunks", "size")

    def __init__(self, base: Callable[[int, int], bytes], base_size: int, budget: Budget) -> None:
        """`base(offset, count)` returns exactly `count` bytes for any range below `base_size` (bytes)."""
        self._base = base
        self._base_size = base_size
        self._budget = budget
        self._chunks: dict[int, bytes | bytearray] = {}
        self.size = base_size

    def __getstate__(self) -> dict[str, Any]:
        chunks = {index: None if chunk is _ZERO else chunk for index, chunk in self._chunks.items()}
        return {**{name: getattr(self, name) for name in self.__slots__}, "_chunks": chunks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, state[name])
        self._chunks = {index: _ZERO if chunk is None else chunk for index, chunk in state["_chunks"].items()}

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`, fewer only at the end."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        chunks = self._chunks
        if not chunks:
            return self._from_base(offset, count)
        first, last = offset // CHUNK, (offset + count - 1) // CHUNK
        parts: list[bytes | bytearray | memoryview] = []
        position, end = offset, offset + count
        index = first
        while index <= last:
            chunk = chunks.get(index)
            stop = min((index + 1) * CHUNK, end)
            if chunk is None:
                while index < last and index + 1 not in chunks:
                    index += 1
                stop = min((index + 1) * CHUNK, end)
                parts.append(self._from_base(position, stop - position))
            else:
                start = position - index * CHUNK
                parts.append(memoryview(chunk)[start : start + stop - position])
            position = stop
            index += 1
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `offset`, extending with zeros; raises VolumeFull when the budget is used up."""
        if not data:
            return
        view = memoryview(data)
        end = offset + len(view)
        try:
            self._write(offset, view)
        except VolumeFull:
            self._trim(self.size)
            raise
        self.size = max(self.size, end)

    def resize(self, size: int) -> None:
        """Cuts or extends to `size` bytes; what is added reads as zeros."""
        if size < self.size:
            self._trim(size)
        self.size = size

    def clear(self) -> None:
        """Forgets every change held, giving the memory back to the budget; the size becomes 0."""
        for index in list(self._chunks):
            self._drop(index)
        self._base_size = self.size = 0

    def save(self) -> dict[str, Any]:
        """The changes as plain data."""
        chunks = [[index, b"" if chunk is _ZERO else bytes(chunk)] for index, chunk in sorted(self._chunks.items())]
        return {"size": self.size, "base_size": self._base_size, "chunks": chunks}

    def load(self, state: dict[str, Any]) -> None:
        """Takes the changes that save() returned; the base must be the same."""
        self.clear()
        self.size, self._base_size = state["size"], state["base_size"]
        for index, chunk in state["chunks"]:
            if chunk:
                self._writable(index)[:] = chunk
            else:
                self._put(index, _ZERO)

    def _write(self, offset: int, view: memoryview) -> None:
        position, end = offset, offset + len(view)
        while position < end:
            index, start = divmod(position, CHUNK)
            stop = min(end, (index + 1) * CHUNK)
            piece = view[position - offset : stop - offset]
            if len(piece) == CHUNK and piece == _ZERO:
                self._put(index, _ZERO)
            else:
                self._writable(index)[start : start + len(piece)] = piece
            position = stop

    def _trim(self, size: int) -> None:
        keep = -(-size // CHUNK)
        for index in [index for index in self._chunks if index >= keep]:
            self._drop(index)
        self._base_size = min(self._base_size, size)
        if size % CHUNK and isinstance(self._chunks.get(keep - 1), bytearray):
            self._writable(keep - 1)[size % CHUNK :] = bytes(CHUNK - size % CHUNK)

    def _from_base(self, offset: int, count: int) -> bytes:
        inside = max(0, min(count, self._base_size - offset))
        data = self._base(offset, inside) if inside else b""
        return data if inside == count else data + bytes(count - inside)

    def _put(self, index: int, chunk: bytes) -> None:
        self._drop(index)
        self._chunks[index] = chunk

    def _drop(self, index: int) -> None:
        chunk = self._chunks.pop(index, None)
        if chunk is not None and chunk is not _ZERO:
            self._budget.give(CHUNK)

    def _writable(self, index: int) -> bytearray:
        chunk = self._chunks.get(index)
        if isinstance(chunk, bytearray):
            return chunk
        self._budget.take(CHUNK)
        fresh = bytearray(self._from_base(index * CHUNK, CHUNK) if chunk is None else CHUNK)
        self._chunks[index] = fresh
        return fresh
