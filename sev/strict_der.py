"""The outer form of a certificate or CRL: DER and nothing else, so that one signature belongs to one sequence of bytes.

asn1crypto reads BER too, and what it gives back of it as the signed part may be re-encoded: lengths in other forms, signatures in
pieces, or more behind them would be files that differ from what was signed and still verify (X.690, 8.1.3 and 10.1).
"""

from sev.errors import MalformedCertificate

_SEQUENCE, _BIT_STRING = 0x30, 0x03


def require_der(der: bytes, tbs: bytes, algorithm: bytes, signature: bytes) -> None:
    """MalformedCertificate unless `der` is SEQUENCE { tbs, algorithm, BIT STRING signature } (RFC 5280, 4.1 and 5.1) in DER."""
    if der != _element(_SEQUENCE, tbs + algorithm + _element(_BIT_STRING, b"\0" + signature)):
        raise MalformedCertificate(
            "not in DER: its lengths are in another form, or there is more in it than was signed"
        )


def _element(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    if size < 0x80:
        return bytes([tag, size]) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + contents
