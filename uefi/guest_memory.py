"""Guest memory as services see it through the pointers that guests pass."""

import struct
from typing import Any

from machine.errors import BadAddress
from machine.linear import LinearMemory
from machine.memory import PhysicalMemory
from uefi.guids import Guid

_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_UCS2_CHUNK = 256


class GuestMemory:
    """Identity-mapped until the guest has left boot services, through its current page tables afterwards.

    UEFI 2.10, 2.3.4 promises the identity map to boot services, so no page walk is spent there. After
    ExitBootServices the dispatcher sets `linear` to the calling CPU's view. Every accessor raises BadAddress for a pointer
    that is not RAM; the dispatcher turns it into EFI_INVALID_PARAMETER.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._view = memory.view
        self._low = memory.low_size
        self.linear: LinearMemory | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"memory": self._memory, "linear": self.linear}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["memory"])  # type: ignore[misc]
        self.linear = state["linear"]

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`."""
        if self.linear is not None:
            return self.linear.read(address, size)
        return self._memory.read(address, size)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at `address`."""
        if self.linear is not None:
            self.linear.write(address, data)
        else:
            self._memory.write(address, data)

    def check(self, address: int, size: int) -> None:
        """BadAddress unless `size` bytes at `address` are there."""
        if self.linear is not None:
            for page in range(address & ~0xFFF, address + size, 4096):
                self.linear.physical(max(page, address))
        else:
            self._memory.offset(address, size)

    def read_u8(self, address: int) -> int:
        """The byte at `address`."""
        return self.read(address, 1)[0]

    def read_u16(self, address: int) -> int:
        """The 16-bit value at `address`."""
        value: int = _U16.unpack(self.read(address, 2))[0]
        return value

    def read_u32(self, address: int) -> int:
        """The 32-bit value at `address`."""
        value: int = _U32.unpack(self.read(address, 4))[0]
        return value

    def read_u64(self, address: int) -> int:
        """The 64-bit value at `address`."""
        if self.linear is None and 0 <= address <= self._low - 8:
            quick: int = _U64.unpack_from(self._view, address)[0]
            return quick
        value: int = _U64.unpack(self.read(address, 8))[0]
        return value

    def write_u8(self, address: int, value: int) -> None:
        """Store a byte."""
        self.write(address, bytes((value & 0xFF,)))

    def write_u16(self, address: int, value: int) -> None:
        """Store a 16-bit value."""
        self.write(address, _U16.pack(value & 0xFFFF))

    def write_u32(self, address: int, value: int) -> None:
        """Store a 32-bit value."""
        self.write(address, _U32.pack(value & 0xFFFF_FFFF))

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit value."""
        self.write(address, _U64.pack(value & 0xFFFF_FFFF_FFFF_FFFF))

    def read_guid(self, address: int) -> Guid:
        """The EFI_GUID at `address`."""
        return Guid(self.read(address, 16))

    def read_ucs2(self, address: int, limit: int = 65536) -> str:
        """The CHAR16 string at `address`, without its NUL; at most `limit` characters. The end of RAM ends it too."""
        parts: list[bytes] = []
        while limit > 0:
            n = min(limit, _UCS2_CHUNK)
            try:
                raw = self.read(address, 2 * n)
            except BadAddress:
                n = 1
                try:
                    raw = self.read(address, 2)
                except BadAddress:
                    if not parts:
                        raise
                    break
            end = raw.find(b"\0\0")
            while end >= 0 and end & 1:
                end = raw.find(b"\0\0", end + 1)
            if end >= 0:
                parts.append(raw[:end])
                break
            parts.append(raw)
            address, limit = address + 2 * n, limit - n
        return b"".join(parts).decode("utf-16-le", "surrogatepass")

    def write_ucs2(self, address: int, text: str) -> None:
        """Store a CHAR16 string with its NUL."""
        self.write(address, text.encode("utf-16-le", "surrogatepass") + b"\0\0")
