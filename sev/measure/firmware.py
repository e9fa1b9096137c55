"""Firmware: an OVMF image (.fd) or an SVSM built like one, and the table of GUIDs at its end.

The table is OVMF's own (edk2: OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm); it lies 32 bytes before the end of the image
and is read backwards: each entry is its data, a 16-bit size of the whole entry, and a GUID.
"""

import struct
from collections.abc import Iterator
from hashlib import sha384

from sev.measure.errors import MalformedFirmware
from sev.measure.launch_digest import PAGE_SIZE
from sev.measure.vmsa import RESET_VECTOR

FOUR_GIB = 1 << 32
LARGEST_FIRMWARE = 64 << 20
"""Bytes; OVMF images have up to 16 MiB, SVSM ones a few more."""

TABLE_FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
SEV_ES_RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
SEV_HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
SEV_SECRET_BLOCK = "4c2eb361-7d9b-4cc3-8081-127c90d3d294"
SEV_METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
SVSM_INFO = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
TDX_METADATA = "e47a6535-984a-4798-865e-4685a7bf8ec2"
TABLE_NAMES = {
    TABLE_FOOTER: "table footer",
    SEV_ES_RESET_BLOCK: "SEV-ES reset block",
    SEV_HASH_TABLE: "SEV hash table block",
    SEV_SECRET_BLOCK: "SEV secret block",
    SEV_METADATA: "SEV metadata offset",
    SVSM_INFO: "SVSM info",
    TDX_METADATA: "TDX metadata offset",
}

SECTION_SEC_MEM = 1
SECTION_SECRETS = 2
SECTION_CPUID = 3
SECTION_SVSM_CAA = 4
SECTION_KERNEL_HASHES = 0x10
SECTION_NAMES = {
    SECTION_SEC_MEM: "SNP_SEC_MEM",
    SECTION_SECRETS: "SNP_SECRETS",
    SECTION_CPUID: "SNP_CPUID",
    SECTION_SVSM_CAA: "SVSM_CAA",
    SECTION_KERNEL_HASHES: "SNP_KERNEL_HASHES",
}

_AFTER_TABLE = 32
_ENTRY = struct.Struct("<H16s")
_METADATA = struct.Struct("<4sIII")
_METADATA_SIGNATURE = b"ASEV"
_METADATA_VERSION = 1
_SECTION = struct.Struct("<III")
_MOST_METADATA_PAGES = 1 << 16
"""256 MiB: ten times what OVMF lists, so that a hostile image cannot keep us hashing for hours."""


def guid_bytes(text: str) -> bytes:
    """The 16 bytes of a GUID as it lies in memory: its first three groups are little-endian."""
    raw = bytes.fromhex(text.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


def guid_text(raw: bytes) -> str:
    """The text of 16 bytes that hold a GUID as it lies in memory, in lower case."""
    ordered = (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()
    return "-".join((ordered[:8], ordered[8:12], ordered[12:16], ordered[16:20], ordered[20:]))


class Section:
    """One section of the SEV metadata: guest memory that is filled in or validated before the guest starts."""

    __slots__ = ("gpa", "kind", "size")

    def __init__(self, gpa: int, size: int, kind: int) -> None:
        self.gpa = gpa
        self.size = size
        self.kind = kind

    @property
    def name(self) -> str:
        """The name of its type."""
        return SECTION_NAMES.get(self.kind, f"type {self.kind:#x}")


class Firmware:
    """An image at the place where a guest finds it: ending at 4 GiB, or lower for an SVSM.

    `table` maps the GUIDs of the footer to their data; it is empty if the image has no footer.
    `sections` are those of the SEV metadata, in table order; None if there is no metadata.
    """

    __slots__ = ("data", "gpa", "sections", "table")

    def __init__(self, data: bytes, end: int = FOUR_GIB) -> None:
        """Read the tables of an image that ends at the guest-physical address `end`.

        MalformedFirmware for an image of an impossible size, or with tables that lie outside of it.
        """
        if not PAGE_SIZE <= len(data) <= LARGEST_FIRMWARE:
            raise MalformedFirmware(
                f"firmware image of {len(data)} bytes; wanted {PAGE_SIZE} to {LARGEST_FIRMWARE} (64 MiB)"
            )
        if not len(data) <= end <= FOUR_GIB:
            raise MalformedFirmware(f"firmware image of {len(data):#x} bytes cannot end at address {end:#x}")
        self.data = data
        self.gpa = end - len(data)
        self.table = _read_table(data)
        metadata = self.table.get(SEV_METADATA)
        self.sections = None if metadata is None else _read_metadata(data, metadata)

    @property
    def sha384(self) -> str:
        """The plain SHA-384 of the file, as hexadecimal digits."""
        return sha384(self.data).hexdigest()

    def sections_of(self, kind: int) -> Iterator[Section]:
        """The metadata sections of one type."""
        return (section for section in self.sections or () if section.kind == kind)

    @property
    def reset_address(self) -> int:
        """Where processors after the first one start. MalformedFirmware if the image does not say it."""
        return self._address(SEV_ES_RESET_BLOCK, "so only one processor can be measured")

    @property
    def svsm_entry(self) -> int:
        """Where an SVSM starts. MalformedFirmware if the image does not say it."""
        return self.gpa + self._address(SVSM_INFO, "so it is no SVSM image")

    @property
    def hash_table_gpa(self) -> int | None:
        """Where the table of kernel hashes lies in guest memory; None if this image takes none."""
        return (self._address(SEV_HASH_TABLE, "") if SEV_HASH_TABLE in self.table else 0) or None

    def others_entry(self, count: int) -> int:
        """Where processors after the first start; the reset vector where `count` leaves none of them."""
        return self.reset_address if count > 1 else RESET_VECTOR

    def _address(self, guid: str, consequence: str) -> int:
        data = self.table.get(guid)
        name = TABLE_NAMES[guid]
        if data is None:
            raise MalformedFirmware(f"firmware image has no {name} ({guid}) in its footer table, {consequence}")
        if len(data) < 4:
            raise MalformedFirmware(f"{name} of the firmware image has {len(data)} bytes; wanted 4 or more")
        return int.from_bytes(data[:4], "little")


def _read_table(data: bytes) -> dict[str, bytes]:
    footer = len(data) - _AFTER_TABLE - _ENTRY.size
    size, guid = _ENTRY.unpack_from(data, footer)
    if guid != guid_bytes(TABLE_FOOTER):
        return {}
    start = footer + _ENTRY.size - size
    if start < 0 or size < _ENTRY.size:
        raise MalformedFirmware(
            f"footer table of {size} bytes; wanted {_ENTRY.size} to {footer + _ENTRY.size} in an image of {len(data)} bytes"
        )
    table: dict[str, bytes] = {}
    end = footer
    while end > start:
        if end - start < _ENTRY.size:
            raise MalformedFirmware(f"footer table ends with {end - start} bytes that are no entry")
        size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
        if not _ENTRY.size <= size <= end - start:
            raise MalformedFirmware(
                f"footer table entry {guid_text(guid)} has size {size}; wanted {_ENTRY.size} to {end - start}"
            )
        name = guid_text(guid)
        if name in table:
            raise MalformedFirmware(f"footer table has two entries {name}")
        table[name] = data[end - size : end - _ENTRY.size]
        end -= size
    return table


def _read_metadata(data: bytes, entry: bytes) -> list[Section]:
    if len(entry) < 4:
        raise MalformedFirmware(f"SEV metadata offset has {len(entry)} bytes; wanted 4 or more")
    from_end = int.from_bytes(entry[:4], "little")
    if not _METADATA.size <= from_end <= len(data):
        raise MalformedFirmware(
            f"SEV metadata lies {from_end:#x} bytes before the end; wanted {_METADATA.size:#x} to {len(data):#x}"
        )
    start = len(data) - from_end
    signature, length, version, count = _METADATA.unpack_from(data, start)
    if signature != _METADATA_SIGNATURE:
        raise MalformedFirmware(f"SEV metadata begins with {signature!r}; wanted {_METADATA_SIGNATURE!r}")
    if version != _METADATA_VERSION:
        raise MalformedFirmware(f"SEV metadata has version {version}; wanted {_METADATA_VERSION}")
    needed = _METADATA.size + count * _SECTION.size
    if not needed <= length <= from_end:
        raise MalformedFirmware(
            f"SEV metadata has length {length} for {count} sections; wanted {needed} or more, and at most {from_end}"
        )
    sections = []
    pages = 0
    for index in range(count):
        section = Section(*_SECTION.unpack_from(data, start + _METADATA.size + index * _SECTION.size))
        if section.gpa % PAGE_SIZE or section.size % PAGE_SIZE or section.gpa + section.size > FOUR_GIB:
            raise MalformedFirmware(
                f"SEV metadata section {index} at {section.gpa:#x} with {section.size:#x} bytes; wanted whole pages below 4 GiB"
            )
        pages += section.size // PAGE_SIZE
        sections.append(section)
    if pages > _MOST_METADATA_PAGES:
        raise MalformedFirmware(f"SEV metadata lists {pages} pages; wanted at most {_MOST_METADATA_PAGES} (256 MiB)")
    return sections
