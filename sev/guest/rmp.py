"""The reverse map table: who owns each page of guest memory, and whether the guest has accepted it.

AMD64 APM volume 2, 15.36.3 (RMP) to 15.36.7 (VMPL permissions); PVALIDATE and RMPADJUST in volume 3. Kept here is what
a guest can notice: for each 4 KiB page whether it is private and validated, private and not validated, or shared; for each
2 MiB whether one RMP entry covers it. Pages are validated when the firmware hands over, as OVMF leaves them.
"""

import re
from collections.abc import Iterator
from typing import Any

VALIDATED, UNVALIDATED, SHARED, DEVICE = range(4)
"""States of a page. DEVICE: no RAM, always shared. VALIDATED is 0, what new memory is."""

PAGE_SIZE = 4096
PAGES_PER_LARGE = 512

SUCCESS, FAIL_INPUT, FAIL_PERMISSION, FAIL_SIZEMISMATCH = 0, 1, 2, 6
"""What PVALIDATE and RMPADJUST leave in EAX (APM volume 3)."""

_VMSA = 1 << 12
ALL_PERMISSIONS = 0xF
"""Read, write, execute in user mode, execute in supervisor mode."""


class Rmp:
    """The table of one guest. `states` is indexed by page frame number (guest physical address / 4096)."""

    def __init__(self, low_size: int, high_start: int, end: int) -> None:
        """RAM lies at 0 to `low_size` and at `high_start` to `end` (bytes; `end` is at most `high_start` without high RAM)."""
        frames = max(end, high_start) >> 12
        self.states = bytearray(frames)
        hole = low_size >> 12
        self.states[hole : high_start >> 12] = bytes((DEVICE,)) * ((high_start - low_size) >> 12)
        self._small = bytearray(-(-frames // PAGES_PER_LARGE))
        # For each page 16 bits: permissions of VMPL1 to 3, four bits each, then VMSA. Made by the first RMPADJUST.
        self._rights = memoryview(b"").cast("H")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rights": self._rights.tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rights = memoryview(bytearray(state["_rights"])).cast("H")

    def state(self, frame: int) -> int:
        """The state of a page; DEVICE beyond RAM."""
        return self.states[frame] if 0 <= frame < len(self.states) else DEVICE

    def is_ram(self, frame: int, count: int = 1) -> bool:
        """Whether `count` pages from `frame` on are guest memory."""
        if frame < 0 or frame + count > len(self.states):
            return False
        return self.states.find(DEVICE, frame, frame + count) < 0

    def is_shared(self, frame: int) -> bool:
        """Whether host software may use the page."""
        return self.state(frame) == SHARED

    def is_large(self, frame: int) -> bool:
        """Whether one 2 MiB RMP entry covers the page."""
        return not self._small[frame // PAGES_PER_LARGE]

    def share(self, frame: int, count: int = 1) -> None:
        """Give pages to the host: 4 KiB entries unless they are whole, aligned 2 MiB."""
        self._change(frame, count, SHARED)

    def make_private(self, frame: int, count: int = 1) -> None:
        """Assign shared pages to the guest, not validated yet. Pages that are private stay as they are."""
        if self.states.count(SHARED, frame, frame + count) == count:
            self._change(frame, count, UNVALIDATED)
            return
        for page in range(frame, frame + count):
            if self.states[page] == SHARED:
                self._change(page, 1, UNVALIDATED)

    def _change(self, frame: int, count: int, state: int) -> None:
        if count == 1:
            self.states[frame] = state
        else:
            self.states[frame : frame + count] = bytes((state,)) * count
        whole = count == PAGES_PER_LARGE and not frame % PAGES_PER_LARGE
        first, last = frame // PAGES_PER_LARGE, (frame + count - 1) // PAGES_PER_LARGE
        for large in range(first, last + 1):
            self._small[large] = not whole
        if self._rights:
            for page in range(frame, frame + count):
                self._rights[page] = 0

    def validate(self, frame: int, large: bool, wanted: bool) -> tuple[int, bool]:
        """PVALIDATE of private pages: (EAX, whether a Validated bit changed).

        A 4 KiB PVALIDATE in a 2 MiB entry has the host split the entry; the other way round it is a size mismatch.
        """
        count = PAGES_PER_LARGE if large else 1
        if large and not self.is_large(frame):
            return FAIL_SIZEMISMATCH, False
        if not large:
            self._small[frame // PAGES_PER_LARGE] = 1
        state = VALIDATED if wanted else UNVALIDATED
        if self.states.count(state, frame, frame + count) == count:
            return SUCCESS, False
        self.states[frame : frame + count] = bytes((state,)) * count
        return SUCCESS, True

    def adjust(self, frame: int, large: bool, vmpl: int, permissions: int, vmsa: bool) -> int:
        """RMPADJUST of validated pages for the less privileged `vmpl` (1 to 3): EAX."""
        if large and not self.is_large(frame):
            return FAIL_SIZEMISMATCH
        if not self._rights:
            self._rights = memoryview(bytearray(2 * len(self.states))).cast("H")
        shift = 4 * (vmpl - 1)
        for page in range(frame, frame + (PAGES_PER_LARGE if large else 1)):
            kept = self._rights[page] & ~(ALL_PERMISSIONS << shift) & ~_VMSA
            self._rights[page] = kept | permissions << shift | (_VMSA if vmsa else 0)
        if not large:
            self._small[frame // PAGES_PER_LARGE] = 1
        return SUCCESS

    def permissions(self, frame: int, vmpl: int) -> int:
        """What software of a VMPL may do with a page (bits as in RMPADJUST); VMPL0 everything."""
        if vmpl == 0:
            return ALL_PERMISSIONS
        return self._rights[frame] >> 4 * (vmpl - 1) & ALL_PERMISSIONS if self._rights else 0

    def is_vmsa(self, frame: int) -> bool:
        """Whether RMPADJUST made the page one that a processor may start from."""
        return bool(self._rights and self._rights[frame] & _VMSA)

    def shared_ranges(self) -> Iterator[tuple[int, int]]:
        """(first frame, count) of each run of shared RAM pages."""
        for run in re.finditer(bytes((SHARED,)) + b"+", self.states):
            yield run.start(), run.end() - run.start()

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        return {"states": bytes(self.states), "small": bytes(self._small), "rights": self._rights.tobytes()}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        self.states[:] = state["states"]
        self._small[:] = state["small"]
        self._rights = memoryview(bytearray(state["rights"])).cast("H")
