"""Names from program databases: those that lld writes, a small one of our own, and damaged ones."""

import struct
from pathlib import Path

import pe_builder
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader import pdb, pe
from loader.symbols import SymbolTable
from tests import program_database

GUID = bytes(range(16))
BLOCK = 512
SECTION = 0x1000


def _record(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<HH", len(body) + 2, kind) + body


def _procedure(kind: int, offset: int, size: int, name: bytes) -> bytes:
    return _record(kind, struct.pack("<12xI8x4xIHB", size, offset, 1, 0) + name + b"\0")


def _public(offset: int, name: bytes, flags: int = 2) -> bytes:
    return _record(0x110E, struct.pack("<IIH", flags, offset, 1) + name + b"\0")


def database(guid: bytes = GUID) -> bytes:
    """An MSF file with the streams 0 (old directory), 1 (info), 2 (types), 3 (DBI), 4 (a module), 5 (public symbols)."""
    module = struct.pack("<I", 4) + _procedure(0x1110, 0, 16, b"main") + _procedure(0x110F, 16, 8, b"helper")
    entry = struct.pack("<34xHI24x", 4, len(module)) + b"a.obj\0" + b"a.lib\0"
    entry += bytes(-len(entry) % 4)
    no_stream = struct.pack("<34xHI24x", 0xFFFF, 0) + b"* Linker *\0" + b"\0"
    no_stream += bytes(-len(no_stream) % 4)
    dbi = struct.pack(
        "<iIIHHHHHHiiiiiIiiHHI",
        *(-1, 19990903, 1, 0xFFFF, 0, 0xFFFF, 0, 5, 0, len(entry) + len(no_stream), 0, 0, 0, 0, 0, 0, 0, 0, 0x8664, 0),
    )
    public = _public(0, b"?main@@") + _public(32, b"assembler") + _public(64, b"data", flags=0)
    streams = [b"", struct.pack("<III", 20000404, 0, 1) + guid, b"", dbi + no_stream + entry, module, public]
    blocks: list[bytes] = []
    lists = b""
    for stream in streams:
        for at in range(0, len(stream), BLOCK):
            lists += struct.pack("<I", 3 + len(blocks))
            blocks.append(stream[at : at + BLOCK].ljust(BLOCK, b"\0"))
    directory = struct.pack(f"<{len(streams) + 1}I", len(streams), *map(len, streams)) + lists
    number = 3 + len(blocks)
    blocks += [directory.ljust(BLOCK, b"\0"), struct.pack("<I", number).ljust(BLOCK, b"\0")]
    start = struct.pack(
        "<32sIIIIII",
        b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0",
        BLOCK,
        1,
        3 + len(blocks),
        len(directory),
        0,
        number + 1,
    )
    return start.ljust(3 * BLOCK, b"\0") + b"".join(blocks)


@pytest.fixture(scope="module")
def image() -> pe.PeImage:
    return pe.parse(pe_builder.build())


def test_functions_of_modules_and_public_ones(image: pe.PeImage) -> None:
    first = image.sections[0].rva
    assert pdb.functions(database(), image, GUID) == [
        (first, 16, "main"),
        (first + 16, 8, "helper"),
        (first + 32, 0, "assembler"),
    ]


def test_a_database_of_another_image_gives_no_names(image: pe.PeImage) -> None:
    assert pdb.functions(database(bytes(16)), image, GUID) == []


@given(changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8), length=st.integers(0, 6000))
def test_a_damaged_database_gives_fewer_names_and_no_error(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(database())
    for at, value in changes:
        data[at % len(data)] = value
    parsed = pe.parse(pe_builder.build())
    for damaged in (bytes(data), bytes(data[:length])):
        assert len(pdb.functions(damaged, parsed, GUID)) <= 8


def test_what_lld_writes(tmp_path: Path) -> None:
    program_database.build(
        tmp_path,
        "static __attribute__((noinline)) int hidden(volatile int *a) { return *a * 2; }\n"
        "int efi_main(void *image, void *table) { return hidden((int *)image) + hidden((int *)table); }\n",
    )
    parsed = pe.parse((tmp_path / "app.efi").read_bytes())
    wanted = pdb.wanted_by(parsed)
    assert wanted is not None and wanted[1] == "app.pdb"
    table = SymbolTable(parsed, 0)
    assert table.lookup(parsed.entry_rva) is None
    table.add_database((tmp_path / "app.pdb").read_bytes())
    assert table.lookup(parsed.entry_rva + 1) == ("efi_main", 1)
    names = {name for _, _, name in pdb.functions((tmp_path / "app.pdb").read_bytes(), parsed, wanted[0])}
    assert names == {"efi_main", "hidden"}
    assert table.lookup(0x10) is None and table.lookup(parsed.size_of_image - 1) is None
