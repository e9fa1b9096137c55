"""How host code brings a Unicorn CPU into real mode, as a start-up IPI does.

In 64-bit mode Unicorn takes a code selector from outside as a number only: neither the segment's base nor its size come with it.
Far jumps of the CPU's own load both (AMD64 APM volume 2, 14.1.4, 4.7.1). So the state of power on is put back, and a few
instructions of ours go from 32-bit code over 16-bit code to real mode. They lie in a page of our own, which for that moment
stands at the very linear address where the start-up vector points.
"""

import ctypes
import mmap
import struct
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.engine import unicorn_abi as abi
from machine.paging import CR0_PE, CR0_PG, CR4_PAE, EFER_LME

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu

PHYSICAL = 0xFFFE_0010_0000
CR0_AFTER_INIT = 0x6000_0010
"""CD, NW, ET (AMD64 APM volume 2, table 14-1)."""

_SIXTEEN, _REAL, _GDT = 0x20, 0x40, 0x80
_CODE, _DATA = 0x08, 0x10
_SEGMENTS = b"\x8e\xd8\x8e\xc0\x8e\xd0\x8e\xe0\x8e\xe8"  # mov ds, es, ss, fs, gs from AX
_EFER = 0xC000_0080
_LONG = 1 << 53
"""L in the descriptor of a code segment."""


class RealMode:
    """The state of power on of one CPU, made right after it was, the page of code, and the CPU's way out of real mode.

    `arrived`: the run has ended where CS was loaded in protected mode, and `arrive` is to be called.
    """

    def __init__(self, library: abi.Library, cpu: "UnicornCpu") -> None:
        self._library = library
        self._cpu = cpu
        self._page: mmap.mmap | None = None
        self._selector: int | None = None
        self._hook: ctypes.c_size_t | None = None
        self._callback = abi.CODE_CALLBACK(self._at_block)
        self._base = 0
        self.arrived = False
        self._context = ctypes.c_void_p()
        library.check(library.context_alloc(cpu.handle, ctypes.byref(self._context)), "allocate a context")
        library.check(library.context_save(cpu.handle, self._context), "save the state of power on")

    def power_on(self) -> None:
        """Put the state of power on back. Between two runs only."""
        self._library.check(self._library.context_restore(self._cpu.handle, self._context), "put a state back")
        self._selector = None
        self._leave_off()

    def _leave_off(self) -> None:
        """No block is looked at any more."""
        self.arrived = False
        if self._hook is not None:
            self._cpu.unhook(self._hook)
            self._hook = None

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

    def enter(self, vector: int, signature: int) -> None:
        """Real mode at vector << 12, all registers as after INIT. Between two runs only."""
        cpu = self._cpu
        with cpu.stop.set_aside():
            self._go(vector)
        for register in reg.GENERAL[:16]:
            cpu.set(register, 0)
        cpu.set_table("gdtr", 0, 0xFFFF)
        cpu.set_table("idtr", 0, 0xFFFF)
        cpu.set(reg.RFLAGS, 2)
        cpu.set(reg.RDX, signature)
        cpu.set(reg.RIP, 0)
        self._selector = vector << 8
        if self._hook is None:
            self._hook = cpu.hook(abi.HOOK_BLOCK, self._callback)

    def code_base(self) -> int:
        """What RIP is relative to: 0, but in real mode and behind it until CS is loaded again."""
        if self._selector is None:
            return 0
        selector = self._cpu.get(reg.CS)
        if not self._cpu.get(reg.CR0) & CR0_PE:
            self._selector = selector
        elif selector != self._selector:
            self._selector = None
            return 0
        return selector << 4

    def _at_block(self, _uc: int, address: int, _size: int, _user: int) -> None:
        """A block between real mode and the first far jump behind it."""
        if self.code_base() == 0 and self._selector is None and not self.arrived:
            self._base = address - self._cpu.get(reg.RIP)
            self.arrived = True
            self._library.emu_stop(self._cpu.handle)

    def arrive(self) -> None:
        """The CPU has loaded CS in protected mode. The base of a 64-bit code segment does not count, but Unicorn adds it."""
        cpu = self._cpu
        self._leave_off()
        cpu.flush_code()
        selector = cpu.get(reg.CS)
        table, _ = cpu.table("gdtr")
        descriptor = int.from_bytes(cpu.bytes_at(cpu.mode(), table + (selector & 0xFFF8), 8), "little")
        long = descriptor & _LONG and cpu.read_msr(_EFER) & EFER_LME and cpu.get(reg.CR0) & CR0_PG
        if self._base and long:
            rip, stack = cpu.get(reg.RIP), cpu.get(reg.SS)
            cpu.through_gateway(selector, self._base)
            cpu.set(reg.RIP, rip)
            cpu.set(reg.SS, stack)

    def _go(self, vector: int) -> None:
        """The way there. Nothing but a part of it is done if somebody asks for a stop meanwhile: look at CR0 and CS."""
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
