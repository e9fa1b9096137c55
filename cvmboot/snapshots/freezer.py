"""A machine that is booted to be frozen: its console is watched, and it stops at the first instruction behind the text."""

import sys
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cvmboot.cli import complain
from cvmboot.errors import CvmbootError
from cvmboot.power import PoweredMachine
from cvmboot.snapshots.file import Progress
from cvmboot.snapshots.snapshot import PATIENCE, Snapshot, Taking
from cvmboot.typed_input import TypedInput
from cvmboot.visit import Visit
from machine.console import HostConsole
from uefi.firmware import Outcome

if TYPE_CHECKING:
    from cvmboot.assembly import Assembly
    from cvmboot.options import RunOptions
    from cvmboot.unikernel import UnikernelAssembly


_LOOK = 0.05
"""Seconds after which to look for output that an engine still holds."""


class _PromptConsole(HostConsole):
    """Hands each byte on at once: a guest that prints its prompt and then computes is frozen there."""

    def write(self, data: bytes) -> None:
        super().write(data)
        self.flush()


class Freezer:
    """Boots `image`, types `typed`, shows the console on standard output, and freezes the machine into the file `output`.

    With `at` it is frozen by its own thread when these texts have been on the console, one after the other: under virtual time
    always at the same instruction.
    """

    def __init__(
        self,
        image: Path,
        options: "RunOptions",
        output: Path,
        progress: Progress | None,
        at: list[bytes],
        typed: bytes,
    ) -> None:
        self._at = at
        self._awaited = deque(at)
        self._seen = b""
        self._line_open = False
        self._ended = threading.Event()
        self._visit: Visit | None = None
        self._taking = Taking(image, output, progress)
        self._keys = list(reversed(TypedInput().convert(typed)))
        console = _PromptConsole(self._show)
        self._machine = PoweredMachine(image, options, console, self._warn, self._machine_ended)
        if options.clock == "virtual":
            console.gate = self._next_key
        else:
            console.feed(bytes(reversed(self._keys)))

    def __enter__(self) -> "Freezer":
        self._machine.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._machine.stop(Outcome("stopped"))
        self._machine.join()
        self._taking.__exit__()
        if self._line_open and sys.stdout.isatty():
            sys.stdout.buffer.write(b"\x1b[0m\n")  # what we say next is no part of the prompt, nor in its colour
        sys.stdout.buffer.flush()

    def wait(self, limit: float, pause: float | None) -> Snapshot:
        """The snapshot. CvmbootError if the guest ends, or `at` is not there within `limit` seconds, or it cannot be frozen."""
        end = time.monotonic() + (limit if pause is None else pause)
        while not (ended := self._ended.wait(max(min(_LOOK, end - time.monotonic()), 0))) and time.monotonic() < end:
            self._machine.flush()
        visit = self._visit
        if visit is None or visit.busy is not None:
            if self._machine.error is not None:
                raise self._machine.error
            # Its thread may have said that it ends, and not have ended yet.
            if not self._machine.join(PATIENCE if ended and visit is None else 0):
                self._freeze(ended, limit, pause)
            else:
                until = f"it printed {self._awaited[0].decode()!r}" if self._awaited else "it was to be frozen"
                if self._machine.report:
                    complain("\n".join(self._machine.report))
                raise CvmbootError(f"the guest ended before {until}")
        elif visit.failure is not None:
            raise visit.failure
        return self._taking.finish()

    def _freeze(self, seen: bool, limit: float, pause: float | None) -> None:
        if pause is None and not seen:
            raise CvmbootError(
                f"--at {self._awaited[0].decode()!r}: the guest has not printed that within {limit:g} s (--timeout)"
            )
        self._machine.at_rest(self._taking.store, PATIENCE)

    # -- on the machine's thread

    def _next_key(self) -> int | None:
        return self._keys.pop() if self._keys else None

    def _warn(self, text: str) -> None:
        complain(f"warning: {text}")

    def _machine_ended(self) -> None:
        self._ended.set()

    def _show(self, data: bytes) -> None:
        self._line_open = not data.endswith(b"\n")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        if not self._at or self._visit is not None:
            return
        self._seen += data
        assembly = self._machine.assembly
        if assembly is None:
            return
        while self._awaited:
            found = self._seen.find(self._awaited[0])
            if found < 0:
                self._seen = self._seen[-len(self._awaited[0]) :]
                return
            self._seen = self._seen[found + len(self._awaited.popleft()) :]
        self._visit = Visit(self._store)
        assembly.computer.at_rest(partial(self._pay, assembly))

    def _pay(self, assembly: "Assembly | UnikernelAssembly") -> None:
        assert self._visit is not None
        self._visit(assembly)
        self._ended.set()

    def _store(self, assembly: "Assembly | UnikernelAssembly") -> None:
        self._taking.store(assembly, self._machine.media, self._machine.options)
