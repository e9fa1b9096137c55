"""Page state changes through the GHCB: lists of pages that become shared or private, by machine code on a bare SNP guest."""

from collections.abc import Iterator

import pytest

from sev.platform import Platform
from tests.sev.guest.snp_machine import DATA, GHCB, PVALIDATE, REQUEST, SnpMachine

BUFFER = GHCB + 0x800
BAD_SCRATCH, MISSING_INPUT = 3, 4
PSC = 0x80000010
PRIVATE, SHARED = 1, 2


@pytest.fixture
def machine(turin: Platform) -> Iterator[SnpMachine]:
    made = SnpMachine(turin)
    yield made
    made.close()


def entry(address: int, operation: int, large: bool = False, done: int = 0) -> int:
    return done | address | operation << 52 | large << 56


def psc(machine: SnpMachine, *entries: int, current: int = 0, at: int = BUFFER) -> tuple[int, int]:
    head = current.to_bytes(2, "little") + (len(entries) - 1).to_bytes(2, "little") + bytes(4)
    machine.memory.write(at, head + b"".join(value.to_bytes(8, "little") for value in entries))
    return machine.exit(PSC, scratch=at)


def test_pages_become_shared_and_private(machine: SnpMachine) -> None:
    pages = [DATA + 4096 * n for n in range(3)]
    for page in pages:
        machine.rmp.validate(page >> 12, False, False)
    assert psc(machine, *(entry(page, SHARED) for page in pages)) == (0, 0)
    assert all(machine.rmp.is_shared(page >> 12) for page in pages)
    assert machine.memory.u16(BUFFER) == 3, "cur_entry is past the end"
    assert machine.memory.u16(BUFFER + 2) == 2
    assert machine.kinds() == set()
    assert psc(machine, entry(pages[0], PRIVATE)) == (0, 0)
    assert machine.rmp.state(pages[0] >> 12) == 1, "private, not validated"


def test_a_page_has_to_be_taken_back_before_it_is_shared(machine: SnpMachine) -> None:
    psc(machine, entry(DATA, SHARED))
    assert machine.kinds() == {"shared-while-validated"}


def test_private_pages_stay_as_they_are(machine: SnpMachine) -> None:
    psc(machine, entry(DATA, PRIVATE))
    assert machine.rmp.state(DATA >> 12) == 0


def test_large_pages(machine: SnpMachine) -> None:
    assert psc(machine, entry(0x600_0000, SHARED, large=True, done=510)) == (0, 0)
    frame = 0x600_0000 >> 12
    assert [machine.rmp.is_shared(frame + n) for n in (509, 510, 511, 512)] == [False, True, True, False]
    assert machine.memory.u64(BUFFER + 8) & 0xFFF == 512
    assert psc(machine, entry(0x600_1000, SHARED, large=True)) == (0, 1 << 32 | 2)
    assert psc(machine, entry(0x600_0000, SHARED, large=True, done=513)) == (0, 1 << 32 | 2)


def test_a_whole_large_page_has_one_entry_again(machine: SnpMachine) -> None:
    large = 0x600_0000
    machine.instruction(PVALIDATE, rax=large, rdx=0)
    assert machine.instruction(PVALIDATE, rax=large, rcx=1, rdx=1)[0] == 6, "split by the 4 KiB PVALIDATE"
    psc(machine, entry(large, SHARED, large=True))
    psc(machine, entry(large, PRIVATE, large=True))
    assert machine.instruction(PVALIDATE, rax=large, rcx=1, rdx=1)[0] == 0
    psc(machine, entry(large + 4096, SHARED))
    psc(machine, entry(large + 4096, PRIVATE))
    assert machine.instruction(PVALIDATE, rax=large, rcx=1, rdx=1)[0] == 6


def test_lists_that_are_malformed(machine: SnpMachine) -> None:
    assert psc(machine, entry(DATA, SHARED), entry(0xF000_0000, SHARED), entry(DATA, SHARED)) == (0, 0x100 << 32)
    assert machine.memory.u16(BUFFER) == 1, "cur_entry tells which entry failed"
    machine.memory.write(BUFFER, b"\0\0\xfd\0")
    assert machine.exit(PSC, scratch=BUFFER) == (0, 1 << 32 | 1)
    assert psc(machine, entry(DATA, SHARED), current=5) == (0, 0)
    assert psc(machine, entry(DATA, 3)) == (0, 0), "PSMASH is skipped, as KVM does"
    assert machine.exit(PSC) == (2, MISSING_INPUT)
    assert psc(machine, entry(DATA, SHARED), at=REQUEST) == (2, BAD_SCRATCH), "the list is private"


def test_a_list_in_another_shared_page(machine: SnpMachine) -> None:
    machine.share(REQUEST)
    assert psc(machine, entry(DATA, SHARED), at=REQUEST) == (0, 0)
    assert machine.rmp.is_shared(DATA >> 12)
