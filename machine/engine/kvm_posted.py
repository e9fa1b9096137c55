"""Posted writes on KVM: the guest's output collects on a page of ours, while it runs, and is taken whenever it comes out.

Two accesses that trap cost a hundred microseconds for each byte on a serial port; through the stubs of `kvm_stub` they cost none.
The stubs lie on a page that ring 3 may only execute and read, what they work on on another one for each processor, at the linear
addresses of what a PC has as option ROMs: no memory map of ours has RAM there. A guest whose own page tables say otherwise of
these addresses, that writes to the first page, or that jumps into one of the JMPs, is left alone from then on: it traps for
each byte.

Nothing on these pages is trusted: a guest that writes there changes what it prints, and its own registers.

A guest that prints and then computes would keep its last bytes. So while bytes can be posted somebody knocks each ten
milliseconds; when none came in between, accesses trap again, until the next byte.
"""

from typing import TYPE_CHECKING

from machine.alarm import Alarm
from machine.engine import kvm_abi as abi
from machine.engine import kvm_stub as stubs
from machine.engine.kvm_monitor import PAGE
from machine.engine.kvm_signal import knock_at_all
from machine.engine.kvm_stub import IN, OUT, Stub
from machine.errors import BadAddress
from machine.paging import ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE, NonCanonical, PageFault

if TYPE_CHECKING:
    from machine.engine.kvm import KvmEngine
    from machine.engine.kvm_cpu import KvmCpu
    from machine.posted_writes import PostedWrites

STUBS, WORK = 0xD_E000, 0xD_F000
"""Where guests see the page of the stubs, and their own. Below 2 GiB, so that 32 bits tell the address."""
_DELAY = 10_000_000
"""Nanoseconds that a byte may wait."""
_MOST_REFUSED = 64
"""Accesses that no stub can be made for, after which no more are looked at."""


class WorkPage:
    """What the stubs of one processor work on."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._words = view.cast("I")
        self.armed = False

    def arm(self, ready: int) -> None:
        """Let bytes be posted from now on."""
        self.armed = True
        self._words[stubs.ROOM // 4] = stubs.CAPACITY
        self._words[stubs.LOOKS // 4] = stubs.MOST_LOOKS
        self._view[stubs.READY] = ready

    def disarm(self) -> None:
        """Have all accesses trap. What has been posted must have been taken."""
        self.armed = False
        self._words[stubs.ROOM // 4] = self._words[stubs.LOOKS // 4] = 0

    def take(self) -> bytes:
        """What has been posted since the last time, in order."""
        if not self.armed:
            return b""
        room = self._words[stubs.ROOM // 4]
        if room == stubs.CAPACITY:
            return b""
        self._words[stubs.ROOM // 4] = stubs.CAPACITY
        return bytes(self._view[stubs.BYTES + room : stubs.BYTES + stubs.CAPACITY])[::-1]

    @property
    def saved(self) -> int:
        """RCX while a stub uses it otherwise."""
        return int.from_bytes(self._view[stubs.SAVED : stubs.SAVED + 8], "little")

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._view.release()


class Posting:
    """Posted writes of all processors of an engine."""

    def __init__(self, engine: "KvmEngine", offered: "PostedWrites") -> None:
        self._engine = engine
        self._offered = offered
        monitor = engine.monitor
        self._stub_page = monitor.stub_page
        self._view = monitor.view[self._stub_page * PAGE : (self._stub_page + 1) * PAGE]
        self._work = [
            WorkPage(monitor.view[page * PAGE : (page + 1) * PAGE])
            for page in range(self._stub_page + 1, self._stub_page + 1 + len(engine.instances))
        ]
        self._stubs: dict[int, Stub] = {}  # by the offset of their page
        self._made: dict[tuple[int, int, bytes], int] = {}  # access, its RIP, loads -> linear address of the stub
        self._first: dict[tuple[int, int], int] = {}  # access, its RIP -> where the JMP is
        self._free = 0
        self._inside: set[int] = set()  # addresses within a JMP
        self._refused: set[int] = set()
        self._installed = False
        self._news: dict[int, tuple[int, bytes, int]] = {}
        """Where a JMP is to be, the page of RAM, what stands there, the stub: from the next byte of output on."""
        self._given_up = False
        self._alarm = Alarm(self._ring)
        self._rang = False
        self._flows = False

    # -- around each run

    def enter(self, cpu: "KvmCpu") -> None:
        """The guest is about to go on."""
        if self._rang:
            self._rang = False
            if self._flows:
                self._flows = False
                self._alarm.set(_DELAY)
            else:
                for page in self._work:
                    page.disarm()
        work = self._work[cpu.index]
        if work.armed and (cpu.beside or not self._offered.allowed()):
            work.disarm()

    def leave(self, cpu: "KvmCpu") -> None:
        """The guest has come out: bring it from a stub to its own code, and take what it has posted."""
        if not self._installed:
            return
        real = cpu.real
        work = self._work[cpu.index]
        if real[abi.RIP] & -PAGE == STUBS:
            stub = self._stub(real[abi.RIP] - STUBS)
            if stub is not None:
                offset, found = stub
                real[abi.RIP], saved = found.place(offset)
                if saved:
                    real[abi.RCX] = work.saved
        data = work.take()
        if data:
            self._flows = True
            self._offered.write(cpu.face, data)

    def _stub(self, offset: int) -> tuple[int, Stub] | None:
        """The stub around an offset of their page, and the offset in it."""
        for first, stub in self._stubs.items():
            if first <= offset < first + len(stub.code):
                return offset - first, stub
        return None

    def begins_stub(self, rip: int) -> bool:
        """Whether a stub begins at `rip`: the JMP that has led there is no instruction of the guest's own."""
        return self._installed and rip - STUBS in self._stubs

    # -- tables

    def owns(self, linear: int) -> bool:
        """Whether there is a page of ours at a linear address."""
        return self._installed and linear & -PAGE in (STUBS, WORK)

    def check(self, cpu: "KvmCpu") -> None:
        """The guest gets new tables, perhaps because it has changed its own: the pages stay if those still allow it."""
        if self._installed and not self._room(cpu):
            self.give_up()

    def _room(self, cpu: "KvmCpu") -> bool:
        """Whether a guest has nothing at our linear addresses but the physical ones of the same numbers."""
        try:
            return all(
                self._engine.handlers.look(cpu.mode(), linear).physical & -PAGE == linear for linear in (STUBS, WORK)
            )
        except (PageFault, NonCanonical, BadAddress):
            return False

    def _install(self) -> None:
        """Have all tables show our pages and the patched code."""
        self._engine.flush_translations()
        self._installed = True
        for first, (physical, loads, stub) in self._news.items():
            if self._engine.memory.read(physical + (first & PAGE - 1), len(loads)) == loads:
                self._engine.code.patch(first, physical, stubs.jump(first, stub))
                self._inside.update(range(first + 1, first + stubs.JUMP))
        self._news.clear()
        monitor = self._engine.monitor
        for cpu in self._engine.instances:
            cpu.shadow.own = {
                STUBS: monitor.gpa(self._stub_page) | PRESENT | USER | ACCESSED,
                WORK: monitor.gpa(self._stub_page + 1 + cpu.index)
                | (PRESENT | WRITABLE | USER | ACCESSED | DIRTY | NO_EXECUTE),
            }

    def give_up(self) -> None:
        """Take it all back for good."""
        self._engine.flush_translations()
        for cpu in self._engine.instances:
            self.leave(cpu)
            cpu.shadow.own = {}
            self._work[cpu.index].disarm()
        self._given_up = True
        self._installed = False
        self._engine.code.forget_patches()

    # -- accesses that trapped

    def trapped(self, cpu: "KvmCpu", access: int, rip: int, port: int) -> None:
        """An IN or OUT of one byte, by DX, has been carried out: make the next ones cheaper where that can be."""
        offered = self._offered
        if cpu.beside:
            return  # in which order do bytes of several come? As they come out
        if self._given_up or (access, port) not in ((OUT, offered.data_port), (IN, offered.status_port)):
            return
        if not self._patched(cpu, access, rip, port) or access == IN or not offered.allowed():
            return
        if self._news:
            if not self._room(cpu):
                self.give_up()
                return
            self._install()
        if not self._work[cpu.index].armed:
            self._work[cpu.index].arm(offered.ready)
            self._flows = False
            self._alarm.set(_DELAY)

    def missed(self, cpu: "KvmCpu") -> bool:
        """Whether the guest has just trapped inside a JMP, where it has another instruction; it has that back then."""
        rip = cpu.real[abi.RIP]
        if rip not in self._inside:
            return False
        physical = cpu.shadow.code_at.get(rip & -PAGE)
        if physical is None or not any(
            self._engine.code.patched(rip - n, physical + (rip - n & PAGE - 1)) for n in range(1, stubs.JUMP)
        ):
            return False
        self.give_up()
        return True

    def _patched(self, cpu: "KvmCpu", access: int, rip: int, port: int) -> bool:
        """Whether the code before this access leads to a stub, which is made if that is possible."""
        inside = rip & PAGE - 1
        physical = cpu.shadow.code_at.get(rip - inside)
        if physical is None:
            return False
        code = self._engine.code
        first = self._first.get((access, rip))
        if first is not None and (first in self._news or code.patched(first, physical)):
            return True
        if rip in self._refused or len(self._refused) >= _MOST_REFUSED:
            return False
        before = min(inside, stubs.LONGEST_LOADS)
        for loads in stubs.loads_before(self._engine.memory.read(physical + inside - before, before)):
            first = rip - sum(map(len, loads))
            if stubs.in_reach(first, STUBS) and code.begins(first, cpu.linear_read):
                stub = self._make(access, rip, loads, port)
                if stub is not None:
                    self._first[access, rip] = first
                    self._news[first] = physical, b"".join(loads), stub
                    return True
        self._refused.add(rip)
        return False

    def _make(self, access: int, rip: int, loads: list[bytes], port: int) -> int | None:
        """The linear address of a stub; None if there is no room for more."""
        first = rip - sum(map(len, loads))
        key = access, rip, b"".join(loads)
        made = self._made.get(key)
        if made is not None:
            return made
        at = self._free + (stubs.LIKE_HLT + first + stubs.JUMP - STUBS - self._free & 0xFF)
        stub = stubs.assemble(STUBS + at, WORK, loads, access, rip, port)
        if at + len(stub.code) > PAGE:
            return None
        self._view[at : at + len(stub.code)] = stub.code
        self._stubs[at] = stub
        self._made[key] = STUBS + at
        self._free = at + len(stub.code)
        return STUBS + at

    # -- bytes that nobody takes

    def _ring(self) -> bool:
        """From the alarm's thread: who may have posted something is to come out, whatever it does."""
        self._rang = True
        knock_at_all(cpu for cpu in self._engine.instances if self._work[cpu.index].armed)
        return False

    def close(self) -> None:
        """Let go of the engine's memory."""
        self._alarm.close()
        for page in self._work:
            page.close()
        self._view.release()
