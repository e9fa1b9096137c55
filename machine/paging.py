"""x64 page tables: building the identity map that firmware hands over, and walking whatever the guest made of it.

AMD64 Architecture Programmer's Manual volume 2, chapter 5. The encryption bit (C-bit) of SEV is just a mask here: it is
set in what `IdentityMap` builds and taken out of what `walk` reads.
"""

import struct
from collections.abc import Iterable

from machine.memory import HIGH_START, PhysicalMemory

PRESENT, WRITABLE, USER = 1, 2, 4
ACCESSED, DIRTY, LARGE = 1 << 5, 1 << 6, 1 << 7
NO_EXECUTE = 1 << 63
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
LARGE_PAGE = 2 << 20

CR0_PE, CR0_WP, CR0_PG = 1, 1 << 16, 1 << 31
CR4_PSE, CR4_PAE, CR4_PGE, CR4_LA57 = 1 << 4, 1 << 5, 1 << 7, 1 << 12
EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE = 1, 1 << 8, 1 << 10, 1 << 11

# Page fault error code (APM volume 2, 8.4.2).
FAULT_PRESENT, FAULT_WRITE, FAULT_USER, FAULT_RESERVED, FAULT_FETCH = 1, 2, 4, 8, 16

READ, WRITE, FETCH = 0, 1, 2

_ENTRY = struct.Struct("<Q").unpack_from


class PageFault(Exception):
    """The tables do not allow the access. `error_code` as the processor pushes it; `address` is what CR2 gets."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


class NonCanonical(Exception):
    """A linear address whose bits 63 to 47 are not all alike: #GP, not #PF."""

    def __init__(self, address: int) -> None:
        super().__init__(f"non-canonical address {address:#x}")
        self.address = address


class Translation:
    """Where a linear page lies: `physical` (page start), what is allowed, and the encryption bit of the mapping.

    All of the 1 << `shift` bytes around it are mapped alike.
    """

    __slots__ = ("dirty", "encrypted", "executable", "physical", "shift", "user", "writable")

    def __init__(
        self,
        physical: int,
        writable: bool,
        executable: bool,
        user: bool,
        dirty: bool,
        encrypted: bool,
        shift: int = 12,
    ) -> None:
        self.physical = physical
        self.writable = writable
        self.executable = executable
        self.user = user
        self.dirty = dirty
        self.encrypted = encrypted
        self.shift = shift


class Mode:
    """The control registers that decide how addresses translate; made anew when one of them changes."""

    __slots__ = ("cr0", "cr3", "cr4", "efer", "long", "no_execute", "paged", "write_protect")

    def __init__(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        self.cr0 = cr0
        self.cr3 = cr3
        self.cr4 = cr4
        self.efer = efer
        self.paged = bool(cr0 & CR0_PG)
        self.long = bool(efer & EFER_LME)
        self.no_execute = bool(efer & EFER_NXE)
        self.write_protect = bool(cr0 & CR0_WP)


def walk(
    memory: PhysicalMemory, mode: Mode, address: int, access: int, user: bool = False, mask: int = 0, mark: bool = True
) -> Translation:
    """Translate the page of linear `address` for `access` (READ, WRITE, FETCH) as the processor would.

    `mask` is the encryption bit, 0 without SEV. With `mark` the accessed and dirty bits are set as hardware sets them.
    Raises PageFault or NonCanonical. Long mode with 4 KiB, 2 MiB and 1 GiB pages, PAE and 32-bit paging.
    """
    if not mode.paged:
        return Translation(address & 0xFFFF_FFFF_FFFF_F000, True, True, True, True, bool(mask))
    if not mode.long:
        return _walk_legacy(memory, mode, address, access, user, mask, mark)
    if (address + (1 << 47)) >> 48 & 0xFFFF:
        raise NonCanonical(address)
    # A guest that starts misses the TLB ten thousand times: this is written for speed.
    view, low = memory.view, memory.low_size
    entry, rights, no_execute = mode.cr3, WRITABLE | USER, 0
    for level in _LONG_LEVELS:
        slot = (entry & ADDRESS_MASK & ~mask) + (address >> level & 0xFF8)
        if slot >= low and not memory.is_ram(slot):
            raise _fault(mode, address, access, user, FAULT_RESERVED | FAULT_PRESENT)
        entry = _ENTRY(view, slot if slot < low else memory.offset(slot, 8))[0]
        if not entry & PRESENT:
            raise _fault(mode, address, access, user, 0)
        rights &= entry
        no_execute |= entry
        if level == 9 or (entry & LARGE and level < 36):
            break
        if mark and not entry & ACCESSED:
            if memory.gather():  # another processor may have changed the tables until now
                return walk(memory, mode, address, access, user, mask)
            memory.set_u8(slot, entry & 0xFF | ACCESSED)
    executable = not (no_execute & NO_EXECUTE and mode.no_execute)
    if access != READ or user:
        _check(mode, address, access, user, rights, executable)
    if mark and (not entry & ACCESSED or (access == WRITE and not entry & DIRTY)):
        if memory.gather():
            return walk(memory, mode, address, access, user, mask)
        entry = _mark(memory, slot, entry, access)
    inside = (0x1000 << level - 9) - 0x1000
    frame = entry & ADDRESS_MASK & ~mask & ~inside | address & inside
    may_write = rights & WRITABLE != 0 or not (user or mode.write_protect)
    return Translation(
        frame, may_write, executable, rights & USER != 0, entry & DIRTY != 0, entry & mask != 0, level + 3
    )


_LONG_LEVELS = (36, 27, 18, 9)
"""How far an address is shifted to become an entry's offset in a table of each level, PML4 to PT."""


def _fault(mode: Mode, address: int, access: int, user: bool, code: int) -> PageFault:
    code |= (FAULT_WRITE if access == WRITE else 0) | (FAULT_USER if user else 0)
    return PageFault(address, code | (FAULT_FETCH if access == FETCH and mode.no_execute else 0))


def _check(mode: Mode, address: int, access: int, user: bool, rights: int, executable: bool) -> None:
    """PageFault if the USER and WRITABLE bits that all levels have in common do not allow the access."""
    if (
        (user and not rights & USER)
        or (access == WRITE and not rights & WRITABLE and (user or mode.write_protect))
        or (access == FETCH and not executable)
    ):
        raise _fault(mode, address, access, user, FAULT_PRESENT)


def _mark(memory: PhysicalMemory, slot: int, entry: int, access: int) -> int:
    """The entry of a page, at `slot`, after an access: accessed and, by a write, dirty."""
    wanted = entry | (ACCESSED | DIRTY if access == WRITE else ACCESSED)
    if wanted != entry:
        memory.set_u8(slot, wanted & 0xFF)
    return wanted


def _walk_legacy(
    memory: PhysicalMemory, mode: Mode, address: int, access: int, user: bool, mask: int, mark: bool
) -> Translation:
    """PAE and 32-bit paging (AMD64 APM volume 2, 5.2)."""
    address &= 0xFFFF_FFFF
    pae = bool(mode.cr4 & CR4_PAE)
    rights, executable = WRITABLE | USER, True
    if pae:  # an entry of the top table holds neither permissions nor an accessed bit
        top = _entry(memory, mode, address, access, user, (mode.cr3 & 0xFFFF_FFE0) + (address >> 30) * 8, 8)
        table, shift, width = top & ADDRESS_MASK & ~mask, 21, 8
    else:
        table, shift, width = mode.cr3 & 0xFFFF_F000, 22, 4
    while True:
        slot = table + ((address >> shift) * width & 0xFFF)
        entry = _entry(memory, mode, address, access, user, slot, width)
        rights &= entry
        if pae and mode.no_execute and entry & NO_EXECUTE:
            executable = False
        if shift == 12 or (entry & LARGE and (pae or mode.cr4 & CR4_PSE)):
            break
        if mark and not entry & ACCESSED:
            memory.set_u8(slot, entry & 0xFF | ACCESSED)
        table, shift = entry & (ADDRESS_MASK if pae else 0xFFFF_F000) & ~mask, 12
    _check(mode, address, access, user, rights, executable)
    if mark:
        entry = _mark(memory, slot, entry, access)
    inside = (1 << shift) - 1
    frame = entry & (ADDRESS_MASK if pae else 0xFFFF_F000) & ~mask & ~inside | address & inside & ~0xFFF
    may_write = bool(rights & WRITABLE) or not (user or mode.write_protect)
    return Translation(frame, may_write, executable, bool(rights & USER), bool(entry & DIRTY), bool(entry & mask))


def _entry(memory: PhysicalMemory, mode: Mode, address: int, access: int, user: bool, slot: int, width: int) -> int:
    """The present entry of `width` bytes at physical `slot`; PageFault."""
    if not memory.is_ram(slot):
        raise _fault(mode, address, access, user, FAULT_RESERVED | FAULT_PRESENT)
    entry = memory.u64(slot) if width == 8 else memory.u32(slot)
    if not entry & PRESENT:
        raise _fault(mode, address, access, user, 0)
    return entry


def _entries(first: int, count: int, step: int) -> bytes:
    """`count` table entries: `first`, and each `step` further than the one before."""
    return struct.pack(f"<{count}Q", *range(first, first + count * step, step))


class IdentityMap:
    """The four-level identity map that UEFI hands over (UEFI 2.10, 2.3.4), with 2 MiB pages.

    The encryption bit `mask` is set for RAM and page tables; devices are never behind it.

    Takes its tables from `base` upwards: one PML4, one PDPT per 512 GiB, one page directory per GiB, `size` bytes in
    all. `end` is the first address that is not mapped, at least 4 GiB so that devices are reached too.
    """

    def __init__(self, memory: PhysicalMemory, base: int, end: int, mask: int = 0) -> None:
        self._memory = memory
        self.base = base
        self.mask = mask
        gibibytes = max(4, -(-end // (1 << 30)))
        pointer_tables = -(-gibibytes // 512)
        self.end = gibibytes << 30
        self.size = self.size_for(end)
        directories = base + 4096 * (1 + pointer_tables)
        flags = PRESENT | WRITABLE
        memory.write(base, _entries(base + 4096 | flags | mask, pointer_tables, 4096))
        memory.write(base + 4096, _entries(directories | flags | mask, gibibytes, 4096))
        memory.write(directories, _entries(flags | LARGE, 512 * gibibytes, LARGE_PAGE))
        if mask:
            for start, size in ((0, memory.low_size), (HIGH_START, memory.high_size)):
                at = directories + 8 * (start // LARGE_PAGE)
                memory.write(at, _entries(start | flags | LARGE | mask, size // LARGE_PAGE, LARGE_PAGE))
        self._directories = directories
        self._spare = base + 4096 * (1 + pointer_tables + gibibytes)
        self._spare_end = base + self.size

    SPARE_TABLES = 64

    @classmethod
    def size_for(cls, end: int) -> int:
        """Bytes of page tables for an identity map up to `end`, tables for later splits included."""
        gibibytes = max(4, -(-end // (1 << 30)))
        return 4096 * (1 + -(-gibibytes // 512) + gibibytes + cls.SPARE_TABLES)

    def share(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Map the (address, size) ranges, whole 4 KiB pages, without the encryption bit.

        Large pages are split at the ends of a range; MemoryError, and no change, if there are no tables for that.
        """
        for first, size in ranges:
            self._encrypt(first, size, 0)

    def hide(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Map ranges that were shared with the encryption bit again."""
        for first, size in ranges:
            self._encrypt(first, size, self.mask)

    def _encrypt(self, first: int, size: int, mask: int) -> None:
        end = first + size
        if first % LARGE_PAGE:
            self._split(first)
        if end % LARGE_PAGE:
            self._split(end - 1)
        page = first
        while page < end:
            slot, step = self._directories + 8 * (page >> 21), LARGE_PAGE
            if not self._memory.u64(slot) & LARGE:
                slot, step = self._split(page), 4096
            self._memory.set_u64(slot, self._memory.u64(slot) & ~self.mask | mask)
            page += step

    def forbid_execution(self, address: int) -> None:
        """Make one 4 KiB page no-execute; with EFER.NXE a jump there faults."""
        slot = self._split(address)
        self._memory.set_u64(slot, self._memory.u64(slot) | NO_EXECUTE)

    def forbid(self, address: int) -> None:
        """Take one 4 KiB page out of the map; every access faults. Its frame stays in the entry."""
        slot = self._split(address)
        self._memory.set_u64(slot, self._memory.u64(slot) & ~PRESENT)

    def _split(self, address: int) -> int:
        """The 4 KiB entry of `address`, after splitting its 2 MiB page where that is still whole."""
        memory = self._memory
        slot = self._directories + 8 * (address >> 21)
        entry = memory.u64(slot)
        if entry & LARGE:
            if self._spare >= self._spare_end:
                raise MemoryError("no page table left for another split")
            table, self._spare = self._spare, self._spare + 4096
            first = address & ~(LARGE_PAGE - 1)
            encrypted = entry & self.mask
            memory.write(table, _entries(first | PRESENT | WRITABLE | encrypted, 512, 4096))
            memory.set_u64(slot, table | PRESENT | WRITABLE | self.mask)
            entry = table
        return (entry & ADDRESS_MASK & ~self.mask) + 8 * ((address >> 12) & 0x1FF)
