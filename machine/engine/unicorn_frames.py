"""Frames of guest code in Unicorn's TLB: never writable at one address and executable at another, and watched once written to.

Each CPU has translated code of its own, and Unicorn drops only what the CPU that stores has translated. So a frame is never
writable on one CPU while another can execute it: whoever comes to write drops the other's code, whoever comes to execute
takes the other's right to write away.
"""

from typing import TYPE_CHECKING

from machine.engine import unicorn_abi as abi

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu

_SEVERAL = -1


class CodeFrames:
    """Where each frame may stand in one CPU's TLB as writable and as executable: its linear page, or _SEVERAL."""

    def __init__(self, cpu: "UnicornCpu") -> None:
        self._cpu = cpu
        self._never = abi.FETCH_PROT_CALLBACK(lambda *_arguments: False)
        self._writable: dict[int, int] = {}
        self._executable: dict[int, int] = {}
        self._watched: set[int] = set()
        self._translated: set[int] = set()

    def forget_code_of(self, frame: int) -> None:
        """Nothing of this frame is translated any more."""
        self._translated.discard(frame)

    def forget_code(self) -> None:
        """Nothing is translated any more."""
        self._translated.clear()

    def forget(self) -> None:
        """The TLB is empty."""
        self._writable.clear()
        self._executable.clear()

    def executable_at(self, frame: int, page: int) -> bool:
        """Whether a frame has been fetched from at `page`, and not been writable since."""
        return self._executable.get(frame) == page

    def now_executable(self, frame: int, page: int) -> None:
        """A frame is about to be executable at `page`: nowhere may it stay writable in the TLB."""
        if self._writable.pop(frame, page) != page:
            self._cpu.flush_translations()
        self._translated.add(frame)
        for other in self._cpu.others():
            if frame in other.frames._writable:
                other.flush_translations()
        if self._executable.setdefault(frame, page) != page:
            self._executable[frame] = _SEVERAL

    def now_writable(self, frame: int, page: int) -> bool:
        """A frame is about to be writable at `page`; True if it has held code.

        Then it stays executable nowhere, and what is translated of it is watched.
        """
        code = frame in self._cpu.memory.code_pages
        if code:
            self._watch(frame)
            if self._executable.pop(frame, page) != page:
                self._cpu.flush_translations()
            for other in self._cpu.others():
                if frame in other.frames._translated:
                    other.forget_frame(frame)
        if self._writable.setdefault(frame, page) != page:
            self._writable[frame] = _SEVERAL
        return code

    def _watch(self, frame: int) -> None:
        """Have Unicorn look at each store to a frame, and drop the blocks that the store changes.

        By itself it looks at the first store only: a later one to another block of the page would go unnoticed. It keeps
        looking at pages for which any memory hook exists. This kind of hook does not slow the rest, and is never called:
        fetches are refused by the page walk, before Unicorn would ask.
        """
        if frame not in self._watched:
            self._watched.add(frame)
            self._cpu.hook(abi.HOOK_MEM_FETCH_PROT, self._never, frame << 12, (frame << 12) + 0xFFF)
