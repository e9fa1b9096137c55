"""Pages of guest code on KVM: instructions that ring 3 executes without asking anybody are replaced in a copy of their page.

CPUID, RDTSC, RDTSCP, XGETBV, VMMCALL and VMGEXIT do not trap in ring 3 of a software KVM; PUSHF and POPF nowhere do, and would
not know of the interrupt flag that the guest believes in. The guest executes such a page from a copy in which their first
byte behind the prefixes is HLT, which does trap; what really stands there is then read from the page itself. Guest RAM never
changes. A guest that reads its own code as data sees the copy of such a page.

The same bytes also occur inside other instructions, which must not be touched. Where instructions begin is found out by
disassembling from several places before: x86 code falls into step within a few instructions (Linn and Debray,
"Obfuscation of Executable Code to Improve Resistance to Static Disassembly", 2003, section 3). Where they disagree, the guest
is not carried.
"""

import re
from typing import TYPE_CHECKING

from machine.engine.disassembler import Disassembler
from machine.engine.kvm_monitor import PAGE, Monitor
from machine.engine.kvm_shadow import Pool
from machine.engine.leaving import CannotCarry
from machine.memory import PhysicalMemory

if TYPE_CHECKING:
    from collections.abc import Callable

_UNTRAPPED = (b"\x0f\xa2", b"\x0f\x31", b"\x0f\x01\xd0", b"\x0f\x01\xd9", b"\x0f\x01\xf9")
"""CPUID, RDTSC, XGETBV, VMMCALL and VMGEXIT (by a prefix), RDTSCP"""
_PUSHF = re.compile(rb"\x9c(?:\x41?[\x58-\x5f]|\x8f|\x48\x8b|\xfa)")
_POPF = re.compile(rb"(?:(?<=[\x50-\x57])|(?<=\xff\x34\x24)|(?<=\xff\x74\x24.)|(?<=\xff[\x70-\x77].))\x9d", re.DOTALL)
"""PUSHF before POP, a load or CLI, POPF behind PUSH, as compilers and assemblers use them: their single bytes are everywhere."""
_OVERLAP = 4
"""Bytes of the neighbouring pages that decide whether one of these is found."""
_HLT = 0xF4
_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3, *range(0x40, 0x50)))
_BEFORE = 72
_LONGEST = 15
_FIRST_VOTES, _VOTES = 4, 20
_SURE = 0.8
_PADDING = re.compile(rb"(?:\xcc{2,}|\x00{8,})")
_NEAR = 512
"""Bytes of code from a known instruction on that are taken to be in step with it."""


def _candidates(text: bytes) -> list[int]:
    """Where one of these instructions may begin. Written for speed: every page of code is searched."""
    found = []
    for needle in _UNTRAPPED:
        at = text.find(needle)
        while at >= 0:
            found.append(at)
            at = text.find(needle, at + 1)
    for needle, pattern in ((b"\x9c", _PUSHF), (b"\x9d", _POPF)):
        at = text.find(needle)
        while at >= 0:
            if pattern.match(text, at):
                found.append(at)
            at = text.find(needle, at + 1)
    return found


class CodePages:
    """Where pages of code are executed from."""

    def __init__(self, memory: PhysicalMemory, monitor: Monitor, pool: Pool) -> None:
        self._memory = memory
        self._monitor = monitor
        self._pool = pool
        self._generation = pool.generation
        self._places: dict[int, tuple[int, int]] = {}
        self._patches: dict[int, dict[int, tuple[int, bytes]]] = {}
        self._disassembler: Disassembler | None = None
        self._at = 0
        self.replaced = 0

    def changed(self, frame: int) -> None:
        """A page may have been written to."""
        self._places.pop(frame, None)
        self._patches.pop(frame, None)

    def forget(self) -> None:
        """Any page may have been written to. Between two runs, and all tables must be new behind it."""
        self._places.clear()
        self._patches.clear()

    def patch(self, linear: int, physical: int, code: bytes) -> None:
        """Have other code executed at a linear address, whose page of RAM is at `physical`, until that page changes.

        No table that is in use knows of it yet.
        """
        frame = physical >> 12
        self._patches.setdefault(frame, {})[linear & PAGE - 1] = linear & -PAGE, code
        self._places.pop(frame, None)

    def patched(self, linear: int, physical: int) -> bool:
        """Whether `patch` has been called for this place."""
        found = self._patches.get(physical >> 12, {}).get(linear & PAGE - 1)
        return found is not None and found[0] == linear & -PAGE

    def forget_patches(self) -> None:
        """Take all patches back, for tables that are made from now on."""
        for frame in self._patches:
            self._places.pop(frame, None)
        self._patches.clear()

    def begins(self, linear: int, bytes_at: "Callable[[int, int], bytes]") -> bool:
        """Whether an instruction begins at a linear address, as far as the code before it tells."""
        before = bytes_at(linear - _BEFORE, _BEFORE)
        if len(before) < _BEFORE or before[-1] in _PREFIXES:
            return False
        self._at = linear - _BEFORE
        try:
            return self._begins(before + bytes_at(linear, _LONGEST), _BEFORE, -1)
        except CannotCarry:
            return False

    def place(self, linear: int, physical: int, rip: int, bytes_at: "Callable[[int, int], bytes]") -> int:
        """The guest-physical address from which the page of RAM at `physical` is to be executed at `linear`.

        `rip` is where an instruction surely begins; `bytes_at(address, size)` reads code, as far as it is mapped.
        CannotCarry if it cannot be told what is an instruction.
        """
        if self._generation != self._pool.generation:
            self._generation = self._pool.generation
            self._places.clear()
        frame = physical >> 12
        known = self._places.get(frame)
        if known is not None and known[0] == linear:
            return known[1]
        body = self._memory.read(physical, PAGE)
        before = bytes_at(linear - _BEFORE, _BEFORE) if linear else b""
        first = len(before)
        text = before + body + bytes_at(linear + PAGE, _OVERLAP)
        found = [place - first for place in _candidates(text) if first <= place < first + PAGE]
        at = physical
        patches = [(place, code) for place, (page, code) in self._patches.get(frame, {}).items() if page == linear]
        if found or patches:
            self._at = linear - first
            starts = [place for place in found if self._begins(text, first + place, first + rip - linear)]
            if starts or patches:
                page = self._pool.page()
                copy = bytearray(body)
                for place in starts:
                    copy[place] = _HLT
                for place, code in patches:
                    copy[place : place + len(code)] = code
                self._monitor.view[page * PAGE : (page + 1) * PAGE] = copy
                self.replaced += len(starts)
                at = self._monitor.gpa(page)
        self._places[frame] = linear, at
        return at

    def _sweep(self, text: bytes, start: int, place: int) -> bool | None:
        """Whether disassembling from `start` finds an instruction whose opcode is at `place`; None if it gets stuck."""
        if self._disassembler is None:
            self._disassembler = Disassembler()
        at = start
        for end in self._disassembler.ends(text[start : place + 16]):
            if all(text[n] in _PREFIXES for n in range(at, place)):
                return True
            at = start + end
            if at > place:
                return False
        if all(text[n] in _PREFIXES for n in range(at, place)):
            return True
        return None

    def _begins(self, text: bytes, place: int, known: int) -> bool:
        """Whether the bytes at `place` are an instruction's opcode; `known` is where one surely begins, if it is near."""
        if known <= place < known + _NEAR and known >= 0:
            sure = self._sweep(text, known, place)
            if sure is not None:
                return sure
        first = max(place - _BEFORE, 0)
        for padding in reversed(list(_PADDING.finditer(text, first, place))):
            sure = self._sweep(text, padding.end(), place)
            if sure is not None:
                return sure
        votes: list[bool] = []
        for start in range(first, min(first + _VOTES, place)):
            vote = self._sweep(text, start, place)
            if vote is not None:
                votes.append(vote)
                if len(votes) == _FIRST_VOTES and len(set(votes)) == 1:
                    break
        if len(votes) < _FIRST_VOTES:
            return False  # hardly a place before from which there is code: it is data
        share = sum(votes) / len(votes)
        if 1 - _SURE < share < _SURE:
            raise CannotCarry(f"its code around {self._at + place:#x} cannot be told from data")
        return share >= _SURE
