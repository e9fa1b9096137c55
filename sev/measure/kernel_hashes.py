"""KernelHashes: the table by which QEMU binds kernel, initial RAM disk and command line to a measurement.

QEMU's target/i386/sev.c (SevHashTable) makes it; edk2's OvmfPkg/AmdSev/BlobVerifierLibSevHashes reads it.
"""

import struct
from hashlib import sha256

from sev.measure.errors import MeasureError
from sev.measure.firmware import guid_bytes
from sev.measure.launch_digest import PAGE_SIZE

HASH_SIZE = 32
TABLE_SIZE = 176
"""Bytes: three entries of 50 after a header of 18, filled up to a multiple of 16."""

_HEADER = guid_bytes("9438d606-4f22-4cc9-b479-a793d411fd21")
_COMMAND_LINE = guid_bytes("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD = guid_bytes("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL = guid_bytes("4de79437-abd2-427f-b835-d5b172d2045b")
_ENTRY = struct.Struct(f"<16sH{HASH_SIZE}s")
_START = struct.Struct("<16sH")


class KernelHashes:
    """The SHA-256 of a kernel, of its initial RAM disk and of its command line with a NUL."""

    __slots__ = ("command_line", "initrd", "kernel")

    def __init__(self, kernel: bytes, initrd: bytes, command_line: bytes) -> None:
        """Take the three hashes (32 bytes each). MeasureError for another size."""
        for name, value in (("kernel", kernel), ("initrd", initrd), ("command line", command_line)):
            if len(value) != HASH_SIZE:
                raise MeasureError(f"SHA-256 of the {name} has {len(value)} bytes; wanted {HASH_SIZE}")
        self.kernel = kernel
        self.initrd = initrd
        self.command_line = command_line

    @classmethod
    def of(cls, kernel: bytes, initrd: bytes = b"", command_line: str = "") -> "KernelHashes":
        """The hashes of what QEMU is given with -kernel, -initrd and -append. No initrd counts as an empty one."""
        return cls(sha256(kernel).digest(), sha256(initrd).digest(), command_line_hash(command_line))

    def table(self) -> bytes:
        """The 176 bytes as they lie in guest memory."""
        entries = b"".join(
            _ENTRY.pack(guid, _ENTRY.size, value)
            for guid, value in ((_COMMAND_LINE, self.command_line), (_INITRD, self.initrd), (_KERNEL, self.kernel))
        )
        return (_START.pack(_HEADER, _START.size + len(entries)) + entries).ljust(TABLE_SIZE, b"\0")

    def page(self, offset: int) -> bytes:
        """A 4096-byte page with the table at `offset`. MeasureError if it does not fit."""
        if not 0 <= offset <= PAGE_SIZE - TABLE_SIZE:
            raise MeasureError(
                f"the kernel hashes cannot start at offset {offset:#x} of a page; wanted at most {PAGE_SIZE - TABLE_SIZE:#x}"
            )
        return (bytes(offset) + self.table()).ljust(PAGE_SIZE, b"\0")


def command_line_hash(text: str) -> bytes:
    """The SHA-256 of a command line in UTF-8 with its NUL. MeasureError if it contains one."""
    if "\0" in text:
        raise MeasureError("the kernel's command line contains a NUL")
    return sha256(text.encode("utf-8", "surrogateescape") + b"\0").digest()
