"""How host code brings a Unicorn CPU from ring 3 to ring 0.

Unicorn has no way to set the privilege level: a segment register that is written from outside is checked like a MOV, which
cannot raise privilege, and its SYSCALL does nothing. A far call through a call gate works (AMD64 APM volume 2, 4.9.2). So a page
of our own, at the very top of the linear address space, holds such a call, a TSS for the stack, and a HLT behind the gate;
running it once leaves the CPU in ring 0 with the code selector that was asked for. The gate is in a GDT of our own below it, of
the full 64 KiB: Linux's selectors are small, Xen's begin at 0xe000.

The same page takes what a CPU that is put together anew needs: descriptors of our own under the selectors that the guest has
loaded, an IRETQ that goes down to ring 3, and instructions whose registers Unicorn does not show (XGETBV, XSETBV).
"""

import ctypes
import mmap
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from machine import registers as reg
from machine.engine import unicorn_abi as abi
from machine.errors import EngineError

LINEAR = 0xFFFF_FFFF_FFFF_F000
"""No kernel maps anything here: pointers into the last page are error codes."""
PHYSICAL = 0xFFFE_0000_0000
_POINTER, _TARGET, _CODE, _TSS, _STACK = 0x10, 0x20, 0x40, 0x600, 0x800
_GDT, _GDT_SIZE = 0x1000, 0x1_0000
"""Where the GDT is behind PHYSICAL, and in our mapping."""
_GDT_LINEAR = LINEAR - 0x1000 - _GDT_SIZE
_GATE = 0xFFF0
"""The gate's selector: its 16 bytes are the last in our GDT, so kernel selectors may lie anywhere below."""
PAGES = {LINEAR: PHYSICAL} | {_GDT_LINEAR + at: PHYSICAL + _GDT + at for at in range(0, _GDT_SIZE, 0x1000)}
"""What the TLB fill maps once there is a gateway: linear to physical addresses of 4 KiB pages."""
_KERNEL_CODE = 0x00AF9B00_0000FFFF
_TABLES = (abi.REG_GDTR, abi.REG_TR)
_KEPT = (reg.RSP, reg.RFLAGS)


class GatewayCpu(Protocol):
    """What the gateway needs of a CPU."""

    handle: ctypes.c_void_p

    def get(self, register: int) -> int:
        """Read a register."""
        ...

    def set(self, register: int, value: int) -> None:
        """Write a register."""
        ...


class Gateway:
    """The pages of one CPU."""

    def __init__(self, library: abi.Library, cpu: GatewayCpu) -> None:
        self._library = library
        self._cpu = cpu
        self._page = page = mmap.mmap(-1, _GDT + _GDT_SIZE)
        page[0:6] = b"\xff\x1d" + struct.pack("<i", _POINTER - 6)  # call far [rip + ...]
        page[_POINTER : _POINTER + 6] = struct.pack("<IH", 0, _GATE | 3)
        page[_TARGET : _TARGET + 1] = b"\xf4"
        page[_TSS + 4 : _TSS + 12] = struct.pack("<Q", LINEAR + _STACK)
        self._view = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(self._view)
        library.check(library.mem_map_ptr(cpu.handle, PHYSICAL, len(page), abi.PROT_ALL, address), "map the gateway")

    def _prepare(self, selector: int) -> None:
        target = LINEAR + _TARGET
        low = (target & 0xFFFF) | selector << 16 | 0xEC00 << 32 | (target >> 16 & 0xFFFF) << 48
        struct.pack_into("<QQ", self._page, _GDT + _GATE, low, target >> 32)
        struct.pack_into("<Q", self._page, _GDT + selector, _KERNEL_CODE)

    def enter(self, selector: int, base: int = 0) -> None:
        """Ring 0, CS = `selector` (below 0xfff0), SS null; everything else stays, RIP aside. Between two runs only.

        `base` is the base that Unicorn adds to RIP in the present code segment. Nothing may stop it: `StopFlag.set_aside`.
        """
        selector &= 0xFFF8
        if not 0 < selector < _GATE:
            raise EngineError(
                f"a handler in code segment {selector:#x}: only selectors below {_GATE:#x} can be entered"
            )
        cpu = self._cpu
        self._prepare(selector)
        kept = [cpu.get(register) for register in _KEPT]
        with self._own_tables():
            code = self._library.emu_start(cpu.handle, LINEAR - base, abi.NOWHERE, 0, 0)
        for register, value in zip(_KEPT, kept, strict=True):
            cpu.set(register, value)
        self._library.check(code, "enter ring 0")

    @contextmanager
    def _own_tables(self) -> Iterator[None]:
        """GDTR and TR are ours meanwhile."""
        cpu, library = self._cpu, self._library
        tables = [abi.Mmr() for _ in _TABLES]
        for number, table in zip(_TABLES, tables, strict=True):
            library.reg_read(cpu.handle, number, ctypes.addressof(table))
        ours = (abi.Mmr(0, _GDT_LINEAR, _GDT_SIZE - 1, 0), abi.Mmr(8, LINEAR + _TSS, 0x67, 0x8B00))
        for number, table in zip(_TABLES, ours, strict=True):
            library.reg_write(cpu.handle, number, ctypes.addressof(table))
        try:
            yield
        finally:
            for number, table in zip(_TABLES, tables, strict=True):
                library.reg_write(cpu.handle, number, ctypes.addressof(table))

    def carry_out(self, code: bytes) -> None:
        """Run a few instructions of ours in the guest's ring, up to a HLT behind them. RIP is changed."""
        self._page[_CODE : _CODE + len(code) + 1] = code + b"\xf4"
        ran = self._library.emu_start(self._cpu.handle, LINEAR + _CODE, abi.NOWHERE, 0, 0)
        self._library.check(ran, "an instruction of our own")

    @contextmanager
    def descriptors(self, segments: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Have (selector, descriptor of 8 bytes) in the GDT meanwhile. EngineError for selectors that it has no room for."""
        self._page[_GDT : _GDT + _GATE] = bytes(_GATE)
        for selector, descriptor in segments:
            if selector & 4 or not selector & 0xFFF8 or selector >= _GATE:
                raise EngineError(f"segment selector {selector:#x}: wanted one of the GDT, below {_GATE:#x}")
            struct.pack_into("<Q", self._page, _GDT + (selector & 0xFFF8), descriptor)
        with self._own_tables():
            yield

    def enter_ring3(self, cs: int, ss: int) -> None:
        """From ring 0 to ring 3 by IRETQ, with these selectors, whose `descriptors` are in place. RSP and RIP are changed."""
        frame = struct.pack("<5Q", LINEAR + _TARGET, cs, 2, 0, ss)
        self._page[_STACK : _STACK + len(frame)] = frame
        self._page[_CODE : _CODE + 2] = b"\x48\xcf"
        self._cpu.set(reg.RSP, LINEAR + _STACK)
        # One instruction, counted: what IRETQ returns to must not be executed.
        ran = self._library.emu_start(self._cpu.handle, LINEAR + _CODE, abi.NOWHERE, 0, 1)
        self._library.check(ran, "enter ring 3")

    def close(self) -> None:
        """Give the page back; the CPU must be closed already."""
        del self._view
        self._page.close()
