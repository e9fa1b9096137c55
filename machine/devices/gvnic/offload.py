"""What drivers leave to the gVNIC: checksums, TCP segmentation, and telling what a packet is (RFC 791, 8200, 9293, 768)."""

import struct

from machine.devices.gvnic.errors import BrokenQueue

L3_OTHER, L3_IPV4, L3_IPV6 = 1, 2, 3
L4_OTHER, L4_TCP, L4_UDP, L4_ICMP, L4_SCTP = 1, 2, 3, 4, 5
"""Types in the packet type map; 0 is unknown."""

LEAST_SEGMENT = 88
"""Bytes of payload in a segment: drivers promise not to ask for less."""

_ETHERNET, _VLAN = 14, (0x8100, 0x88A8)
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_L4_TYPES = {_TCP: L4_TCP, _UDP: L4_UDP, 1: L4_ICMP, 58: L4_ICMP, 132: L4_SCTP}
_CHECKSUM_AT = {_TCP: 16, _UDP: 6}
_TCP_FIN_PUSH, _TCP_CWR = 0x09, 0x80


class BadOffload(BrokenQueue):
    """A packet is not what the driver says of it: it is dropped."""


class Headers:
    """Where the headers of a frame begin (bytes), the IP version (0: not IP) and protocol (None: a later fragment)."""

    __slots__ = ("l3", "l4", "protocol", "version")

    def __init__(self, frame: bytes) -> None:
        self.l3 = _ETHERNET
        kind = int.from_bytes(frame[12:14], "big")
        if kind in _VLAN:
            kind = int.from_bytes(frame[16:18], "big")
            self.l3 += 4
        self.l4, self.version = self.l3, 0
        self.protocol: int | None = None
        if kind == _IPV4 and len(frame) >= self.l3 + 20:
            self.version = 4
            self.l4 = self.l3 + 4 * (frame[self.l3] & 0xF)
            if not int.from_bytes(frame[self.l3 + 6 : self.l3 + 8], "big") & 0x1FFF:
                self.protocol = frame[self.l3 + 9]
        elif kind == _IPV6 and len(frame) >= self.l3 + 40:
            self.version = 6
            self.l4 = self.l3 + 40
            self.protocol = frame[self.l3 + 6]


def packet_type(frame: bytes) -> int:
    """The frame's index in the packet type map."""
    headers = Headers(frame)
    if not headers.version:
        return L3_OTHER << 3 | L4_OTHER
    l4 = L4_OTHER if headers.protocol is None else _L4_TYPES.get(headers.protocol, L4_OTHER)
    return (L3_IPV4 if headers.version == 4 else L3_IPV6) << 3 | l4


def packet_type_map() -> bytes:
    """The 1024 pairs (type of layer 3, type of layer 4) that `packet_type` counts in."""
    pairs = bytearray(2048)
    for l3 in (L3_OTHER, L3_IPV4, L3_IPV6):
        for l4 in range(L4_OTHER, L4_SCTP + 1):
            index = l3 << 3 | l4
            pairs[2 * index : 2 * index + 2] = bytes((l3, l4))
    return bytes(pairs)


def partial_checksum(frame: bytes, start: int, field: int) -> bytes:
    """Sum from `start` to the end, with what the driver left in the `field`, and store it there. BadOffload."""
    if start < _ETHERNET or field < start or field + 2 > len(frame):
        raise BadOffload(f"checksum at {field} of {len(frame)} bytes from {start} on")
    data = bytearray(frame)
    data[field : field + 2] = _checksum(data[start:], field - start == _CHECKSUM_AT[_UDP])
    return bytes(data)


def full_checksum(frame: bytes) -> bytes:
    """Compute the TCP or UDP checksum, whatever is there now. BadOffload if the frame is neither."""
    headers = Headers(frame)
    field = headers.l4 + _CHECKSUM_AT.get(headers.protocol or 0, len(frame))
    if field + 2 > len(frame) or headers.l4 < headers.l3 + 20:
        raise BadOffload(f"protocol {headers.protocol} in {len(frame)} bytes, wanted whole TCP or UDP")
    data = bytearray(frame)
    _store_full(data, headers, field)
    return bytes(data)


def segment(frame: bytes, size: int) -> list[bytes]:
    """Cut a TCP packet into segments of `size` bytes of payload, each with headers of its own. BadOffload."""
    headers = Headers(frame)
    l3, l4 = headers.l3, headers.l4
    if headers.protocol != _TCP or l4 < l3 + 20 or len(frame) < l4 + 20 or size < LEAST_SEGMENT:
        raise BadOffload(f"segments of {size} bytes of protocol {headers.protocol}, wanted {LEAST_SEGMENT} of TCP")
    end = l4 + 4 * (frame[l4 + 12] >> 4)
    if end < l4 + 20 or end > len(frame):
        raise BadOffload(f"TCP header from {l4} to {end} in {len(frame)} bytes")
    sequence = int.from_bytes(frame[l4 + 4 : l4 + 8], "big")
    identity = int.from_bytes(frame[l3 + 4 : l3 + 6], "big")
    segments = []
    for number, at in enumerate(range(end, max(len(frame), end + 1), size)):
        data = bytearray(frame[:end] + frame[at : at + size])
        struct.pack_into(">I", data, l4 + 4, sequence + at - end & 0xFFFFFFFF)
        if at + size < len(frame):
            data[l4 + 13] &= ~_TCP_FIN_PUSH
        if number:
            data[l4 + 13] &= ~_TCP_CWR & 0xFF
        if headers.version == 4:
            struct.pack_into(">HH", data, l3 + 2, len(data) - l3 & 0xFFFF, identity + number & 0xFFFF)
            data[l3 + 10 : l3 + 12] = b"\0\0"
            data[l3 + 10 : l3 + 12] = _checksum(data[l3:l4], False)
        else:
            struct.pack_into(">H", data, l3 + 4, len(data) - l4 & 0xFFFF)
        _store_full(data, headers, l4 + _CHECKSUM_AT[_TCP])
        segments.append(bytes(data))
    return segments


def _store_full(data: bytearray, headers: Headers, field: int) -> None:
    l3, l4 = headers.l3, headers.l4
    addresses = data[l3 + 12 : l3 + 20] if headers.version == 4 else data[l3 + 8 : l3 + 40]
    data[field : field + 2] = b"\0\0"
    pseudo = addresses + struct.pack(">IHBB", len(data) - l4, 0, 0, headers.protocol or 0)
    data[field : field + 2] = _checksum(pseudo + data[l4:], headers.protocol == _UDP)


def _checksum(data: bytes | bytearray, udp: bool) -> bytes:
    """The Internet checksum (RFC 1071): 2^16 is 1 modulo 65535, so the remainder is the one's complement sum."""
    if len(data) & 1:
        data = data + b"\0"
    number = int.from_bytes(data, "big")
    total = number % 0xFFFF or (0xFFFF if number else 0)
    value = 0xFFFF - total
    return (value or (0xFFFF if udp else 0)).to_bytes(2, "big")
