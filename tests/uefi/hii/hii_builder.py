"""Package lists for the HII tests, put together by hand and not by the code under test."""

import struct

from uefi.guids import Guid

LIST = Guid.parse("10000000-2000-3000-4000-500000000000")


def text(value: str) -> bytes:
    return value.encode("utf-16-le") + b"\0\0"


def package(kind: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body) + 4 | kind << 24) + body


def strings(language: bytes, blocks: bytes) -> bytes:
    offset = 46 + len(language) + 1
    return package(4, struct.pack("<II32sH", offset, offset, bytes(32), 1) + language + b"\0" + blocks)


def package_list(*packages: bytes, guid: Guid = LIST) -> bytes:
    body = b"".join(packages) + package(0xDF, b"")
    return bytes(guid) + struct.pack("<I", len(body) + 20) + body


ENGLISH = strings(b"en-US", b"\x14" + text("English") + b"\x14" + text("Hello") + b"\0")
GERMAN = strings(b"de;gsw;bar", b"\x14" + text("Deutsch") + b"\x14" + text("Hallo") + b"\0")
LAYOUT = Guid.parse("aaaaaaaa-0000-0000-0000-000000000001")
KEYBOARD = package(9, struct.pack("<HH", 1, 23) + bytes(LAYOUT) + struct.pack("<IB", 23, 0))
