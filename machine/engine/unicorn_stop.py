"""How a Unicorn CPU is stopped from outside: at the start of a translated block, and nowhere else.

`uc_emu_stop` from another thread, or from a memory callback, is honoured right behind a memory access, with RIP still at the
instruction: one that reads, changes and writes (INC, XCHG, CMPXCHG) or that talks to a device is then carried out twice.
So each block begins with a call of a few machine instructions of our own (UC_HOOK_BLOCK), which look at a flag and call
`uc_emu_stop` when it is set: nothing of the block has been executed then. Where CPUs take turns the same instructions count
blocks down: turns may be shorter than any thread's wake-up, and under virtual time their ends do not depend on the host.
"""

import ctypes
import mmap
import platform
import struct

from machine.engine import unicorn_abi as abi

MOST_BLOCKS = (1 << 31) - 1
_FLAG, _STOPPED, _LEFT = 0x80, 0x81, 0x84


def _code(stop: int, counting: bool) -> bytes:
    """cmp byte [flag], 0; jne 1f; (sub dword [left], 1; js 1f;) ret; 1: mov byte [stopped], 1; mov rax, stop; jmp rax.

    RDI is the engine's handle. A block that a request stops is not counted: it comes again.
    """
    count = b"\x83\x2d" + struct.pack("<i", _LEFT - 16) + b"\x01" + b"\x78\x01" if counting else b""
    look = b"\x80\x3d" + struct.pack("<i", _FLAG - 7) + b"\x00" + b"\x75" + bytes((len(count) + 1,)) + count + b"\xc3"
    mark = b"\xc6\x05" + struct.pack("<i", _STOPPED - (len(look) + 7)) + b"\x01"
    return look + mark + b"\x48\xb8" + struct.pack("<Q", stop) + b"\xff\xe0"


class StopFlag:
    """The flag of one CPU. `request` is safe from any thread and at any time; a request is kept until `clear`.

    If it is `counting`, a run also stops when so many blocks have been entered as `refill` was told.
    """

    def __init__(self, library: abi.Library, handle: ctypes.c_void_p, counting: bool = False) -> None:
        self._library = library
        self._handle = handle
        self._native = platform.machine() in ("x86_64", "AMD64")
        self._page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        if self._native:
            stop = ctypes.cast(library.emu_stop, ctypes.c_void_p).value or 0
            code = _code(stop, counting)
            self._page[: len(code)] = code
            self._view = ctypes.c_char.from_buffer(self._page)
            number = ctypes.c_size_t()
            hooked = library.hook_add(
                handle,
                ctypes.byref(number),
                ctypes.c_int(abi.HOOK_BLOCK),
                ctypes.c_void_p(ctypes.addressof(self._view)),
                None,
                ctypes.c_uint64(1),
                ctypes.c_uint64(0),
            )
            library.check(hooked, "hook blocks")
        self._counting = counting and self._native
        self.refill(MOST_BLOCKS)

    def refill(self, blocks: int) -> None:
        """Begin a turn of at most MOST_BLOCKS. Without effect on hosts other than x64."""
        self._page[_LEFT : _LEFT + 4] = blocks.to_bytes(4, "little")

    @property
    def used_up(self) -> bool:
        """Whether the turn is over: more blocks were to be entered than it has."""
        return self._counting and self._page[_LEFT + 3] & 0x80 != 0

    def request(self) -> None:
        """Stop at the next block, or at the first one of the next run."""
        self._page[_FLAG] = 1
        if not self._native:
            self._library.emu_stop(self._handle)

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self._page[_FLAG])

    @property
    def stopped(self) -> bool:
        """Whether a request ended the run; else it ended by itself."""
        return bool(self._page[_STOPPED if self._native else _FLAG])

    def clear(self) -> None:
        """Forget the request."""
        self._page[_FLAG] = self._page[_STOPPED] = 0

    def close(self) -> None:
        """Give the page back; the CPU must be closed already."""
        if self._native:
            del self._view
        self._page.close()
