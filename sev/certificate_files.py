"""Certificates and CRLs in files: PEM with anything around it, DER, one behind the other."""

import base64
import binascii
import re

from sev.errors import MalformedCertificate

LARGEST_INPUT = 4 << 20
MOST_CERTIFICATES = 256

_PEM = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]*)-----END (CERTIFICATE|X509 CRL)-----")


def split_certificates(data: bytes) -> list[tuple[str, bytes]]:
    """(kind, DER) of each certificate ("CERTIFICATE") and CRL ("X509 CRL") in PEM text, or in DER, one behind the other.

    PEM may have CRLF line ends, a byte order mark and text between. MalformedCertificate if there is none, or too much.
    """
    if len(data) > LARGEST_INPUT:
        raise MalformedCertificate(f"{len(data)} bytes of certificates; at most {LARGEST_INPUT} are read")
    if data[:1] == b"\x30":
        return [("X509 CRL" if looks_like_crl(der) else "CERTIFICATE", der) for der in split_der(data)]
    found: list[tuple[str, bytes]] = []
    for match in _PEM.finditer(data):
        if match[1] != match[3] or len(found) >= MOST_CERTIFICATES:
            raise MalformedCertificate(f"PEM blocks that do not pair up, or more than {MOST_CERTIFICATES}")
        try:
            found.append((match[1].decode(), base64.b64decode(b"".join(match[2].split()), validate=True)))
        except binascii.Error as error:
            raise MalformedCertificate(f"PEM block {len(found) + 1}: {error}") from None
    if not found:
        raise MalformedCertificate("neither DER nor PEM: no certificate found")
    return found


def split_der(data: bytes) -> list[bytes]:
    """The DER SEQUENCEs that stand one behind the other in bytes; white space and zeros behind the last are no harm.

    MalformedCertificate for one that is cut off, and for anything else behind.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        if not data[at:].strip(b"\0\r\n\t "):
            break
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0x30 or head[1] > 0x82:
            raise MalformedCertificate(f"DER followed by {len(data) - at} bytes that are none")
        size = 2 + head[1] if head[1] < 0x80 else 3 + head[2] if head[1] == 0x81 else 4
        if head[1] == 0x82:
            size += int.from_bytes(head[2:], "big")
        if size > len(data) - at:
            raise MalformedCertificate(f"DER cut off: {len(data) - at} of {size} bytes")
        if len(parts) >= MOST_CERTIFICATES:
            raise MalformedCertificate(f"more than {MOST_CERTIFICATES} certificates")
        parts.append(data[at : at + size])
        at += size
    if not parts:
        raise MalformedCertificate("no DER")
    return parts


def looks_like_crl(der: bytes) -> bool:
    """A TBSCertificate of version 3 begins with [0], a TBSCertList with INTEGER 1."""
    start = 4 if der[1:2] >= b"\x82" else 3 if der[1:2] == b"\x81" else 2
    inner = der[start:]
    start = 4 if inner[1:2] >= b"\x82" else 3 if inner[1:2] == b"\x81" else 2
    return inner[:1] == b"\x30" and inner[start : start + 1] == b"\x02"
