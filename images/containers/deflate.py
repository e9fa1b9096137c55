"""Deflate (RFC 1951) as our image files use it, and a gzip file (RFC 1952) that is the same each time.

The compressor is zlib at level 6. Where Python is linked with another implementation (zlib-ng), the packed bytes differ and
the disk in them does not: ZLIB says which version is at work.
"""

import zlib
from struct import pack
from typing import BinaryIO, Self

LEVEL = 6
ZLIB = zlib.ZLIB_RUNTIME_VERSION
# No name, no time, no flags; the operating system is "unknown", whichever it was.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


class GzipFile:
    """Writes one gzip member to `file`; closed well by leaving a with block without an exception."""

    def __init__(self, file: BinaryIO, level: int = LEVEL) -> None:
        self._file = file
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        file.write(_GZIP_HEADER)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Compresses all of `data`."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._file.write(self._deflate.compress(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.write(self._deflate.flush())
            self._file.write(pack("<II", self._crc, self._size & 0xFFFFFFFF))
