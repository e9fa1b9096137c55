"""Firmware images made for the tests: only the parts that a measurement looks at."""

import struct
from collections.abc import Sequence

from sev.measure.firmware import (
    SECTION_CPUID,
    SECTION_KERNEL_HASHES,
    SECTION_SEC_MEM,
    SECTION_SECRETS,
    SEV_ES_RESET_BLOCK,
    SEV_HASH_TABLE,
    SEV_METADATA,
    SVSM_INFO,
    TABLE_FOOTER,
    guid_bytes,
)

AP_RESET = 0x80B004
HASH_TABLE_GPA = 0x810C00
METADATA_FROM_END = 0x300
SECTIONS = (
    (0x800000, 0x9000, SECTION_SEC_MEM),
    (0x80E000, 0x1000, SECTION_CPUID),
    (0x80D000, 0x1000, SECTION_SECRETS),
    (0x810000, 0x1000, SECTION_KERNEL_HASHES),
)


def entry(guid: str, data: bytes) -> bytes:
    """One entry of the footer table."""
    return data + struct.pack("<H", len(data) + 18) + guid_bytes(guid)


def footer(entries: Sequence[bytes]) -> bytes:
    """The footer table and the 32 bytes after it."""
    body = b"".join(entries)
    return body + struct.pack("<H", len(body) + 18) + guid_bytes(TABLE_FOOTER) + bytes(32)


def metadata(sections: Sequence[tuple[int, int, int]], version: int = 1) -> bytes:
    """The SEV metadata with these sections: (address, size, type)."""
    body = b"".join(struct.pack("<III", *section) for section in sections)
    return struct.pack("<4sIII", b"ASEV", 16 + len(body), version, len(sections)) + body


def standard_entries() -> list[bytes]:
    """What an AmdSev build of OVMF has."""
    return [
        entry(SEV_METADATA, struct.pack("<I", METADATA_FROM_END)),
        entry(SEV_HASH_TABLE, struct.pack("<II", HASH_TABLE_GPA, 0x400)),
        entry(SEV_ES_RESET_BLOCK, struct.pack("<I", AP_RESET)),
    ]


def image(
    size: int = 0x4000,
    sections: Sequence[tuple[int, int, int]] | None = SECTIONS,
    entries: Sequence[bytes] | None = None,
    version: int = 1,
) -> bytes:
    """An image of `size` bytes whose pages all differ."""
    data = bytearray((number * 7 + number // 4096) & 0xFF for number in range(size))
    end = footer(standard_entries() if entries is None else entries)
    data[size - len(end) :] = end
    if sections is not None:
        body = metadata(sections, version)
        start = size - METADATA_FROM_END
        data[start : start + len(body)] = body
    return bytes(data)


def svsm_image(size: int = 0x2000) -> bytes:
    """An image like COCONUT-SVSM's."""
    return image(
        size,
        [(0x1000, 0x1000, SECTION_SECRETS), (0x2000, 0x1000, SECTION_CPUID)],
        [entry(SEV_METADATA, struct.pack("<I", METADATA_FROM_END)), entry(SVSM_INFO, struct.pack("<I", 0x40))],
    )
