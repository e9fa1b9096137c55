"""The monitor: the few pages of ring 0 under which a guest runs in ring 3 on KVM.

Whatever the guest may not do in ring 3 becomes an exception. Each gate of our IDT leads to a stub of two bytes, `out vector, al`:
KVM comes back to us with the vector as the port's number, and the guest's registers are in the frame on the stub's stack.
Nothing else is ever executed in ring 0, so a KVM that only emulates ring 0 (/sys/module/kvm_pvm) serves as well as hardware.

The pages lie in memory of their own, outside the guest's RAM, and at linear addresses that only ring 0 can touch.
AMD64 APM volume 2, 4.7 to 4.8 (descriptors), 8.9 (interrupt frames), 12.2.5 (TSS).
"""

import ctypes
import mmap
import struct
from typing import NamedTuple

from machine.engine import kvm_abi as abi
from machine.memory import HIGH_START

LINEAR = 0xFFFF_FFFF_FFE0_0000
"""Where the monitor lies: the last 2 MiB, where no kernel maps anything but its own trampolines."""
PAGE = 4096
POOL_PAGES = 8192
"""Pages for shadow tables and copies of code: 32 MiB of address space, of which the host backs what is touched."""

USER_CODE, USER_DATA = 0x33, 0x2B
"""The guest's real selectors. A software KVM runs ring 3 with those of Linux, whatever we ask for; so all have them."""
_KERNEL_CODE, _TASK = 0x10, 0x40
_DESCRIPTORS = {
    _KERNEL_CODE: 0x00AF_9B00_0000_FFFF,
    USER_DATA & ~7: 0x00CF_F300_0000_FFFF,
    USER_CODE & ~7: 0x00AF_FB00_0000_FFFF,
}
_STUB = 8
_SYSCALL_STUB = 0x800
SYSCALL_TARGET = LINEAR + _SYSCALL_STUB
"""LSTAR: `out 0, eax`. A software KVM goes there in ring 3, and faults on the fetch."""
_STUBS, _IDT, _FIRST_CPU = 0, 1, 2
_PAGES_PER_CPU = 2  # GDT and TSS; stack
_TSS = 0x800
_NO_PORTS = 0xFFFF
MAXIMUM_CPUS = (512 - _FIRST_CPU) // _PAGES_PER_CPU
_OPEN_TO_RING_3 = frozenset((3, 4))  # INT3 and INTO arrive as themselves; INT n arrives as a fault
HAVE_CODE = frozenset((8, 10, 11, 12, 13, 14, 17, 21, 29, 30))

_PRESENT, _WRITABLE, _USER, _ACCESSED, _DIRTY = 1, 2, 4, 0x20, 0x40
_FRAME = struct.Struct("<6Q")


class Frame(NamedTuple):
    """What the processor pushed for a stub."""

    error_code: int
    rip: int
    rflags: int
    rsp: int


class Monitor:
    """The monitor's memory in a Vm: fixed pages for `cpus` processors first, the pool behind."""

    def __init__(self, vm: abi.Vm, slot: int, ram_end: int, cpus: int) -> None:
        self._vm = vm
        self._slot = slot
        fixed = _FIRST_CPU + _PAGES_PER_CPU * cpus
        self.table_at = fixed
        self.stub_page = fixed + 1
        """Code that ring 3 executes; behind it a page of data of each processor's (`machine.engine.kvm_posted`)."""
        self.first_free = fixed + 2 + cpus
        self.size = (self.first_free + POOL_PAGES) * PAGE
        self.physical = (max(ram_end, HIGH_START) + (2 << 30) - 1) >> 30 << 30
        """A GiB that no guest is told of."""
        self._map = mmap.mmap(-1, self.size)
        self.view = memoryview(self._map)
        self.words = self.view.cast("Q")
        self._host = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for vector in range(256):
            target = LINEAR + vector * _STUB
            self.view[vector * _STUB : vector * _STUB + 2] = bytes((0xE6, vector))
            kind = 0xEE if vector in _OPEN_TO_RING_3 else 0x8E
            gate = struct.pack(
                "<HHBBHII", target & 0xFFFF, _KERNEL_CODE, 0, kind, target >> 16 & 0xFFFF, target >> 32, 0
            )
            self.view[_IDT * PAGE + 16 * vector : _IDT * PAGE + 16 * vector + 16] = gate
        self.view[_SYSCALL_STUB : _SYSCALL_STUB + 2] = b"\xe7\x00"
        for index in range(cpus):
            self._describe(index)
        for page in range(fixed):
            self.words[self.table_at * 512 + page] = self.gpa(page) | _PRESENT | _WRITABLE | _ACCESSED | _DIRTY
        vm.map(slot, self.physical, self.size, self._host)

    def gpa(self, page: int) -> int:
        """The guest-physical address of one of the monitor's pages."""
        return self.physical + page * PAGE

    @staticmethod
    def _page_of(index: int) -> int:
        return _FIRST_CPU + _PAGES_PER_CPU * index

    def _describe(self, index: int) -> None:
        """GDT and TSS of one processor."""
        page = self._page_of(index)
        at, task = page * PAGE, LINEAR + page * PAGE + _TSS
        for selector, descriptor in _DESCRIPTORS.items():
            struct.pack_into("<Q", self.view, at + selector, descriptor)
        low = 0x67 | (task & 0xFF_FFFF) << 16 | 0x8B << 40 | (task >> 24 & 0xFF) << 56
        struct.pack_into("<QQ", self.view, at + _TASK, low, task >> 32)
        struct.pack_into(
            "<Q", self.view, at + _TSS + 4, LINEAR + (page + 2) * PAGE
        )  # RSP0: the end of the stack's page
        struct.pack_into("<H", self.view, at + _TSS + 0x66, _NO_PORTS)

    def sregs(self, index: int, root: int, fresh: bytearray) -> bytes:
        """struct kvm_sregs with which processor `index` runs in ring 3, with page tables at `root`.

        `fresh` are those of a new processor, for what we leave as it is.
        """
        page = self._page_of(index)
        data = bytearray(fresh)
        for at, segment in (*((at, USER_DATA_SEGMENT) for at in DATA_SEGMENTS), (abi.CS_AT, USER_CODE_SEGMENT)):
            data[at : at + abi.SEGMENT.size] = segment
        task = LINEAR + page * PAGE + _TSS
        abi.SEGMENT.pack_into(data, abi.TR_AT, task, 0x67, _TASK, 11, 1, 0, 0, 0, 0, 0, 0, 0, 0)
        abi.SEGMENT.pack_into(data, abi.LDT_AT, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0)
        abi.TABLE.pack_into(data, abi.GDT_AT, LINEAR + page * PAGE, _TASK + 15)
        abi.TABLE.pack_into(data, abi.IDT_AT, LINEAR + _IDT * PAGE, PAGE - 1)
        abi.CONTROL.pack_into(data, abi.CONTROL_AT, CR0, 0, root, CR4, 0, EFER)
        return bytes(data)

    def prepare(self, vcpu: abi.Vcpu) -> None:
        """Point SYSCALL at our stub."""
        vcpu.set_msr(0xC000_0081, _KERNEL_CODE << 32 | (USER_DATA - 8) << 48)
        vcpu.set_msr(0xC000_0082, SYSCALL_TARGET)
        vcpu.set_msr(0xC000_0084, 0)

    def frame(self, stack: int, vector: int) -> Frame:
        """What was pushed for the stub of `vector`, whose stack pointer is `stack`."""
        first, second, third, fourth, fifth, _sixth = _FRAME.unpack_from(self.view, stack - LINEAR)
        if vector in HAVE_CODE:
            return Frame(first, second, fourth, fifth)
        return Frame(0, first, third, fourth)

    def forget_tables(self) -> None:
        """Make KVM forget what it made of page tables in the pool: their pages can be used for others then."""
        self._vm.map(self._slot, self.physical, 0, self._host)
        self._vm.map(self._slot, self.physical, self.size, self._host)

    def close(self) -> None:
        """Give the memory back; the Vm must be closed already."""
        self.words.release()
        self.view.release()
        self._map.madvise(mmap.MADV_DONTNEED)


CR0 = 0x8001_0033
"""PE, MP, ET, NE, WP, PG"""
CR4 = 0x0000_06A0 | 1 << 11 | 1 << 16
"""PAE, PGE, OSFXSR, OSXMMEXCPT; UMIP makes SGDT and its like fault in ring 3; FSGSBASE is there in every ring"""
EFER = 0xD01
"""SCE, LME, LMA, NXE"""
DATA_SEGMENTS = (abi.DS_AT, abi.ES_AT, abi.FS_AT, abi.GS_AT, abi.SS_AT)
USER_CODE_SEGMENT = abi.SEGMENT.pack(0, 0xFFFF_FFFF, USER_CODE, 11, 1, 3, 0, 1, 1, 1, 0, 0, 0)
USER_DATA_SEGMENT = abi.SEGMENT.pack(0, 0xFFFF_FFFF, USER_DATA, 3, 1, 3, 1, 1, 0, 1, 0, 0, 0)
