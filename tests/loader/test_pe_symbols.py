"""Names for addresses: Go's table, COFF symbols, and tables that lie."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from go_table_builder import build_gopclntab
from hypothesis import given
from hypothesis import strategies as st
from pe_builder import CODE, DATA, SectionSpec, build

from loader import pe
from loader.errors import NotPeError
from loader.symbols import SymbolTable, section_name

BASE = 0x10000000
RODATA = 0x40000040
FUNCTIONS = [("runtime.main", 0), ("main.(*Server).handle[go.shape.int]", 0x40), ("main.main", 0x100)]
END = 0x180
MODERN = (0xFFFFFFF0, 0xFFFFFFF1)


def go_image(table: bytes, name: str = ".gopclntab") -> bytes:
    """Code at RVA 0x2000 behind a note at 0x1000, as in TamaGo's files."""
    return build(
        [
            SectionSpec(".note", b"note", characteristics=RODATA),
            SectionSpec(".text", b"\xc3" * (END + 0x20)),
            SectionSpec(name, table, characteristics=RODATA),
        ],
        entry_rva=0x2000,
    )


def test_tamagos_table_is_found_by_its_long_section_name_and_its_code_by_the_text_section() -> None:
    data = go_image(build_gopclntab(FUNCTIONS, END))
    assert pe.parse(data).sections[2].name == "/4"
    table = SymbolTable.from_pe(data)
    assert table.lookup(BASE + 0x2000) == ("runtime.main", 0)
    assert table.lookup(BASE + 0x203F) == ("runtime.main", 0x3F)
    assert table.lookup(BASE + 0x2040) == ("main.(*Server).handle[go.shape.int]", 0)
    assert table.lookup(BASE + 0x217F) == ("main.main", 0x7F)
    for outside in (0, BASE, BASE + 0x1FFF, BASE + 0x2180, BASE + 0x100000, 1 << 63, -1):
        assert table.lookup(outside) is None


@pytest.mark.parametrize("magic", [0xFFFFFFFB, 0xFFFFFFFA, *MODERN])
@pytest.mark.parametrize("section", [".gopclntab", ".data.rel.ro.gopclntab", ".rdata"])
def test_every_layout_is_read_wherever_it_lies(magic: int, section: str) -> None:
    # Not where the section starts: the table's own textStart counts.
    text = BASE + 0x2020
    moved = [(name, offset if magic in MODERN else offset + text) for name, offset in FUNCTIONS]
    table = build_gopclntab(moved, END if magic in MODERN else text + END, magic=magic, text_start=text)
    if section == ".rdata":
        table = b"read-only data " + table
    symbols = SymbolTable.from_pe(go_image(table, section))
    assert symbols.lookup(text + 0x44) == ("main.(*Server).handle[go.shape.int]", 4)
    assert symbols.lookup(text + END - 1) == ("main.main", 0x7F)
    assert symbols.lookup(text + END) is None


def test_a_loaded_image_is_asked_by_its_real_address_or_by_rva() -> None:
    image = pe.parse(go_image(build_gopclntab(FUNCTIONS, END)))
    assert SymbolTable(image, base=0x7F000000).lookup(0x7F002100) == ("main.main", 0)
    assert SymbolTable(image, base=0x7F000000).lookup(BASE + 0x2100) is None
    assert SymbolTable(image, base=0).lookup(0x2100) == ("main.main", 0)


def test_coff_symbols_name_code_only() -> None:
    sections = [SectionSpec(".text", b"\xc3" * 0x100), SectionSpec(".data", b"d" * 0x100, characteristics=DATA)]
    symbols = [("a_function_with_a_long_name", 1, 0x80), ("efi_main", 1, 0x10), ("alias", 1, 0x10), ("variable", 2, 0)]
    table = SymbolTable.from_pe(build(sections, symbols=symbols))
    assert table.lookup(BASE + 0x1010) == ("efi_main", 0)
    assert table.lookup(BASE + 0x107F) == ("efi_main", 0x6F)
    assert table.lookup(BASE + 0x10FF) == ("a_function_with_a_long_name", 0x7F)
    assert table.lookup(BASE + 0x100F) is None
    assert table.lookup(BASE + 0x1100) is None
    assert table.lookup(BASE + 0x2000) is None


def test_auxiliary_records_are_skipped() -> None:
    """A .text section symbol carries one; its bytes here would read as a symbol of their own."""
    section_symbol = b".text\0\0\0" + struct.pack("<IHHBB", 0, 1, 0, 3, 1)
    auxiliary = b"trap\0\0\0\0" + struct.pack("<IHHBB", 0x20, 1, 0x20, 2, 0)
    function = b"real\0\0\0\0" + struct.pack("<IHHBB", 0x10, 1, 0x20, 3, 0)
    data = bytearray(
        build([SectionSpec(".text", b"\xc3" * 0x100)], trailer=section_symbol + auxiliary + function + b"\4\0\0\0")
    )
    struct.pack_into("<II", data, 0x80 + 12, 0x400, 3)
    table = SymbolTable.from_pe(bytes(data))
    assert table.lookup(BASE + 0x1000) is None
    assert table.lookup(BASE + 0x1030) == ("real", 0x20)


def test_an_image_without_tables_names_nothing() -> None:
    assert SymbolTable.from_pe(build()).lookup(BASE + 0x1000) is None
    with pytest.raises(NotPeError):
        SymbolTable.from_pe(b"\x7fELF")


def test_section_names_beyond_the_string_table_stay_as_they_are() -> None:
    image = pe.parse(
        build([SectionSpec("/9999", b"x"), SectionSpec(".a_long_section_name", b"y"), SectionSpec("/x", b"z")])
    )
    assert [section_name(image, section) for section in image.sections] == ["/9999", ".a_long_section_name", "/x"]


def test_a_table_that_promises_too_many_functions_is_ignored() -> None:
    for count in (1000, 1 << 32, (1 << 64) - 1):
        data = go_image(build_gopclntab(FUNCTIONS, END, count=count))
        assert SymbolTable.from_pe(data).lookup(BASE + 0x2000) is None


@given(st.data(), st.sampled_from([0xFFFFFFFB, 0xFFFFFFFA, *MODERN]))
def test_damaged_go_tables_never_raise(data: st.DataObject, magic: int) -> None:
    table = bytearray(build_gopclntab(FUNCTIONS, END, magic=magic))
    for _ in range(data.draw(st.integers(1, 8))):
        table[data.draw(st.integers(4, len(table) - 1))] = data.draw(st.integers(0, 255))
    table = table[: data.draw(st.integers(0, len(table)))]
    symbols = SymbolTable.from_pe(go_image(bytes(table)))
    for address in (BASE + 0x2000, BASE + 0x2044, BASE + 0x217F):
        found = symbols.lookup(address)
        assert found is None or (found[0] and found[1] >= 0)


@given(st.binary(min_size=18, max_size=400), st.integers(0, 0xFFFFFFFF))
def test_damaged_coff_tables_never_raise(garbage: bytes, count: int) -> None:
    data = bytearray(build([SectionSpec(".text", b"\xc3" * 0x100)], trailer=garbage))
    struct.pack_into("<II", data, 0x80 + 12, 0x400, count)
    symbols = SymbolTable.from_pe(bytes(data))
    for address in range(BASE + 0x1000, BASE + 0x1100, 0x40):
        found = symbols.lookup(address)
        assert found is None or found[1] >= 0


def test_a_file_full_of_candidates_is_searched_to_its_end() -> None:
    data = build([SectionSpec(".text", b"\xf1\xff\xff\xff\0\0\1\x08" * 100_000, characteristics=CODE)])
    assert SymbolTable.from_pe(data).lookup(BASE + 0x1000) is None


GUESTS = os.environ.get("CVMBOOT_GUESTS")


@pytest.mark.guests
@pytest.mark.skipif(not GUESTS, reason="CVMBOOT_GUESTS does not name a folder of guest programs")
@pytest.mark.parametrize("name", ["go-boot", "tamago-sev-example"])
def test_names_agree_with_the_unstripped_program(name: str) -> None:
    """nm's list of the same build, before objcopy made a PE file of it."""
    program, symbols = Path(GUESTS or "", f"{name}.efi"), Path(GUESTS or "", f"{name}.sym.elf")
    if not program.exists() or not symbols.exists() or not shutil.which("nm"):
        pytest.skip(f"needs {program.name}, {symbols.name} and nm")
    table = SymbolTable.from_pe(program.read_bytes())
    listing = subprocess.run(["nm", "-S", "--defined-only", symbols], check=True, capture_output=True, text=True).stdout
    compared = 0
    for line in listing.splitlines():
        fields = line.split(None, 3)
        if len(fields) == 4 and fields[2] in "tT" and fields[3].startswith(("main.", "runtime.", "github.com/")):
            address, size = int(fields[0], 16), int(fields[1], 16)
            assert table.lookup(address + size // 2) == (fields[3].removesuffix(".abi0"), size // 2)
            compared += 1
    assert compared > 1000
