"""Go's table of functions (.gopclntab): code addresses to function names, read in place.

Layout: the runtime's pcHeader and functab as Go 1.2, 1.16, 1.18 and 1.20 write them ("Go 1.2 Runtime Symbol
Information" and the format's later versions). Little-endian, 8-byte pointers only.
"""

import bisect
import struct
from typing import Final

_MAGIC_1_2: Final = 0xFFFFFFFB
_MAGIC_1_16: Final = 0xFFFFFFFA
_MAGIC_1_18: Final = 0xFFFFFFF0
_MAGIC_1_20: Final = 0xFFFFFFF1

PATTERN: Final = rb"[\xf0\xf1\xfa\xfb]\xff\xff\xff\x00\x00\x01\x08"
"""A regular expression for the first 8 bytes on x86-64: magic, two zeros, instruction size 1, pointer size 8."""

_MAX_NAME: Final = 4096


class GoFunctionTable:
    """The functions of one Go program. Addresses are those of the link (preferred base), in bytes."""

    __slots__ = (
        "_count",
        "_entry",
        "_entry_size",
        "_functab",
        "_name_offset",
        "_names",
        "_records",
        "_table",
        "_text_start",
    )

    def __init__(self, table: memoryview, text_start: int) -> None:
        """`table` begins with the pcHeader; `text_start` is the address of the code, for headers that lack it.

        Raises ValueError if this is no such table or its parts lie outside it.
        """
        self._table = table
        if len(table) < 16:
            raise ValueError(f"Go function table of {len(table)} bytes, want at least 16")
        magic, zeros, quantum, pointer_size = struct.unpack_from("<IHBB", table)
        if (zeros, quantum, pointer_size) != (0, 1, 8):
            raise ValueError(f"Go function table for another processor (header {bytes(table[:8]).hex(' ')})")
        if magic in {_MAGIC_1_20, _MAGIC_1_18}:
            self._count, _, start, self._names, self._functab = _fields(table, "<4Q24xQ")
            # Go 1.26 leaves textStart 0: it was the one field of the table that had to be relocated.
            self._text_start = start or text_start
            self._records = self._functab
            self._entry, self._entry_size, self._name_offset = struct.Struct("<II"), 8, 4
        elif magic in {_MAGIC_1_16, _MAGIC_1_2}:
            if magic == _MAGIC_1_16:
                self._count, _, self._names, self._functab = _fields(table, "<3Q24xQ")
                self._records = self._functab
            else:
                self._count, self._names, self._functab, self._records = *_fields(table, "<Q"), 0, 16, 0
            self._text_start = 0
            self._entry, self._entry_size, self._name_offset = struct.Struct("<QQ"), 16, 8
        else:
            raise ValueError(f"Go function table has magic {magic:#010x}, want 0xfffffff1, f0, fa or fb")
        # One entry more than there are functions: it holds the address where the last function ends.
        end = self._functab + (self._count + 1) * self._entry_size
        if end - self._entry_size // 2 > len(table):
            raise ValueError(
                f"Go function table names {self._count} functions up to offset {end:#x} of {len(table):#x}"
            )

    def __len__(self) -> int:
        return self._count

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The name of the function around `address` and the bytes from its first instruction, None if there is none."""
        wanted = address - self._text_start
        index = bisect.bisect_right(range(self._count), wanted, key=self._start) - 1
        if index < 0 or not self._start(index) <= wanted < self._start(index + 1):
            return None
        name = self._name(index)
        return (name, wanted - self._start(index)) if name else None

    def _start(self, index: int) -> int:
        """First address of function `index`, relative to the text start; index = count gives the end of the last."""
        half = self._entry_size // 2
        offset = self._functab + index * self._entry_size
        return int.from_bytes(self._table[offset : offset + half], "little")

    def _name(self, index: int) -> str | None:
        """The name that the function's _func record points to, None if the table is damaged."""
        _, record = self._entry.unpack_from(self._table, self._functab + index * self._entry_size)
        # A _func record begins with the entry address, the name's offset follows.
        at = self._records + record + self._name_offset
        if at + 4 > len(self._table):
            return None
        (name_offset,) = struct.unpack_from("<I", self._table, at)
        start = self._names + name_offset
        text = bytes(self._table[start : start + _MAX_NAME]).split(b"\0", 1)[0]
        return text.decode("utf-8", "replace") or None


def _fields(table: memoryview, layout: str) -> tuple[int, ...]:
    """The header's words after its first 8 bytes."""
    if 8 + struct.calcsize(layout) > len(table):
        raise ValueError(f"Go function table of {len(table)} bytes is shorter than its header")
    return struct.unpack_from(layout, table, 8)
