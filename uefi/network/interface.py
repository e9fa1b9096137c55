"""A network interface as EFI_SIMPLE_NETWORK_PROTOCOL has it, without its calling convention: states, filters, queues."""

from collections import deque
from collections.abc import Callable

from machine.boards.board import Nic
from machine.callbacks import nothing
from machine.net.backend import MINIMUM_FRAME

STOPPED, STARTED, INITIALIZED = range(3)
"""EFI_SIMPLE_NETWORK_STATE."""

UNICAST, MULTICAST, BROADCAST, PROMISCUOUS, PROMISCUOUS_MULTICAST = 0x01, 0x02, 0x04, 0x08, 0x10
FILTERS = UNICAST | MULTICAST | BROADCAST | PROMISCUOUS | PROMISCUOUS_MULTICAST
MAXIMUM_MULTICAST = 16
"""Addresses of the multicast filter; as many as EFI_SIMPLE_NETWORK_MODE can hold."""

MTU = 1500
HEADER = MINIMUM_FRAME
LONGEST = HEADER + MTU
ADDRESS = 6

MAXIMUM_WAITING = 256
"""Received frames that the guest has not taken; what comes then is lost."""

MAXIMUM_SENT = 64
"""Transmit buffers that the guest has not asked back; no more is sent until it does."""

BROADCAST_ADDRESS = b"\xff" * ADDRESS
NOT_COUNTED = (1 << 64) - 1

STATISTICS = (
    *("RxTotalFrames", "RxGoodFrames", "RxUndersizeFrames", "RxOversizeFrames", "RxDroppedFrames", "RxUnicastFrames"),
    *("RxBroadcastFrames", "RxMulticastFrames", "RxCrcErrorFrames", "RxTotalBytes"),
    *("TxTotalFrames", "TxGoodFrames", "TxUndersizeFrames", "TxOversizeFrames", "TxDroppedFrames", "TxUnicastFrames"),
    *("TxBroadcastFrames", "TxMulticastFrames", "TxCrcErrorFrames", "TxTotalBytes"),
    *("Collisions", "UnsupportedProtocol", "RxDuplicatedFrames", "RxDecryptErrorFrames"),
    *("TxErrorFrames", "TxRetryFrames"),
)
"""EFI_NETWORK_STATISTICS, each a UINT64."""

_NEVER_COUNTED = frozenset(
    (
        *("RxCrcErrorFrames", "TxCrcErrorFrames", "UnsupportedProtocol", "RxDuplicatedFrames"),
        *("RxDecryptErrorFrames", "TxErrorFrames", "TxRetryFrames"),
    )
)


def _kind(frame: bytes) -> str:
    """What a frame's destination is, as the statistics call it."""
    if frame[:ADDRESS] == BROADCAST_ADDRESS:
        return "Broadcast"
    return "Multicast" if frame[0] & 1 else "Unicast"


class NetworkInterface:
    """Drives the port of one network device while it is initialized, and gives way to a driver of the guest's.

    `changed()` is called when the mode has changed by itself: the link.
    """

    def __init__(self, nic: Nic) -> None:
        self._nic = nic
        self.state = STOPPED
        self.permanent = nic.mac
        self.address = nic.mac
        self.filters = 0
        self.multicast: list[bytes] = []
        self.received: deque[bytes] = deque()
        self.sent: deque[int] = deque()
        self.holds_device = False
        """Whether the device is ours: initialized, and no driver of the guest's has reset it since."""
        self.changed: Callable[[], None] = nothing
        self.reset_statistics()

    @property
    def link(self) -> bool:
        """Whether there is a network at the other end."""
        return self._nic.port.link

    # -- states

    def initialize(self) -> None:
        """Take the device; nothing is received before filters are set."""
        self.filters = 0
        self.multicast = []
        self.address = self.permanent
        self.state = INITIALIZED
        self.take_device()

    def take_device(self) -> None:
        """Reset the device, as every driver begins, and use its port from now on. Both queues are emptied."""
        self.release_device()
        self._nic.reset()
        self._nic.port.lend(self)
        self.holds_device = True

    def release_device(self) -> None:
        """Leave the port to the device."""
        self._nic.port.give_back(self)
        self.holds_device = False
        self.received.clear()
        self.sent.clear()

    def shut_down(self) -> None:
        """Back to the started state."""
        self.release_device()
        self.filters = 0
        self.multicast = []
        self.address = self.permanent
        self.state = STARTED

    # -- machine.net.port.Borrower

    def frames_wait(self) -> None:
        """Frames have come in: filter and queue them."""
        port = self._nic.port
        while port.waiting:
            frame = port.take()
            if not self.accepts(frame):
                continue
            statistics = self.statistics
            statistics["RxTotalFrames"] += 1
            statistics["RxTotalBytes"] += len(frame)
            if len(frame) > LONGEST:
                statistics["RxOversizeFrames"] += 1
            elif len(self.received) >= MAXIMUM_WAITING:
                statistics["RxDroppedFrames"] += 1
            else:
                statistics["RxGoodFrames"] += 1
                statistics[f"Rx{_kind(frame)}Frames"] += 1
                self.received.append(frame)

    def link_changed(self, up: bool) -> None:
        """The link has come up or gone down."""
        self.changed()

    def taken_back(self) -> None:
        """A driver of the guest's has begun to use the device."""
        self.holds_device = False
        self.received.clear()
        self.sent.clear()

    # -- filters

    def accepts(self, frame: bytes) -> bool:
        """Whether the receive filters let a frame through."""
        filters = self.filters
        if filters & PROMISCUOUS:
            return True
        destination = frame[:ADDRESS]
        if destination == BROADCAST_ADDRESS:
            return bool(filters & BROADCAST)
        if destination[0] & 1:
            if filters & PROMISCUOUS_MULTICAST:
                return True
            return bool(filters & MULTICAST) and destination in self.multicast
        return bool(filters & UNICAST) and destination == self.address

    # -- frames

    def transmit(self, buffer: int, frame: bytes) -> None:
        """Send a frame at once; its buffer's address can be asked back."""
        statistics = self.statistics
        statistics["TxTotalFrames"] += 1
        statistics["TxTotalBytes"] += len(frame)
        statistics["TxGoodFrames"] += 1
        statistics[f"Tx{_kind(frame)}Frames"] += 1
        self.sent.append(buffer)
        self._nic.port.send(frame)

    def reset_statistics(self) -> None:
        """Begin to count anew."""
        self.statistics = {name: NOT_COUNTED if name in _NEVER_COUNTED else 0 for name in STATISTICS}
