"""The certificate table of an extended guest request (AMD 56421 GHCB, "SNP Extended Guest Request"): 24-byte entries of GUID,
offset and length, ended by a zero entry, then the certificates."""

import struct

from sev.errors import MalformedCertificate

ENTRY_SIZE = 24
LARGEST = 4 << 20
MOST_ENTRIES = 64

GUIDS = {
    "VCEK": bytes.fromhex("63da758de6644564adc5f4b93be8accd"),
    "VLEK": bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1"),
    "ASK": bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782"),
    "ARK": bytes.fromhex("c0b406a4a803495297433fb6014cd0ae"),
    "CRL": bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea"),
}


def _mixed_endian(guid: bytes) -> bytes:
    return guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]


# Both byte orders are in the field; the first four bytes tell them from a version number.
FIRST_BYTES = frozenset(form(guid)[:4] for guid in GUIDS.values() for form in (bytes, _mixed_endian))
_NAMES = {form(guid): name for name, guid in GUIDS.items() for form in (bytes, _mixed_endian)}


def encode(entries: list[tuple[str, bytes]]) -> bytes:
    """A table of (name in GUIDS, contents), GUIDs in the byte order of their text. ASVKs go under "ASK"."""
    offset = ENTRY_SIZE * (len(entries) + 1)
    head, body = b"", b""
    for name, contents in entries:
        head += GUIDS[name] + struct.pack("<II", offset + len(body), len(contents))
        body += contents
    return head + bytes(ENTRY_SIZE) + body


def decode(table: bytes) -> list[tuple[str, bytes]]:
    """(name or hex GUID, contents) of each entry; both byte orders of GUIDs are in the field.

    MalformedCertificate for a table without end, entries that reach outside or into the head, or more than 4 MiB.
    """
    if len(table) > LARGEST:
        raise MalformedCertificate(f"certificate table of {len(table)} bytes; at most {LARGEST} are read")
    heads: list[tuple[bytes, int, int]] = []
    for at in range(0, ENTRY_SIZE * (MOST_ENTRIES + 1), ENTRY_SIZE):
        entry = table[at : at + ENTRY_SIZE]
        if len(entry) < ENTRY_SIZE:
            raise MalformedCertificate(f"certificate table without a closing entry in its {len(table)} bytes")
        if not any(entry):
            break
        heads.append((entry[:16], *struct.unpack("<II", entry[16:])))
    else:
        raise MalformedCertificate(f"certificate table with more than {MOST_ENTRIES} entries")
    first = ENTRY_SIZE * (len(heads) + 1)
    found = []
    for guid, offset, length in heads:
        if offset < first or offset + length > len(table):
            raise MalformedCertificate(
                f"certificate table entry {guid.hex()} at {offset:#x}, {length} bytes; the table has {len(table)}"
            )
        found.append((_NAMES.get(guid, guid.hex()), table[offset : offset + length]))
    return found
