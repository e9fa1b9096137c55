"""The other end of a network device's cable: one small interface that every kind of network implements."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from machine.callbacks import nothing
from machine.errors import MachineError

MINIMUM_FRAME = 14
"""Bytes of an Ethernet header: what is shorter is no frame."""

MAXIMUM_FRAME = 65_550
"""Bytes: a header and the largest IPv4 packet. Nothing longer is sent or received."""

DEFAULT_MTU = 1500


class NetworkError(MachineError):
    """A network cannot be reached; the message says what was tried and what to do."""


class Backend(ABC):
    """Carries Ethernet frames, without preamble and checksum, of 14 to 65,550 bytes.

    Everything here belongs to the engine thread: who calls `send`, and `on_receive` and `on_link`, which the back end
    calls. **`on_receive` may be called from inside `send`** (a gateway answers at once); `machine.net.port.NetworkPort`
    takes that burden from a device.
    """

    def __init__(self) -> None:
        self.on_receive: Callable[[bytes], None] = nothing
        """A frame has come in."""
        self.on_link: Callable[[bool], None] = nothing
        """The link has come up or gone down."""
        self.link = True
        """Whether the link is up."""

    @abstractmethod
    def send(self, frame: bytes) -> None:
        """Take a frame from the guest. Never raises for what became of the network; frames are lost then."""

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of descriptors, threads and processes. May be called twice."""

    def save(self) -> dict[str, Any]:
        """Plain data for `load`. Connections to the host are not part of it: a restored guest sees them reset."""
        return {}

    def load(self, state: dict[str, Any]) -> None:  # noqa: B027  nor anything to keep
        """Take over a saved state."""

    def set_link(self, up: bool) -> None:
        """For back ends: the link has changed."""
        if up != self.link:
            self.link = up
            self.on_link(up)


class Unplugged(Backend):
    """What a restored machine finds until it is plugged in again: frames are lost, and the link is as it was."""

    def __init__(self, link: bool) -> None:
        super().__init__()
        self.link = link

    def send(self, frame: bytes) -> None:
        """Lose the frame."""


class NoNetwork(Backend):
    """A cable that is plugged into nothing: frames are lost, and the link is down."""

    def __init__(self) -> None:
        super().__init__()
        self.link = False

    def send(self, frame: bytes) -> None:
        """Lose the frame."""
