"""Where instructions end, by capstone's library.

Its Python package imports what it knows of twenty other architectures: 50 ms, a quarter of a boot. The library alone takes 3 ms.
cs_disasm_iter tells how far it has come in its arguments, so that no layout of capstone's structures is needed here.
"""

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

_X86, _MODE_64 = 3, 1 << 3


@functools.cache
def _library() -> ctypes.CDLL:
    """The library that the package loads, from where pip puts it, or through the package where it is elsewhere."""
    found = importlib.util.find_spec("capstone")
    for folder in found.submodule_search_locations or () if found is not None else ():
        for file in sorted(Path(folder, "lib").glob("libcapstone.so*")):
            return ctypes.CDLL(str(file))
    import capstone  # type: ignore[import-untyped]

    library: ctypes.CDLL = capstone._cs
    return library


class Disassembler:
    """A disassembler of 64-bit code, for as long as the process lives."""

    def __init__(self) -> None:
        library = _library()
        self._handle = ctypes.c_size_t()
        if library.cs_open(_X86, _MODE_64, ctypes.byref(self._handle)):
            raise ImportError("capstone cannot disassemble x86")
        make = library["cs_malloc"]  # another function object than the package's, which has types of its own
        make.restype = ctypes.c_void_p
        self._instruction = ctypes.c_void_p(make(self._handle))
        self._next = library["cs_disasm_iter"]
        self._next.restype = ctypes.c_bool

    def ends(self, code: bytes) -> Iterator[int]:
        """The offset behind each instruction of `code`, up to where there is none."""
        place, left, at = ctypes.c_char_p(code), ctypes.c_size_t(len(code)), ctypes.c_uint64()
        arguments = self._handle, ctypes.byref(place), ctypes.byref(left), ctypes.byref(at), self._instruction
        while self._next(*arguments):
            yield at.value
