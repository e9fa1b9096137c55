"""The VirtIO network device (VirtIO 1.2, 5.1): receive queue 0, transmit queue 1, control queue 2."""

from collections.abc import Callable
from typing import Any

from machine.devices.dma import Dma
from machine.devices.virtio.device import ACCESS_PLATFORM, ANY_LAYOUT, VERSION_1, VirtioDevice
from machine.devices.virtio.queue import BrokenRing, Chain, SplitQueue
from machine.devices.virtio.receive_filter import CLASS_MAC, ERROR, MAXIMUM_ADDRESSES, ReceiveFilter
from machine.net.backend import DEFAULT_MTU, MAXIMUM_FRAME
from machine.net.port import NetworkPort

F_MTU, F_MAC, F_MRG_RXBUF, F_STATUS = 1 << 3, 1 << 5, 1 << 15, 1 << 16
F_CTRL_VQ, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_MAC_ADDR = 1 << 17, 1 << 18, 1 << 20, 1 << 23
"""Feature bits (5.1.3)."""

RECEIVE, TRANSMIT, CONTROL = 0, 1, 2
QUEUE_SIZES = (256, 256, 64)

_FEATURES = F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR
_LINK_UP = 1
_HEADER, _HEADER_MERGEABLE = 10, 12
_COMMAND_LIMIT = 2 + 2 * (4 + 6 * 16 * MAXIMUM_ADDRESSES)


class VirtioNet(VirtioDevice):
    """A network device with the address `mac` (6 bytes), plugged into `port`.

    `mtu` is what the driver is told. No offloads are offered: frames come and go whole, and the header before them
    says nothing (5.1.6): 10 bytes, or 12 with VIRTIO_F_VERSION_1 or mergeable buffers, and always with `long_header`.
    `limited` says that the device does not reach all memory, and offers VIRTIO_F_ACCESS_PLATFORM: Linux asks for it in a
    guest whose memory is encrypted.
    """

    DEVICE_ID = 1

    def __init__(
        self,
        dma: Dma,
        port: NetworkPort,
        mac: bytes,
        *,
        defer: Callable[[Callable[[], None]], None],
        mtu: int = DEFAULT_MTU,
        strict: bool = False,
        long_header: bool = False,
        limited: bool = False,
    ) -> None:
        offered = _FEATURES | ANY_LAYOUT | VERSION_1 | (ACCESS_PLATFORM if limited else 0)
        super().__init__(dma, QUEUE_SIZES, offered, defer=defer, strict=strict)
        self.filter = ReceiveFilter(mac)
        self._mtu = mtu
        self._port = port
        port.on_frames = self._frames_wait
        port.on_link = self._link_changed
        self._receive_header = b""
        self._long_header = long_header
        self._mergeable = False

    def _link_changed(self, _up: bool) -> None:
        self.config_changed()

    # -- configuration (5.1.4)

    def config(self) -> bytes:
        """MAC address, status, number of queue pairs, MTU."""
        status = _LINK_UP if self._port.link else 0
        return (
            self.filter.mac + status.to_bytes(2, "little") + (1).to_bytes(2, "little") + self._mtu.to_bytes(2, "little")
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """The legacy interface lets a driver write the MAC address; anything else is read-only (5.1.4.2)."""
        mac = bytearray(self.filter.mac)
        part = data[: max(6 - offset, 0)]
        mac[offset : offset + len(part)] = part
        self.filter.mac = bytes(mac)

    def started(self) -> None:
        """The features have been chosen."""
        self._port.take_back()
        self._mergeable = bool(self.features & F_MRG_RXBUF)
        long = self._long_header or self._mergeable or self.features & VERSION_1
        self._receive_header = (bytes(10) + b"\x01\x00") if long else bytes(_HEADER)

    def stopped(self) -> None:
        """Frames that wait for the driver are lost."""
        self._port.take_back()
        self._port.clear()
        self.filter.reset()

    # -- queues

    def process(self, queue: SplitQueue) -> bool:
        """Handle what the driver made available."""
        if queue.index == RECEIVE:
            self._receive(queue)
            return False
        more = self._transmit(queue) if queue.index == TRANSMIT else self._control(queue)
        if self._port.waiting:
            self._frames_wait()
        return more

    @property
    def polled(self) -> bool:
        """Whether the driver wants no interrupt for frames that come in."""
        queue = self.queues[RECEIVE]
        return self.live and queue.enabled and queue.silenced

    def _transmit(self, queue: SplitQueue) -> bool:
        dma, header, send = self.dma, len(self._receive_header), self._port.send
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                break
            data = chain.gather(dma, header + MAXIMUM_FRAME + 1)
            if len(data) < header:
                raise BrokenRing(f"queue {queue.index}: {len(data)} bytes to send, wanted a header of {header}")
            queue.push(chain.head, 0)
            send(data[header:])
        self.finish(queue)
        return queue.more or queue.ask_for_kick()

    def _frames_wait(self) -> None:
        queue = self.queues[RECEIVE]
        if not self.live or not queue.enabled:
            self._port.clear()
            return
        self.guarded(lambda: self._receive(queue))

    def _receive(self, queue: SplitQueue) -> None:
        port = self._port
        place = self._place_merged if self._mergeable else self._place
        while port.waiting:
            frame = port.waiting[0]
            if not self.filter.accepts(frame) or place(queue, frame):
                port.take()
            elif not queue.ask_for_kick():
                break
        self.finish(queue)

    def _place(self, queue: SplitQueue, frame: bytes) -> bool:
        """Put the frame into one buffer. False if there is none; a frame that is too long for it is dropped."""
        chain = self._buffer(queue)
        if chain is None:
            return False
        data = self._receive_header + frame
        if chain.room < len(data):
            queue.unpop()
            self._port.counters["oversize"] += 1
            return True
        queue.push(chain.head, chain.scatter(self.dma, data))
        return True

    def _place_merged(self, queue: SplitQueue, frame: bytes) -> bool:
        """Put the frame into as many buffers as it needs (5.1.6.4). False if there are too few as yet."""
        needed = _HEADER_MERGEABLE + len(frame)
        chains: list[Chain] = []
        room = 0
        while room < needed:
            chain = self._buffer(queue)
            if chain is None:
                queue.unpop(len(chains))
                if len(chains) < queue.size:
                    return False
                self._port.counters["oversize"] += 1
                return True
            chains.append(chain)
            room += chain.room
        data = bytes(10) + len(chains).to_bytes(2, "little") + frame
        done = 0
        for chain in chains:
            written = chain.scatter(self.dma, data[done:] if done else data)
            queue.push(chain.head, written)
            done += written
        return True

    def _buffer(self, queue: SplitQueue) -> Chain | None:
        chain = queue.pop()
        if chain is not None and not chain.writable:
            raise BrokenRing(f"queue {queue.index}: buffer {chain.head} has nothing to write to")
        return chain

    def _control(self, queue: SplitQueue) -> bool:
        """Commands, each answered by one byte (5.1.6.5)."""
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                break
            if not chain.writable:
                raise BrokenRing(f"queue {queue.index}: command {chain.head} has no room for its answer")
            request = chain.gather(self.dma, _COMMAND_LIMIT)
            answer = self.filter.command(request) if chain.length <= _COMMAND_LIMIT else ERROR
            queue.push(chain.head, chain.scatter(self.dma, bytes((answer,))))
            if request[:1] == bytes((CLASS_MAC,)):
                self.generation = self.generation + 1 & 0xFF
        self.finish(queue)
        return queue.more or queue.ask_for_kick()

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {**super().save(), "filter": self.filter.save(), "port": self._port.save()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        super().load(state)
        self.filter.load(state["filter"])
        self._port.load(state["port"])
        self.started()
