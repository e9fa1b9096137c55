"""Function names in ELF programs: tables of a program made here, damage, and a real unikernel."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loader.elf_symbols import ElfSymbols

TEXT = 0x100_0000


def _elf() -> bytes:
    """An ELF64 file with .text, .symtab (main.main of 16 bytes, then other of 0), .strtab and .shstrtab."""
    names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    strings = b"\0main.main\0other\0data\0"
    symbols = bytes(24)
    for name, kind, value, size in ((1, 2, TEXT, 16), (11, 2, TEXT + 32, 0), (17, 1, TEXT + 8, 4)):
        symbols += struct.pack("<IBBHQQ", name, 0x10 | kind, 0, 1, value, size)
    body = bytes(64) + names + strings + symbols
    at_names, at_strings = 64, 64 + len(names)
    at_symbols = at_strings + len(strings)
    sections = bytes(64)
    for name, kind, address, offset, size, link, entry in (
        (1, 1, TEXT, 64, 0, 0, 0),
        (7, 2, 0, at_symbols, len(symbols), 3, 24),
        (15, 3, 0, at_strings, len(strings), 0, 0),
        (23, 3, 0, at_names, len(names), 0, 0),
    ):
        sections += struct.pack("<IIQQQQIIQQ", name, kind, 0, address, offset, size, link, 0, 1, entry)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, TEXT, 0, len(body), 0, 64, 56, 0, 64, 5, 4)
    return header + body[64:] + sections


def test_functions_are_named_with_the_distance_from_their_start() -> None:
    symbols = ElfSymbols(_elf())
    assert symbols.lookup(TEXT) == ("main.main", 0)
    assert symbols.lookup(TEXT + 15) == ("main.main", 15)
    assert symbols.lookup(TEXT + 16) is None
    assert symbols.lookup(TEXT + 32) == ("other", 0)
    assert symbols.lookup(TEXT - 1) is None


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 700))
@example([(374, 128)], 0)  # a table at an offset that no file has
def test_damage_costs_names_and_nothing_else(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(_elf())
    for at, value in changes:
        data[at % len(data)] = value
    ElfSymbols(bytes(data)).lookup(TEXT)
    ElfSymbols(bytes(data[:length])).lookup(TEXT)


@pytest.mark.guests
@pytest.mark.parametrize("name", ["tamago-example-microvm.elf", "tamago-sev-example.elf"])
def test_a_real_unikernel_has_names_with_and_without_a_symbol_table(name: str) -> None:
    path = Path(os.environ.get("CVMBOOT_GUESTS", "/nonexistent")) / name
    if not path.is_file():
        pytest.skip(f"no {name} in CVMBOOT_GUESTS")
    data = path.read_bytes()
    symbols = ElfSymbols(data)
    entry = int.from_bytes(data[24:32], "little")
    found = symbols.lookup(entry)
    assert found is not None
    assert found[1] == 0
