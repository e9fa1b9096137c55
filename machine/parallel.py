"""CPUs side by side: on an engine that has them in guest code at once, in place of turns.

The machine's one thread lets CPUs in, waits for whichever comes out, answers it, and lets it in again; the others go on
meanwhile. A CPU that has nothing to do but look for something to do, or waits in a service of its firmware, is left out for a
while: it naps. While one CPU alone has something to do the machine runs as it does without others.
"""

from typing import TYPE_CHECKING

from machine.idle import SHORT
from machine.turns import HALTED, RUNNING, WAITING

if TYPE_CHECKING:
    from machine.computer import Computer
    from machine.cpu import Cpu, Stop
    from machine.engine.base import SideBySide

_BRIEF = 100_000
"""Nanoseconds of a nap of a CPU that has read the clock over and over, but not for long."""
_LOOKS = 8
"""Reads of the clock between two such naps: Go's scheduler makes several before it has asked all processors for work."""
_BESIDE_OTHERS = 2_000_000
"""The longest nap while another CPU has something to do: what that makes for this one is seen in RAM alone."""
_LIVELY = 5_000_000
"""For how long (ns) the others' naps are brief after a CPU has done something that the outside notices.

It may be about to make work for them, which should not be over before they look."""
_IN_A_SERVICE = 5_000_000
"""The longest nap in a service, which ends at once by what the machine sees of other CPUs."""
_FOR_EVER = 3_600_000_000_000
_COMPUTES = SHORT
"""From so long in guest code on, a CPU that was idle before is not any more."""
_COMING_UP = 50_000_000, 150_000_000
"""Nanoseconds for which a CPU that has never looked for work has guest code to itself when it wakes: each time, in all.

It begins with a page fault for each page; what it was woken for would be over before it is there (`machine.turns.NEW_BLOCKS`)."""


class Parallel:
    """Who is in guest code, who naps. `active` while CPUs run side by side; each of its methods is for the machine's thread."""

    def __init__(self, computer: "Computer") -> None:
        self._computer = computer
        self._side: SideBySide | None = None
        self._naps: dict[int, int] = {}
        self._released: dict[int, int] = {}
        self._looks = 0
        self._coming: int | None = None
        self._coming_until = 0
        self._spent_coming: dict[int, int] = {}
        self._lively_until = 0

    @property
    def active(self) -> bool:
        """Whether CPUs run side by side at present."""
        return self._side is not None

    # -- the loop

    def round(self) -> bool:
        """Let in who can run, wait for one that comes out, answer it. False if CPUs are to be run one at a time."""
        computer = self._computer
        side = computer.engine.side_by_side if computer.debugger is None else None
        if self._side is not None and self._side is not side:
            self.settle()
            return True
        if side is None:
            return False
        if self._running() < 2 and side.arrived() is None and not side.inside:
            self._leave()
            return False
        if self._side is None:
            computer.take_no_turns()
            self._side = side
        until = self._let_in(side)
        if until is not None:
            self._wait(side, until)
        return True

    def _running(self) -> int:
        """How many CPUs have something to execute; halted ones whose interrupt has come are woken."""
        computer, turns = self._computer, self._computer.turns
        for index, state in enumerate(turns.states):
            if state == HALTED and computer.wakes(computer.engine.cpus[index]):
                turns.wake(index)
                self._naps.pop(index, None)
                self.comes_up(index)
        return turns.states.count(RUNNING)

    def _let_in(self, side: "SideBySide") -> int | None:
        """Release every CPU that can run. When (ns of the clock) to look again at the latest; None for at once."""
        computer, turns, now = self._computer, self._computer.turns, self._computer.clock.now()
        ends = [end for end in (computer.clock.next_deadline(), turns.next_end_of_halt()) if end is not None]
        coming = self._still_coming(now)
        if coming is not None:
            ends.append(self._coming_until)
        for index, state in enumerate(turns.states):
            if state != RUNNING or side.busy(index) or coming not in (None, index):
                continue
            nap = self._naps.get(index)
            if nap is not None and nap > now:
                ends.append(nap)
                continue
            cpu = computer.engine.cpus[index]
            if index in turns.start_up:
                cpu.enter_real_mode(turns.start_up.pop(index), computer.cpuid.signature)
            self._attend(side, index)
            if nap is not None:
                del self._naps[index]
                computer.idle.rested()
            if not computer.prepare(cpu) or not self._release(side, index):
                return None
        return min(ends, default=now + _FOR_EVER)

    def _release(self, side: "SideBySide", index: int) -> bool:
        self._released[index] = self._computer.clock.now()
        return side.release(index)

    def _wait(self, side: "SideBySide", until: int) -> None:
        computer = self._computer
        if computer.called:
            return
        if not side.inside and side.arrived() is None:
            computer.on_idle()
        index = side.next(max(until - computer.clock.now(), 0) / 1e9)
        if index is not None:
            self._answer(side, index, again=not computer.called)

    def _attend(self, side: "SideBySide", index: int) -> None:
        """From now on it is this CPU that traps and polls."""
        computer = self._computer
        computer.turns.begin(index)
        computer.idle.resume(index, lambda: side.spent(index))
        computer.idle.acted = False

    def _answer(self, side: "SideBySide", index: int, again: bool) -> None:
        """Do what a CPU has come out for, and let it in again if that is all and there is nothing else to do first."""
        computer, turns = self._computer, self._computer.turns
        turns.drowsy.discard(index)
        self._attend(side, index)
        stop: Stop | None = side.answer(index)
        if computer.idle.acted:
            self._enliven()
        if computer.finished:
            return
        cpu = computer.engine.cpus[index]
        if turns.states[index] == WAITING:
            cpu.fault = None  # parked meanwhile
        elif stop is not None:
            computer.stopped(cpu, stop)
        elif again and index not in self._naps and not computer.called and self._coming in (None, index):
            self._release(side, index)

    def _enliven(self) -> None:
        """What the CPU that was answered has done may concern the others: they look soon."""
        now = self._computer.clock.now()
        self._lively_until = now + _LIVELY
        for index, end in self._naps.items():
            self._naps[index] = min(end, now + _BRIEF)

    def step(self, cpu: "Cpu") -> "Stop":
        """One instruction of a CPU that is out of guest code."""
        assert self._side is not None
        return self._side.step(cpu.index)

    def settle(self) -> None:
        """Have all CPUs between two instructions, what they came out for done, and nobody about to enter guest code."""
        side = self._side
        if side is None:
            return
        side.gather()
        while not self._computer.finished and (index := side.arrived()) is not None:
            self._answer(side, index, again=False)
        self.abandon()

    def abandon(self) -> None:
        """The same without doing anything for the guest any more: the run is over."""
        if self._side is not None:
            self._side.abandon()
            self._leave()

    def _leave(self) -> None:
        if self._side is not None:
            self._side = None
            self._coming = None
            self._naps.clear()
            self._computer.turns.give_way()
            self._computer.idle.alone(self._computer.turns.current)

    # -- what happens to CPUs

    def comes_up(self, index: int) -> None:
        """A CPU begins to run, or goes on: if it has never got so far as to look for work, it goes first."""
        left = _COMING_UP[1] - self._spent_coming.get(index, 0)
        side = self._computer.engine.side_by_side
        if side is None or not self._computer.turns.new_turns[index] or left <= 0:
            return
        now = self._computer.clock.now()
        self._still_coming(now)
        length = min(left, _COMING_UP[0])
        self._coming, self._coming_until = index, now + length
        for other in side.inside:
            if other != index:
                side.knock(other)

    def _still_coming(self, now: int) -> int | None:
        """The CPU that goes first, if one does."""
        index, turns = self._coming, self._computer.turns
        if index is not None and (
            now >= self._coming_until or turns.states[index] != RUNNING or not turns.new_turns[index]
        ):
            unused = max(self._coming_until - now, 0)
            self._spent_coming[index] = self._spent_coming.get(index, 0) + _COMING_UP[0] - unused
            self._coming = None
        return self._coming

    def interrupt(self, index: int) -> None:
        """A CPU has an interrupt to take."""
        if self._naps.pop(index, None) is not None:
            self._computer.idle.disturbed(index)
        if self._side is not None:
            self._side.knock(index)

    def set_up(self, index: int) -> None:
        """A CPU is about to be started, parked or set up: it is out of guest code, and what it came out for does not count."""
        self.wake_all()
        side = self._computer.engine.side_by_side
        if side is not None:
            side.drop(index)
            side.changed(index)

    def wake_all(self) -> None:
        """Something has come that any CPU may wait for."""
        for index in self._naps:
            self._computer.idle.disturbed(index)
        self._naps.clear()

    # -- naps of the CPU whose trap is being answered

    def doze(self, nanoseconds: int) -> int:
        """It has nothing to do but look for something to do, for so long at most."""
        computer, turns = self._computer, self._computer.turns
        turns.looks()
        turns.drowsy.add(turns.current)
        now = computer.clock.now()
        if self._others_compute(now):
            nanoseconds = min(nanoseconds, _BRIEF if now < self._lively_until else _BESIDE_OTHERS)
        elif others := turns.others_running():
            nanoseconds = min(nanoseconds, computer.idle.patience(others))
        self._naps[turns.current] = now + nanoseconds
        return 0

    def spun(self, long: bool) -> None:
        """It has read the clock over and over; `long`: for long."""
        computer, current = self._computer, self._computer.turns.current
        computer.turns.looks()
        if long:
            self.doze(computer.idle.patience((current,)))
            return
        self._looks += 1
        if self._looks % _LOOKS == 0:
            self._naps[current] = computer.clock.now() + _BRIEF

    def rest_until(self, deadline: int | None) -> None:
        """It waits in a service for the time (ns of the clock), a timer, or another CPU."""
        clock = self._computer.clock
        ends = [end for end in (deadline, clock.next_deadline()) if end is not None]
        self._naps[self._computer.turns.current] = min([*ends, clock.now() + _IN_A_SERVICE])

    def _others_compute(self, now: int) -> bool:
        turns = self._computer.turns
        side = self._side
        assert side is not None
        return any(
            index not in turns.drowsy or (index in side.inside and now - self._released.get(index, now) > _COMPUTES)
            for index in turns.others_running()
        )
