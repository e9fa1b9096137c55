"""Shadow page tables: what the processor walks on KVM, filled on page faults from what the guest's own tables say.

So the page walk stays ours, as on Unicorn: the encryption bit, the RMP's checks and pages that only ring 0 may use are decided
in `Handlers.translate`, while the guest runs in ring 3. A frame is never writable and executable at once, so that code which
changes is looked through again (see `kvm_code`).

An entry may be added, or changed towards what a fault has asked for, at any time: KVM reads our tables again at each fault.
To take rights away it would have to be told, page by page; instead the guest goes on with new tables from pages of the
pool that KVM has not seen yet, and only when none are left KVM forgets them all.
"""

import struct
from collections.abc import Callable, Iterable

from machine.engine.kvm_monitor import LINEAR, PAGE, POOL_PAGES, Monitor
from machine.memory import PhysicalMemory
from machine.paging import ACCESSED, ADDRESS_MASK, DIRTY, FETCH, NO_EXECUTE, PRESENT, USER, WRITABLE, WRITE, Translation

_TABLE = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
_READ_ONLY = PRESENT | USER | ACCESSED | NO_EXECUTE
_LARGE_SHIFT = 21
_PER_TABLE = 512
_AROUND = 16
"""Pages of a larger one that are entered when one of them is read."""
_SPARE = 16
"""Pages that must be left in the pool before a fault is answered: more than one fault can need."""


class Pool:
    """Pages behind the monitor's own. `generation` changes when all have been taken back."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._next = monitor.first_free
        self._end = monitor.first_free + POOL_PAGES
        self.generation = 0

    def page(self) -> int:
        """A page that neither we nor KVM use, with anything in it."""
        page, self._next = self._next, self._next + 1
        return page

    def spare(self) -> bool:
        """Whether there are pages enough for one more fault."""
        return self._end - self._next > _SPARE

    def reset(self) -> None:
        """Take all pages back. Between two runs only."""
        self._monitor.forget_tables()
        self._next = self._monitor.first_free
        self.generation += 1


class Shadow:
    """The tables of one processor. `root` is their CR3; `code_at` maps linear pages that may be executed to physical ones."""

    def __init__(
        self,
        monitor: Monitor,
        pool: Pool,
        memory: PhysicalMemory,
        code_page: Callable[[int, int], int],
        changes: Callable[[int], None],
        others: "Callable[[], list[Shadow]]",
        gather: Callable[[], object],
    ) -> None:
        """`code_page(linear, physical)` is where a page of RAM is to be executed from: itself, or a copy.

        `changes(frame)` is called before the guest may write to a frame, `others()` are the tables of the other processors.
        `gather()` has those come out of the guest: what they may do is about to change.
        """
        self._monitor = monitor
        self._pool = pool
        self._memory = memory
        self._code_page = code_page
        self._changes = changes
        self._others = others
        self._gather = gather
        self._words = monitor.words
        self.code_at: dict[int, int] = {}
        self.own: dict[int, int] = {}
        """Linear pages that are not the guest's, and their entries: in all tables from the next flush on."""
        self.flush()

    def flush(self) -> None:
        """Begin new tables, with the monitor in them and nothing else."""
        if not self._pool.spare():
            self._gather()
            self._pool.reset()
        self.stale = False
        self._generation = self._pool.generation
        self._tables: dict[int, int] = {}
        self.code_at.clear()
        self._executable: dict[int, int] = {}  # frame -> the linear page at which it may be executed
        self._writable: dict[int, int] = {}  # frame -> the linear page at which it may be written
        self._whole: dict[int, int] = {}  # physical 2 MiB -> linear 2 MiB at which all but code may be written
        root = self._table()
        self.root = self._monitor.gpa(root)
        self._root = root
        directory = self._step(self._step(root, LINEAR >> 39 & 0x1FF), LINEAR >> 30 & 0x1FF)
        self._words[directory * _PER_TABLE + (LINEAR >> 21 & 0x1FF)] = (
            self._monitor.gpa(self._monitor.table_at) | _TABLE
        )
        for linear, entry in self.own.items():
            table, _ = self._last_table(linear)
            self._words[table * _PER_TABLE + (linear >> 12 & 0x1FF)] = entry

    def ready(self) -> bool:
        """Whether the tables can be run with; else flush them."""
        return not self.stale and self._generation == self._pool.generation and self._pool.spare()

    def _table(self) -> int:
        page = self._pool.page()
        self._monitor.view[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        return page

    def _step(self, table: int, index: int) -> int:
        """The table behind entry `index` of another, made if there is none."""
        at = table * _PER_TABLE + index
        entry = self._words[at]
        if entry & PRESENT:
            return ((entry & ADDRESS_MASK) - self._monitor.physical) // PAGE
        page = self._table()
        self._words[at] = self._monitor.gpa(page) | _TABLE
        return page

    def _last_table(self, linear: int) -> tuple[int, bool]:
        """The table of the last level for an address, and whether it is new."""
        key = linear >> 21
        table = self._tables.get(key)
        if table is not None:
            return table, False
        table = self._root
        for shift in (39, 30, 21):
            table = self._step(table, linear >> shift & 0x1FF)
        self._tables[key] = table
        return table, True

    def allows(self, linear: int, access: int) -> bool:
        """Whether the tables allow an access already: then it was something else that refused it."""
        table, _ = self._last_table(linear)
        entry = self._words[table * _PER_TABLE + (linear >> 12 & 0x1FF)]
        wanted = PRESENT | (WRITABLE if access == WRITE else 0)
        return entry & wanted == wanted and not (access == FETCH and entry & NO_EXECUTE)

    def executes(self, linear: int, frame: int) -> bool:
        """Whether a page may be executed as the tables are."""
        return self._executable.get(frame) == linear & ~0xFFF

    def open(self, linear: int, frame: int) -> None:
        """Let a page that is executed be written, too, for one instruction that does both; flush the tables behind it."""
        table, _ = self._last_table(linear)
        self._words[table * _PER_TABLE + (linear >> 12 & 0x1FF)] = frame << 12 | _TABLE

    def map(self, linear: int, found: Translation, access: int) -> None:
        """Enter a page of RAM, after the guest's tables have allowed `access` to it."""
        linear &= ~0xFFF
        table, new = self._last_table(linear)
        frame = found.physical >> 12
        slot = table * _PER_TABLE + (linear >> 12 & 0x1FF)
        if access == FETCH:
            if self._fetched(linear, frame):
                table, _ = self._last_table(linear)
                slot = table * _PER_TABLE + (linear >> 12 & 0x1FF)
            self._words[slot] = self._code_page(linear, found.physical) | PRESENT | USER | ACCESSED
            self.code_at[linear] = found.physical
            return
        write = access == WRITE or (found.dirty and found.writable and frame not in self._executable)
        if found.shift >= _LARGE_SHIFT and write and found.writable and self._map_whole(linear, found, table, new):
            if access == WRITE:
                self._enter_written(linear, frame, slot)
            return
        if write:
            self._enter_written(linear, frame, slot)
        else:
            self._enter_read(linear, found, table * _PER_TABLE)

    def _enter_read(self, linear: int, found: Translation, begin: int) -> None:
        """Enter a page to be read, and the pages around it if the guest has them as one: who reads a table reads on."""
        words = self._words
        at = linear >> 12 & 0x1FF
        words[begin + at] = found.physical | _READ_ONLY
        if found.shift >= _LARGE_SHIFT:
            for index in range(at & -_AROUND, (at & -_AROUND) + _AROUND):
                physical = found.physical + (index - at) * PAGE
                if not words[begin + index] & PRESENT and self._memory.is_ram(physical):
                    words[begin + index] = physical | _READ_ONLY

    def _no_code(self, frame: int) -> None:
        """A frame that has held code may be written to from now on."""
        self._memory.code_pages.discard(frame)
        self._changes(frame)
        self._take_from(other for other in self._others() if frame in other._executable)

    def _take_from(self, others: "Iterable[Shadow]") -> None:
        """Others have rights no more that this one is about to get: they are out of the guest, and get new tables."""
        for other in others:
            if other is not self:
                self._gather()
                other.stale = True

    def _enter_written(self, linear: int, frame: int, slot: int) -> None:
        if frame in self._memory.code_pages:
            self._no_code(frame)
        if self._executable.pop(frame, None) is not None:
            # KVM would give the right to write, but the processor's TLB for code would keep the right to execute.
            self.stale = True
        if self._writable.setdefault(frame, linear) != linear:
            self._writable[frame] = -1
        self._words[slot] = frame << 12 | _READ_ONLY | WRITABLE | DIRTY

    def _fetched(self, linear: int, frame: int) -> bool:
        """A frame becomes executable: nowhere else may it stay writable. True if all tables are new."""
        elsewhere = self._writable.pop(frame, linear) != linear
        whole = self._whole.get(frame >> 9)
        flushed = elsewhere or (whole is not None and whole != linear >> 21)
        if flushed:
            self.flush()
        if self._executable.setdefault(frame, linear) != linear:
            self.flush()  # at two addresses: the older one comes back by a fault
            self._executable[frame] = linear
            flushed = True
        self._memory.code_pages.add(frame)
        self._take_from(other for other in self._others() if frame in other._writable or frame >> 9 in other._whole)
        return flushed

    def _map_whole(self, linear: int, found: Translation, table: int, new: bool) -> bool:
        """Enter all of a large page for data at once; False if it is not that simple."""
        first = found.physical & ~((1 << _LARGE_SHIFT) - 1)
        chunk, at = first >> _LARGE_SHIFT, linear >> _LARGE_SHIFT
        if self._whole.get(chunk) is not None:
            return False
        if not (self._memory.is_ram(first) and self._memory.is_ram(first + (1 << _LARGE_SHIFT) - PAGE)):
            return False
        executed = [frame for frame in self._memory.code_pages if frame >> 9 == chunk]
        if any(self._executable.get(frame, linear) >> _LARGE_SHIFT != at for frame in executed):
            return False
        for frame in executed:
            if frame not in self._executable:
                self._no_code(frame)
        begin = table * _PER_TABLE
        flags = _READ_ONLY | WRITABLE | DIRTY
        if new:
            struct.pack_into(
                "<512Q", self._monitor.view, begin * 8, *range(first | flags, (first | flags) + (PAGE << 9), PAGE)
            )
        else:
            words = self._words
            for index in range(_PER_TABLE):
                entry, physical = words[begin + index], first + index * PAGE
                if not entry & PRESENT or entry == physical | _READ_ONLY:
                    words[begin + index] = physical | flags
        self._whole[chunk] = at
        return True
