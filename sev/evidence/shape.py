"""Tells what looks like a report from what does not, and names what people hand over by mistake."""

import re

from sev.report import ECDSA_P384_SHA384, LAST_TOLERATED_VERSION, SIGNED_SIZE, SIZE

_COMPONENT = 72
_P384 = 48
# VERSION up to 15 at 0, SIGNATURE_ALGO 1 at 0x34: what a search through any bytes starts from.
_START = re.compile(rb"(?=[\x01-\x0f]\0\0\0.{48}\x01\0\0\0)", re.DOTALL)
_MOST_STARTS = 200_000
_MANGLED = b"\xef\xbf\xbd"

_OTHERS = (
    (b"\x04\x00\x02\x00\x81\x00\x00\x00", "an Intel TDX quote"),
    (b"\x05\x00\x02\x00\x81\x00\x00\x00", "an Intel TDX quote"),
    (b"\x03\x00\x02\x00", "an Intel SGX quote"),
    (b"\x84\x44\xa1\x01\x38\x22", "an attestation document of AWS Nitro Enclaves"),
    (b"\xffTCG", "a TPM quote"),
)
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
)


def is_plausible(data: bytes, at: int = 0) -> bool:
    """Whether 1184 bytes at an offset look like a report: version, algorithm, policy, and zeros where a signature has them."""
    if len(data) - at < SIZE:
        return False
    r, s = at + SIGNED_SIZE, at + SIGNED_SIZE + _COMPONENT
    return (
        0 < int.from_bytes(data[at : at + 4], "little") <= LAST_TOLERATED_VERSION
        and int.from_bytes(data[at + 0x34 : at + 0x38], "little") == ECDSA_P384_SHA384
        and not any(data[at + 0xC : at + 0x10])
        and any(data[r : r + _P384])
        and not any(data[r + _P384 : s])
        and not any(data[s + _P384 : at + SIZE])
    )


def reports_within(data: bytes) -> list[int]:
    """Offsets at which reports seem to lie in any bytes, overlapping ones left out."""
    found: list[int] = []
    for number, start in enumerate(_START.finditer(data)):
        if number >= _MOST_STARTS:
            break
        if (not found or start.start() >= found[-1] + SIZE) and is_plausible(data, start.start()):
            found.append(start.start())
    return found


def looks_cut(data: bytes) -> bool:
    """Whether this is the beginning of a report."""
    return 0x38 <= len(data) < SIZE and _START.match(data) is not None


def misread(data: bytes) -> str:
    """Why bytes are no report although they come from one, or what else they are; "" if nobody can tell."""
    for start, name in _OTHERS:
        if data.startswith(start):
            return f"this is {name}, no SEV-SNP report"
    for start, name in _PACKED:
        if data.startswith(start):
            return f"this is {name}: unpack it first"
    if not any(data):
        return f"{len(data)} zero bytes: the request for a report failed, and its status was not looked at"
    if looks_cut(data):
        return f"the report is cut off: {len(data)} of its {SIZE} bytes"
    if data.count(_MANGLED) >= 4:
        return "the file went through a conversion to UTF-8, which loses bytes; copy it as binary, or as base64"
    if SIZE < len(data) <= SIZE + 64 and len(whole := data.replace(b"\r\n", b"\n")) == SIZE and is_plausible(whole):
        return "line ends were converted (LF to CRLF) in a binary file; copy it as binary, or as base64"
    if len(data) > SIZE and (is_plausible(data) or _START.match(data)):
        return f"{len(data) - SIZE} bytes behind the {SIZE} of the report are neither zeros nor a certificate table"
    for width in (2, 4, 8):
        if len(data) >= SIZE and is_plausible(swapped(data[:SIZE], width)):
            how = (
                "hexdump without -C shows it so; use hexdump -C, xxd or base64"
                if width == 2
                else "write bytes, not words"
            )
            return f"the bytes are swapped in groups of {width}: {how}"
    return ""


def swapped(data: bytes, width: int) -> bytes:
    """The bytes with each group of `width` turned round."""
    return b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
