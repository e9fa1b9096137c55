"""Tiny EFI applications for tests, as machine code in a minimal PE file."""

import struct

_HEADERS, _ALIGNMENT = 0x400, 0x1000


def application(code: bytes) -> bytes:
    """A PE32+ EFI application whose entry point is the first byte of `code`; no relocations needed."""
    raw = code + bytes(-len(code) % 0x200)
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 0xF0, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, len(raw), 0, 0, _ALIGNMENT, _ALIGNMENT)
    optional += struct.pack("<QII6HIIII", 0x1000000, _ALIGNMENT, 0x200, 0, 0, 0, 0, 0, 0, 0, 0x2000, _HEADERS, 0)
    optional += struct.pack("<HHQQQQII", 10, 0, 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    section = b".text\0\0\0" + struct.pack("<IIIIIIHHI", len(code), 0x1000, len(raw), _HEADERS, 0, 0, 0, 0, 0x60000020)
    image = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return image.ljust(_HEADERS, b"\0") + raw


_TO_STATUS = b"\x66\xba\xfd\x03"  # mov dx, 0x3fd (LSR)
_TO_DATA = b"\x66\xba\xf8\x03"  # mov dx, 0x3f8 (RBR, THR)
_IN, _OUT = b"\xec", b"\xee"
# LSR until it has data, then the byte in AL and DX at the data port.
_GET = _TO_STATUS + _IN + b"\xa8\x01\x74\xfb" + _TO_DATA + _IN
_RETURN_SUCCESS = b"\x31\xc0\xc3"

LOOP = application(b"\xeb\xfe")
"""Computes for ever."""

FLOOD = application(_TO_DATA + b"\xb0x" + _OUT + b"\xeb\xfd")
"""Prints x for ever."""

ECHO_COM1 = application(
    _GET + b"\x3c\x04\x74\x03" + _OUT + b"\xeb" + struct.pack("b", -(len(_GET) + 7)) + _RETURN_SUCCESS
)
"""Sends back what COM1 receives, until Ctrl-D."""

RESET_OR_RETURN = application(
    _TO_DATA + b"\xb0R" + _OUT + _GET + b"\x3cr\x75\x06\xb0\xfe\xe6\x64\xeb\xfe" + _RETURN_SUCCESS
)
"""Prints R, reads a key: r resets through the keyboard controller, another returns EFI_SUCCESS."""

_CONIN_LOOP = (
    b"\x48\x8b\x4b\x30\x48\x8d\x54\x24\x30\xff\x51\x08"  # ConIn->ReadKeyStroke(ConIn, rsp + 0x30)
    b"\x48\x85\xc0\x75\xef"  # again until EFI_SUCCESS
    b"\x0f\xb7\x44\x24\x32\x83\xf8\x04\x74\x15"  # until Ctrl-D
    b"\x66\xc7\x44\x24\x34\x00\x00\x48\x8b\x4b\x40\x48\x8d\x54\x24\x32\xff\x51\x08"  # ConOut->OutputString
    b"\xeb\xd0"
)
ECHO_CONIN = application(b"\x53\x48\x83\xec\x40\x48\x89\xd3" + _CONIN_LOOP + b"\x48\x83\xc4\x40\x5b" + _RETURN_SUCCESS)
"""Sends what ConIn reads to ConOut, until Ctrl-D."""


def returning(status: int) -> bytes:
    """An application that returns `status`."""
    return application(b"\x48\xb8" + struct.pack("<Q", status) + b"\xc3")
