"""A hub in one process: what a machine sends reaches all others that are plugged in, each on a thread of its own."""

import threading
from collections import deque
from collections.abc import Callable

from machine.net.backend import Backend

MAXIMUM_WAITING = 1024
"""Frames on their way to one machine; what comes then is lost."""


class Hub:
    """Ports for any number of machines. `plug` and everything that ports do may happen on different threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ports: list[HubPort] = []

    def plug(self, post: Callable[[Callable[[], None]], None]) -> "HubPort":
        """A new port for the machine whose engine thread `post(action)` has call `action`."""
        port = HubPort(self, post)
        with self._lock:
            self._ports.append(port)
        return port

    def unplug(self, port: "HubPort") -> None:
        """Take a port away."""
        with self._lock:
            if port in self._ports:
                self._ports.remove(port)

    def others(self, port: "HubPort") -> list["HubPort"]:
        """All ports but this one."""
        with self._lock:
            return [other for other in self._ports if other is not port]


class HubPort(Backend):
    """One machine's place at a hub."""

    def __init__(self, hub: Hub, post: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self._hub = hub
        self._post = post
        self._lock = threading.Lock()
        self._coming: deque[bytes] = deque()
        self._posted = False

    def send(self, frame: bytes) -> None:
        """Hand the frame to all other machines."""
        for other in self._hub.others(self):
            other.arrived(frame)

    def arrived(self, frame: bytes) -> None:
        """A frame for this machine; from any thread."""
        with self._lock:
            if len(self._coming) >= MAXIMUM_WAITING:
                return
            self._coming.append(frame)
            if self._posted:
                return
            self._posted = True
        self._post(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            frames, self._coming = self._coming, deque()
            self._posted = False
        for frame in frames:
            self.on_receive(frame)

    def close(self) -> None:
        """Leave the hub."""
        self._hub.unplug(self)
