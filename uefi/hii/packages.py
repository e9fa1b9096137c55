"""HII package lists and packages: taking them apart and putting them together (UEFI 2.10, 33.3.1)."""

import struct
from collections.abc import Sequence

from uefi.guids import Guid

PACKAGE_ALL = 0x00
PACKAGE_GUID = 0x01
PACKAGE_FORMS = 0x02
PACKAGE_STRINGS = 0x04
PACKAGE_DEVICE_PATH = 0x08
PACKAGE_KEYBOARD_LAYOUT = 0x09
PACKAGE_END = 0xDF

LIST_HEADER_SIZE = 20
PACKAGE_HEADER_SIZE = 4
MAX_PACKAGE_SIZE = 0xFFFFFF

MAX_LIST_SIZE = 32 << 20
"""Bytes of a package list above which it is taken for garbage."""


class HiiError(ValueError):
    """HII data that does not follow UEFI 2.10 chapter 33; the message names the value seen."""


class Package:
    """One package: its type and the bytes after the four-byte header."""

    __slots__ = ("body", "kind")

    def __init__(self, kind: int, body: bytes) -> None:
        """Raises HiiError for a body that does not fit the header's 24-bit length."""
        if len(body) > MAX_PACKAGE_SIZE - PACKAGE_HEADER_SIZE:
            raise HiiError(f"HII package of {len(body)} bytes, at most {MAX_PACKAGE_SIZE - PACKAGE_HEADER_SIZE} fit")
        self.kind = kind
        self.body = body

    def to_bytes(self) -> bytes:
        """EFI_HII_PACKAGE_HEADER and the body."""
        return struct.pack("<I", PACKAGE_HEADER_SIZE + len(self.body) | self.kind << 24) + self.body

    @property
    def guid(self) -> Guid | None:
        """The GUID that a GUID package starts with; None for other packages and for one that is too short."""
        return Guid(self.body[:16]) if self.kind == PACKAGE_GUID and len(self.body) >= 16 else None


def list_size(header: bytes) -> int:
    """PackageLength, header included, of an EFI_HII_PACKAGE_LIST_HEADER. Raises HiiError for a size out of reason."""
    if len(header) < LIST_HEADER_SIZE:
        raise HiiError(f"HII package list of {len(header)} bytes, wanted {LIST_HEADER_SIZE} for its header")
    size = int.from_bytes(header[16:20], "little")
    if not LIST_HEADER_SIZE + PACKAGE_HEADER_SIZE <= size <= MAX_LIST_SIZE:
        raise HiiError(f"HII package list says {size} bytes, wanted 24 to {MAX_LIST_SIZE}")
    return size


def parse_list(data: bytes) -> tuple[Guid, list[Package]]:
    """The list's GUID and its packages, without the end package.

    Raises HiiError for lengths that do not fit together and for a list without an end package.
    """
    size = list_size(data)
    if size > len(data):
        raise HiiError(f"HII package list says {size} bytes, {len(data)} are there")
    packages: list[Package] = []
    at = LIST_HEADER_SIZE
    while at + PACKAGE_HEADER_SIZE <= size:
        header = int.from_bytes(data[at : at + 4], "little")
        length, kind = header & 0xFFFFFF, header >> 24
        if not PACKAGE_HEADER_SIZE <= length <= size - at:
            raise HiiError(f"HII package at offset {at} says {length} bytes, wanted 4 to {size - at}")
        if kind == PACKAGE_END:
            return Guid(data[:16]), packages
        packages.append(Package(kind, data[at + PACKAGE_HEADER_SIZE : at + length]))
        at += length
    raise HiiError(f"HII package list of {size} bytes has no end package")


def build_list(guid: Guid, packages: Sequence[Package]) -> bytes:
    """A package list with its header and end package."""
    body = b"".join(package.to_bytes() for package in packages) + Package(PACKAGE_END, b"").to_bytes()
    return bytes(guid) + struct.pack("<I", LIST_HEADER_SIZE + len(body)) + body


def keyboard_layouts(package: Package) -> dict[Guid, bytes]:
    """The EFI_HII_KEYBOARD_LAYOUT structures of a keyboard layout package by their GUIDs (33.3.9).

    Raises HiiError for lengths that do not fit.
    """
    found: dict[Guid, bytes] = {}
    at = 2
    for _ in range(int.from_bytes(package.body[:2], "little")):
        length = int.from_bytes(package.body[at : at + 2], "little")
        if length < 23 or at + length > len(package.body):
            raise HiiError(f"HII keyboard layout at offset {at} says {length} bytes, {len(package.body) - at} are left")
        found[Guid(package.body[at + 2 : at + 18])] = package.body[at : at + length]
        at += length
    return found
