"""Queues with out-of-order descriptors (DQO): little-endian, with completion rings whose entries carry a generation bit.

Doorbells hold the index behind the last descriptor; iPXE lets that of the receive queue run on beyond the ring.
"""

import struct

from machine.devices.gvnic import offload
from machine.devices.gvnic.errors import BrokenQueue
from machine.devices.gvnic.queue import (
    FRAMES_AT_ONCE,
    ReceiveQueue,
    Settings,
    Surroundings,
    TransmitQueue,
    read_ring,
)
from machine.net.backend import MAXIMUM_FRAME

_TRANSMIT_ENTRY = 16
_PACKET = struct.Struct("<QB3xHH")
"""Address, type and flags, completion tag, length (14 bits)."""

_TYPE_MASK, _GENERAL_CONTEXT, _SEGMENTATION, _PACKET_TYPE = 0x1F, 0x04, 0x05, 0x0C
_END_OF_PACKET, _CHECKSUM, _REPORT = 0x20, 0x40, 0x80
_SEGMENTATION_ENABLED = 0x20
_LENGTH_MASK = 0x3FFF

_COMPLETION = struct.Struct("<HHI")
"""Queue (11 bits), type (3) and generation (bit 15); tag or index; reserved."""

_PACKET_DONE, _DESCRIPTORS_DONE = 2, 4
_GENERATION = 15
_MOST_PARTS = 256

_RECEIVE_ENTRY = 32
_BUFFER = struct.Struct("<H6xQ")
_RECEIVED = struct.Struct("<BBHHHBBHHHIIII")
"""Format, errors, packet type, length and generation, header length, done and end of packet, more errors, reserved,
buffer, checksum, hash, two reserved, time."""

_FORMAT = 1
_RECEIVED_GENERATION = 14
_DONE, _LAST = 0x01, 0x02


class DqoTransmit(TransmitQueue):
    """Packets of descriptors up to one that ends it; each packet is completed by its tag."""

    _STATE = ("tail", "head", "completed", "dropped")

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        self.tail = 0
        self.head = 0
        self.completed = 0
        self._unpublished = b""

    def ring(self, value: int) -> None:
        """The index behind the last descriptor."""
        self.tail = value % self.settings.size

    def send(self) -> bool:
        """Send whole packets; one whose end is not posted waits."""
        settings, around = self.settings, self.around
        waiting = (self.tail - self.head) % settings.size
        if not waiting:
            return False
        ring = read_ring(around.dma, settings.ring, settings.size, _TRANSMIT_ENTRY, self.head, waiting)
        start = self.head
        at = frames = 0
        try:
            while at < waiting and frames < FRAMES_AT_ONCE:
                end = self._end(ring, at, waiting)
                if end is None:
                    break
                frames += self._packet(ring[at * _TRANSMIT_ENTRY : end * _TRANSMIT_ENTRY])
                at = end
                self.head = (start + at) % settings.size
                self._complete(ring, end - 1)
        finally:
            if at:
                self._publish()
                around.block.event()
        return frames >= FRAMES_AT_ONCE and self.head != self.tail

    def _end(self, ring: bytes, at: int, waiting: int) -> int | None:
        """The index behind the packet that begins at `at`; None if its end is not there yet."""
        for end in range(at, min(waiting, at + _MOST_PARTS)):
            flags = ring[end * _TRANSMIT_ENTRY + 8]
            kind = flags & _TYPE_MASK
            if kind not in (_GENERAL_CONTEXT, _SEGMENTATION, _PACKET_TYPE):
                raise BrokenQueue(f"a descriptor of type {kind:#x}")
            if kind == _PACKET_TYPE and flags & _END_OF_PACKET:
                return end + 1
        if waiting - at >= _MOST_PARTS:
            raise BrokenQueue(f"a packet of more than {_MOST_PARTS} descriptors")
        return None

    def _packet(self, descriptors: bytes) -> int:
        """Send one packet; the number of frames that it made."""
        parts = []
        segment_size = length = 0
        flags = 0
        for at in range(0, len(descriptors), _TRANSMIT_ENTRY):
            address, flags, _, size = _PACKET.unpack_from(descriptors, at)
            if flags & _TYPE_MASK == _PACKET_TYPE:
                length += size & _LENGTH_MASK
                if length > MAXIMUM_FRAME:
                    raise BrokenQueue(f"a packet of more than {MAXIMUM_FRAME} bytes")
                parts.append(self.around.buffers.read(address, size & _LENGTH_MASK))
            elif flags & _TYPE_MASK == _SEGMENTATION and flags & _SEGMENTATION_ENABLED:
                segment_size = int.from_bytes(descriptors[at + 4 : at + 6], "little") & _LENGTH_MASK
        frame = b"".join(parts)
        try:
            if segment_size:
                frames = offload.segment(frame, segment_size)
            elif flags & _CHECKSUM:
                frames = [offload.full_checksum(frame)]
            else:
                frames = [frame]
        except offload.BadOffload:
            self.dropped += 1
            return 1
        for one in frames:
            self.around.port.send(one)
        return len(frames)

    def _complete(self, ring: bytes, last: int) -> None:
        _, flags, tag, _ = _PACKET.unpack_from(ring, last * _TRANSMIT_ENTRY)
        if flags & _REPORT:
            self._completion(_DESCRIPTORS_DONE, self.head)
        self._completion(_PACKET_DONE, tag)

    def _completion(self, kind: int, value: int) -> None:
        settings = self.settings
        lap, index = divmod(self.completed, settings.other_size)
        if not index:
            self._publish()
        head = settings.identity | kind << 11 | (~lap & 1) << _GENERATION
        self._unpublished += _COMPLETION.pack(head, value, 0)
        self.completed = (self.completed + 1) % (2 * settings.other_size)

    def _publish(self) -> None:
        """Store the completions of a burst at once: they end where the next one begins."""
        told, self._unpublished = self._unpublished, b""
        if told:
            end = (self.completed - 1) % self.settings.other_size + 1
            self.around.dma.write(self.settings.other_ring + end * _COMPLETION.size - len(told), told)


class DqoReceive(ReceiveQueue):
    """Buffers that the driver numbers and posts in one ring, completions in another."""

    _STATE = ("tail", "head", "completed")

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        self.tail = 0
        self.head = 0
        self.completed = 0

    def ring(self, value: int) -> None:
        """The index behind the last buffer."""
        self.tail = value % self.settings.other_size

    def needed(self, length: int) -> int:
        """How many buffers a frame of `length` bytes takes."""
        return -(-length // self.settings.buffer_size)

    @property
    def room(self) -> int:
        """How many buffers are posted."""
        return (self.tail - self.head) % self.settings.other_size

    def place(self, frame: bytes) -> None:
        """Store a frame in as many buffers as it takes."""
        settings, dma = self.settings, self.around.dma
        kind = offload.packet_type(frame)
        for at in range(0, len(frame), settings.buffer_size):
            part = frame[at : at + settings.buffer_size]
            posted = dma.read(settings.other_ring + self.head * _RECEIVE_ENTRY, _BUFFER.size)
            identity, address = _BUFFER.unpack(posted)
            self.around.buffers.write(address, part)
            self.head = (self.head + 1) % settings.other_size
            last = _LAST if at + settings.buffer_size >= len(frame) else 0
            lap, index = divmod(self.completed, settings.size)
            length = len(part) | (~lap & 1) << _RECEIVED_GENERATION
            told = _RECEIVED.pack(_FORMAT, 0, kind, length, 0, _DONE | last, 0, 0, identity, 0, 0, 0, 0, 0)
            dma.write(settings.ring + index * _RECEIVE_ENTRY, told)
            self.completed = (self.completed + 1) % (2 * settings.size)

    def finish(self) -> None:
        """Interrupt; completions tell the rest."""
        self.around.block.event()
