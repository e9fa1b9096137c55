"""ELF unikernels: what is taken from the shipped samples, and files that contradict themselves."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.elf_program import ElfProgram, Segment
from loader.errors import DamagedImageError, LoaderError, NotElfError, UnsupportedImageError

BUILT = Path(__file__).parents[2] / "samples" / "built"
PVH = (BUILT / "unikernel_pvh.elf").read_bytes()
LINUX64 = (BUILT / "unikernel_linux64.elf").read_bytes()


def elf(
    segments: list[tuple[int, int, int, int]],
    *,
    notes: bytes = b"",
    kind: int = 2,
    machine: int = 62,
    size: int = 1 << 16,
    header_size: int = 56,
) -> bytes:
    """An ELF64 file of `size` bytes with PT_LOADs (offset, address, file size, memory size) and a PT_NOTE at its end."""
    count = len(segments) + bool(notes)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0x100000, 64, 0, 0, 64, header_size, count, 0, 0, 0
    )
    table = b"".join(
        struct.pack("<IIQQQQQQ", 1, 7, offset, 0xFFFF, address, in_file, in_memory, 1)
        for offset, address, in_file, in_memory in segments
    )
    if notes:
        table += struct.pack("<IIQQQQQQ", 4, 4, size - len(notes), 0, 0, len(notes), len(notes), 4)
    return (header + table).ljust(size - len(notes), b"\0") + notes


def note(name: bytes, kind: int, value: bytes) -> bytes:
    head = struct.pack("<III", len(name), len(value), kind)
    return head + name + bytes(-len(name) % 4) + value + bytes(-len(value) % 4)


def test_the_samples() -> None:
    pvh, linux = ElfProgram(PVH), ElfProgram(LINUX64)
    assert not pvh.is_64 and linux.is_64
    assert pvh.pvh_entry == pvh.entry and linux.pvh_entry is None
    for program in (pvh, linux):
        assert [segment.address for segment in program.segments] == [0x2000000, 0x200D000]
        assert program.segments[1].memory_size > program.segments[1].file_size
        assert program.holds(program.entry) and not program.holds(program.entry + (1 << 20))


def test_physical_addresses_and_notes() -> None:
    notes = note(b"GNU\0", 3, b"x" * 20) + note(b"Xen\0", 6, b"1.2\0") + note(b"Xen\0", 18, struct.pack("<Q", 0x123456))
    program = ElfProgram(elf([(4096, 0x300000, 100, 200), (0, 0x100000, 4096, 4096), (8, 1, 0, 0)], notes=notes))
    assert program.segments == [Segment(0, 0x100000, 4096, 4096), Segment(4096, 0x300000, 100, 200)]
    assert program.pvh_entry == 0x123456
    cut = note(b"Xen\0", 18, b"1234")[:-2]
    assert ElfProgram(elf([(0, 0x100000, 1, 1)], notes=cut)).pvh_entry is None


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"MZ", NotElfError, "not an ELF program"),
        (b"\x7fELF", DamagedImageError, "truncated"),
        (elf([(0, 0, 1, 1)], machine=183), UnsupportedImageError, "ARM64"),
        (elf([(0, 0, 1, 1)], kind=3), UnsupportedImageError, "shared object"),
        (elf([(0, 0, 1, 1)])[:100], DamagedImageError, "truncated: the program headers"),
        (elf([(0, 0, 1, 1)], header_size=32), DamagedImageError, "program headers"),
        (elf([]), DamagedImageError, "0 program headers"),
        (elf([(0, 0x100000, 0, 0)]), DamagedImageError, "nothing to load"),
        (elf([(65530, 0x100000, 10, 10)]), DamagedImageError, "truncated: a segment"),
        (elf([(0, 0x100000, 10, 5)]), DamagedImageError, "in memory"),
        (elf([(0, 0x100000, 10, 5000), (0, 0x100FFF, 10, 10)]), DamagedImageError, "overlap"),
    ],
)
def test_refusals(data: bytes, kind: type[LoaderError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        ElfProgram(data)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([PVH, LINUX64, elf([(0, 0x100000, 9, 9)], notes=note(b"Xen\0", 18, b"1234"))]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 70_000),
)
def test_flipped_and_cut(data: bytes, changes: list[tuple[int, int]], length: int) -> None:
    image = bytearray(data)
    for offset, value in changes:
        image[offset] = value
    for candidate in (bytes(image), bytes(image[:length])):
        try:
            program = ElfProgram(candidate)
        except LoaderError:
            continue
        assert all(one.offset + one.file_size <= len(candidate) for one in program.segments)
