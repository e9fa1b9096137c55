"""Ethernet, ARP, IPv4, ICMP, UDP and TCP as bytes: what a gateway reads and writes, and nothing more.

Addresses are raw bytes (6 of a MAC address, 4 of an IPv4 address). Whatever is malformed raises PacketError.
"""

import struct

from machine.net.backend import NetworkError

ETHERTYPE_IPV4, ETHERTYPE_ARP = 0x0800, 0x0806
PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP = 1, 6, 17
BROADCAST_MAC = b"\xff" * 6
ARP_REQUEST, ARP_REPLY = 1, 2
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

_ARP = struct.Struct(">HHBBH6s4s6s4s")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_UDP = struct.Struct(">HHHH")
_TCP = struct.Struct(">HHIIBBHHH")
_PSEUDO = struct.Struct(">4s4sBBH")
_DONT_FRAGMENT, _FRAGMENT_MASK = 0x4000, 0x3FFF
_TTL = 64
_OPTION_END, _OPTION_NOP, _OPTION_MSS, _OPTION_SCALE = 0, 1, 2, 3


class PacketError(NetworkError):
    """A packet that is too short, contradicts itself, or has a wrong checksum."""


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, padded to an even length; 0 for data that contains a right one."""
    if len(data) % 2:
        data += b"\0"
    # 65536 is 1 modulo 65535, so the remainder of the whole as one number is the one's complement sum of its words.
    rest = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF - rest if rest else 0


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    """A frame; padding to 60 bytes is left to real wires."""
    return destination + source + kind.to_bytes(2, "big") + payload


class Arp:
    """An ARP packet for IPv4 over Ethernet (RFC 826)."""

    __slots__ = ("operation", "sender_ip", "sender_mac", "target_ip", "target_mac")

    def __init__(
        self, operation: int, sender_mac: bytes, sender_ip: bytes, target_mac: bytes, target_ip: bytes
    ) -> None:
        self.operation = operation
        self.sender_mac = sender_mac
        self.sender_ip = sender_ip
        self.target_mac = target_mac
        self.target_ip = target_ip

    @classmethod
    def parse(cls, data: bytes) -> "Arp":
        """Of the payload of a frame."""
        if len(data) < _ARP.size:
            raise PacketError(f"ARP packet of {len(data)} bytes, wanted {_ARP.size}")
        hardware, protocol, hardware_size, protocol_size, operation, *addresses = _ARP.unpack_from(data)
        if (hardware, protocol, hardware_size, protocol_size) != (1, ETHERTYPE_IPV4, 6, 4):
            raise PacketError(f"ARP for hardware {hardware} and protocol {protocol:#x}, wanted 1 and 0x800")
        return cls(operation, *addresses)

    def pack(self) -> bytes:
        """The payload of a frame."""
        addresses = (self.sender_mac, self.sender_ip, self.target_mac, self.target_ip)
        return _ARP.pack(1, ETHERTYPE_IPV4, 6, 4, self.operation, *addresses)


class Ipv4:
    """An unfragmented IPv4 packet (RFC 791)."""

    __slots__ = ("destination", "payload", "protocol", "source")

    def __init__(self, source: bytes, destination: bytes, protocol: int, payload: bytes) -> None:
        self.source = source
        self.destination = destination
        self.protocol = protocol
        self.payload = payload

    @classmethod
    def parse(cls, data: bytes) -> "Ipv4":
        """Of the payload of a frame, padding behind the packet allowed."""
        if len(data) < _IPV4.size:
            raise PacketError(f"IPv4 packet of {len(data)} bytes, wanted at least {_IPV4.size}")
        first, _, total, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(data)
        header = 4 * (first & 0xF)
        if first >> 4 != 4 or header < _IPV4.size or not header <= total <= len(data):
            raise PacketError(f"IPv4 header {first:#x} with total length {total}, {len(data)} bytes there")
        if checksum(data[:header]):
            raise PacketError("IPv4 header with a wrong checksum")
        if fragment & _FRAGMENT_MASK:
            raise PacketError("a fragment; fragments are not put together here")
        return cls(source, destination, protocol, data[header:total])

    def pack(self) -> bytes:
        """The payload of a frame."""
        total = _IPV4.size + len(self.payload)
        header = _IPV4.pack(*(0x45, 0, total, 0, _DONT_FRAGMENT, _TTL, self.protocol, 0, self.source, self.destination))
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + self.payload

    def pseudo_header(self) -> bytes:
        """What UDP's and TCP's checksums also cover."""
        return _PSEUDO.pack(self.source, self.destination, 0, self.protocol, len(self.payload))


class Udp:
    """A UDP datagram (RFC 768)."""

    __slots__ = ("destination", "payload", "source")

    def __init__(self, source: int, destination: int, payload: bytes) -> None:
        self.source = source
        self.destination = destination
        self.payload = payload

    @classmethod
    def parse(cls, packet: Ipv4) -> "Udp":
        """Of an IPv4 packet."""
        data = packet.payload
        if len(data) < _UDP.size:
            raise PacketError(f"UDP datagram of {len(data)} bytes, wanted at least {_UDP.size}")
        source, destination, length, check = _UDP.unpack_from(data)
        if not _UDP.size <= length <= len(data):
            raise PacketError(f"UDP length {length}, {len(data)} bytes there")
        if check and checksum(packet.pseudo_header() + data):
            raise PacketError("UDP datagram with a wrong checksum")
        return cls(source, destination, data[_UDP.size : length])

    def pack(self, source: bytes, destination: bytes) -> Ipv4:
        """An IPv4 packet from `source` to `destination`."""
        length = _UDP.size + len(self.payload)
        packet = Ipv4(
            source, destination, PROTOCOL_UDP, _UDP.pack(self.source, self.destination, length, 0) + self.payload
        )
        check = checksum(packet.pseudo_header() + packet.payload) or 0xFFFF
        packet.payload = packet.payload[:6] + check.to_bytes(2, "big") + packet.payload[8:]
        return packet


class Segment:
    """A TCP segment (RFC 9293, 3.1). `mss` and `scale` are the options of that name, None where absent."""

    __slots__ = ("ack", "destination", "flags", "mss", "payload", "scale", "seq", "source", "window")

    def __init__(
        self,
        source: int,
        destination: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: bytes = b"",
        mss: int | None = None,
        scale: int | None = None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.seq = seq
        self.ack = ack
        self.flags = flags
        self.window = window
        self.payload = payload
        self.mss = mss
        self.scale = scale

    @classmethod
    def parse(cls, packet: Ipv4) -> "Segment":
        """Of an IPv4 packet."""
        data = packet.payload
        if len(data) < _TCP.size:
            raise PacketError(f"TCP segment of {len(data)} bytes, wanted at least {_TCP.size}")
        source, destination, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(data)
        header = 4 * (offset >> 4)
        if not _TCP.size <= header <= len(data):
            raise PacketError(f"TCP header of {header} bytes, {len(data)} bytes there")
        if checksum(packet.pseudo_header() + data):
            raise PacketError("TCP segment with a wrong checksum")
        segment = cls(source, destination, seq, ack, flags, window, data[header:])
        if header > _TCP.size:
            segment._parse_options(data[_TCP.size : header])
        return segment

    def _parse_options(self, options: bytes) -> None:
        at = 0
        while at < len(options) and options[at] != _OPTION_END:
            if options[at] == _OPTION_NOP:
                at += 1
                continue
            size = options[at + 1] if at + 1 < len(options) else 0
            if size < 2 or at + size > len(options):
                raise PacketError(f"TCP option {options[at]} of {size} bytes at {at}, options end at {len(options)}")
            if options[at] == _OPTION_MSS and size == 4:
                self.mss = int.from_bytes(options[at + 2 : at + 4], "big")
            elif options[at] == _OPTION_SCALE and size == 3:
                self.scale = min(options[at + 2], 14)
            at += size

    def pack(self, source: bytes, destination: bytes) -> Ipv4:
        """An IPv4 packet from `source` to `destination`."""
        options = b""
        if self.mss is not None:
            options += bytes((_OPTION_MSS, 4)) + self.mss.to_bytes(2, "big")
        if self.scale is not None:
            options += bytes((_OPTION_NOP, _OPTION_SCALE, 3, self.scale))
        offset = (_TCP.size + len(options)) // 4 << 4
        header = _TCP.pack(*(self.source, self.destination, self.seq, self.ack, offset, self.flags, self.window, 0, 0))
        packet = Ipv4(source, destination, PROTOCOL_TCP, header + options + self.payload)
        check = checksum(packet.pseudo_header() + packet.payload)
        packet.payload = packet.payload[:16] + check.to_bytes(2, "big") + packet.payload[18:]
        return packet

    @property
    def length(self) -> int:
        """Sequence numbers that the segment takes."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def __repr__(self) -> str:
        names = "".join(name for bit, name in zip((SYN, ACK, FIN, RST, PSH), "SAFRP", strict=True) if self.flags & bit)
        return f"Segment({self.source}>{self.destination} {names} {self.seq}:{self.ack} +{len(self.payload)} w{self.window})"


def icmp_echo_reply(request: bytes) -> bytes | None:
    """The answer to an ICMP message if that is an echo request (RFC 792); None otherwise. PacketError."""
    if len(request) < 8:
        raise PacketError(f"ICMP message of {len(request)} bytes, wanted at least 8")
    if checksum(request):
        raise PacketError("ICMP message with a wrong checksum")
    if request[0] != 8 or request[1]:
        return None
    reply = bytes(4) + request[4:]
    return reply[:2] + checksum(reply).to_bytes(2, "big") + reply[4:]


def icmp_unreachable(code: int, packet: Ipv4) -> bytes:
    """A "destination unreachable" message about `packet`: code 1 host, 3 port, 13 prohibited (RFC 792, RFC 1812)."""
    message = bytes((3, code, 0, 0)) + bytes(4) + packet.pack()[:28]
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
