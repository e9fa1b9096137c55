"""A writer of the few DER types (X.690) that AMD's certificates consist of; cryptography's builder refuses serial number 0."""

from datetime import datetime


def tagged(tag: int, *parts: bytes) -> bytes:
    """One TLV with a single-byte tag around the parts."""
    contents = b"".join(parts)
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + contents


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return tagged(0x30, *parts)


def set_of(part: bytes) -> bytes:
    """SET OF one."""
    return tagged(0x31, part)


def integer(value: int) -> bytes:
    """INTEGER, 0 or more: two bytes of value from 0x80 on."""
    return tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def boolean_true() -> bytes:
    """BOOLEAN TRUE."""
    return b"\x01\x01\xff"


def null() -> bytes:
    """NULL."""
    return b"\x05\x00"


def octets(contents: bytes) -> bytes:
    """OCTET STRING."""
    return tagged(0x04, contents)


def bits(contents: bytes, unused: int = 0) -> bytes:
    """BIT STRING with so many unused bits at its end."""
    return tagged(0x03, bytes((unused,)), contents)


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tagged(0x0C, text.encode())


def printable(text: str) -> bytes:
    """PrintableString."""
    return tagged(0x13, text.encode("ascii"))


def ia5(text: str) -> bytes:
    """IA5String."""
    return tagged(0x16, text.encode("ascii"))


def time(moment: datetime) -> bytes:
    """UTCTime before 2050, GeneralizedTime from then on (RFC 5280, 4.1.2.5); the moment in UTC."""
    if moment.year < 2050:
        return tagged(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tagged(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = (int(number) for number in dotted.split("."))
    encoded = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        encoded += bytes(reversed(groups))
    return tagged(0x06, bytes(encoded))


def context(number: int, *parts: bytes) -> bytes:
    """EXPLICIT context tag, constructed."""
    return tagged(0xA0 | number, *parts)
