"""RAM that is a private mapping of a file: what is written stays in it, and what it holds is known."""

import os
from collections.abc import Iterator

import pytest

from machine.errors import MachineError
from machine.memory import MINIMUM, PAGE, PhysicalMemory

START = 8 * PAGE
BASE = {0: b"first", 5 << 20: b"middle", MINIMUM - PAGE: b"last"}


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, START + MINIMUM)
    for offset, data in BASE.items():
        os.pwrite(descriptor, data.ljust(PAGE, b"."), START + offset)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def memory(file: int) -> Iterator[PhysicalMemory]:
    made = PhysicalMemory(MINIMUM, (file, START))
    yield made
    made.close()


def pages_of(memory: PhysicalMemory) -> dict[int, bytes]:
    """Every page that is not zeros, as found through `extents`."""
    found = {}
    for offset, size in memory.extents():
        for at in range(offset, offset + size, PAGE):
            page = bytes(memory.view[at : at + PAGE])
            if any(page):
                found[at] = page[:6]
    return found


def test_it_holds_what_the_file_holds(memory: PhysicalMemory) -> None:
    assert pages_of(memory) == {0: b"first.", 5 << 20: b"middle", MINIMUM - PAGE: b"last.."}
    assert sum(size for _, size in memory.extents()) == 3 * PAGE


def test_writes_reach_neither_the_file_nor_another_mapping(file: int, memory: PhysicalMemory) -> None:
    other = PhysicalMemory(MINIMUM, (file, START))
    try:
        memory.write(0, b"CHANGE")
        memory.write(9 << 20, b"NEW")
        assert other.read(0, 5) == os.pread(file, 5, START) == b"first"
        assert other.read(9 << 20, 3) == bytes(3)
    finally:
        other.close()
    assert pages_of(memory)[0] == b"CHANGE"
    assert pages_of(memory)[9 << 20] == b"NEW\0\0\0"


@pytest.mark.parametrize("how", ["fill", "discard", "a piece"])
def test_zeroed_pages_are_zeros_although_the_file_has_data(memory: PhysicalMemory, how: str) -> None:
    memory.write((5 << 20) + PAGE, b"more")
    if how == "discard":
        memory.discard(5 << 20, 1 << 20)
    else:
        memory.fill(5 << 20, PAGE if how == "a piece" else 1 << 20)
    assert memory.read(5 << 20, PAGE) == bytes(PAGE)
    kept = {0: b"first.", MINIMUM - PAGE: b"last.."}
    assert pages_of(memory) == (kept if how != "a piece" else kept | {(5 << 20) + PAGE: b"more\0\0"})
    memory.write(5 << 20, b"again")
    assert pages_of(memory)[5 << 20] == b"again\0"


def test_pieces_of_ram_that_are_zeroed_one_by_one(memory: PhysicalMemory) -> None:
    for n in range(300):
        memory.write(n * 128 * 1024, b"x" * 128 * 1024)
    for n in range(0, 300, 2):
        memory.fill(n * 128 * 1024, 64 * 1024)
    assert {at for at in pages_of(memory) if at < 128 * 1024} == set(range(64 * 1024, 128 * 1024, PAGE))


def test_without_a_look_at_the_kernels_map_nothing_is_missed(
    memory: PhysicalMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write(9 << 20, b"NEW")

    def refuse(*_arguments: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("machine.private_pages.os.open", refuse)
    assert pages_of(memory)[9 << 20] == b"NEW\0\0\0"


def test_a_file_that_is_too_short_is_refused(file: int) -> None:
    os.ftruncate(file, START + MINIMUM - PAGE)
    with pytest.raises(MachineError, match="cannot map"):
        PhysicalMemory(MINIMUM, (file, START))


def test_ram_that_no_file_is_behind_knows_what_it_holds() -> None:
    memory = PhysicalMemory(MINIMUM)
    try:
        memory.write(3 << 20, b"x")
        assert list(memory.extents()) == [(3 << 20, PAGE)]
    finally:
        memory.close()
