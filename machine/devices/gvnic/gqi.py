"""Queues with in-order descriptors (GQI): big-endian, doorbells that count in 32 bits."""

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

PADDING = 2
"""Bytes before each frame in its first buffer, so that IP headers are aligned; they count in the length."""

_PACKET = struct.Struct(">BBBBHHQ")
"""Type and flags, offset of the checksum field and of its layer (2 bytes each), descriptors, length, segment, address."""

_SEGMENT = struct.Struct(">BBHHHQ")
"""Type and flags, offset of layer 3, reserved, size of segments (TSO), length, address."""

_TRANSMIT_ENTRY = 16
_STANDARD, _SEGMENTED, _CONTINUED, _METADATA = 0x0, 0x1, 0x2, 0x3
_CHECKSUM = 0x1

_RECEIVED = struct.Struct(">IHHBBHHH")
"""RSS hash, size of coalesced segments, reserved, header length and offset, checksum, length, flags and sequence."""

_RECEIVE_ENTRY, _RECEIVED_AT, _SLOT = 64, 48, 8
_CONTINUES = 1 << 13
_SEQUENCES = 7
_M32 = 0xFFFFFFFF


def _swap(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")


class GqiTransmit(TransmitQueue):
    """Packets of one or more descriptors; the event counter tells how many descriptors have been consumed."""

    _STATE = ("posted", "done", "dropped")

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        self.posted = 0
        self.done = 0

    def ring(self, value: int) -> None:
        """How many descriptors the driver has posted in all."""
        posted = _swap(value)
        if posted - self.done & _M32 > self.settings.size:
            raise BrokenQueue(f"{posted - self.done & _M32} descriptors posted in a ring of {self.settings.size}")
        self.posted = posted

    def send(self) -> bool:
        """Send whole packets; one that is not posted whole waits."""
        around, size = self.around, self.settings.size
        waiting = self.posted - self.done & _M32
        if not waiting:
            return False
        ring = read_ring(around.dma, self.settings.ring, size, _TRANSMIT_ENTRY, self.done % size, waiting)
        at = frames = 0
        try:
            while at < waiting and frames < FRAMES_AT_ONCE:
                count = ring[at * _TRANSMIT_ENTRY + 3]
                if not 1 <= count <= size:
                    raise BrokenQueue(f"a packet of {count} descriptors")
                if at + count > waiting:
                    break
                frames += self._packet(ring[at * _TRANSMIT_ENTRY : (at + count) * _TRANSMIT_ENTRY])
                at += count
        finally:
            if at:
                self.done = self.done + at & _M32
                around.count(self.done)
                around.block.event()
        return frames >= FRAMES_AT_ONCE and self.done != self.posted

    def _packet(self, descriptors: bytes) -> int:
        """Send one packet; the number of frames that it made."""
        kind, field, layer, _, total, length, address = _PACKET.unpack_from(descriptors)
        if kind >> 4 not in (_STANDARD, _SEGMENTED):
            raise BrokenQueue(f"a packet begins with a descriptor of type {kind >> 4}")
        parts = [(address, length)]
        segment_size = 0
        for at in range(_TRANSMIT_ENTRY, len(descriptors), _TRANSMIT_ENTRY):
            follows, _, _, mss, length, address = _SEGMENT.unpack_from(descriptors, at)
            if follows >> 4 == _METADATA:
                continue
            if follows >> 4 != _CONTINUED:
                raise BrokenQueue(f"a packet goes on with a descriptor of type {follows >> 4}")
            segment_size = segment_size or mss
            parts.append((address, length))
        if (length := sum(length for _, length in parts)) != total:
            raise BrokenQueue(f"a packet of {total} bytes has {length} in its descriptors")
        read = self.around.buffers.read
        frame = read(*parts[0]) if len(parts) == 1 else b"".join([read(at, length) for at, length in parts])
        try:
            if kind >> 4 == _SEGMENTED:
                frames = offload.segment(frame, segment_size)
            elif kind & _CHECKSUM:
                frames = [offload.partial_checksum(frame, 2 * layer, 2 * (layer + field))]
            else:
                frames = [frame]
        except offload.BadOffload:
            self.dropped += 1
            return 1
        for one in frames:
            self.around.port.send(one)
        return len(frames)


class GqiReceive(ReceiveQueue):
    """Buffers in a ring of slots, used in order; a descriptor with a sequence number of 1 to 7 tells of each."""

    _STATE = ("posted", "done", "sequence")

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        super().__init__(settings, around)
        self.posted = 0
        self.done = 0
        self.sequence = 1

    def ring(self, value: int) -> None:
        """How many slots the driver has filled in all."""
        posted = _swap(value)
        if posted - self.done & _M32 > self.settings.size:
            raise BrokenQueue(f"{posted - self.done & _M32} buffers posted in a ring of {self.settings.size}")
        self.posted = posted

    def needed(self, length: int) -> int:
        """How many buffers a frame of `length` bytes takes."""
        return -(-(length + PADDING) // self.settings.buffer_size)

    @property
    def room(self) -> int:
        """How many buffers are posted."""
        return self.posted - self.done & _M32

    def place(self, frame: bytes) -> None:
        """Store a frame behind two bytes of padding, in as many buffers as it takes."""
        settings, dma = self.settings, self.around.dma
        data = b"\0\0" + frame
        for at in range(0, len(data), settings.buffer_size):
            part = data[at : at + settings.buffer_size]
            index = self.done % settings.size
            address = int.from_bytes(dma.read(settings.other_ring + index * _SLOT, _SLOT), "big")
            self.around.buffers.write(address, part)
            flags = _CONTINUES if at + settings.buffer_size < len(data) else 0
            told = _RECEIVED.pack(0, 0, 0, 0, 0, 0, len(part), flags | self.sequence)
            dma.write(settings.ring + index * _RECEIVE_ENTRY + _RECEIVED_AT, told)
            self.sequence = self.sequence % _SEQUENCES + 1
            self.done = self.done + 1 & _M32

    def finish(self) -> None:
        """Tell how many slots have been used in all."""
        self.around.count(self.done)
        self.around.block.event()
