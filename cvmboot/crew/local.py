"""A crew of processes of this machine, each with a pipe of its own, so that it is known what a killed one had.

They are started anew, because a fork would copy threads' locks. A process has one chunk in work and `depth` - 1 waiting. If it
dies, the one in work is lost and the others were never begun.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from cvmboot.crew import member as member_script
from cvmboot.crew.chunk import Chunk, Reply, Settings
from cvmboot.crew.life import READY
from cvmboot.errors import CvmbootError

MOST_FALSE_STARTS = 3
_SCRIPT = Path(member_script.__file__)
Life = Callable[[Connection, Settings], None]


class _Member:
    """One process, the chunks that it has, and since when it works on the first."""

    def __init__(self, life: Life, settings: Settings) -> None:
        ours, theirs = Pipe()
        self.connection: Connection = ours
        self.chunks: deque[Chunk] = deque()
        self.since = time.monotonic()
        self.ready = self.overdue = False
        # Ctrl-C at a terminal is for us; the process inherits that it is blocked.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            descriptor = theirs.fileno()
            words = [sys.executable, "-P", str(_SCRIPT), str(descriptor)]
            self.process = subprocess.Popen(words, pass_fds=[descriptor], stdin=subprocess.DEVNULL)
        except OSError as error:
            ours.close()
            raise CvmbootError(f"no process can be started: {error.strerror}; try fewer --jobs") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
            theirs.close()
        with contextlib.suppress(OSError):  # if it is dead already, its pipe's end says so
            ours.send(sys.path)
            ours.send((life, settings))

    def end(self) -> None:
        """Kill the process; it has nothing to lose: what it has not replied does not count."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


class LocalCrew:
    """`jobs` processes, each of which lives a `life` with its end of a pipe. A message that is neither READY nor a reply goes to
    `news`, with the chunk in work."""

    def __init__(
        self,
        jobs: int,
        settings: Settings,
        life: Life,
        *,
        largest: int = 64,
        depth: int = 2,
        news: Callable[[Chunk, str], None] = lambda chunk, text: None,
    ) -> None:
        self.largest = largest
        self._life = life
        self._settings = settings
        self._depth = depth
        self._news = news
        self._false_starts = 0
        self._waiting: deque[Chunk] = deque()
        self._woken, self._wake = os.pipe()
        self._members: list[_Member] = []
        try:
            for _ in range(jobs):
                self._members.append(_Member(life, settings))
        except BaseException:
            self.close()
            raise

    @property
    def has_room(self) -> bool:
        return not self._waiting and any(len(member.chunks) < self._depth for member in self._members)

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
            if member.chunks and now - member.since > member.chunks[0].patience:
                member.overdue = True
                member.process.kill()  # its pipe's end says the rest
        self._deal()
        return results

    def kill(self) -> None:
        """From any thread: kill the processes; who waits for results learns that chunks are lost."""
        for member in self._members:
            member.process.kill()

    def wake(self) -> None:
        os.write(self._wake, b"x")

    def close(self) -> None:
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.end()
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
        elif isinstance(message, str):
            if member.chunks:
                self._news(member.chunks[0], message)
            return
        else:
            results.append((member.chunks.popleft(), message))
        member.since = time.monotonic()

    def _replace(self, member: _Member, results: list[tuple[Chunk, Reply | None]]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            member.process.wait(1)
        member.end()
        if member.ready and member.chunks:
            lost = member.chunks.popleft()
            lost.losses += 1
            lost.reason = _how_it_ended(member, lost)
            results.append((lost, None))
        self._waiting.extendleft(reversed(member.chunks))
        if not member.ready:
            self._false_starts += 1
            if self._false_starts >= MOST_FALSE_STARTS:
                code = member.process.returncode
                raise CvmbootError(f"processes end before they begin (exit status {code}); is there enough memory?")
        self._members[self._members.index(member)] = _Member(self._life, self._settings)

    def _deal(self) -> None:
        """Give chunks to the processes that have the fewest."""
        while self._waiting:
            member = min(self._members, key=lambda member: len(member.chunks))
            if len(member.chunks) >= self._depth:
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


def _how_it_ended(member: _Member, chunk: Chunk) -> str:
    code = member.process.returncode
    if member.overdue:
        return f"was killed after {chunk.patience:g} s, because it did not end by itself"
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return f"ended with exit status {code}"
