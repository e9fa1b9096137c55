"""Page walks against a slow second walker that is written straight from the AMD64 manual, over random tables."""

import random
import struct

import pytest

from machine import paging
from machine.memory import PhysicalMemory
from machine.paging import FETCH, READ, WRITE, Mode, NonCanonical, PageFault, walk

TABLES = [0x100000 + 0x1000 * n for n in range(6)]
CR0, WRITE_PROTECT, PSE, PAE, LONG, NXE = 0x80000001, 1 << 16, 0x10, 0x20, 0x500, 0x800
C_BIT = 1 << 51


def random_table(rng: random.Random, width: int, mask: int) -> bytes:
    entries = []
    for _ in range(4096 // width):
        target = rng.choice((0x3FFFF000, 0xFFFFF000, *TABLES * 3))
        if width == 8 and rng.random() < 0.02:
            target = 0x5_0000_0000  # beyond RAM
        entry = target | rng.choice((1, 3, 7, 7, 7, 7, 0x27, 0x67, 0x87, 0xE7, 0xA7, 5, 0))
        if width == 8 and rng.random() < 0.1:
            entry |= paging.NO_EXECUTE
        if rng.random() < 0.8:
            entry |= mask
        entries.append(entry)
    return struct.pack(f"<{len(entries)}{'Q' if width == 8 else 'I'}", *entries)


def expected(memory: PhysicalMemory, mode: Mode, address: int, access: int, user: bool, mask: int) -> object:
    """(physical, writable, executable, user, encrypted, entries passed), a fault's error code, or "non-canonical"."""
    if mode.efer & 0x100:
        if address >> 47 not in (0, 0x1FFFF):
            return "non-canonical"
        steps, width, table = [(39, 9), (30, 9), (21, 9), (12, 9)], 8, mode.cr3 & 0xFFFFFFFFFF000
        large = {30, 21}
    elif mode.cr4 & PAE:
        steps, width, table, large = [(30, 2), (21, 9), (12, 9)], 8, mode.cr3 & 0xFFFFFFE0, {21}
    else:
        steps, width, table = [(22, 10), (12, 10)], 4, mode.cr3 & 0xFFFFF000
        large = {22} if mode.cr4 & PSE else set()
    nx_on = bool(mode.efer & NXE)
    error = 2 * (access == WRITE) + 4 * user + 16 * (access == FETCH and nx_on)
    path: list[tuple[int, int, int]] = []
    for shift, bits in steps:
        slot = (table & ~mask) + (address >> shift) % (1 << bits) * width
        if not memory.is_ram(slot):
            return error | 8 | 1
        entry = int.from_bytes(memory.read(slot, width), "little")
        if not entry & 1:
            return error
        path.append((slot, entry, shift))
        if shift in large and entry & 0x80:
            break
        table = entry & 0xFFFFFFFFFF000
    rights = [e for _, e, s in path if not (s == 30 and len(steps) == 3)]
    writable, for_user = all(e & 2 for e in rights), all(e & 4 for e in rights)
    executable = not (nx_on and width == 8 and any(e >> 63 for e in rights))
    supervisor_writes = writable or not mode.cr0 & WRITE_PROTECT
    allowed = (for_user or not user) and (executable or access != FETCH)
    if access == WRITE:
        allowed = allowed and (writable if user else supervisor_writes)
    if not allowed:
        return error | 1
    page = 1 << path[-1][2]
    frame = (path[-1][1] & 0xFFFFFFFFFF000 & ~mask) // page * page + address % page // 4096 * 4096
    may_write = writable if user else supervisor_writes
    return frame, may_write, executable, for_user, bool(path[-1][1] & mask), path


@pytest.mark.parametrize("kind", ["long", "pae", "32-bit"])
@pytest.mark.parametrize("mask", [0, C_BIT])
def test_walk_agrees_with_the_manual(kind: str, mask: int) -> None:
    if kind == "32-bit" and mask:
        pytest.skip("an encryption bit needs entries of 64 bits")
    rng = random.Random(kind)
    memory = PhysicalMemory(64 << 20)
    outcomes = {"fault": 0, "page": 0}
    for _ in range(60):
        for table in TABLES:
            memory.write(table, random_table(rng, 4 if kind == "32-bit" else 8, mask))
        for _ in range(50):
            cr4 = rng.choice((0, PSE)) | (0 if kind == "32-bit" else PAE)
            efer = (LONG if kind == "long" else 0) | rng.choice((0, NXE))
            mode = Mode(CR0 | rng.choice((0, WRITE_PROTECT)), rng.choice(TABLES) | rng.choice((0, mask)), cr4, efer)
            if kind != "long":
                mode = Mode(mode.cr0, mode.cr3 & 0xFFFFFFFF, cr4, efer)
            address = rng.getrandbits(32) if kind != "long" else rng.getrandbits(47) | rng.choice((0, 0, 0xFFFF << 48))
            if kind == "long" and address >> 48:
                address |= rng.choice((0, 1 << 47))
            access, user = rng.choice((READ, WRITE, FETCH)), rng.random() < 0.3
            wanted = expected(memory, mode, address, access, user, mask)
            before = memory.read(TABLES[0], 0x1000 * len(TABLES))
            try:
                found = walk(memory, mode, address, access, user, mask, mark=False)
                assert memory.read(TABLES[0], 0x1000 * len(TABLES)) == before
                found = walk(memory, mode, address, access, user, mask)
            except PageFault as fault:
                outcomes["fault"] += 1
                assert fault.error_code == wanted, f"{mode.cr3:#x} {address:#x}"
                continue
            except NonCanonical:
                assert wanted == "non-canonical"
                continue
            outcomes["page"] += 1
            assert isinstance(wanted, tuple)
            *rest, path = wanted
            assert [found.physical, found.writable, found.executable, found.user, found.encrypted] == rest
            for slot, _, shift in path:
                dirty = slot == path[-1][0] and access == WRITE
                if not (kind == "pae" and shift == 30):
                    assert memory.u8(slot) & 0x20
                assert memory.u8(slot) & 0x40 or not dirty
            assert found.dirty == bool(memory.u8(path[-1][0]) & 0x40)
    assert min(outcomes.values()) > 300


def test_without_paging_every_address_is_itself() -> None:
    memory = PhysicalMemory(64 << 20)
    found = walk(memory, Mode(1, 0, 0, 0), 0x12345678, WRITE)
    assert found.physical == 0x12345000
    assert found.writable and found.executable and found.dirty


def test_identity_map_reaches_ram_above_4_gib_and_splits_pages() -> None:
    memory = PhysicalMemory(5 << 30)
    identity = paging.IdentityMap(memory, 0x200000, memory.end)
    mode = Mode(CR0 | WRITE_PROTECT, identity.base, PAE, LONG | NXE)
    for address in (0, 0x1FFFFF, 0xFEE00000, memory.end - 1, identity.end - 1):
        found = walk(memory, mode, address, WRITE)
        assert found.physical == address & ~0xFFF
        assert found.writable and found.executable and not found.encrypted
    with pytest.raises(PageFault):
        walk(memory, mode, identity.end, READ)
    identity.forbid_execution(0x5000)
    identity.forbid(0x7000)
    for address in (0x4000, 0x5000, 0x6000, 0x8000, 0x1FF000):
        assert walk(memory, mode, address, WRITE).physical == address
    with pytest.raises(PageFault):
        walk(memory, mode, 0x5000, FETCH)
    with pytest.raises(PageFault):
        walk(memory, mode, 0x7000, READ)


LARGE = paging.LARGE_PAGE


@pytest.fixture
def identity():
    memory = PhysicalMemory(256 << 20)
    yield paging.IdentityMap(memory, 0x200000, memory.end, C_BIT), memory
    memory.close()


def encrypted(identity: paging.IdentityMap, memory: PhysicalMemory, addresses: range) -> list[bool]:
    mode = Mode(CR0, identity.base, PAE, LONG | NXE)
    return [walk(memory, mode, address, WRITE, mask=C_BIT).encrypted for address in addresses]


@pytest.mark.parametrize(
    ("first", "size"),
    [(40 * LARGE, 4096), (41 * LARGE - 4096, 8192), (40 * LARGE, LARGE), (40 * LARGE + 4096, 3 * LARGE), (0x1000, 0)],
)
def test_ranges_are_shared_and_hidden_again(identity, first, size):
    tables, memory = identity
    pages = range(39 * LARGE, 45 * LARGE, 4096)
    assert all(encrypted(tables, memory, pages))
    tables.share([(first, size)])
    assert encrypted(tables, memory, pages) == [not first <= page < first + size for page in pages]
    tables.hide([(first, size)])
    assert all(encrypted(tables, memory, pages))


def test_whole_large_pages_need_no_tables(identity):
    """And a range that would need more than there are changes nothing."""
    tables, memory = identity
    everything = range(8 * LARGE, 120 * LARGE, LARGE)
    for _ in range(3):
        tables.share([(everything.start, len(everything) * LARGE)])
        assert not any(encrypted(tables, memory, everything))
        tables.hide([(everything.start, len(everything) * LARGE)])
        assert all(encrypted(tables, memory, everything))
    with pytest.raises(MemoryError):
        for page in everything:
            tables.share([(page, 4096)])
    left = [page for page in everything if memory.u64(tables.base + 4096 * 2 + 8 * (page >> 21)) & 0x80]
    assert left
    with pytest.raises(MemoryError):
        tables.share([(left[0] + 4096, 4 * LARGE)])
    assert all(encrypted(tables, memory, range(left[0], left[-1], LARGE)))
