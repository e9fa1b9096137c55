"""Writes what Google Compute Engine imports: `disk.raw` in a sparse tar archive of the old GNU format, gzip around it.

GNU tar manual, "Basic Tar Format" (OLDGNU_MAGIC, struct sparse, struct oldgnu_header); Google's "Requirements to build
custom images": the member is called disk.raw, the disk has whole GiB, `tar --format=oldgnu -Sczf`.
"""

from array import array
from struct import pack
from typing import BinaryIO

from images.block import BlockDevice
from images.containers.deflate import LEVEL, GzipFile
from images.sparse import GRAIN, Progress, nonzero_runs

MEMBER = b"disk.raw"
BLOCK = 512
HEADER_PIECES, EXTENSION_PIECES = 4, 21
_RECORD = 20 * BLOCK  # tar pads to whole records


def write_gce(
    device: BlockDevice, file: BinaryIO, progress: Progress | None = None, *, mtime: int = 0, level: int = LEVEL
) -> None:
    """Writes all of `device` to `file`, which need not be seekable. `mtime`: seconds since 1970 in the tar header.

    The device is read twice, because the archive names its pieces before their bytes.
    """
    pieces = _pieces(device)
    stored = sum(pieces[1::2])
    with GzipFile(file, level) as out:
        for block in _headers(pieces, stored, device.size, mtime):
            out.write(block)
        for index in range(0, len(pieces), 2):
            offset, left = pieces[index], pieces[index + 1]
            while left:
                count = min(left, 1 << 20)
                out.write(device.read(offset, count))
                offset, left = offset + count, left - count
            if progress is not None:
                progress(offset, device.size)
        written = BLOCK * (1 + _extensions(pieces)) + stored
        padding = -stored % BLOCK
        end = written + padding + 2 * BLOCK
        out.write(bytes(padding + 2 * BLOCK + -end % _RECORD))


def _pieces(device: BlockDevice) -> "array[int]":
    """Offset and size of each run of data, one after the other; an empty one at the end of a disk that ends in a hole."""
    pieces = array("Q")
    for offset, data in nonzero_runs(device, GRAIN):
        if pieces and pieces[-2] + pieces[-1] == offset:
            pieces[-1] += len(data)
        else:
            pieces.extend((offset, len(data)))
    if not pieces or pieces[-2] + pieces[-1] < device.size:
        pieces.extend((device.size, 0))
    return pieces


def _extensions(pieces: "array[int]") -> int:
    """Blocks of further pieces after the header."""
    return -(-max(0, len(pieces) // 2 - HEADER_PIECES) // EXTENSION_PIECES)


def _headers(pieces: "array[int]", stored: int, size: int, mtime: int) -> list[bytes]:
    records = [number(pieces[i], 12) + number(pieces[i + 1], 12) for i in range(0, len(pieces), 2)]
    first, rest = records[:HEADER_PIECES], records[HEADER_PIECES:]
    header = bytearray(BLOCK)
    header[0 : len(MEMBER)] = MEMBER
    header[100:108] = number(0o644, 8)
    header[108:124] = number(0, 8) * 2
    header[124:136] = number(stored, 12)
    header[136:148] = number(mtime, 12)
    header[156:157] = b"S"
    header[257:265] = b"ustar  \0"
    header[386 : 386 + 24 * HEADER_PIECES] = b"".join(first).ljust(24 * HEADER_PIECES, b"\0")
    header[482] = bool(rest)
    header[483:495] = number(size, 12)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    blocks = [bytes(header)]
    for index in range(0, len(rest), EXTENSION_PIECES):
        part = b"".join(rest[index : index + EXTENSION_PIECES]).ljust(24 * EXTENSION_PIECES, b"\0")
        more = index + EXTENSION_PIECES < len(rest)
        blocks.append(part + pack("<B7x", more))
    return blocks


def number(value: int, width: int) -> bytes:
    """A field of a tar header: octal with a NUL, or base 256 where it does not fit (GNU's extension, from 8 GiB on)."""
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")
