"""How a computer lets time pass: it sleeps while no CPU has anything to do, or while those that run only look for something.

All of it is for the engine's thread. Under virtual time the clock jumps, and nobody sleeps.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.clock import VirtualClock
from machine.processors import Processors
from machine.turns import TURN


class Waiting(Processors):
    """What a computer is as far as waiting is concerned; it says itself what there is to wait for."""

    virtual: bool
    on_idle: Callable[[], None]
    input_waiting: Callable[[], bool]
    await_input: Callable[[], bool]
    _attention: bool
    _wake: threading.Condition
    _end: Any

    if TYPE_CHECKING:

        def _take_posted(self) -> None:
            """Do what other threads have asked for."""

        def _paused(self) -> bool:
            """Whether guest code is to be left alone for now."""

    def wait(self, nanoseconds: int | None) -> None:
        """Sleep until `interrupt`, or for so long; under virtual time jump there instead if nothing else can happen."""
        self.on_idle()
        if self.virtual and nanoseconds is None and not self._attention and self.await_input():
            return
        with self._wake:
            if not self._attention:
                self._wake.wait(None if nanoseconds is None else nanoseconds / 1e9)

    def _doze(self, nanoseconds: int) -> int | None:
        """The CPU whose turn it is has nothing to do. Sleep if the same is true of all that run, as long as it suits all.

        Gives how long that is: nothing if others are to run first.
        """
        deadline = self.clock.next_deadline()
        now = self.clock.now()
        if self.input_waiting():
            return None
        if self.parallel.active:
            return self.parallel.doze(nanoseconds)
        if self._several:
            if self._yields():
                return 0
            others = self.turns.others_running()
            if others:
                nanoseconds = min(nanoseconds, self.idle.patience(others))
        if self.virtual:
            self.on_idle()
            if isinstance(self.clock, VirtualClock):
                until = now + nanoseconds
                self.clock.jump_to(until if deadline is None else min(deadline, until))
            return nanoseconds
        left = nanoseconds if deadline is None else min(nanoseconds, deadline - now)
        if left > 0 and not self._attention:
            self.wait(left)
        return nanoseconds

    def wait_until(self, deadline: int | None) -> bool:
        """Let time pass until `deadline` (ns of the clock), the next timer or an interruption; run due timers.

        For the boot processor's services, and when no CPU runs. False if the caller must give way because something was
        posted, another CPU is to run, or the run ends.
        """
        if self._several and self.turns.contended():
            if self.parallel.active:
                self.parallel.rest_until(deadline)
                return False
            if not self._yields():
                limit = self.clock.now() + TURN
                self._let_pass(limit if deadline is None else min(deadline, limit))
            return False
        self._let_pass(deadline)
        if self._several and self._others_wake():
            return False
        return self._end is None and not self._paused()

    def _let_pass(self, deadline: int | None) -> None:
        next_timer = self.clock.next_deadline()
        until = min((d for d in (deadline, next_timer) if d is not None), default=None)
        now = self.clock.now()
        if until is None or until > now:
            if self.virtual and until is not None and not self._attention and isinstance(self.clock, VirtualClock):
                self.on_idle()
                self.clock.jump_to(until)
            elif not self._attention:
                self.wait(None if until is None else until - now)
        self._take_posted()
        self.clock.run_due()
