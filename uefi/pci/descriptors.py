"""ACPI address space descriptors: how PCI protocols tell resources (UEFI 2.10, 14.2.1 and 14.4; ACPI 6.5, 6.4.3.5.1)."""

import struct

MEMORY, IO, BUS = 0, 1, 2
"""Resource types."""

# Tag, length of the rest, type, general and specific flags, granularity, minimum, maximum, translation offset, length.
_QWORD = struct.Struct("<BHBBBQQQQQ")
_QWORD_TAG = 0x8A
_END = b"\x79\x00"
_PREFETCHABLE = 6


def address_space(
    kind: int, minimum: int, maximum: int, length: int, *, bits: int = 0, prefetchable: bool = False
) -> bytes:
    """One QWORD Address Space Descriptor of 46 bytes. `bits` is 32 or 64 for memory: how far the register reaches."""
    flags = _PREFETCHABLE if prefetchable else 0
    return _QWORD.pack(_QWORD_TAG, _QWORD.size - 3, kind, 0, flags, bits, minimum, maximum, 0, length)


def window(kind: int, addresses: range) -> bytes:
    """The descriptor of a range that a bridge passes on."""
    return address_space(kind, addresses.start, addresses.stop - 1, len(addresses), bits=32 if kind == MEMORY else 0)


def resources(*descriptors: bytes) -> bytes:
    """Descriptors with the end tag behind them; a checksum of 0 is always right."""
    return b"".join(descriptors) + _END
