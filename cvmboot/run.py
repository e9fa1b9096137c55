"""`cvmboot run`: one machine with the terminal, or a pipe, as its console."""

import os
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot import status
from cvmboot.cli import complain
from cvmboot.errors import UsageError
from cvmboot.options import RunOptions
from cvmboot.output import Output
from cvmboot.power import PoweredMachine
from cvmboot.signals import ENDING, Signals
from cvmboot.terminal import EscapeKeys, Terminal, is_gone
from cvmboot.typed_input import InputGate, TypedInput
from machine.console import HostConsole
from uefi.firmware import Outcome
from uefi.status import status_name

if TYPE_CHECKING:
    from cvmboot.snapshots.file import SnapshotFile

FLUSH_INTERVAL = 0.05
FLUSH_SELDOM, QUIET = 0.25, 20
"""Seconds between two looks for output that a busy guest has left; the same after so many looks that found nothing."""
"""Seconds after which output of a guest that computes is seen."""
INPUT_AHEAD = 4096
"""Bytes of input that are read before the guest has taken what came before."""
PATIENCE = 2.0
"""Seconds in which a machine that was told to stop has to do so."""
_STDIN, _STDOUT = 0, 1
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


def run(image: Path | None, fields: dict[str, Any]) -> int:
    """Boot `image`, or restore a snapshot, with these RunOptions fields; gives the exit status.

    CvmbootError for what a person can mend.
    """
    _open_closed_descriptors()
    path = fields.pop("restore", None)
    if path is None:
        if image is None:
            raise UsageError(
                "what is to be booted? Give an IMAGE, or a snapshot with --restore; see cvmboot run --help"
            )
        return Session(image, RunOptions(**fields)).run()
    if image is not None:
        raise UsageError(f"{image}: the image is in the snapshot; leave it out, or leave out --restore")
    from cvmboot.snapshots.snapshot import Snapshot

    with Snapshot.open(path) as snapshot:
        return Session(Path(snapshot.file.facts.name), snapshot.options(fields), snapshot.file).run()


def _open_closed_descriptors() -> None:
    """A descriptor of our own must not become standard input or output because the caller had closed that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class Session:
    """The main thread's side of a run: standard input, signals, time; the machine runs on a thread of its own."""

    def __init__(self, image: Path, options: RunOptions, snapshot: "SnapshotFile | None" = None) -> None:
        self._options = options
        self._terminal = Terminal(_STDIN) if os.isatty(_STDIN) else None
        if os.isatty(_STDOUT):
            options.ansi = True
            options.terminal_size = Terminal(_STDOUT).size()
        self._output = Output(_STDOUT)
        self._output.on_broken = lambda: self._stop(status.BROKEN_PIPE)
        self._signals = Signals()
        self._console = HostConsole(self._output.write)
        self._machine = PoweredMachine(image, options, self._console, self._warn, self._machine_ended, snapshot)
        self._keys = EscapeKeys()
        self._typed = TypedInput()
        self._gate: InputGate | None = None
        if self._terminal is None and options.clock == "virtual":
            self._gate = InputGate(_STDIN)
            self._console.gate = self._gate.next_key
        self._poll = select.poll()
        self._polled = False
        self._input_open = self._gate is None
        self._ended = False
        self._stopped: Outcome | None = None
        self._status = status.SUCCESS

    def run(self) -> int:
        """Until the machine ends, or somebody ends it; gives the exit status."""
        with self._signals:
            try:
                if self._terminal is not None:
                    self._terminal.enter()
                self._poll.register(self._signals.descriptor, select.POLLIN)
                self._machine.start()
                self._loop()
                stuck = not self._wait_for_machine()
            finally:
                if self._terminal is not None:
                    self._terminal.restore()
        if stuck:
            self._say("the machine does not stop; giving up on it")
            os._exit(self._status)
        self._output.close()
        if self._gate is not None:
            self._gate.close()
        return self._conclude()

    # -- from the machine's thread

    def _warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def _machine_ended(self) -> None:
        self._ended = True
        self._signals.wake()

    # -- the loop

    def _stop(self, exit_status: int) -> None:
        """Have the machine stop; the exit status counts unless it has ended by itself before."""
        if self._stopped is None:
            self._status = exit_status
            self._stopped = Outcome("stopped")
            self._machine.stop(self._stopped)
            if self._gate is not None:
                self._gate.abandon()

    def _loop(self) -> None:
        timeout = self._options.timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        quiet = 0
        while not self._ended and self._stopped is None:
            self._poll_input()
            wait = FLUSH_INTERVAL if quiet < QUIET else FLUSH_SELDOM
            if deadline is not None:
                wait = min(wait, deadline - time.monotonic())
                if wait <= 0:
                    self._stop(status.TIMED_OUT)
                    break
            quiet += 1
            for descriptor, _ in self._poll.poll(wait * 1000):
                quiet = 0
                if descriptor == _STDIN:
                    self._read_input()
                else:
                    self._take_signals()
            if self._machine.flush():
                quiet = 0

    def _poll_input(self) -> None:
        """Look at standard input only while the guest keeps up with it, and only if the terminal is ours."""
        wanted = self._input_open and self._console.waiting() < INPUT_AHEAD
        if self._terminal is not None:
            wanted = wanted and self._terminal.raw
        if wanted and not self._polled:
            self._poll.register(_STDIN, select.POLLIN)
        elif self._polled and not wanted:
            self._poll.unregister(_STDIN)
        self._polled = wanted

    def _read_input(self) -> None:
        try:
            data = os.read(_STDIN, INPUT_AHEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._input_open = False
            if self._terminal is not None or is_gone(_STDIN):
                self._stop(status.HANGUP)
            return
        if self._terminal is None:
            self._machine.feed(self._typed.convert(data))
            return
        self._machine.feed(self._keys.filter(data))
        if self._keys.leave:
            self._stop(status.SUCCESS)
        if self._keys.help_wanted:
            self._keys.help_wanted = False
            self._terminal.help()

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if number in ENDING:
                self._stop(status.SIGNALED + number)
            elif self._terminal is not None and number == signal.SIGCONT:
                self._terminal.enter()
            elif number == signal.SIGTSTP:
                if self._terminal is not None:
                    self._terminal.restore()
                self._signals.stop_process()
                if self._terminal is not None:
                    self._terminal.enter()

    # -- the end

    def _wait_for_machine(self) -> bool:
        """Whether the machine's thread has ended; one that waits for a slow reader of its output need not."""
        if self._machine.join(PATIENCE / 4 if self._stopped is not None else None):
            return True
        self._output.abandon()
        return self._machine.join(PATIENCE)

    def _say(self, text: str) -> None:
        """A line of our own, below what the guest left on the terminal."""
        if self._output.line_open and self._options.ansi and os.isatty(2):
            self._output.line_open = False
            os.write(2, b"\n")
        complain(text)

    def _conclude(self) -> int:
        machine = self._machine
        if machine.report:
            self._say("\n".join(machine.report))
        if machine.error is not None:
            raise machine.error
        outcome = machine.outcome
        assert outcome is not None
        if outcome is self._stopped:
            if self._status == status.TIMED_OUT:
                self._say(f"--timeout: the guest still ran after {self._options.timeout:g} s")
            return status.VIOLATION if machine.violated else self._status
        if outcome.kind == "returned" and outcome.status:
            self._say(f"{machine.image.name} returned {status_name(outcome.status)} ({outcome.status:#x})")
        return status.of_outcome(outcome, machine.violated)
