"""The bytes in a gzip file (RFC 1952), read from front to end in pieces, however large it says to be."""

import zlib

from images.block import BlockDevice
from images.errors import ContainerError

_INPUT = 1 << 18
_PIECE = 1 << 20


class GunzipStream:
    """Reads what `file` unpacks to; several members count as one stream, as for gzip itself."""

    def __init__(self, file: BlockDevice) -> None:
        self._file = file
        self._position = 0
        self._input = b""
        self._unpack = zlib.decompressobj(31)
        self._output = b""
        self._between = True  # no member has been begun

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end. Raises ContainerError where the file is cut off or damaged."""
        parts = []
        while count:
            if not self._output and not self._more():
                break
            part = self._output[:count]
            self._output = self._output[count:]
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def exactly(self, count: int, what: str) -> bytes:
        """`count` bytes of `what`. Raises ContainerError if there are fewer."""
        data = self.read(count)
        if len(data) < count:
            raise ContainerError(f"the archive ends in {what}: {len(data)} bytes of {count} are there; it was cut off")
        return data

    def _more(self) -> bool:
        """Unpacks some more; whether there is any."""
        while not self._output:
            if not self._input:
                count = min(_INPUT, self._file.size - self._position)
                self._input = self._file.read(self._position, count)
                self._position += count
            if not self._input and self._between:
                return False
            if self._between and not self._input.strip(b"\0"):  # padding after the last member
                self._input = b""
                continue
            if not self._input:
                raise ContainerError("gzip: the file ends within compressed data; it was cut off")
            self._between = False
            try:
                self._output = self._unpack.decompress(self._input, _PIECE)
            except zlib.error as error:
                raise ContainerError(f"gzip: damaged before byte {self._position}: {error}") from None
            self._input = self._unpack.unconsumed_tail
            if self._unpack.eof:
                self._input = self._unpack.unused_data
                self._unpack = zlib.decompressobj(31)
                self._between = True
        return True
