"""How host code brings a Unicorn CPU into real mode, as a start-up IPI does.

In 64-bit mode Unicorn takes a code selector from outside as a number only: neither the segment's base nor its size come with it.
Far jumps of the CPU's own load both (AMD64 APM volume 2, 14.1.4, 4.7.1). So the state of power on is put back, and a few
instructions of ours go from 32-bit code over 16-bit code to real mode. They lie in a page of our own, which for that moment
stands at the very linear address where the start-up vector points.
"""

import ctypes
import mmap
import struct
from typing import Protocol

from machine import registers as reg
from machine.engine import unicorn_abi as abi
from machine.paging import CR0_PE, CR0_PG, CR4_PAE

PHYSICAL = 0xFFFE_0000_1000
CR0_AFTER_INIT = 0x6000_0010
"""CD, NW, ET (AMD64 APM volume 2, table 14-1)."""

_SIXTEEN, _REAL, _GDT = 0x20, 0x40, 0x80
_CODE, _DATA = 0x08, 0x10
_SEGMENTS = b"\x8e\xd8\x8e\xc0\x8e\xd0\x8e\xe0\x8e\xe8"  # mov ds, es, ss, fs, gs from AX
_EFER = 0xC000_0080


class RealModeCpu(Protocol):
    """What the way into real mode needs of a CPU."""

    handle: ctypes.c_void_p
    own_pages: dict[int, int]

    def get(self, register: int) -> int:
        """Read a register."""
        ...

    def set(self, register: int, value: int) -> None:
        """Write a register."""
        ...

    def write_msr(self, index: int, value: int) -> None:
        """Write an MSR that the engine keeps."""
        ...

    def set_table(self, name: str, base: int, limit: int, selector: int = 0) -> None:
        """Load a descriptor table register."""
        ...

    def flush_translations(self) -> None:
        """Drop all TLB entries."""
        ...

    def flush_code(self) -> None:
        """Drop all translated code."""
        ...


class RealMode:
    """The state of power on of one CPU, made right after it was, and the page of code."""

    def __init__(self, library: abi.Library, cpu: RealModeCpu) -> None:
        self._library = library
        self._cpu = cpu
        self._page: mmap.mmap | None = None
        self._context = ctypes.c_void_p()
        library.check(library.context_alloc(cpu.handle, ctypes.byref(self._context)), "allocate a context")
        library.check(library.context_save(cpu.handle, self._context), "save the state of power on")

    def power_on(self) -> None:
        """Put the state of power on back. Between two runs only."""
        self._library.check(self._library.context_restore(self._cpu.handle, self._context), "put a state back")

    def _prepare(self, vector: int) -> None:
        page = self._page
        if page is None:
            page = self._page = mmap.mmap(-1, 4096)
            self._view = ctypes.c_char.from_buffer(page)
            address = ctypes.addressof(self._view)
            library = self._library
            library.check(
                library.mem_map_ptr(self._cpu.handle, PHYSICAL, 4096, abi.PROT_ALL, address), "map the way to real mode"
            )
        thirty_two = b"\xb8" + struct.pack("<I", _DATA) + _SEGMENTS + b"\xea" + struct.pack("<IH", _SIXTEEN, _CODE)
        sixteen = b"\x66\xb8" + struct.pack("<I", CR0_AFTER_INIT) + b"\x0f\x22\xc0"  # mov eax, ...; mov cr0, eax
        sixteen += b"\xea" + struct.pack("<HH", _REAL, vector << 8)
        real = b"\x31\xc0" + _SEGMENTS + b"\xf4"  # xor ax, ax; ...; hlt
        for at, code in ((0, thirty_two), (_SIXTEEN, sixteen), (_REAL, real)):
            page[at : at + len(code)] = code
        base = vector << 12
        code_segment = 0x0000_9B00_0000_FFFF | (base & 0xFFFF) << 16 | (base >> 16) << 32
        page[_GDT : _GDT + 24] = struct.pack("<3Q", 0, code_segment, 0x0000_9300_0000_FFFF)

    def enter(self, vector: int) -> None:
        """Real mode at vector << 12, all registers as after power on. Between two runs only.

        RIP is not at the vector, and CR0 not CR0_AFTER_INIT, if somebody asked for a stop meanwhile: try again.
        """
        cpu, library = self._cpu, self._library
        self._prepare(vector)
        self.power_on()
        # That is long mode, which Unicorn leaves only through a state that has paging.
        cpu.set(reg.CR4, CR4_PAE)
        cpu.set(reg.CR0, CR0_PG | CR0_PE)
        cpu.set(reg.CR0, CR0_PE)
        cpu.write_msr(_EFER, 0)
        cpu.set(reg.CR4, 0)
        linear = vector << 12
        cpu.set_table("gdtr", linear + _GDT, 23)
        cpu.own_pages[linear] = PHYSICAL
        cpu.flush_translations()
        code = library.emu_start(cpu.handle, linear, abi.NOWHERE, 0, 0)
        del cpu.own_pages[linear]
        cpu.flush_translations()
        cpu.flush_code()
        library.check(code, "enter real mode")

    def close(self) -> None:
        """Give page and context back; the CPU must be closed already."""
        self._library.context_free(self._context)
        if self._page is not None:
            del self._view
            self._page.close()
