"""The built-in user network: a gateway with ARP, ICMP echo, DHCP, DNS relay, and TCP to and from the host.

The guest is 10.0.2.15/24, the gateway and DHCP server 10.0.2.2, the DNS server 10.0.2.3 (queries to any address are
relayed), unless other addresses are given. Ports of the host's that were exposed are the gateway's. There is no other way
out: packets are answered with RST or "unreachable".
"""

import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any

from machine.clock import Clock
from machine.net import dhcp, dns_relay, packets
from machine.net.addresses import MASK, USUAL, Addresses
from machine.net.backend import MINIMUM_FRAME, Backend
from machine.net.dhcp import DhcpServer
from machine.net.dns_relay import DnsRelay
from machine.net.expose import Exposed
from machine.net.forward import MAXIMUM_CONNECTIONS, Bridge, Forward, listen
from machine.net.packets import Arp, Ipv4, PacketError, Segment, Udp
from machine.net.poller import Poller
from machine.net.tcp import TcpConnection

GUEST, GATEWAY, DNS = USUAL
GATEWAY_MAC = bytes.fromhex("52550a000202")
_EVERYWHERE = b"\xff" * 4
_NOWHERE = bytes(4)
_FIRST_PORT, _LAST_PORT = 49_152, 65_535
_PORT_UNREACHABLE, _HOST_UNREACHABLE = 3, 1
_WAITING_FOR_ARP = 64


class Gateway(Backend):
    """`forwards` are (host port, guest port); host port 0 takes any, see `ports`. `post` has the engine thread call.

    `exposed` are ports of the host's 127.0.0.1 that the guest reaches at the gateway's address, which `at` tells.

    `resolvers` are (address, port), by default the host's. Raises NetworkError if a port cannot be had.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        clock: Clock,
        forwards: Sequence[tuple[int, int]] = (),
        resolvers: list[tuple[str, int]] | None = None,
        random: Callable[[int], bytes] = bytes,
        exposed: Collection[int] = (),
        at: Addresses = USUAL,
    ) -> None:
        super().__init__()
        self._at = at
        self._own = (at.gateway, at.dns)
        self._clock = clock
        self._random = random
        self._poller = Poller(post)
        self._dns = DnsRelay(self._poller, clock, resolvers)
        self._exposed = Exposed(exposed, self._poller, self._serve, self._refuse)
        self._dhcp = DhcpServer(at.gateway, at.guest, MASK, at.gateway, at.dns)
        self._macs: dict[bytes, bytes] = {}
        self._waiting: list[Ipv4] = []
        self._bridges: dict[tuple[int, int], Bridge] = {}
        self._next_port = _FIRST_PORT
        self._forwards: list[Forward] = []
        servers: list[tuple[socket.socket, int]] = []
        try:
            for host_port, guest_port in forwards:
                servers.append((listen(host_port), guest_port))
        except BaseException:
            for server, _ in servers:
                server.close()
            raise
        for server, guest_port in servers:
            self._forwards.append(Forward(server, guest_port, self._poller, self._connect))

    @property
    def ports(self) -> list[int]:
        """The host's ports of `forwards`, in their order."""
        return [forward.port for forward in self._forwards]

    def close(self) -> None:
        """Listen no more, reset all connections, end the thread."""
        for forward in self._forwards:
            forward.close()
        for bridge in list(self._bridges.values()):
            bridge.close()
        self._forwards.clear()
        self._exposed.close()
        self._dns.close()
        self._poller.close()

    # -- from the guest

    def send(self, frame: bytes) -> None:
        """Answer a frame of the guest's, or lose it."""
        destination = frame[:6]
        if len(frame) < MINIMUM_FRAME or (destination != GATEWAY_MAC and not destination[0] & 1):
            return
        kind = int.from_bytes(frame[12:14], "big")
        try:
            if kind == packets.ETHERTYPE_ARP:
                self._arp(Arp.parse(frame[14:]))
            elif kind == packets.ETHERTYPE_IPV4:
                self._ipv4(Ipv4.parse(frame[14:]), frame[6:12])
        except PacketError:
            pass  # a network loses what it does not understand

    def _arp(self, arp: Arp) -> None:
        if arp.sender_mac[0] & 1 or arp.sender_ip[:3] != self._at.gateway[:3]:
            if arp.sender_ip != _NOWHERE:  # a probe for a conflict has no address yet (RFC 5227)
                return
        else:
            self._learn(arp.sender_ip, arp.sender_mac)
        if arp.operation == packets.ARP_REQUEST and arp.target_ip in self._own:
            reply = Arp(packets.ARP_REPLY, GATEWAY_MAC, arp.target_ip, arp.sender_mac, arp.sender_ip)
            self._emit(arp.sender_mac, packets.ETHERTYPE_ARP, reply.pack())

    def _learn(self, address: bytes, mac: bytes) -> None:
        """Note who has an address of the network (there are 254), and send what waited for that."""
        if address in self._own:
            return
        self._macs[address] = mac
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self._route(packet)

    def _ipv4(self, packet: Ipv4, mac: bytes) -> None:
        if packet.source[:3] == self._at.gateway[:3] and not mac[0] & 1 and self._macs.get(packet.source) != mac:
            self._learn(packet.source, mac)
        if packet.protocol == packets.PROTOCOL_UDP:
            self._udp(packet, Udp.parse(packet), mac)
        elif packet.destination == _EVERYWHERE or packet.destination[0] >= 224 or packet.source == _NOWHERE:
            return
        elif packet.protocol == packets.PROTOCOL_TCP:
            self._tcp(packet, Segment.parse(packet))
        elif packet.protocol == packets.PROTOCOL_ICMP:
            if packet.destination not in self._own:
                self._unreachable(_HOST_UNREACHABLE, packet)
            elif (reply := packets.icmp_echo_reply(packet.payload)) is not None:
                self._route(Ipv4(packet.destination, packet.source, packets.PROTOCOL_ICMP, reply))

    def _unreachable(self, code: int, packet: Ipv4) -> None:
        """Say so, except about ICMP errors (RFC 1122, 3.2.2)."""
        if packet.protocol == packets.PROTOCOL_ICMP and packet.payload[:1] not in (b"\x08", b"\x0d"):
            return
        message = packets.icmp_unreachable(code, packet)
        self._route(Ipv4(self._at.gateway, packet.source, packets.PROTOCOL_ICMP, message))

    def _udp(self, packet: Ipv4, datagram: Udp, mac: bytes) -> None:
        if datagram.destination == dhcp.SERVER_PORT:
            answer = self._dhcp.answer(datagram.payload)
            if answer is not None:
                target = _EVERYWHERE if answer.broadcast else answer.address
                reply = Udp(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, answer.message).pack(self._at.gateway, target)
                to = packets.BROADCAST_MAC if answer.broadcast else answer.mac
                self._emit(to, packets.ETHERTYPE_IPV4, reply.pack())
        elif packet.source == _NOWHERE or packet.destination[0] >= 224:
            return
        elif datagram.destination == dns_relay.PORT:
            source, port, server = packet.source, datagram.source, packet.destination
            self._dns.query(
                datagram.payload,
                lambda answer: self._route(Udp(dns_relay.PORT, port, answer).pack(server, source)),
            )
        elif packet.destination != _EVERYWHERE and packet.destination[-1] != 0xFF:
            self._unreachable(_PORT_UNREACHABLE, packet)

    def _tcp(self, packet: Ipv4, segment: Segment) -> None:
        if packet.destination == self._at.gateway and packet.source == self._at.guest:
            bridge = self._bridges.get((segment.destination, segment.source))
            if bridge is not None:
                bridge.segment_arrived(segment)
                return
            if segment.flags & (packets.SYN | packets.ACK | packets.RST | packets.FIN) == packets.SYN:
                self._exposed.connect(segment)
                return
        if not segment.flags & packets.RST:
            self._reset(packet.destination, packet.source, segment)

    def _reset(self, destination: bytes, source: bytes, segment: Segment) -> None:
        """Answer a segment that belongs to no connection (RFC 9293, 3.10.7.1)."""
        seq, ack, flags = 0, segment.seq + segment.length & 0xFFFFFFFF, packets.RST | packets.ACK
        if segment.flags & packets.ACK:
            seq, ack, flags = segment.ack, 0, packets.RST
        reset = Segment(segment.destination, segment.source, seq, ack, flags, 0)
        self._route(reset.pack(destination, source))

    def _refuse(self, syn: Segment) -> None:
        self._reset(self._at.gateway, self._at.guest, syn)

    # -- to the guest

    def _connect(self, client: socket.socket, guest_port: int) -> bool:
        """Connect to the guest's port on behalf of a client of the host's. False if there are too many connections."""
        if len(self._bridges) >= MAXIMUM_CONNECTIONS:
            return False
        while (self._next_port, guest_port) in self._bridges:
            self._step_port()
        key = (self._next_port, guest_port)
        self._step_port()
        self._bridge(key, client)
        return True

    def _serve(self, client: socket.socket, syn: Segment) -> None:
        """The host has accepted a connection of the guest's."""
        key = (syn.destination, syn.source)
        if len(self._bridges) >= MAXIMUM_CONNECTIONS or key in self._bridges:
            client.close()
            self._refuse(syn)
        else:
            self._bridge(key, client, syn)

    def _bridge(self, key: tuple[int, int], client: socket.socket, syn: Segment | None = None) -> None:
        first = int.from_bytes(self._random(4), "big")
        guest, gateway, _ = self._at
        tcp = TcpConnection(*key, first, self._clock.now, lambda segment: self._route(segment.pack(gateway, guest)))
        self._bridges[key] = Bridge(client, tcp, self._poller, self._clock, lambda: self._forget(key), syn)

    def _step_port(self) -> None:
        self._next_port = self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT

    def _forget(self, key: tuple[int, int]) -> None:
        self._bridges.pop(key, None)

    def _route(self, packet: Ipv4) -> None:
        """Send a packet to the guest that has its address, which ARP finds out."""
        mac = self._macs.get(packet.destination)
        if mac is not None:
            self._emit(mac, packets.ETHERTYPE_IPV4, packet.pack())
            return
        if len(self._waiting) < _WAITING_FOR_ARP and all(packet.payload != w.payload for w in self._waiting):
            self._waiting.append(packet)
        request = Arp(packets.ARP_REQUEST, GATEWAY_MAC, self._at.gateway, bytes(6), packet.destination)
        self._emit(packets.BROADCAST_MAC, packets.ETHERTYPE_ARP, request.pack())

    def _emit(self, destination: bytes, kind: int, payload: bytes) -> None:
        self.on_receive(packets.ethernet(destination, GATEWAY_MAC, kind, payload))

    # -- state

    def save(self) -> dict[str, Any]:
        """Plain data for `load`. Connections are not part of it: a restored guest's are reset at its next segment."""
        return {"macs": [[address, mac] for address, mac in self._macs.items()], "next_port": self._next_port}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._macs = dict(state["macs"])
        self._next_port = state["next_port"]
