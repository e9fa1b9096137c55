"""The GHCB page: its fields, which of them are valid, and how the hypervisor answers in it (AMD 56421 GHCB, 2.6 and 4.1)."""

from machine.memory import PhysicalMemory

PAGE_SIZE = 4096
RAX, RCX, RDX, RBX = 0x1F8, 0x308, 0x310, 0x318
SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2, SW_SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8
XCR0, VALID_BITMAP = 0x3E8, 0x3F0
SHARED_BUFFER, SHARED_BUFFER_SIZE = 0x800, 0x7F0
PROTOCOL_VERSION, USAGE = 0xFFA, 0xFFC
LARGEST_SCRATCH = 0x4000
"""Bytes of a scratch area outside the GHCB that a hypervisor looks at, as KVM has it."""

# SW_EXITINFO1[31:0] of an answer
NO_ACTION, INJECT_EVENT, MALFORMED = 0, 1, 2
# SW_EXITINFO2 of a malformed request
NOT_REGISTERED, INVALID_USAGE, BAD_SCRATCH, MISSING_INPUT, INVALID_INPUT, INVALID_EVENT = range(1, 7)

GENERAL_PROTECTION = 13 | 3 << 8 | 1 << 11 | 1 << 31
"""SW_EXITINFO2 that has the guest take #GP(0): vector, type exception, error code valid, valid."""
_BITMAP_SIZE = 16


class Malformed(Exception):
    """The request cannot be carried out: `reason` goes to SW_EXITINFO2."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class GhcbPage:
    """One GHCB page, in guest memory at a physical address. Reading and answering happen in place."""

    __slots__ = ("_bitmap", "_memory", "address")

    def __init__(self, memory: PhysicalMemory, address: int) -> None:
        self._memory = memory
        self.address = address
        self._bitmap = int.from_bytes(memory.read(address + VALID_BITMAP, _BITMAP_SIZE), "little")

    def is_valid(self, *fields: int) -> bool:
        """Whether the guest has marked all these fields as valid."""
        return all(self._bitmap >> field // 8 & 1 for field in fields)

    def need(self, *fields: int) -> None:
        """Malformed(MISSING_INPUT) unless all these fields are valid."""
        for field in fields:
            if not self._bitmap >> field // 8 & 1:
                raise Malformed(MISSING_INPUT, f"GHCB field {field:#x} is not marked valid")

    def get(self, field: int) -> int:
        """A field of 64 bits."""
        return self._memory.u64(self.address + field)

    def usage(self) -> int:
        """GHCB_USAGE; 0 is the standard layout."""
        return self._memory.u32(self.address + USAGE)

    def begin(self) -> None:
        """What the guest marked has been read; from now on the bitmap says what the hypervisor has written."""
        self._memory.write(self.address + VALID_BITMAP, bytes(_BITMAP_SIZE))

    def put(self, field: int, value: int) -> None:
        """Write a field of the answer and mark it valid."""
        memory = self._memory
        memory.set_u64(self.address + field, value & 0xFFFF_FFFF_FFFF_FFFF)
        bit = field // 8
        at = self.address + VALID_BITMAP + bit // 8
        memory.set_u8(at, memory.u8(at) | 1 << bit % 8)

    def answer(self, info1: int, info2: int) -> None:
        """SW_EXITINFO1 and SW_EXITINFO2 of the answer."""
        self.put(SW_EXITINFO1, info1)
        self.put(SW_EXITINFO2, info2)

    def scratch(self, size: int) -> int:
        """The address in SW_SCRATCH, at which `size` bytes may be used. Malformed(BAD_SCRATCH) if they may not.

        Inside the GHCB only the shared buffer will do.
        """
        self.need(SW_SCRATCH)
        first = self.get(SW_SCRATCH)
        low, high = self.address, self.address + PAGE_SIZE
        if first < high and first + size > low:
            if first < low + SHARED_BUFFER or first + size > low + SHARED_BUFFER + SHARED_BUFFER_SIZE:
                raise Malformed(
                    BAD_SCRATCH, f"scratch area {first:#x}+{size:#x} is not within the GHCB's shared buffer"
                )
        elif size > LARGEST_SCRATCH:
            raise Malformed(BAD_SCRATCH, f"scratch area of {size:#x} bytes; at most {LARGEST_SCRATCH:#x}")
        return first
