"""A network device's plug: the queue of frames that wait for the guest, limits, and counters.

Devices use this and not a back end itself, which may call back in the middle of `send`.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from machine.callbacks import nothing
from machine.net.backend import MAXIMUM_FRAME, MINIMUM_FRAME, Backend, Unplugged

MAXIMUM_WAITING = 1024
"""Frames that wait for a guest that gives no buffers; what comes then is lost."""

COUNTERS = ("sent", "sent_bytes", "received", "received_bytes", "runts", "oversize", "overruns")


class Borrower(Protocol):
    """Who uses a device's port in place of the device: firmware that drives the network itself."""

    def frames_wait(self) -> None:
        """Frames wait; `take` them."""

    def link_changed(self, up: bool) -> None:
        """The link has come up or gone down."""

    def taken_back(self) -> None:
        """The device's own driver is at work; the port must not be used any more."""


class NetworkPort:
    """`on_frames()` is called when frames wait and the device is not sending; it takes them by `take`.

    After a burst of `send` the device looks at `waiting` itself. `activity()` is called for each frame: a machine whose
    network is busy does not idle.
    """

    def __init__(self, backend: Backend, activity: Callable[[], None] = nothing) -> None:
        self._backend = backend
        self._activity = activity
        self._sending = False
        self.waiting: deque[bytes] = deque()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.on_frames: Callable[[], None] = nothing
        self.on_link: Callable[[bool], None] = nothing
        self._borrower: Borrower | None = None
        self._connect(backend)

    def _connect(self, backend: Backend) -> None:
        backend.on_receive = self._received
        backend.on_link = self._link_changed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": None, "link": self.link}  # the back end is the host's

    def __setstate__(self, state: dict[str, Any]) -> None:
        link = state.pop("link")
        self.__dict__.update(state)
        self._backend = Unplugged(link)

    def replug(self, backend: Backend) -> None:
        """Put the plug into another back end, as when a machine is restored; its driver hears of it if the link changes."""
        before = self.link
        self._backend = backend
        self._connect(backend)
        if backend.link != before:
            self._link_changed(backend.link)

    @property
    def link(self) -> bool:
        """Whether the link is up."""
        return self._backend.link

    def send(self, frame: bytes) -> None:
        """Send a frame of the guest's; one shorter than a header or beyond 65,550 bytes is counted and dropped."""
        size = len(frame)
        if size < MINIMUM_FRAME:
            self.counters["runts"] += 1
            return
        if size > MAXIMUM_FRAME:
            self.counters["oversize"] += 1
            return
        self._activity()
        self.counters["sent"] += 1
        self.counters["sent_bytes"] += size
        self._sending = True
        try:
            self._backend.send(frame)
        finally:
            self._sending = False

    def take(self) -> bytes:
        """The frame that has waited longest. IndexError if none waits."""
        frame = self.waiting.popleft()
        self.counters["received"] += 1
        self.counters["received_bytes"] += len(frame)
        return frame

    def drop(self) -> None:
        """Lose the frame that has waited longest: the guest's buffers can never hold it."""
        self.waiting.popleft()
        self.counters["oversize"] += 1

    def clear(self) -> None:
        """Lose all that waits: the device was reset."""
        self.waiting.clear()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`: waiting frames, counters, and the back end's state."""
        return {"waiting": list(self.waiting), "counters": dict(self.counters), "backend": self._backend.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.waiting = deque(state["waiting"])
        self.counters.update(state["counters"])
        self._backend.load(state["backend"])

    # -- lent to firmware

    def lend(self, borrower: Borrower) -> None:
        """Give the port to `borrower` until its device takes it back; what waited is lost."""
        self.take_back()
        self.clear()
        self._borrower = borrower

    def give_back(self, borrower: Borrower) -> None:
        """`borrower` needs the port no more; nothing happens if it has none. What waited is lost."""
        if self._borrower is borrower:
            self._borrower = None
            self.clear()

    def take_back(self) -> None:
        """For devices: a driver has begun to use the device itself."""
        borrower, self._borrower = self._borrower, None
        if borrower is not None:
            self.clear()
            borrower.taken_back()

    def _link_changed(self, up: bool) -> None:
        self.on_link(up)
        if self._borrower is not None:
            self._borrower.link_changed(up)

    def _received(self, frame: bytes) -> None:
        if not MINIMUM_FRAME <= len(frame) <= MAXIMUM_FRAME:
            self.counters["runts" if len(frame) < MINIMUM_FRAME else "oversize"] += 1
            return
        if len(self.waiting) >= MAXIMUM_WAITING:
            self.counters["overruns"] += 1
            return
        self.waiting.append(frame)
        self._activity()
        if self._borrower is not None:
            self._borrower.frames_wait()
        elif not self._sending:
            self.on_frames()
