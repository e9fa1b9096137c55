"""The built-in gateway as a guest sees it: ARP, ping, DHCP, DNS, connections from the host."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_harness import GUEST_MAC, Loop, PacketGuest, Turned

from machine.net import packets
from machine.net.addresses import Addresses
from machine.net.backend import NetworkError
from machine.net.dns_relay import MAXIMUM_PENDING, TIMEOUT, host_resolvers
from machine.net.gateway import DNS, GATEWAY, GATEWAY_MAC, GUEST, Gateway
from machine.net.packets import ACK, FIN, PSH, RST, SYN, Arp, Ipv4, Segment, Udp

ELSEWHERE = bytes((198, 51, 100, 7))
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"


def still() -> tuple[Gateway, PacketGuest]:
    gateway = Gateway(lambda action: action(), Turned(), resolvers=[])
    return gateway, PacketGuest(gateway)


@pytest.mark.parametrize("address", [GATEWAY, DNS])
def test_arp(address: bytes) -> None:
    _, guest = still()
    guest.arp(packets.ARP_REQUEST, bytes(6), address)
    (frame,) = guest.frames
    assert frame[:14] == GUEST_MAC + GATEWAY_MAC + b"\x08\x06"
    reply = Arp.parse(frame[14:])
    assert (reply.operation, reply.sender_mac, reply.sender_ip) == (2, GATEWAY_MAC, address)
    assert (reply.target_mac, reply.target_ip) == (GUEST_MAC, GUEST)


def test_arp_for_others_is_not_answered() -> None:
    _, guest = still()
    for address in (GUEST, bytes((10, 0, 2, 77)), ELSEWHERE):
        guest.arp(packets.ARP_REQUEST, bytes(6), address, sender_ip=bytes(4))
    assert not guest.frames


def echo(size: int) -> bytes:
    message = b"\x08\0\0\0\x12\x34\0\x01" + bytes(size)
    return message[:2] + packets.checksum(message).to_bytes(2, "big") + message[4:]


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_ping(size: int) -> None:
    _, guest = still()
    guest.send(Ipv4(GUEST, GATEWAY, 1, echo(size)))
    (reply,) = guest.take_packets()
    assert (reply.source, reply.destination) == (GATEWAY, GUEST)
    assert reply.payload[:2] == b"\0\0"
    assert reply.payload[4:] == echo(size)[4:]
    assert packets.checksum(reply.payload) == 0


@pytest.mark.parametrize(
    ("address", "gateway", "dns"),
    [
        ("10.0.0.1", "10.0.0.2", "10.0.0.3"),
        ("10.132.0.2", "10.132.0.1", "10.132.0.3"),
        ("192.168.1.3", "192.168.1.2", "192.168.1.1"),
    ],
)
def test_a_guest_of_another_address_has_its_own_network(address: str, gateway: str, dns: str) -> None:
    at = Addresses.around(socket.inet_aton(address))
    assert at == tuple(map(socket.inet_aton, (address, gateway, dns)))
    guest = PacketGuest(Gateway(lambda action: action(), Turned(), resolvers=[], at=at))
    guest.arp(packets.ARP_REQUEST, bytes(6), at.gateway, sender_ip=at.guest)
    assert Arp.parse(guest.frames[0][14:]).sender_ip == at.gateway
    guest.send(Ipv4(at.guest, at.gateway, 1, echo(8)))
    (reply,) = guest.take_packets()
    assert (reply.source, reply.destination) == (at.gateway, at.guest)
    offer = ask(guest, dhcp(1))
    assert offer is not None
    assert offer[1][16:20] == at.guest and (offer[2][3], offer[2][6]) == (at.gateway, at.dns)
    guest.frames.clear()
    guest.arp(packets.ARP_REQUEST, bytes(6), GATEWAY, sender_ip=at.guest)
    assert not guest.frames


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.255", "127.0.0.1", "224.0.0.1", "0.0.0.1", "255.255.255.255"])
def test_no_guest_has_such_an_address(address: str) -> None:
    with pytest.raises(ValueError, match="no address of a host"):
        Addresses.around(socket.inet_aton(address))


def test_there_is_no_way_out_and_guests_are_told() -> None:
    _, guest = still()
    guest.send(Ipv4(GUEST, ELSEWHERE, 1, echo(8)))
    guest.udp(ELSEWHERE, 1000, 123, b"time?")
    unreachable = guest.take_packets()
    assert [p.payload[:2] for p in unreachable] == [b"\3\1", b"\3\3"]
    assert all(p.payload[8:9] == b"\x45" and packets.checksum(p.payload) == 0 for p in unreachable)
    guest.send(Ipv4(GUEST, ELSEWHERE, 1, unreachable[0].payload))
    assert not guest.take_packets(), "nothing is said about ICMP errors"
    guest.tcp(Segment(3000, 443, 500, 0, SYN, 1000), ELSEWHERE)
    (reset,) = guest.take_segments()
    assert (reset.flags, reset.ack, reset.source) == (RST | ACK, 501, 443)
    guest.tcp(Segment(3000, 443, 500, 900, ACK, 1000), GATEWAY)
    (reset,) = guest.take_segments()
    assert (reset.flags, reset.seq) == (RST, 900)
    guest.tcp(Segment(3000, 443, 500, 900, RST, 1000), GATEWAY)
    assert not guest.take_segments()


# -- DHCP


def dhcp(kind: int, options: bytes = b"", flags: int = 0, current: bytes = bytes(4), xid: int = 0x1234) -> bytes:
    header = struct.pack(">BBBBIHH4s4s4s4s16s192x", 1, 1, 6, 0, xid, 3, flags, current, *[bytes(4)] * 3, GUEST_MAC)
    return header + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options + b"\xff"


def ask(guest: PacketGuest, message: bytes, source: bytes = bytes(4)) -> tuple[Ipv4, bytes, dict[int, bytes]] | None:
    guest.frames.clear()
    request = Udp(68, 67, message).pack(source, b"\xff" * 4)
    guest.send(request, packets.BROADCAST_MAC)
    if not guest.frames:
        return None
    packet = Ipv4.parse(guest.frames[0][14:])
    reply = Udp.parse(packet)
    assert (reply.source, reply.destination) == (67, 68)
    options, at = {}, 240
    while reply.payload[at] != 255:
        options[reply.payload[at]] = reply.payload[at + 2 : at + 2 + reply.payload[at + 1]]
        at += 2 + reply.payload[at + 1]
    return packet, reply.payload, options


@pytest.mark.parametrize("flags", [0, 0x8000])
def test_dhcp_gives_the_address(flags: int) -> None:
    _, guest = still()
    offer = ask(guest, dhcp(1, flags=flags))
    assert offer is not None
    packet, message, options = offer
    assert packet.destination == (b"\xff" * 4 if flags else GUEST)
    assert guest.frames[0][:6] == (b"\xff" * 6 if flags else GUEST_MAC)
    assert message[16:20] == GUEST
    assert message[4:8] == b"\0\0\x12\x34"
    assert options == {
        **{53: b"\2", 54: GATEWAY, 1: b"\xff\xff\xff\0", 3: GATEWAY, 6: DNS, 51: (86400).to_bytes(4, "big")}
    }
    ack = ask(guest, dhcp(3, b"\x32\4" + GUEST + b"\x36\4" + GATEWAY, flags))
    assert ack is not None
    assert (ack[1][16:20], ack[2][53]) == (GUEST, b"\5")


def test_dhcp_refuses_other_addresses_and_stays_out_of_others_leases() -> None:
    _, guest = still()
    nak = ask(guest, dhcp(3, b"\x32\4" + bytes((10, 0, 2, 99))))
    assert nak is not None
    assert (nak[2][53], nak[1][16:20], nak[0].destination) == (b"\6", bytes(4), b"\xff" * 4)
    assert ask(guest, dhcp(3, b"\x32\4" + GUEST + b"\x36\4" + ELSEWHERE)) is None
    assert ask(guest, dhcp(7)) is None
    inform = ask(guest, dhcp(8, current=GUEST), GUEST)
    assert inform is not None
    assert (inform[1][16:20], inform[0].destination, 51 in inform[2]) == (bytes(4), GUEST, False)


# -- DNS


@pytest.fixture
def resolver() -> Iterator[tuple[str, int]]:
    """A resolver on 127.0.0.1 that answers each query with itself, marked as an answer."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    ends = threading.Event()
    server.settimeout(0.1)

    def serve() -> None:
        while not ends.is_set():
            with suppress(TimeoutError):
                data, client = server.recvfrom(2000)
                server.sendto(b"\xff\xff" + data[2:], client)  # somebody who guesses wrong
                server.sendto(data[:2] + bytes((data[2] | 0x80,)) + data[3:] + b"answer", client)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()
    ends.set()
    thread.join()
    server.close()


@pytest.mark.parametrize("server", [DNS, GATEWAY, ELSEWHERE])
def test_dns_is_relayed(resolver: tuple[str, int], server: bytes) -> None:
    loop = Loop()
    gateway = Gateway(loop.post, loop.clock, resolvers=[("256.0.0.1", 1), resolver])
    guest = PacketGuest(gateway)
    guest.udp(server, 4444, 53, QUERY)
    loop.until(lambda: any(f[12:14] == b"\x08\x00" for f in guest.frames))
    (packet,) = guest.take_packets()
    answer = Udp.parse(packet)
    assert packet.source == server
    assert (answer.source, answer.destination) == (53, 4444)
    assert answer.payload == QUERY[:2] + b"\x81" + QUERY[3:] + b"answer"
    gateway.close()


def test_dns_without_a_resolver_fails_at_once() -> None:
    _, guest = still()
    guest.udp(DNS, 4444, 53, QUERY)
    (packet,) = guest.take_packets()
    assert Udp.parse(packet).payload[:4] == b"\x12\x34\x81\x02"


def test_dns_queries_are_bounded_and_given_up() -> None:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    clock = Turned()
    gateway = Gateway(lambda action: None, clock, resolvers=[silent.getsockname()])
    guest = PacketGuest(gateway)
    for port in range(MAXIMUM_PENDING + 3):
        guest.udp(DNS, 2000 + port, 53, QUERY)
    assert len(guest.take_packets()) == 3
    clock.advance(TIMEOUT)
    guest.udp(DNS, 4444, 53, QUERY)
    assert not guest.take_packets(), "there is room again"
    gateway.close()
    silent.close()


def test_resolvers_of_the_host(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "resolv.conf"
    file.write_text("# a\nsearch x\nnameserver 192.0.2.53\nnameserver 2001:db8::1\nnameserver\n")
    assert host_resolvers(file) == [("192.0.2.53", 53), ("2001:db8::1", 53)]
    assert host_resolvers(file / "nothing") == []


# -- connections from the host, to a guest that is made of packets


class Inbound:
    """A client of the host's, and the guest's end of its connection."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.gateway = Gateway(self.loop.post, self.loop.clock, [(0, 80)], resolvers=[])
        self.guest = PacketGuest(self.gateway)
        self.client = socket.create_connection(("127.0.0.1", self.gateway.ports[0]), 5)
        self.client.settimeout(5)
        self.got: list[Segment] = []
        self.syn = self.next()
        assert (self.syn.flags, self.syn.destination, self.syn.mss) == (SYN, 80, 1460)

    def next(self) -> Segment:
        def come() -> bool:
            self.got += self.guest.take_segments()
            return bool(self.got)

        self.loop.until(come)
        return self.got.pop(0)

    def send(self, seq: int, ack: int, flags: int, payload: bytes = b"") -> None:
        self.guest.tcp(Segment(80, self.syn.source, seq, self.syn.seq + ack & 0xFFFFFFFF, flags, 60000, payload))

    def close(self) -> None:
        self.client.close()
        self.gateway.close()


@pytest.fixture
def inbound() -> Iterator[Inbound]:
    made = Inbound()
    yield made
    made.close()


def test_a_connection_from_the_host(inbound: Inbound) -> None:
    inbound.send(700, 1, SYN | ACK)
    assert inbound.next().ack == 701
    inbound.client.sendall(b"request")
    request = inbound.next()
    assert (request.payload, request.flags) == (b"request", ACK | PSH)
    inbound.send(701, 8, ACK | PSH, b"response")
    assert inbound.next().ack == 709
    assert inbound.client.recv(100) == b"response"
    inbound.client.shutdown(socket.SHUT_WR)
    assert inbound.next().flags == FIN | ACK
    inbound.send(709, 9, ACK, b" and more")
    inbound.send(718, 9, FIN | ACK)
    assert inbound.client.recv(100) == b" and more"
    inbound.loop.spend(0.05)
    assert inbound.client.recv(100) == b""


def test_a_guest_that_refuses(inbound: Inbound) -> None:
    inbound.send(0, 1, RST | ACK)
    with pytest.raises(ConnectionResetError):
        inbound.client.recv(1)


def test_a_guest_that_resets(inbound: Inbound) -> None:
    inbound.send(700, 1, SYN | ACK)
    inbound.next()
    inbound.send(701, 1, RST)
    with pytest.raises(ConnectionResetError):
        inbound.client.recv(1)


def test_a_client_that_vanishes(inbound: Inbound) -> None:
    inbound.send(700, 1, SYN | ACK)
    inbound.next()
    inbound.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    inbound.client.close()
    while not inbound.next().flags & RST:
        pass


def test_the_end_of_the_machine_resets_connections(inbound: Inbound) -> None:
    inbound.send(700, 1, SYN | ACK)
    inbound.next()
    port = inbound.gateway.ports[0]
    inbound.gateway.close()
    with pytest.raises(ConnectionResetError):
        inbound.client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_syn_waits_for_arp() -> None:
    loop = Loop()
    gateway = Gateway(loop.post, loop.clock, [(0, 22)], resolvers=[])
    guest = PacketGuest(gateway, answers_arp=False)
    client = socket.create_connection(("127.0.0.1", gateway.ports[0]), 5)
    loop.until(lambda: bool(guest.frames))
    assert Arp.parse(guest.frames[0][14:]).target_ip == GUEST
    assert not guest.take_packets()
    guest.arp(packets.ARP_REPLY, GATEWAY_MAC, GATEWAY)
    assert [s.flags for s in guest.take_segments()] == [SYN]
    client.close()
    gateway.close()


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(NetworkError, match=f"127.0.0.1:{port}"):
            Gateway(lambda action: None, Turned(), [(0, 80), (port, 81)])


def test_saved_state() -> None:
    gateway, guest = still()
    guest.arp(packets.ARP_REQUEST, bytes(6), GATEWAY)
    twin, other = still()
    twin.load(gateway.save())
    assert twin.save() == gateway.save()
    other.answers_arp = False
    other.send(Ipv4(GUEST, GATEWAY, 1, echo(1)))
    assert len(other.take_packets()) == 1


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x08\x06", b"\x08\x00", b"\x08\x00\x45\0\0\x30"]))
def test_noise(data: bytes, start: bytes) -> None:
    gateway, guest = still()
    gateway.send(GATEWAY_MAC + GUEST_MAC + start + data)
    gateway.send(data)
    gateway.send(b"\xff" * 12 + start + data)
    guest.frames.clear()
    guest.send(Ipv4(GUEST, GATEWAY, 1, echo(4)))
    assert len(guest.take_packets()) == 1


@given(st.sampled_from([1, 6, 17]), st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.integers(0, 65535))
def test_well_formed_noise(protocol: int, payload: bytes, destination: bytes, port: int) -> None:
    """Right checksums, wrong contents."""
    _, guest = still()
    guest.send(Ipv4(GUEST, destination, protocol, payload))
    guest.udp(destination, port, 67, payload)
    guest.udp(destination, port, 53, payload)
    guest.frames.clear()
    guest.send(Ipv4(GUEST, GATEWAY, 1, echo(4)))
    assert len(guest.take_packets()) == 1
