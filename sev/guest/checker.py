"""The page-state checker: says where a guest uses memory in a way that SEV-SNP hardware punishes or hides.

Looked at are each page that a CPU fills into its TLB, PVALIDATE, RMPADJUST and page state changes, and each access by the
hypervisor, a device or the secure processor. Without `strict` the guest goes on as on a forgiving host: pages that it uses
as shared become shared, as KVM converts them on the nested page fault. With `strict` nothing is converted.
"""

from collections.abc import Callable

from machine import registers as reg
from machine.cpu import Cpu
from machine.memory import PhysicalMemory
from machine.paging import Translation
from sev.guest.rmp import DEVICE, SHARED, VALIDATED, Rmp

MOST_PLACES = 4096
"""Findings (kind and place) that are kept apart; a guest cannot make us keep more."""
MOST_PAGES = 1 << 20
KEY_SIZE = 32
_SEARCH_STEP = 4096
SHOWN_PLACES = 3
SHOWN_RANGES = 3


class Kind:
    """A kind of violation: its name for machines, and what it means in words."""

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


PRIVATE_AS_SHARED = Kind("private-as-shared", "used as shared (C-bit 0), but never converted")
SHARED_AS_PRIVATE = Kind("shared-as-private", "used as private (C-bit 1), but shared")
UNVALIDATED_USED = Kind("not-validated", "private page used, but not validated")
DOUBLE_VALIDATION = Kind("double-validation", "PVALIDATE of a page that is validated already")
DOUBLE_RESCIND = Kind("double-rescind", "PVALIDATE takes back a page that is not validated")
PVALIDATE_SHARED = Kind("pvalidate-shared", "PVALIDATE of a shared page")
RMPADJUST_STATE = Kind("rmpadjust-state", "RMPADJUST of a page that is not private and validated")
SHARED_VALIDATED = Kind("shared-while-validated", "made shared without PVALIDATE taking it back before")
HOST_PRIVATE = Kind("host-on-private", "handed to the host, a device or the secure processor, but private")
KEY_EXPOSED = Kind("vmpck-in-shared", "a VMPCK lies in shared memory")
COUNTER_RESTART = Kind("counter-restart", "message counter of a VMPCK started again at 1")
IV_REUSE = Kind("iv-reuse", "two different messages under one VMPCK and sequence number")
WRONG_VMPL = Kind("vmpl", "done at a VMPL that may not do it")


class Finding:
    """One kind of violation at one place: how often, and on which pages (frame numbers)."""

    __slots__ = ("address", "count", "detail", "kind", "pages", "rip")

    def __init__(self, kind: Kind, rip: int, detail: str, address: int | None) -> None:
        self.kind = kind
        self.rip = rip
        self.detail = detail
        self.address = address
        self.count = 0
        self.pages: set[int] = set()


class Checker:
    """Follows one guest's pages. `record` is the door for all others that see a violation."""

    def __init__(
        self, memory: PhysicalMemory, rmp: Rmp, flush: Callable[[], None], reporting: bool = True, strict: bool = False
    ) -> None:
        """`flush` drops the CPUs' TLBs; without `reporting` nothing is kept, and the guest is treated the same."""
        self._memory = memory
        self._rmp = rmp
        self._states = rmp.states
        self._flush = flush
        self._filled: set[int] = set()
        self._findings: dict[tuple[str, int, str], Finding] = {}
        self._pages_kept = 0
        self._secrets: list[tuple[str, bytes]] = []
        self.reporting = reporting
        self.strict = strict

    def guard(self, vmpcks: list[bytes]) -> None:
        """Look for these keys in shared memory; a key of zeros is none."""
        self._secrets = [(f"VMPCK{number}", key) for number, key in enumerate(vmpcks) if any(key)]

    # -- findings

    def record(
        self, kind: Kind, cpu: Cpu | None = None, frame: int | None = None, detail: str = "", address: int | None = None
    ) -> None:
        """Keep a violation: at the CPU's RIP, on a page if it is about one, at a linear address if that is known."""
        if not self.reporting:
            return
        rip = cpu.get(reg.RIP) if cpu is not None else 0
        key = (kind.name, rip, detail)
        found = self._findings.get(key)
        if found is None:
            if len(self._findings) >= MOST_PLACES:
                key = (kind.name, 0, "")
            found = self._findings.setdefault(key, Finding(kind, key[1], detail, address))
        found.count += 1
        if frame is not None and self._pages_kept < MOST_PAGES and frame not in found.pages:
            found.pages.add(frame)
            self._pages_kept += 1

    @property
    def findings(self) -> list[Finding]:
        """Everything that was found, in the order in which it first happened."""
        return list(self._findings.values())

    # -- the processor

    def fill(self, cpu: Cpu, found: Translation, address: int, _access: int) -> None:
        """A CPU is about to use a page (Computer.page_filter)."""
        frame = found.physical >> 12
        try:
            state = self._states[frame]
        except IndexError:
            return
        self._filled.add(frame)
        if state == VALIDATED if found.encrypted else state >= SHARED:
            return
        if state == DEVICE:
            return
        if state == SHARED:
            self.record(SHARED_AS_PRIVATE, cpu, frame, address=address)
        elif found.encrypted:
            self.record(UNVALIDATED_USED, cpu, frame, address=address)
        else:
            self.record(PRIVATE_AS_SHARED, cpu, frame, address=address)
            if not self.strict:
                self._rmp.share(frame)

    def changed(self, frame: int, count: int = 1) -> None:
        """The state of pages has changed: the next access has to be looked at again."""
        filled = self._filled
        if (frame in filled) if count == 1 else any(page in filled for page in range(frame, frame + count)):
            filled.clear()
            self._flush()

    # -- the host's side

    def host_access(self, address: int, size: int, what: str, cpu: Cpu | None = None) -> bool:
        """Whether host software, a device (`what`) or the secure processor may use these bytes: all pages are shared RAM."""
        first, last = address >> 12, (address + max(size, 1) - 1) >> 12
        if not self._rmp.is_ram(first, last - first + 1):
            return False
        allowed = True
        for frame in range(first, last + 1):
            if self._states[frame] == SHARED:
                continue
            self.record(HOST_PRIVATE, cpu, frame, what, address)
            allowed = False
        return allowed

    def look_for_keys(self, frame: int, count: int, cpu: Cpu | None = None, where: str = "") -> None:
        """Search shared pages for the guest's VMPCKs."""
        if not self._secrets or not self.reporting:
            return
        step = _SEARCH_STEP
        for first in range(frame, frame + count, step):
            # A key may lie across the border of two pieces.
            size = min((step << 12) + KEY_SIZE, (frame + count - first) << 12)
            self.look_for_keys_in(self._memory.read(first << 12, size), first << 12, where, cpu)

    def look_for_keys_in(self, data: bytes, address: int, where: str, cpu: Cpu | None = None) -> None:
        """Search bytes that the host sees, from guest physical `address`, for the guest's VMPCKs."""
        if not self.reporting:
            return
        for name, key in self._secrets:
            at = data.find(key)
            if at >= 0:
                self.record(KEY_EXPOSED, cpu, (address + at) >> 12, f"{name} {where}".strip(), address + at)

    def finish(self) -> None:
        """The end of the run: a last look for keys in all that is shared."""
        for first, count in self._rmp.shared_ranges():
            self.look_for_keys(first, count, None, "at the end")

    # -- for people

    def summary(self, describe: Callable[[int], str]) -> list[str]:
        """Lines about what was found; none if nothing was. `describe` names a guest address."""
        by_kind: dict[str, list[Finding]] = {}
        for finding in self._findings.values():
            by_kind.setdefault(finding.kind.name, []).append(finding)
        lines = []
        for findings in by_kind.values():
            kind = findings[0].kind
            times = sum(finding.count for finding in findings)
            pages = set().union(*(finding.pages for finding in findings))
            on = f" on {len(pages)} page{'s' if len(pages) != 1 else ''} {ranges(pages)}" if pages else ""
            lines.append(f"{kind.name}: {kind.text}; {times} time{'s' if times != 1 else ''}{on}")
            for finding in findings[:SHOWN_PLACES]:
                lines.append(f"  {_place(finding, describe)}")
            if len(findings) > SHOWN_PLACES:
                lines.append(f"  and at {len(findings) - SHOWN_PLACES} other places")
        return lines


def _place(finding: Finding, describe: Callable[[int], str]) -> str:
    parts = []
    if finding.rip:
        name = describe(finding.rip)
        parts.append(f"at RIP {finding.rip:#x}" + (f" ({name})" if name else ""))
    if finding.detail:
        parts.append(finding.detail)
    if finding.address is not None:
        parts.append(f"first at address {finding.address:#x}")
    if finding.count > 1:
        parts.append(f"{finding.count} times")
    return ", ".join(parts)


def ranges(pages: set[int]) -> str:
    """Page frames as address ranges: "0x7e400000-0x7e5fffff, 0x7ed00000-0x7ed00fff", the first few."""
    runs: list[list[int]] = []
    for page in sorted(pages):
        if runs and runs[-1][1] == page:
            runs[-1][1] = page + 1
        else:
            runs.append([page, page + 1])
    shown = ", ".join(f"{first << 12:#x}-{(end << 12) - 1:#x}" for first, end in runs[:SHOWN_RANGES])
    return shown + (f" and {len(runs) - SHOWN_RANGES} more ranges" if len(runs) > SHOWN_RANGES else "")
