"""Function names from a program database (.pdb), which linkers for Windows and Rust's UEFI target write beside an image.

LLVM, "The PDB File Format": MSF container, PDB info stream, DBI stream, module and public symbols. The file belongs to an
image if it has the GUID that the image's debug directory names. A damaged file yields fewer names, never an error.
"""

import contextlib
import itertools
import struct
from collections.abc import Iterator
from typing import Final

from loader import pe

LARGEST: Final = 256 << 20
"""Bytes of a file that is looked at."""
_MAGIC: Final = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_SUPER: Final = struct.Struct("<32sIIIIII")  # magic, block size, free block map, blocks, directory's bytes, -, its map
_INFO_STREAM, _DBI_STREAM = 1, 3
_DBI: Final = struct.Struct("<iIIHHHHHHiiiiiIiiHHI")
_MODULE: Final = struct.Struct("<34xHI24x")  # of 64 bytes: the module's stream, bytes of symbols in it
_NO_STREAM: Final = 0xFFFF
_S_PUB32, _S_LPROC32, _S_GPROC32 = 0x110E, 0x110F, 0x1110
_PUBLIC: Final = struct.Struct("<IIH")  # flags, offset, section
_PROCEDURE: Final = struct.Struct("<12xI8x4xIHB")  # size, offset, section, flags
_IS_FUNCTION: Final = 2
_MOST_SYMBOLS: Final = 1_000_000
_DEBUG_DIRECTORY, _DEBUG_ENTRY, _CODEVIEW = 6, 28, 2
_LONGEST_NAME: Final = 4096


def wanted_by(image: pe.PeImage) -> tuple[bytes, str] | None:
    """The GUID and the file name (no folders) of the database that an image's debug directory names; None if it names none."""
    rva, size = image.directory(_DEBUG_DIRECTORY)
    directory = _at(image, rva, size)
    for at in range(0, len(directory) - _DEBUG_ENTRY + 1, _DEBUG_ENTRY):
        kind, length, address = struct.unpack_from("<12xIII", directory, at)
        entry = _at(image, address, length)
        if kind == _CODEVIEW and entry[:4] == b"RSDS" and len(entry) > 24:
            path = entry[24 : 24 + _LONGEST_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")
            return entry[4:20], path.replace("\\", "/").rpartition("/")[2]
    return None


def _at(image: pe.PeImage, rva: int, size: int) -> bytes:
    """What the file holds of `size` bytes at an address of the image."""
    for section in image.sections:
        if section.rva <= rva < section.rva + section.stored_size:
            start = section.raw_offset + rva - section.rva
            return bytes(image.file[start : min(start + size, section.raw_offset + section.stored_size)])
    return b""


def functions(data: bytes | memoryview, image: pe.PeImage, guid: bytes) -> list[tuple[int, int, str]]:
    """(RVA, size in bytes, name) of each function, sorted; a size of 0 is unknown. Nothing from a file of another GUID."""
    found: dict[int, tuple[int, str]] = {}
    # What a damaged file makes of offsets and sizes: struct refuses, slices are short.
    with contextlib.suppress(struct.error, IndexError, ValueError, OverflowError):
        streams = _Streams(memoryview(data))
        if streams.read(_INFO_STREAM)[12:28] != guid:
            return []
        for section, offset, size, name in _symbols(streams):
            if 1 <= section <= len(image.sections) and len(found) < _MOST_SYMBOLS:
                rva = image.sections[section - 1].rva + offset
                if not found.get(rva, (0, ""))[0]:
                    found[rva] = (size, name)
    return sorted((rva, size, name) for rva, (size, name) in found.items())


class _Streams:
    """The streams of an MSF file, by number."""

    def __init__(self, data: memoryview) -> None:
        magic, self._block, _, _, size, _, at = _SUPER.unpack_from(data)
        if magic != _MAGIC or self._block not in (512, 1024, 2048, 4096, 8192, 16384, 32768):
            raise ValueError("no program database")
        self._data = data
        self._left = 2 * len(data)
        blocks = -(-size // self._block)
        directory = self._join(struct.unpack_from(f"<{blocks}I", data, at * self._block), size)
        (count,) = struct.unpack_from("<I", directory)
        self._sizes = [0 if size == 0xFFFFFFFF else size for size in struct.unpack_from(f"<{count}I", directory, 4)]
        self._directory = directory
        places = itertools.accumulate((-(-size // self._block) for size in self._sizes), initial=0)
        self._places = [4 + 4 * count + 4 * place for place in places]

    def _join(self, blocks: tuple[int, ...], size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise ValueError("streams that lie on each other, or are larger than the file")
        return b"".join(self._data[n * self._block : (n + 1) * self._block] for n in blocks)[:size]

    def read(self, number: int) -> bytes:
        """The bytes of a stream."""
        size = self._sizes[number]
        blocks = struct.unpack_from(f"<{-(-size // self._block)}I", self._directory, self._places[number])
        return self._join(blocks, size)


def _symbols(streams: _Streams) -> Iterator[tuple[int, int, int, str]]:
    """(section number, offset in it, size, name) of functions: with sizes from the modules, then the public ones."""
    dbi = streams.read(_DBI_STREAM)
    header = _DBI.unpack_from(dbi)
    records, modules_size = header[7], header[9]
    at, end = _DBI.size, _DBI.size + modules_size
    while at + _MODULE.size < end:
        stream, size = _MODULE.unpack_from(dbi, at)
        at = dbi.index(b"\0", dbi.index(b"\0", at + _MODULE.size) + 1) + 1
        at = -(-at // 4) * 4
        if stream != _NO_STREAM:
            for kind, body in _records(streams.read(stream)[4:size]):
                if kind in (_S_LPROC32, _S_GPROC32):
                    length, offset, section, _ = _PROCEDURE.unpack_from(body)
                    yield section, offset, length, _name(body, _PROCEDURE.size)
    for kind, body in _records(streams.read(records)):
        if kind == _S_PUB32:
            flags, offset, section = _PUBLIC.unpack_from(body)
            if flags & _IS_FUNCTION:
                yield section, offset, 0, _name(body, _PUBLIC.size)


def _records(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, body) of each symbol record."""
    at = 0
    while at + 4 <= len(stream):
        length, kind = struct.unpack_from("<HH", stream, at)
        if length < 2:
            return
        yield kind, stream[at + 4 : at + 2 + length]
        at += 2 + length


def _name(body: bytes, at: int) -> str:
    return body[at : at + _LONGEST_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")
