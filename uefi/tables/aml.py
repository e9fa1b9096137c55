"""An assembler for the little ACPI machine language that a DSDT without methods of substance needs (ACPI 6.5, 20.2)."""

import struct

Term = bytes

# Address space descriptors (ACPI 6.5, 6.4.3.5): resource types and flags.
_MEMORY, _IO, _BUS = 0, 1, 2
_FIXED = 0x0C
_READ_WRITE = 0x01
_ENTIRE_IO_RANGE = 0x03

_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def package_length(body: bytes) -> bytes:
    """PkgLength of a body: its size with the length's own 1 to 4 bytes (20.2.4). ValueError from 256 MiB on."""
    size = len(body) + 1
    if size < 0x40:
        return bytes((size,))
    for extra in (1, 2, 3):
        size = len(body) + 1 + extra
        if size < 1 << 4 + 8 * extra:
            return bytes((extra << 6 | size & 0xF,)) + (size >> 4).to_bytes(extra, "little")
    raise ValueError(f"AML package of {len(body)} bytes, wanted less than 256 MiB")


def name_string(path: str) -> bytes:
    r"""NameString of a path such as "\_SB.PCI0" or "COM1"; short names are filled with "_" (20.2.2).

    ValueError for a name that is not one to four characters of A-Z, 0-9, _.
    """
    root = b"\\" if path.startswith("\\") else b""
    names = path.lstrip("\\").split(".") if path.strip("\\") else []
    for name in names:
        if not 1 <= len(name) <= 4 or name[0].isdigit() or not set(name) <= _NAME_CHARACTERS:
            raise ValueError(f"AML name {name!r}, wanted up to four of A-Z, 0-9 and _")
    packed = "".join(name.ljust(4, "_") for name in names).encode("ascii")
    if len(names) < 2:
        return root + (packed or b"\0")
    return root + (b"\x2e" if len(names) == 2 else b"\x2f" + bytes((len(names),))) + packed


def integer(value: int) -> Term:
    """The shortest constant for 0 to 2**64 - 1 (20.2.3). struct.error outside."""
    if value < 2:
        return bytes((value,)) if value >= 0 else struct.pack("<Q", value)
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4)):
        if value >> 8 * size == 0:
            return bytes((prefix,)) + value.to_bytes(size, "little")
    return b"\x0e" + struct.pack("<Q", value)


def string(text: str) -> Term:
    """An ASCII string."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> Term:
    """A Buffer with its data."""
    body = integer(len(data)) + data
    return b"\x11" + package_length(body) + body


def package(*elements: Term) -> Term:
    """A Package of at most 255 elements."""
    body = bytes((len(elements),)) + b"".join(elements)
    return b"\x12" + package_length(body) + body


def name(path: str, value: Term) -> Term:
    """Name (path, value)."""
    return b"\x08" + name_string(path) + value


def scope(path: str, *terms: Term) -> Term:
    """Scope (path) { terms }."""
    body = name_string(path) + b"".join(terms)
    return b"\x10" + package_length(body) + body


def device(path: str, *terms: Term) -> Term:
    """Device (path) { terms }."""
    body = name_string(path) + b"".join(terms)
    return b"\x5b\x82" + package_length(body) + body


def eisa_id(text: str) -> Term:
    """EISAID ("PNP0A08") as an integer (19.6.37): the identifier's bytes are swapped."""
    first, second, third = (ord(letter) - 0x40 for letter in text[:3])
    swapped = struct.pack(">HH", first << 10 | second << 5 | third, int(text[3:], 16))
    return b"\x0c" + swapped


def resources(*descriptors: bytes) -> Term:
    """A resource template as _CRS wants it: the descriptors, an end tag with its checksum (6.4.2.9), in a Buffer."""
    data = b"".join(descriptors) + b"\x79"
    return buffer(data + bytes((-sum(data) & 0xFF,)))


def io(first: int, count: int, align: int = 1) -> bytes:
    """Fixed I/O ports with 16-bit decoding (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, first, first, align, count)


def irq(number: int) -> bytes:
    """One ISA interrupt, edge triggered and active high (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << number)


def fixed_memory(base: int, size: int) -> bytes:
    """Memory that the device itself takes, below 4 GiB (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, _READ_WRITE, base, size)


def bus_numbers(first: int, last: int) -> bytes:
    """Bus numbers that a bridge passes on (6.4.3.5.3)."""
    return struct.pack("<BHBBBHHHHH", 0x88, 13, _BUS, _FIXED, 0, 0, first, last, 0, last - first + 1)


def io_window(first: int, last: int) -> bytes:
    """I/O ports that a bridge passes on."""
    return struct.pack("<BHBBBHHHHH", 0x88, 13, _IO, _FIXED, _ENTIRE_IO_RANGE, 0, first, last, 0, last - first + 1)


def memory_window(first: int, last: int) -> bytes:
    """Memory that a bridge passes on: a 32-bit descriptor where both ends are below 4 GiB, else a 64-bit one."""
    if last <= 0xFFFFFFFF:
        return struct.pack("<BHBBBIIIII", 0x87, 23, _MEMORY, _FIXED, _READ_WRITE, 0, first, last, 0, last - first + 1)
    return struct.pack("<BHBBBQQQQQ", 0x8A, 43, _MEMORY, _FIXED, _READ_WRITE, 0, first, last, 0, last - first + 1)
