"""The VMSA with which a guest starts one of its processors: registers by offset (AMD64 APM volume 2, table B-4)."""

import struct

from machine import registers as reg
from machine.cpu import Cpu
from machine.errors import BadAddress
from machine.linear import LinearMemory
from machine.memory import PhysicalMemory
from machine.paging import CR0_PE, CR0_PG, EFER_LMA, EFER_LME, Mode

SIZE = 4096
_SEGMENT = struct.Struct("<HHIQ")
"""Selector, attributes, limit, base."""
_ES, _CS, _SS, _DS, _FS, _GS, _GDTR, _IDTR, _TR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x80, 0x90
_EFER, _CR4, _CR3, _CR0, _RFLAGS, _RIP, _CR2 = 0x0D0, 0x148, 0x150, 0x158, 0x170, 0x178, 0x240
SEV_FEATURES = 0x3B0
_GENERAL = {
    **{reg.RSP: 0x1D8, reg.RAX: 0x1F8, reg.RCX: 0x308, reg.RDX: 0x310, reg.RBX: 0x318},
    **{reg.RBP: 0x328, reg.RSI: 0x330, reg.RDI: 0x338},
    **{register: 0x340 + 8 * (register - reg.R8) for register in range(reg.R8, reg.R15 + 1)},
}
_MSRS = {
    **{0xC000_0081: 0x200, 0xC000_0082: 0x208, 0xC000_0083: 0x210, 0xC000_0084: 0x218, 0xC000_0102: 0x220},
    **{0x174: 0x228, 0x175: 0x230, 0x176: 0x238},
}
"""STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP."""
_EFER_SVME = 1 << 12
_LONG = 1 << 9
"""L in a segment's attributes, which are bits 55:52 and 47:40 of its descriptor."""
_DESCRIPTOR_LONG = 1 << 53


class BadVmsa(Exception):
    """The state is none that a processor can be started with here; the text says why."""


class Vmsa:
    """The 4096 bytes of one."""

    def __init__(self, page: bytes) -> None:
        self._page = page

    def u64(self, offset: int) -> int:
        """A register."""
        return int.from_bytes(self._page[offset : offset + 8], "little")

    def segment(self, offset: int) -> tuple[int, int, int, int]:
        """Selector, attributes, limit and base of a segment or descriptor table register."""
        selector, attributes, limit, base = _SEGMENT.unpack_from(self._page, offset)
        return selector, attributes, limit, base

    @property
    def real_mode(self) -> bool:
        """Whether the processor starts in real mode."""
        return not self.u64(_CR0) & CR0_PE

    def load(self, cpu: Cpu, memory: PhysicalMemory, mask: int) -> None:
        """Give `cpu` this state, between two runs. BadVmsa.

        Real mode at a start-up vector's address, or 64-bit mode with segments as the GDT has them: engines take a segment's
        hidden part from nowhere else. `mask` is the encryption bit.
        """
        if self.real_mode:
            selector, _, _, base = self.segment(_CS)
            if base != selector << 4 or base & 0xFFF or base >= 1 << 20:
                raise BadVmsa(f"real mode with CS {selector:#x} at base {base:#x}; wanted a page below 1 MiB")
            cpu.enter_real_mode(base >> 12, self.u64(_GENERAL[reg.RDX]) & 0xFFFF_FFFF)
        else:
            self._enter_long_mode(cpu, memory, mask)
        for register, offset in _GENERAL.items():
            cpu.set(register, self.u64(offset))
        cpu.set(reg.RFLAGS, self.u64(_RFLAGS) | 2)
        cpu.set(reg.RIP, self.u64(_RIP))

    def _enter_long_mode(self, cpu: Cpu, memory: PhysicalMemory, mask: int) -> None:
        cr0, cr3, cr4, efer = self.u64(_CR0), self.u64(_CR3), self.u64(_CR4), self.u64(_EFER) & ~_EFER_SVME
        selector, attributes, _, _ = self.segment(_CS)
        wanted = EFER_LME | EFER_LMA
        if not cr0 & CR0_PG or efer & wanted != wanted or not attributes & _LONG:
            raise BadVmsa(f"CR0 {cr0:#x}, EFER {efer:#x}, CS attributes {attributes:#x}: neither real nor 64-bit mode")
        _, _, limit, base = self.segment(_GDTR)
        try:
            linear = LinearMemory(memory, cpu, Mode(cr0, cr3, cr4, efer), mask)
            descriptor = int.from_bytes(linear.read(base + (selector & 0xFFF8), 8), "little")
        except BadAddress:
            descriptor = 0
        if (selector | 7) > limit or not descriptor & _DESCRIPTOR_LONG:
            raise BadVmsa(f"CS {selector:#x} is no 64-bit code segment in the GDT at {base:#x}")
        cpu.power_on()
        cpu.set_table("gdtr", base, limit)
        _, _, limit, base = self.segment(_IDTR)
        cpu.set_table("idtr", base, limit)
        cpu.write_msr(0xC000_0080, efer)
        for register, value in ((reg.CR3, cr3), (reg.CR4, cr4), (reg.CR0, cr0), (reg.CR2, self.u64(_CR2))):
            cpu.set(register, value)
        cpu.set(reg.CS, selector)
        for register, offset in ((reg.SS, _SS), (reg.DS, _DS), (reg.ES, _ES), (reg.FS, _FS), (reg.GS, _GS)):
            cpu.set(register, self.segment(offset)[0])
        cpu.set(reg.FS_BASE, self.segment(_FS)[3])
        cpu.set(reg.GS_BASE, self.segment(_GS)[3])
        selector, _, limit, base = self.segment(_TR)
        cpu.set_table("tr", base, limit, selector)
        for index, offset in _MSRS.items():
            cpu.write_msr(index, self.u64(offset))
