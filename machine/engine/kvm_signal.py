"""How a thread inside KVM_RUN is brought out: a flag that KVM looks at before it enters the guest, and a signal for one inside.

The flag (immediate_exit) stays until it is cleared, so that no kick is lost whenever it comes; the signal's handler does
nothing. It is a C function that is safe at any moment, because Python's own handlers can be set in the main thread only.
"""

import ctypes
import functools
import mmap
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

from machine.engine import kvm_abi as abi
from machine.errors import EngineError

_libc = ctypes.CDLL(None, use_errno=True)
_SIGACTION = 512
"""More bytes than struct sigaction has anywhere."""


@functools.cache
def _signal() -> int:
    """A real-time signal that nobody uses, with a handler that does nothing from now on."""
    for number in range(signal.SIGRTMIN + 8, signal.SIGRTMAX):
        before = ctypes.create_string_buffer(_SIGACTION)
        _libc.sigaction(number, None, before)
        if not any(before.raw[:8]):  # SIG_DFL
            action = ctypes.create_string_buffer(_SIGACTION)
            ctypes.c_void_p.from_buffer(action).value = ctypes.cast(_libc.abs, ctypes.c_void_p).value
            _libc.sigaction(number, action, None)
            return number
    raise EngineError("every real-time signal of this process has a handler; the KVM engine needs one")


class Knock:
    """Brings the thread out that runs one processor; `page` is its struct kvm_run. `thread` is the kernel's number of it."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._signal = _signal()
        self._process = os.getpid()
        self.thread = 0
        self.asked = False
        """The same as the flag, which the run itself sets and clears, too."""

    def knock(self) -> None:
        """From any thread: end KVM_RUN, or the next one, at once."""
        self.asked = True
        self._page[abi.IMMEDIATE_EXIT] = 1
        thread = self.thread
        if thread and thread != threading.get_native_id():
            # The thread may be gone: its number then belongs to nobody of this process.
            _libc.syscall(_TGKILL, self._process, thread, self._signal)

    @property
    def waits(self) -> bool:
        """Whether somebody has knocked."""
        return self.asked

    def clear(self) -> None:
        """The processor has come out."""
        self._page[abi.IMMEDIATE_EXIT] = 0
        self.asked = False

    def hold(self, flag: int) -> None:
        """Set KVM's flag to what the run needs for a moment; `release` brings it back."""
        self._page[abi.IMMEDIATE_EXIT] = flag

    def release(self) -> None:
        """Have the flag say again whether somebody has knocked, also if that was meanwhile."""
        self._page[abi.IMMEDIATE_EXIT] = 0
        if self.asked:
            self._page[abi.IMMEDIATE_EXIT] = 1


class Knocked(Protocol):
    """A processor that can be knocked at."""

    knock: Knock


def knock_at_all(cpus: Iterable[Knocked]) -> None:
    """`Engine.kick`: from any thread, end the run of whichever of `cpus` runs, or the next one."""
    for cpu in cpus:
        cpu.knock.knock()


def forget_knocks(cpus: Sequence[Knocked]) -> bool:
    """Whether somebody has knocked at one of `cpus` since the last run ended; forgotten then."""
    waiting = any(cpu.knock.waits for cpu in cpus)
    for cpu in cpus:
        cpu.knock.clear()
    return waiting


_TGKILL = 234
"""SYS_tgkill on x86-64, the only place where there is such a KVM."""
