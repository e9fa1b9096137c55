"""Builds Go function tables (.gopclntab) in the layouts of Go 1.2, 1.16, 1.18 and 1.20 for tests."""

import struct
from collections.abc import Sequence


def build_gopclntab(
    functions: Sequence[tuple[str, int]],
    end: int,
    *,
    magic: int = 0xFFFFFFF1,
    text_start: int = 0,
    count: int | None = None,
) -> bytes:
    """The table of `functions`, pairs (name, address) by address; `end` is where the last one ends.

    Addresses are relative to `text_start` in the layouts of 1.18 and 1.20 and absolute before.
    """
    modern = magic in {0xFFFFFFF0, 0xFFFFFFF1}
    entry, record = ("<II", "<Ii") if modern else ("<QQ", "<Qi")
    names = bytearray(b"\0")
    name_offsets = []
    for name, _ in functions:
        name_offsets.append(len(names))
        names += name.encode() + b"\0"
    header = {0xFFFFFFFB: 16, 0xFFFFFFFA: 64, 0xFFFFFFF0: 72, 0xFFFFFFF1: 72}[magic]
    old = magic == 0xFFFFFFFB
    functab_size = struct.calcsize(entry) * len(functions) + struct.calcsize(entry) // 2
    functab_at = header if old else header + len(names)
    # Offsets of records count from functab, in Go 1.2 all offsets count from the table's first byte.
    records_from = 0 if old else functab_at
    names_at = functab_at + functab_size if old else header
    records_at = functab_at + functab_size + (len(names) if old else 0)
    functab = records = b""
    for (_, address), name_offset in zip(functions, name_offsets, strict=True):
        functab += struct.pack(entry, address, records_at + len(records) - records_from)
        records += struct.pack(record, address, name_offset + (names_at if old else 0))
    functab += struct.pack(entry[:2], end)
    total = len(functions) if count is None else count
    head = struct.pack("<IHBB", magic, 0, 1, 8)
    if old:
        return head + struct.pack("<Q", total) + functab + bytes(names) + records
    fields = [total, 1, *([text_start] if modern else []), header, 0, 0, 0, functab_at]
    return head + struct.pack(f"<{len(fields)}Q", *fields) + bytes(names) + functab + records
