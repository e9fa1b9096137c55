"""Signals as events of a loop: handlers that only take notes, and a descriptor that becomes readable."""

import os
import signal
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOTED = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


class Signals:
    """While entered, the signals that concern a run are collected in `take`, and `descriptor` tells of them.

    Main thread only. A signal that was ignored when we started (nohup) stays ignored.
    """

    def __init__(self) -> None:
        self.descriptor, self._written = os.pipe()
        os.set_blocking(self._written, False)
        os.set_blocking(self.descriptor, False)
        self._noted: list[int] = []
        self._previous: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> "Signals":
        self._wakeup = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        for number in _NOTED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.descriptor)
        os.close(self._written)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)

    def wake(self) -> None:
        """From any thread: make `descriptor` readable."""
        try:
            os.write(self._written, b"\0")
        except BlockingIOError:
            pass  # it is readable already
        except OSError:
            pass  # closed: the loop has ended

    def take(self) -> list[int]:
        """The signals that came since the last call."""
        try:
            while len(os.read(self.descriptor, 512)) == 512:
                pass
        except BlockingIOError:
            pass
        noted, self._noted = self._noted, []
        return noted

    def stop_process(self) -> None:
        """Do what SIGTSTP does by default; comes back when the process is continued."""
        os.kill(os.getpid(), signal.SIGSTOP)
