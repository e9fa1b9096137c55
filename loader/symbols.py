"""Function names for addresses in a PE image: from Go's function table, the COFF symbol table or a program database beside it.

Microsoft PE/COFF specification, sections 5.4 (symbol table) and 5.6 (string table). Nothing is read until the first
lookup, as names are wanted in crash reports and traces only. A damaged table yields fewer names, never an error.
"""

import bisect
import contextlib
import itertools
import mmap
import re
import struct
from collections.abc import Iterator
from typing import Final

from loader import pdb, pe
from loader.gopclntab import PATTERN, GoFunctionTable

_SYMBOL_SIZE: Final = 18
_CLASS_EXTERNAL: Final = 2
_CLASS_STATIC: Final = 3
_MAX_NAME: Final = 4096
_MAX_CANDIDATES: Final = 16


class SymbolTable:
    """The functions of one image that lies at `base`."""

    __slots__ = ("_base", "_coff", "_database", "_go", "_image")

    def __init__(self, image: pe.PeImage, base: int | None = None) -> None:
        """`base` is the address where the image lies (preferred base if None); 0 makes lookup() take RVAs."""
        self._image = image
        self._base = image.image_base if base is None else base
        self._go: list[GoFunctionTable] | None = None
        self._coff: tuple[list[int], list[tuple[int, int]]] | None = None
        self._database: list[tuple[int, int, str]] = []

    def add_database(self, data: bytes | memoryview) -> None:
        """Take names from a program database (.pdb), too, if it is that of the image."""
        wanted = pdb.wanted_by(self._image)
        if wanted is not None:
            self._database = pdb.functions(data, self._image, wanted[0])

    @classmethod
    def from_pe(
        cls, data: pe.PeImage | bytes | bytearray | mmap.mmap | memoryview, base: int | None = None
    ) -> "SymbolTable":
        """The table of a parsed image, or of a file's bytes (raises LoaderError as pe.parse() does)."""
        return cls(data if isinstance(data, pe.PeImage) else pe.parse(data), base)

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The function around `address`: its name and the bytes from its start; None if no table names one."""
        rva = address - self._base
        if not 0 <= rva < self._image.size_of_image:
            return None
        if self._go is None:
            self._go = list(_go_tables(self._image))
        for table in self._go:
            found = table.lookup(rva + self._image.image_base)
            if found:
                return found
        if self._coff is None:
            self._coff = _coff_functions(self._image)
        return self._lookup_coff(rva) or self._lookup_database(rva)

    def _lookup_database(self, rva: int) -> tuple[str, int] | None:
        """A function whose size is unknown ends where the next one starts, or with its section."""
        index = bisect.bisect_right(self._database, (rva, 1 << 64, "")) - 1
        if index < 0:
            return None
        start, size, name = self._database[index]
        inside = any(s.executable and s.rva <= start <= rva < s.rva + s.virtual_size for s in self._image.sections)
        return (name, rva - start) if inside and rva < start + (size or 1 << 32) else None

    def _lookup_coff(self, rva: int) -> tuple[str, int] | None:
        """COFF symbols have no size: a function ends where the next one starts, or with its section."""
        assert self._coff is not None
        starts, details = self._coff
        index = bisect.bisect_right(starts, rva) - 1
        if index < 0:
            return None
        record, section_end = details[index]
        if rva >= section_end:
            return None
        return _symbol_name(self._image, record), rva - starts[index]


def section_name(image: pe.PeImage, section: pe.Section) -> str:
    """The full name of a section: "/NN" is an offset into the string table behind the COFF symbols (section 4)."""
    if section.name.startswith("/") and section.name[1:].isdigit():
        return _string(image, int(section.name[1:])) or section.name
    return section.name


def _go_tables(image: pe.PeImage) -> Iterator[GoFunctionTable]:
    """The Go function tables of the image: of the section named for it, else found by the table's first bytes."""
    text = image.image_base + min((section.rva for section in image.sections if section.executable), default=0)
    ranges = [
        (section.raw_offset, section.raw_offset + section.stored_size)
        for section in image.sections
        if section_name(image, section).endswith(".gopclntab")
    ]
    if not ranges:
        # Go's own linker for Windows keeps the table in .rdata.
        matches = itertools.islice(re.finditer(PATTERN, image.file), _MAX_CANDIDATES)
        ranges = [(match.start(), len(image.file)) for match in matches]
    for start, end in ranges:
        with contextlib.suppress(ValueError):
            yield GoFunctionTable(image.file[start:end], text)


def _coff_functions(image: pe.PeImage) -> tuple[list[int], list[tuple[int, int]]]:
    """Sorted start RVAs of the symbols in code, and for each (file offset of its record, end RVA of its section)."""
    offset, count = image.coff_symbol_offset, image.coff_symbol_count
    available = (len(image.file) - offset) // _SYMBOL_SIZE
    if not offset or available <= 0:
        return [], []
    count = min(count, available)
    code = {number: section for number, section in enumerate(image.sections, 1) if section.executable}
    found: dict[int, tuple[int, int]] = {}
    skip = 0
    records = struct.iter_unpack("<8xIHHBB", image.file[offset : offset + count * _SYMBOL_SIZE])
    for index, (value, number, kind, storage_class, auxiliary) in enumerate(records):
        if skip:
            skip -= 1
            continue
        skip = auxiliary
        section = code.get(number)
        if section is None or value >= section.virtual_size or storage_class not in {_CLASS_EXTERNAL, _CLASS_STATIC}:
            continue
        # A static symbol with an auxiliary record that is no function defines its section.
        if storage_class == _CLASS_STATIC and auxiliary and kind != 0x20:
            continue
        # Of several names for one address the first is kept: linkers add their own ("_text") behind the program's.
        found.setdefault(section.rva + value, (offset + index * _SYMBOL_SIZE, section.rva + section.virtual_size))
    starts = sorted(found)
    return starts, [found[rva] for rva in starts]


def _symbol_name(image: pe.PeImage, record: int) -> str:
    """The name in a symbol record: eight bytes, or four zeros and an offset into the string table."""
    raw = bytes(image.file[record : record + 8])
    if raw[:4] == bytes(4):
        return _string(image, int.from_bytes(raw[4:], "little")) or "?"
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _string(image: pe.PeImage, offset: int) -> str | None:
    """The string at `offset` of the COFF string table, None if there is no such string."""
    if not image.coff_symbol_offset or offset < 4:
        return None
    start = image.coff_symbol_offset + image.coff_symbol_count * _SYMBOL_SIZE + offset
    text = bytes(image.file[start : start + _MAX_NAME]).split(b"\0", 1)[0]
    return text.decode("utf-8", "replace") or None
