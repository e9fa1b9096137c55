"""Has Unicorn forget an exception that has been taken out of it, before the next one.

It keeps the last #DE, #TS, #NP, #SS, #GP or #DF (`old_exception` of its CPUX86State) until it has delivered it, which it never
does: delivery is ours (`machine.exceptions`). So the second such exception since the start would be a double fault, and the
third shut the processor down without a word. The field is in no interface; it is in what uc_context_save writes down. Where in
there is found by experiment, once a process: an instance of our own divides by zero, and again, until nothing is unexplained.
"""

import ctypes
import functools
import mmap
import struct

from machine.engine import unicorn_abi as abi
from machine.errors import EngineError

REMEMBERED = frozenset((0, 8, 10, 11, 12, 13))
"""Vectors after which there is something to forget (AMD64 APM volume 2, table 8-8: contributory exceptions, and #DF)."""
_NONE = (1 << 32) - 1
_DIVIDE, _DOUBLE_FAULT = 0, 8
_CODE = 0x1000
_DIVIDES_BY_ZERO = b"\x31\xc9\xf7\xf1"
"""xor ecx, ecx; div ecx"""


class LastException:
    """What one instance of Unicorn remembers."""

    def __init__(self, library: abi.Library, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle
        self._context: ctypes.c_void_p | None = None

    def forget(self) -> None:
        """Between two runs, after an exception of REMEMBERED. EngineError with a library that keeps it elsewhere."""
        library, handle = self._library, self._handle
        offset = _offset(library)
        context = self._context
        if context is None:
            context = self._context = ctypes.c_void_p()
            library.check(library.context_alloc(handle, ctypes.byref(context)), "allocate a context")
        library.check(library.context_save(handle, context), "save an exception")
        ctypes.memset((context.value or 0) + offset, 0xFF, 4)
        library.check(library.context_restore(handle, context), "forget an exception")

    def close(self) -> None:
        """Free what belongs to it."""
        if self._context is not None:
            self._library.context_free(self._context)
            self._context = None


@functools.cache
def _offset(library: abi.Library) -> int:
    """Where `old_exception` is behind the address of a context. EngineError if that cannot be told."""
    handle = ctypes.c_void_p()
    library.check(library.open(abi.ARCH_X86, abi.MODE_64, ctypes.byref(handle)), "open")
    page = mmap.mmap(-1, 4096)
    view = ctypes.c_char.from_buffer(page)
    context = ctypes.c_void_p()
    vectors: list[int] = []

    def interrupt(_uc: int, vector: int, _user: int) -> None:
        vectors.append(vector)
        library.emu_stop(handle)

    callback = abi.INTR_CALLBACK(interrupt)

    def divide() -> int:
        vectors.clear()
        library.emu_start(handle, _CODE, abi.NOWHERE, 0, 0)
        return vectors[0] if vectors else -1

    def words() -> tuple[int, ...]:
        library.check(library.context_save(handle, context), "save a context")
        return struct.unpack(f"<{size // 4}I", ctypes.string_at(context.value or 0, size // 4 * 4))

    try:
        page[: len(_DIVIDES_BY_ZERO)] = _DIVIDES_BY_ZERO
        library.check(library.mem_map_ptr(handle, _CODE, 4096, abi.PROT_ALL, ctypes.addressof(view)), "map a page")
        number = ctypes.c_size_t()
        everywhere = ctypes.c_uint64(1), ctypes.c_uint64(0)
        library.hook_add(handle, ctypes.byref(number), ctypes.c_int(abi.HOOK_INTR), callback, None, *everywhere)
        library.check(library.context_alloc(handle, ctypes.byref(context)), "allocate a context")
        size = library.context_size(handle)
        before, first, once, second, twice = words(), divide(), words(), divide(), words()
        wanted = (_NONE, _DIVIDE, _DOUBLE_FAULT)
        found = [4 * at for at, seen in enumerate(zip(before, once, twice, strict=True)) if seen == wanted]
        if (first, second) == (_DIVIDE, _DOUBLE_FAULT) and len(found) == 1:
            ctypes.memset((context.value or 0) + found[0], 0xFF, 4)
            library.context_restore(handle, context)
            if divide() == _DIVIDE:
                return found[0]
        raise EngineError("this version of Unicorn does not show where it keeps exceptions; cvmboot knows 2.1")
    finally:
        if context.value:
            library.context_free(context)
        library.close(handle)
        del view
        page.close()
