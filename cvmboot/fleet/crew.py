"""Who judges a batch: processes of this machine, each with a pipe of its own, so that it is known what a killed one had.

`multiprocessing` starts them anew (spawn), because a fork would copy threads' locks. A process has one chunk in work and one
waiting. If it dies, the one in work is lost and the other one was never begun.
"""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from cvmboot.errors import CvmbootError
from cvmboot.fleet.judge import Reply, Settings
from cvmboot.fleet.worker import READY, serve

DEPTH = 2
PATIENCE = 180.0
"""Seconds for a chunk; a process that takes longer is ended, and its records are tried again."""
MOST_FALSE_STARTS = 3
Record = dict[str, Any]
Life = Callable[[Connection, Settings], None]


class Chunk:
    """Records that are judged together. `losses` counts how often their judge died meanwhile."""

    __slots__ = ("losses", "records")

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.losses = 0


class Crew(Protocol):
    """Judges chunks. `largest` is how many records a chunk should have at most."""

    largest: int

    @property
    def has_room(self) -> bool:
        """Whether another chunk would be begun soon."""

    @property
    def idle(self) -> bool:
        """Whether nothing is in work."""

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk judged."""

    def results(self, timeout: float) -> list[tuple[Chunk, Reply | None]]:
        """Replies that came, after waiting for one; None for a chunk that was lost with its judge. CvmbootError."""

    def wake(self) -> None:
        """From any thread: end the waiting."""

    def close(self) -> None:
        """End all work."""


class _Member:
    """One process, the chunks that it has, and since when it works on the first."""

    def __init__(self, context: Any, life: Life, settings: Settings) -> None:
        ours, theirs = context.Pipe()
        self.connection: Connection = ours
        self.process: BaseProcess = context.Process(target=life, args=(theirs, settings), daemon=True)
        self.chunks: deque[Chunk] = deque()
        self.since = time.monotonic()
        self.ready = False
        # Ctrl-C at a terminal is for us; the process inherits that it is blocked.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        theirs.close()


class LocalCrew:
    """`jobs` processes, each of which lives a `life` with its end of a pipe."""

    largest = 64

    def __init__(self, jobs: int, settings: Settings, life: Life = serve) -> None:
        self._life = life
        self._context = multiprocessing.get_context("spawn")
        self._settings = settings
        self._false_starts = 0
        self._waiting: deque[Chunk] = deque()
        self._woken, self._wake = os.pipe()
        self._members = [_Member(self._context, life, settings) for _ in range(jobs)]

    @property
    def has_room(self) -> bool:
        return not self._waiting and any(len(member.chunks) < DEPTH for member in self._members)

    @property
    def idle(self) -> bool:
        return not self._waiting and not any(member.chunks for member in self._members)

    def submit(self, chunk: Chunk) -> None:
        self._waiting.append(chunk)
        self._deal()

    def results(self, timeout: float) -> list[tuple[Chunk, Reply | None]]:
        by_end = {member.connection: member for member in self._members}
        ready = wait([*by_end, self._woken], timeout)
        results: list[tuple[Chunk, Reply | None]] = []
        for end in ready:
            if end == self._woken:
                os.read(self._woken, 4096)
            else:
                self._take(by_end[end], results)  # type: ignore[index]
        now = time.monotonic()
        for member in self._members:
            if member.chunks and now - member.since > PATIENCE:
                member.process.kill()  # its pipe's end says the rest
        self._deal()
        return results

    def wake(self) -> None:
        os.write(self._wake, b"x")

    def close(self) -> None:
        for member in self._members:
            member.process.kill()  # it has nothing to lose: what it has not replied is not in the output
            member.connection.close()
        for member in self._members:
            member.process.join()
        os.close(self._woken)
        os.close(self._wake)

    def _take(self, member: _Member, results: list[tuple[Chunk, Reply | None]]) -> None:
        """Take one message of a process, or note that it died."""
        try:
            message = member.connection.recv()
        except (EOFError, OSError):
            self._replace(member, results)
            return
        if message == READY:
            member.ready, self._false_starts = True, 0
        else:
            results.append((member.chunks.popleft(), message))
        member.since = time.monotonic()

    def _replace(self, member: _Member, results: list[tuple[Chunk, Reply | None]]) -> None:
        member.connection.close()
        member.process.join(1)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
        if member.ready and member.chunks:
            lost = member.chunks.popleft()
            lost.losses += 1
            results.append((lost, None))
        self._waiting.extendleft(reversed(member.chunks))
        if not member.ready:
            self._false_starts += 1
            if self._false_starts >= MOST_FALSE_STARTS:
                code = member.process.exitcode
                raise CvmbootError(f"processes end before they begin (exit status {code}); is there enough memory?")
        self._members[self._members.index(member)] = _Member(self._context, self._life, self._settings)

    def _deal(self) -> None:
        """Give chunks to the processes that have the fewest."""
        while self._waiting:
            member = min(self._members, key=lambda member: len(member.chunks))
            if len(member.chunks) >= DEPTH:
                return
            chunk = self._waiting.popleft()
            try:
                member.connection.send(chunk.records)
            except OSError:  # it has just died: its end is read soon, and it has no more room meanwhile
                self._waiting.appendleft(chunk)
                return
            if not member.chunks:
                member.since = time.monotonic()
            member.chunks.append(chunk)
