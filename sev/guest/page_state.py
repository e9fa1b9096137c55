"""Page state changes: one by the GHCB MSR protocol, or a list in the GHCB's shared buffer (AMD 56421 GHCB, 2.3.1 and 4.1.6)."""

import struct

from machine.cpu import Cpu
from machine.memory import PhysicalMemory
from sev.guest.checker import SHARED_VALIDATED, Checker
from sev.guest.rmp import PAGES_PER_LARGE, VALIDATED, Rmp

PRIVATE, SHARED = 1, 2
MOST_ENTRIES = 253
HEADER_SIZE = 8
LARGEST_LIST = HEADER_SIZE + 8 * MOST_ENTRIES

# What KVM reports in SW_EXITINFO2.
ERROR_GENERIC = 0x100 << 32
ERROR_BAD_HEADER = 1 << 32 | 1
ERROR_BAD_ENTRY = 1 << 32 | 2

_HEADER = struct.Struct("<HHI")
_FRAME_MASK = (1 << 40) - 1


class PageStates:
    """Changes pages in the RMP on the guest's request."""

    def __init__(self, memory: PhysicalMemory, rmp: Rmp, checker: Checker) -> None:
        self._memory = memory
        self._rmp = rmp
        self._checker = checker

    def change(self, cpu: Cpu, frame: int, count: int, operation: int) -> bool:
        """Make `count` pages PRIVATE (not validated) or SHARED; False if they are not all RAM."""
        rmp = self._rmp
        if not rmp.is_ram(frame, count):
            return False
        if operation == SHARED:
            states = rmp.states
            if states.find(VALIDATED, frame, frame + count) >= 0:
                for page in range(frame, frame + count):
                    if states[page] == VALIDATED:
                        self._checker.record(SHARED_VALIDATED, cpu, page)
            rmp.share(frame, count)
        else:
            rmp.make_private(frame, count)
        self._checker.changed(frame, count)
        return True

    def run(self, cpu: Cpu, address: int, size: int) -> int:
        """Work through the list at physical `address` (`size` bytes of RAM may be used); gives SW_EXITINFO2.

        cur_entry moves past each entry that is done, as a guest that is interrupted expects.
        """
        memory = self._memory
        current, end, _ = _HEADER.unpack(memory.read(address, HEADER_SIZE))
        if HEADER_SIZE + 8 * (end + 1) > size:
            return ERROR_BAD_HEADER
        raw = memory.read(address + HEADER_SIZE, 8 * (end + 1))
        entries = list(struct.unpack(f"<{end + 1}Q", raw))
        error = 0
        while current <= end:
            entry = entries[current]
            large = bool(entry >> 56 & 1)
            pages, done = PAGES_PER_LARGE if large else 1, entry & 0xFFF
            frame = entry >> 12 & _FRAME_MASK
            if done > pages or frame % pages:
                error = ERROR_BAD_ENTRY
                break
            operation = entry >> 52 & 0xF
            if (
                operation in (PRIVATE, SHARED)
                and done < pages
                and not self.change(cpu, frame + done, pages - done, operation)
            ):
                error = ERROR_GENERIC
                break
            entries[current] = entry & ~0xFFF | pages
            current += 1
        memory.write(address + HEADER_SIZE, struct.pack(f"<{end + 1}Q", *entries))
        memory.set_u16(address, current)
        return error
