"""A DHCP server with one address to give (RFC 2131, 2132)."""

import struct

from machine.net.packets import PacketError

SERVER_PORT, CLIENT_PORT = 67, 68
LEASE_SECONDS = 86_400

_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_MAGIC = b"\x63\x82\x53\x63"
_HEADER = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s")
_OPTIONS = _HEADER.size + len(_MAGIC)
_LEAST = 300
_BROADCAST_FLAG = 0x8000
_SUBNET, _ROUTER, _DNS, _REQUESTED, _LEASE, _KIND, _SERVER = 1, 3, 6, 50, 51, 53, 54
_PAD, _END = 0, 255
_NOWHERE = bytes(4)


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else len(data)
        if at + 2 + size > len(data):
            raise PacketError(f"DHCP option {data[at]} of {size} bytes at {at}, options end at {len(data)}")
        found.setdefault(data[at], data[at + 2 : at + 2 + size])
        at += 2 + size
    return found


class Answer:
    """A reply, and where it goes: `broadcast`, or to the client's hardware address and `address`."""

    __slots__ = ("address", "broadcast", "mac", "message")

    def __init__(self, message: bytes, mac: bytes, address: bytes, broadcast: bool) -> None:
        self.message = message
        self.mac = mac
        self.address = address
        self.broadcast = broadcast


class DhcpServer:
    """Gives `client` (with `mask`, `router`, `dns`; 4 bytes each) to whoever asks `server`."""

    def __init__(self, server: bytes, client: bytes, mask: bytes, router: bytes, dns: bytes) -> None:
        self._server = server
        self._client = client
        self._settings = {_SUBNET: mask, _ROUTER: router, _DNS: dns}

    def answer(self, request: bytes) -> Answer | None:
        """The reply to a client's message, None if it wants none. PacketError if it is malformed."""
        if len(request) < _OPTIONS or request[_HEADER.size : _OPTIONS] != _MAGIC:
            raise PacketError(f"DHCP message of {len(request)} bytes without its magic cookie")
        operation, hardware, size, _, xid, _, flags, current, *_, client_mac, _, _ = _HEADER.unpack_from(request)
        if (operation, hardware, size) != (1, 1, 6):
            raise PacketError(f"DHCP operation {operation}, hardware {hardware} of {size} bytes; wanted 1, 1 and 6")
        options = _options(request[_OPTIONS:])
        kind = options.get(_KIND, b"\0")[:1]
        if options.get(_SERVER, self._server) != self._server:
            return None
        address, lease = self._client, True
        if kind == bytes((_DISCOVER,)):
            reply = _OFFER
        elif kind == bytes((_REQUEST,)):
            wanted = options.get(_REQUESTED, current)
            reply = _ACK if wanted == self._client else _NAK
        elif kind == bytes((_INFORM,)):
            reply, address, lease = _ACK, _NOWHERE, False
        else:
            return None
        if reply == _NAK:
            address = _NOWHERE
        body = self._pack(reply, xid, flags, current if reply == _ACK else _NOWHERE, address, client_mac, lease)
        target = current if current != _NOWHERE and reply != _NAK else address
        broadcast = bool(flags & _BROADCAST_FLAG) or target == _NOWHERE
        return Answer(body, client_mac[:6], target, broadcast)

    def _pack(self, kind: int, xid: int, flags: int, current: bytes, address: bytes, mac: bytes, lease: bool) -> bytes:
        options = {_KIND: bytes((kind,)), _SERVER: self._server}
        if kind != _NAK:
            if lease:
                options[_LEASE] = LEASE_SECONDS.to_bytes(4, "big")
            options.update(self._settings)
        packed = b"".join(bytes((number, len(value))) + value for number, value in options.items())
        header = _HEADER.pack(
            *(2, 1, 6, 0, xid, 0, flags, current, address, self._server, _NOWHERE, mac, bytes(64), bytes(128))
        )
        return (header + _MAGIC + packed + bytes((_END,))).ljust(_LEAST, b"\0")
