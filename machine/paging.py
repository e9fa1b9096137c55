"""x64 page tables: building the identity map that firmware hands over, and walking whatever the guest made of it.

AMD64 Architecture Programmer's Manual volume 2, chapter 5. The encryption bit (C-bit) of SEV is just a mask here: it is
set in what `IdentityMap` builds and taken out of what `walk` reads.
"""

from collections.abc import Iterable

from machine.memory import PhysicalMemory

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
    """Where a linear page lies: `physical` (page start), what is allowed, and the encryption bit of the mapping."""

    __slots__ = ("dirty", "encrypted", "executable", "physical", "user", "writable")

    def __init__(
        self, physical: int, writable: bool, executable: bool, user: bool, dirty: bool, encrypted: bool
    ) -> None:
        self.physical = physical
        self.writable = writable
        self.executable = executable
        self.user = user
        self.dirty = dirty
        self.encrypted = encrypted


class Mode:
    """The control registers that decide how addresses translate; made anew when one of them changes."""

    __slots__ = ("cr0", "cr3", "cr4", "efer", "paged", "write_protect")

    def __init__(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        self.cr0 = cr0
        self.cr3 = cr3
        self.cr4 = cr4
        self.efer = efer
        self.paged = bool(cr0 & CR0_PG)
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
    if mode.efer & EFER_LME:
        if (address + (1 << 47)) >> 48 & 0xFFFF:
            raise NonCanonical(address)
        table, shift, width = mode.cr3 & ADDRESS_MASK & ~mask, 39, 8
    elif mode.cr4 & CR4_PAE:
        address &= 0xFFFF_FFFF
        table, shift, width = mode.cr3 & 0xFFFF_FFE0, 30, 8
    else:
        address &= 0xFFFF_FFFF
        table, shift, width = mode.cr3 & 0xFFFF_F000, 22, 4
    code = (FAULT_WRITE if access == WRITE else 0) | (FAULT_USER if user else 0)
    no_execute = bool(mode.efer & EFER_NXE)
    if access == FETCH and no_execute:
        code |= FAULT_FETCH
    writable = allow_user = executable = True
    encrypted = bool(mask)
    index_mask = 0x1FF if width == 8 else 0x3FF
    legacy_top = width == 8 and shift == 30
    while True:
        slot = table + ((address >> shift) & index_mask) * width
        if not memory.is_ram(slot):
            raise PageFault(address, code | FAULT_RESERVED | FAULT_PRESENT)
        entry = memory.u64(slot) if width == 8 else memory.u32(slot)
        if not entry & PRESENT:
            raise PageFault(address, code)
        if legacy_top:  # a PDPTE of PAE paging holds neither permissions nor an accessed bit
            legacy_top = False
            table, shift = entry & ADDRESS_MASK & ~mask, 21
            continue
        writable = writable and bool(entry & WRITABLE)
        allow_user = allow_user and bool(entry & USER)
        if width == 8 and no_execute and entry & NO_EXECUTE:
            executable = False
        leaf = shift == 12 or bool(entry & LARGE and (shift in (21, 30) or (shift == 22 and mode.cr4 & CR4_PSE)))
        if leaf:
            break
        if mark and not entry & ACCESSED:
            memory.set_u8(slot, entry & 0xFF | ACCESSED)
        table = entry & (ADDRESS_MASK if width == 8 else 0xFFFF_F000) & ~mask
        shift -= 9 if width == 8 else 10
    if (
        (user and not allow_user)
        or (access == WRITE and not writable and (user or mode.write_protect))
        or (access == FETCH and not executable)
    ):
        raise PageFault(address, code | FAULT_PRESENT)
    if mark:
        wanted = entry | ACCESSED | (DIRTY if access == WRITE else 0)
        if wanted != entry:
            memory.set_u8(slot, wanted & 0xFF)
            entry = wanted
    size = 1 << shift
    frame = entry & (ADDRESS_MASK if width == 8 else 0xFFFF_F000)
    encrypted = bool(frame & mask)
    frame = (frame & ~mask & ~(size - 1)) | (address & (size - 1) & ~0xFFF)
    may_write = writable or not (user or mode.write_protect)
    return Translation(frame, may_write, executable, allow_user, bool(entry & DIRTY), encrypted)


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
        for index in range(pointer_tables):
            memory.set_u64(base + 8 * index, (base + 4096 * (1 + index)) | flags | mask)
        for index in range(gibibytes):
            memory.set_u64(base + 4096 + 8 * index, (directories + 4096 * index) | flags | mask)
            first = index << 30
            if mask:
                pages = range(first, first + (1 << 30), LARGE_PAGE)
                entries = [page | flags | LARGE | (mask if memory.is_ram(page) else 0) for page in pages]
            else:
                entries = [(first + (n << 21)) | flags | LARGE for n in range(512)]
            memory.write(directories + 4096 * index, b"".join(e.to_bytes(8, "little") for e in entries))
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
        """Map the (address, size) ranges, whole 4 KiB pages, without the encryption bit; large pages are split."""
        for first, size in ranges:
            for page in range(first, first + size, 4096):
                slot = self._split(page)
                self._memory.set_u64(slot, self._memory.u64(slot) & ~self.mask)

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
            for n in range(512):
                memory.set_u64(table + 8 * n, (first + (n << 12)) | PRESENT | WRITABLE | encrypted)
            memory.set_u64(slot, table | PRESENT | WRITABLE | self.mask)
            entry = table
        return (entry & ADDRESS_MASK & ~self.mask) + 8 * ((address >> 12) & 0x1FF)
