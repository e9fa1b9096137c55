"""Builds PE32+ images for tests, sound ones by default, with every field open to be made wrong.

data = build([SectionSpec(".text", b"\\xc3"), SectionSpec(".data", pointers)], relocations=[(0x2000, 10)])
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CODE = 0x60000020
DATA = 0xC0000040
DISCARDABLE = 0x42000040
SECURITY, BASERELOC = 4, 5


@dataclass
class SectionSpec:
    """A section; build() lays out what is None: the next free RVA and file offset, sizes from the data."""

    name: str | bytes
    data: bytes = b""
    rva: int | None = None
    virtual_size: int | None = None
    raw_size: int | None = None
    raw_offset: int | None = None
    characteristics: int = CODE


def relocation_blocks(relocations: Iterable[tuple[int, int]]) -> bytes:
    """The base relocation table for (rva, type) pairs: one block for each page, padded to 4 bytes."""
    pages: dict[int, list[int]] = {}
    for rva, kind in relocations:
        pages.setdefault(rva & ~0xFFF, []).append(kind << 12 | rva & 0xFFF)
    table = b""
    for page, entries in pages.items():
        padded = entries + [0] * (len(entries) % 2)
        table += struct.pack(f"<II{len(padded)}H", page, 8 + 2 * len(padded), *padded)
    return table


def certificate(blob: bytes, kind: int = 2, revision: int = 0x200, length: int | None = None) -> bytes:
    """A WIN_CERTIFICATE around `blob`, padded to 8 bytes; `length` is a dwLength other than the right one."""
    entry = struct.pack("<IHH", 8 + len(blob) if length is None else length, revision, kind) + blob
    return entry + bytes(-len(entry) % 8)


def build(
    sections: Sequence[SectionSpec] | None = None,
    *,
    relocations: Iterable[tuple[int, int]] | None = None,
    certificates: bytes = b"",
    symbols: Sequence[tuple[str, int, int]] | None = None,
    trailer: bytes = b"",
    entry_rva: int | None = None,
    image_base: int = 0x10000000,
    machine: int = 0x8664,
    magic: int = 0x20B,
    subsystem: int = 10,
    characteristics: int = 0x0022,
    dll_characteristics: int = 0,
    section_alignment: int = 0x1000,
    file_alignment: int = 0x200,
    pe_offset: int = 0x80,
    section_count: int | None = None,
    optional_header_size: int = 240,
    directory_count: int = 16,
    directories: Mapping[int, tuple[int, int]] | None = None,
    size_of_image: int | None = None,
    size_of_headers: int | None = None,
) -> bytes:
    """The bytes of an image. `relocations` adds a .reloc section, `certificates` are appended.

    `symbols` are (name, section number, value). A section name of more than eight bytes goes to the string table, as
    linkers do it.
    """
    specs = list(sections) if sections is not None else [SectionSpec(".text", b"\xc3")]
    entries = dict(directories or {})
    if relocations is not None:
        table = relocation_blocks(relocations)
        specs.append(SectionSpec(".reloc", table, characteristics=DISCARDABLE))
    strings = bytearray(4)
    names = []
    for spec in specs:
        name = spec.name if isinstance(spec.name, bytes) else spec.name.encode()
        if len(name) > 8:
            names.append(f"/{len(strings)}".encode())
            strings += name + b"\0"
        else:
            names.append(name)
    headers_end = pe_offset + 24 + optional_header_size + 40 * len(specs)
    headers_size = _align(headers_end, file_alignment) if size_of_headers is None else size_of_headers
    next_rva = _align(headers_size, section_alignment)
    next_raw = _align(headers_end, file_alignment)
    table_bytes = b""
    body: list[tuple[int, bytes]] = []
    image_end = first_rva = 0
    for spec, name in zip(specs, names, strict=True):
        rva = next_rva if spec.rva is None else spec.rva
        virtual_size = len(spec.data) if spec.virtual_size is None else spec.virtual_size
        raw_size = _align(len(spec.data), file_alignment) if spec.raw_size is None else spec.raw_size
        raw_offset = (next_raw if raw_size else 0) if spec.raw_offset is None else spec.raw_offset
        table_bytes += struct.pack("<8s4I12xI", name, virtual_size, rva, raw_size, raw_offset, spec.characteristics)
        if spec.data and spec.raw_offset is None:
            body.append((raw_offset, spec.data.ljust(min(raw_size, 1 << 24), b"\0")))
            next_raw = _align(raw_offset + raw_size, file_alignment)
        image_end = max(image_end, rva + (virtual_size or raw_size))
        next_rva = _align(image_end, section_alignment)
        first_rva = first_rva or rva
        if spec.name == ".reloc":
            entries.setdefault(BASERELOC, (rva, virtual_size))
    end = max([next_raw, *(offset + len(data) for offset, data in body)])
    tail = b""
    symbol_offset = symbol_count = 0
    if symbols is not None or len(strings) > 4:
        symbol_offset, symbol_count = end, len(symbols or ())
        for name_text, number, value in symbols or ():
            encoded = name_text.encode()
            if len(encoded) > 8:
                field = struct.pack("<II", 0, len(strings))
                strings += encoded + b"\0"
            else:
                field = encoded.ljust(8, b"\0")
            tail += field + struct.pack("<IHHBB", value, number, 0x20, 2, 0)
        struct.pack_into("<I", strings, 0, len(strings))
        tail += bytes(strings)
    tail += trailer
    if certificates:
        tail += bytes(-(end + len(tail)) % 8)
        entries.setdefault(SECURITY, (end + len(tail), len(certificates)))
        tail += certificates
    data = bytearray(end)
    for offset, content in body:
        data[offset : offset + len(content)] = content
    data[:64] = b"MZ" + bytes(58) + struct.pack("<I", pe_offset)
    count = len(specs) if section_count is None else section_count
    head = b"PE\0\0" + struct.pack(
        "<HHIIIHH", machine, count, 0, symbol_offset, symbol_count, optional_header_size, characteristics
    )
    head += struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(magic, 14, 0, 0, 0, 0, first_rva if entry_rva is None else entry_rva, first_rva),
        *(image_base, section_alignment, file_alignment, 0, 0, 0, 0, 0, 0, 0),
        *(_align(image_end, section_alignment) if size_of_image is None else size_of_image, headers_size, 0),
        *(subsystem, dll_characteristics, 0x10000, 0x10000, 0x10000, 0x10000, 0, directory_count),
    )
    for index in range((optional_header_size - 112) // 8):
        head += struct.pack("<II", *entries.get(index, (0, 0)))
    head += table_bytes
    data[pe_offset : pe_offset + len(head)] = head
    return bytes(data) + tail


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
