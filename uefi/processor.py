"""The state in which firmware hands a processor to an image (UEFI 2.10, 2.3.4): long mode, identity map, GDT, IDT, stack."""

import struct
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Cpu
from machine.msr import EFER
from machine.paging import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, IdentityMap
from uefi import memory_types as mt
from uefi.dispatcher import INTERRUPT_PORT

if TYPE_CHECKING:
    from uefi.firmware import Firmware

CODE_SELECTOR, DATA_SELECTOR = 0x38, 0x30
STACK_PAGES = 64
"""256 KiB; the specification promises 128."""
_DESCRIPTORS = (
    0,
    0x00CF93000000FFFF,  # 0x08 flat data
    0x00CF9B000000FFFF,  # 0x10 flat 32-bit code
    0x00CF93000000FFFF,  # 0x18 flat data
    0x00CF9B000000FFFF,  # 0x20 flat 32-bit code
    0,
    0x00CF93000000FFFF,  # 0x30 flat data
    0x00AF9B000000FFFF,  # 0x38 64-bit code
    0,
)
_CR0_MP, _CR0_NE, _CR0_ET = 1 << 1, 1 << 5, 1 << 4
_CR4_OSFXSR, _CR4_OSXMMEXCPT, _CR4_DE, _CR4_MCE = 1 << 9, 1 << 10, 1 << 3, 1 << 6
_STUB = 16
_GATE = struct.Struct("<HHHQH")
"""A 64-bit interrupt gate (APM volume 2, 4.8.4): offset in three parts, of which the upper two and the reserved word are one."""


class Processor:
    """Tables in guest memory for the CPUs, and their registers at an image's entry.

    Each IDT gate leads to a stub of its own, `push vector; out INTERRUPT_PORT, eax; add rsp, 8; iretq`. A guest may
    rewrite GDT and IDT in place, as TamaGo does; both are ordinary memory.
    """

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        computer = firmware.computer
        end = computer.memory.end
        tables = firmware.pages(-(-IdentityMap.size_for(end) // 4096), mt.BOOT_DATA)
        self.map = IdentityMap(computer.memory, tables, end, computer.encryption_mask)
        # A call through a null pointer ends in a crash report, not in the execution of zeros. Reading page 0 is allowed:
        # TamaGo does it on processors that are not AMD's.
        self.map.forbid_execution(0)
        self.gdt = firmware.pages(1, mt.BOOT_DATA)
        firmware.memory.write(self.gdt, b"".join(d.to_bytes(8, "little") for d in _DESCRIPTORS))
        self.idt = firmware.pages(1, mt.BOOT_DATA)
        self.stubs = firmware.pages(1, mt.BOOT_CODE)
        out_and_return = bytes((0xE7, INTERRUPT_PORT)) + b"\x48\x83\xc4\x08\x48\xcf\0\0\0"
        code = b"".join(b"\x68" + vector.to_bytes(4, "little") + out_and_return for vector in range(256))
        firmware.memory.write(self.stubs, code)
        stubs = range(self.stubs, self.stubs + len(code), _STUB)
        gates = b"".join(_GATE.pack(stub & 0xFFFF, CODE_SELECTOR, 0x8E00, stub >> 16, 0) for stub in stubs)
        firmware.memory.write(self.idt, gates)
        # Nobody else may have the page below the stack: an OS that goes on with this map must not run into it.
        self._guard = firmware.pages(1 + STACK_PAGES, mt.BOOT_DATA)
        self.stack = self._guard + 4096
        self.stack_top = self.stack + STACK_PAGES * 4096
        firmware.memory_map.convert(self._guard, self.stack, mt.BOOT_DATA, mt.RESERVED)
        self.map.forbid(self._guard)

    def is_stub(self, address: int) -> bool:
        """Whether `address` is one of the firmware's own interrupt stubs."""
        return self.stubs <= address < self.stubs + 4096

    def in_stack_guard(self, address: int) -> bool:
        """Whether `address` is in the page below the stack that is not mapped."""
        return self._guard <= address < self.stack

    def reset(self, cpu: Cpu) -> None:
        """Put `cpu` into the state that the specification promises to an image, on the firmware's own stack."""
        cpu.set_table("gdtr", self.gdt, 8 * len(_DESCRIPTORS) - 1)
        cpu.set_table("idtr", self.idt, 4095)
        cpu.write_msr(EFER, EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
        cpu.set(reg.CR3, self.map.base)
        cpu.set(reg.CR4, CR4_PAE | CR4_PGE | _CR4_OSFXSR | _CR4_OSXMMEXCPT | _CR4_DE | _CR4_MCE)
        cpu.set(reg.CR0, CR0_PE | CR0_PG | CR0_WP | _CR0_MP | _CR0_NE | _CR0_ET)
        cpu.set(reg.CS, CODE_SELECTOR)
        for register in (reg.DS, reg.ES, reg.SS, reg.FS, reg.GS):
            cpu.set(register, DATA_SELECTOR)
        for register in range(16):
            cpu.set(register, 0)
        cpu.set(reg.RFLAGS, 2 | reg.RFLAGS_IF)
        cpu.set(reg.FPCW, 0x037F)
        cpu.set(reg.MXCSR, 0x1F80)
        cpu.set(reg.RSP, self.stack_top - 64)
