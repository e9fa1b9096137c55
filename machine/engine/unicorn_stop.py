"""How a Unicorn CPU is stopped from outside: at the start of a translated block, and nowhere else.

`uc_emu_stop` from another thread, or from a memory callback, is honoured right behind a memory access, with RIP still at the
instruction: one that reads, changes and writes (INC, XCHG, CMPXCHG) or that talks to a device is then carried out twice. And
a hook of an instruction is not called any more, but the instruction executed. So `uc_emu_stop` is called between two blocks
only, on the engine's own thread, by a few machine instructions of ours that look at a flag. There are two places for them:

* In place of `stop_interrupt`, which Unicorn calls whenever it has left translated code; `cpu_exit` makes it leave that at the
  next block. Then nothing needs to be asked behind loads and stores, and that is left out: around each such question all
  guest registers go to memory and come back, which takes as long as the rest of code that loads and stores much.
* Where this library's insides are not known (unicorn_insides), and under watchpoints, which end a run within a block: at the
  start of each block (UC_HOOK_BLOCK), which costs a call for each. Where CPUs take turns the same instructions count blocks
  down: turns may be shorter than any thread's wake-up, and under virtual time their ends do not depend on the host.
"""

import ctypes
import mmap
import platform
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from machine.engine import unicorn_abi as abi
from machine.engine import unicorn_insides as insides

MOST_BLOCKS = (1 << 31) - 1
_FLAG, _STOPPED, _LEFT = 0x80, 0x81, 0x84
_AT_BLOCKS, _BETWEEN, _NOTHING, _AROUND = 0x00, 0x40, 0xF0, 0x100
"""Where in our page the pieces of code are."""


def _relative(to: int, following: int) -> bytes:
    """The displacement of a flag from the instruction behind."""
    return struct.pack("<i", to - following)


def _at_blocks(stop: int, counting: bool) -> bytes:
    """cmp byte [flag], 0; jne 1f; (sub dword [left], 1; js 1f;) ret; 1: mov byte [stopped], 1; mov rax, stop; jmp rax.

    RDI is the engine's handle. A block that a request stops is not counted: it comes again.
    """
    count = b"\x83\x2d" + _relative(_LEFT, 16) + b"\x01" + b"\x78\x01" if counting else b""
    look = b"\x80\x3d" + _relative(_FLAG, 7) + b"\x00" + b"\x75" + bytes((len(count) + 1,)) + count + b"\xc3"
    mark = b"\xc6\x05" + _relative(_STOPPED, len(look) + 7) + b"\x01"
    return look + mark + b"\x48\xb8" + struct.pack("<Q", stop) + b"\xff\xe0"


def _between(stop: int) -> bytes:
    """stop_interrupt(rdi: handle, esi: exception), called where there is one, too.

    cmp esi, -1; jne 1f; cmp byte [flag], 0; je 1f; mov byte [stopped], 1; push rsi; mov rax, stop; call rax; pop rsi;
    1: cmp esi, 6; sete al; ret
    """
    none = b"\x83\xfe\xff\x75"
    at = _BETWEEN + len(none) + 1
    look = b"\x80\x3d" + _relative(_FLAG, at + 7) + b"\x00\x74"
    mark = b"\xc6\x05" + _relative(_STOPPED, at + len(look) + 1 + 7) + b"\x01"
    call = b"\x56\x48\xb8" + struct.pack("<Q", stop) + b"\xff\xd0\x5e"
    rest = len(mark) + len(call)
    return none + bytes((len(look) + 1 + rest,)) + look + bytes((rest,)) + mark + call + b"\x83\xfe\x06\x0f\x94\xc0\xc3"


def _around(hook: int, asks: int) -> bytes:
    """push rbx; mov rbx, rdi; mov rax, hook; call rax; mov rdi, rbx; pop rbx; test al, al; je 1f; xor esi, esi;
    mov rax, asks; jmp rax; 1: ret"""
    call = b"\x53\x48\x89\xfb\x48\xb8" + struct.pack("<Q", hook) + b"\xff\xd0\x48\x89\xdf\x5b"
    ask = b"\x31\xf6\x48\xb8" + struct.pack("<Q", asks) + b"\xff\xe0"
    return call + b"\x84\xc0\x74" + bytes((len(ask),)) + ask + b"\xc3"


class StopFlag:
    """The flag of one CPU. `request` is safe from any thread and at any time; a request is kept until `clear`.

    If it is `counting`, a run also stops when so many blocks have been entered as `refill` was told.
    """

    def __init__(self, library: abi.Library, handle: ctypes.c_void_p, counting: bool = False) -> None:
        self._library = library
        self._handle = handle
        self._lock = threading.RLock()  # a signal's handler may ask, too
        self._held = False
        self._at_accesses = False
        self._asked = False
        self._block_hook: ctypes.c_size_t | None = None
        self._wrapped: dict[int, ctypes.c_void_p] = {}
        self._native = platform.machine() in ("x86_64", "AMD64")
        self._page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._view = ctypes.c_char.from_buffer(self._page)
        self._insides = insides.find(library, handle)
        stop = ctypes.cast(library.emu_stop, ctypes.c_void_p).value or 0
        for at, code in ((_AT_BLOCKS, _at_blocks(stop, counting)), (_BETWEEN, _between(stop))):
            self._page[at : at + len(code)] = code
        self._page[_NOTHING] = 0xC3  # ret
        self._page.seek(_AROUND)
        if self._insides is not None:
            self._exit_cpu = abi.EXIT_CPU(self._insides.exit_cpu)
            ctypes.c_uint64.from_address(self._insides.stop_interrupt).value = self._address(_BETWEEN)
            self._leave_out_questions(wanted=True)
        self._counting = counting and self._native
        self._hook_blocks(wanted=False)
        self.refill(MOST_BLOCKS)

    def _address(self, at: int) -> int:
        return ctypes.addressof(self._view) + at

    def _leave_out_questions(self, *, wanted: bool) -> None:
        if self._insides is not None:
            ctypes.c_uint8.from_address(self._insides.no_exit_request).value = wanted

    def _hook_blocks(self, *, wanted: bool) -> None:
        wanted = self._native and (wanted or self._counting or self._insides is None)
        if not wanted and self._block_hook is not None:
            self._library.check(self._library.hook_del(self._handle, self._block_hook), "unhook blocks")
            self._block_hook = None
        if wanted and self._block_hook is None:
            self._block_hook = number = ctypes.c_size_t()
            hooked = self._library.hook_add(
                self._handle,
                ctypes.byref(number),
                ctypes.c_int(abi.HOOK_BLOCK),
                ctypes.c_void_p(self._address(_AT_BLOCKS)),
                None,
                ctypes.c_uint64(1),
                ctypes.c_uint64(0),
            )
            self._library.check(hooked, "hook blocks")

    @property
    def known(self) -> bool:
        """Whether nothing is asked behind loads and stores."""
        return self._insides is not None

    def at_accesses(self, *, wanted: bool) -> None:
        """Whether code that is translated from now on may also be stopped within a block, for watchpoints."""
        if self._insides is None:
            return
        with self._lock:
            self._at_accesses = wanted
            self._hook_blocks(wanted=wanted)
            self._leave_out_questions(wanted=not wanted)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Neither a request nor the end of the turn stops what runs meanwhile, a few instructions of our own. Both are kept."""
        with self._lock:
            outer, self._held = self._held, True
            self._page[_FLAG] = 0
        left = self._page[_LEFT : _LEFT + 4]
        self.refill(MOST_BLOCKS)
        try:
            yield
        finally:
            self._page[_LEFT : _LEFT + 4] = left
            with self._lock:
                self._held = outer
                if self._asked:
                    self.request()

    @contextmanager
    def held(self) -> Iterator[None]:
        """The same for one instruction of the guest, counted by Unicorn, in newly translated code."""
        with self.set_aside():
            with self._lock:
                self._leave_out_questions(wanted=False)
            try:
                yield
            finally:
                with self._lock:
                    self._leave_out_questions(wanted=not self._at_accesses)

    def nothing(self) -> ctypes.c_void_p | None:
        """A hook that does nothing, without a call into Python; None where this machine is no x64."""
        return ctypes.c_void_p(self._address(_NOTHING)) if self._native else None

    def around(self, hook: Any) -> Any:
        """`hook`, a CODE_CALLBACK, so that the block ends before the hook's instruction if it answers True."""
        if self._insides is None:
            return hook
        address = ctypes.cast(hook, ctypes.c_void_p).value or 0
        if address not in self._wrapped:
            self._wrapped[address] = ctypes.c_void_p(self._address(self._page.tell()))
            self._page.write(_around(address, self._insides.asks))
        return self._wrapped[address]

    def refill(self, blocks: int) -> None:
        """Begin a turn of at most MOST_BLOCKS. Without effect on hosts other than x64."""
        self._page[_LEFT : _LEFT + 4] = blocks.to_bytes(4, "little")

    @property
    def used_up(self) -> bool:
        """Whether the turn is over: more blocks were to be entered than it has."""
        return self._counting and self._page[_LEFT + 3] & 0x80 != 0

    def request(self) -> None:
        """Stop at the next block, or at the first one of the next run."""
        with self._lock:
            self._asked = True
            if self._held:
                return
            self._page[_FLAG] = 1
            if not self._native:
                self._library.emu_stop(self._handle)
            elif self._insides is not None and self._block_hook is None:
                self._exit_cpu(self._insides.cpu)

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked

    @property
    def stopped(self) -> bool:
        """Whether a request ended the run; else it ended by itself."""
        return bool(self._page[_STOPPED if self._native else _FLAG])

    def clear(self) -> None:
        """Forget the request."""
        with self._lock:
            self._asked = False
            self._page[_FLAG] = self._page[_STOPPED] = 0

    def retire(self) -> None:
        """The CPU is about to be closed: requests do nothing any more."""
        with self._lock:
            self._held = True

    def close(self) -> None:
        """Give the page back; the CPU must be closed already."""
        del self._view
        self._page.close()
