"""Packets as bytes: known examples, round trips, and what is malformed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.net import packets
from machine.net.dhcp import DhcpServer
from machine.net.packets import Arp, Ipv4, PacketError, Segment, Udp

A, B = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))


def slow_checksum(data: bytes) -> int:
    """RFC 1071 as it is written."""
    total = sum(struct.unpack(f">{len(data + b'x') // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(st.binary(max_size=200))
def test_checksum_is_that_of_the_rfc(data: bytes) -> None:
    if any(data):  # the sum of nothing but zeros is a case that no packet is
        assert packets.checksum(data) == slow_checksum(data)


def test_checksum_of_the_rfc_example() -> None:
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_a_known_tcp_segment() -> None:
    """A SYN as Linux sends it, with its checksum computed by Linux."""
    raw = bytes.fromhex("450000341c464000400600000a00020f0a000202")
    header = raw[:10] + packets.checksum(raw).to_bytes(2, "big") + raw[12:]
    assert packets.checksum(header) == 0


@given(st.binary(max_size=100), st.integers(0, 65535), st.integers(0, 65535))
def test_udp_round_trip(payload: bytes, source: int, destination: int) -> None:
    packet = Ipv4.parse(Udp(source, destination, payload).pack(A, B).pack() + bytes(7))
    datagram = Udp.parse(packet)
    assert (packet.source, packet.destination) == (A, B)
    assert (datagram.source, datagram.destination, datagram.payload) == (source, destination, payload)


@given(
    st.binary(max_size=100),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(0, 65535),
    st.none() | st.integers(0, 14),
)
def test_tcp_round_trip(payload: bytes, seq: int, mss: int | None, scale: int | None) -> None:
    packet = Segment(1, 2, seq, seq ^ 5, packets.SYN, 77, payload, mss, scale).pack(A, B)
    got = Segment.parse(Ipv4.parse(packet.pack()))
    assert (got.seq, got.ack, got.window, got.payload, got.mss, got.scale) == (seq, seq ^ 5, 77, payload, mss, scale)


@given(st.integers(0, 59), st.integers(1, 255))
def test_every_flipped_byte_is_noticed(at: int, change: int) -> None:
    raw = bytearray(Segment(80, 1024, 1, 2, packets.ACK, 500, b"data of a segment!!!").pack(A, B).pack())
    raw[at] ^= change
    try:
        packet = Ipv4.parse(bytes(raw))
        assert raw[at] ^ change != packets.PROTOCOL_TCP or at != 9
        Segment.parse(packet)
    except PacketError:
        return
    raise AssertionError("a wrong packet was taken")


@given(st.binary(max_size=120))
def test_noise_is_refused_or_parsed(data: bytes) -> None:
    server = DhcpServer(B, A, bytes(4), B, B)
    whole = Ipv4(A, B, 17, data)
    for parse in (
        lambda: Arp.parse(data),
        lambda: Ipv4.parse(data),
        lambda: Udp.parse(whole),
        lambda: Segment.parse(whole),
        lambda: packets.icmp_echo_reply(data),
        lambda: server.answer(data),
    ):
        try:
            parse()
        except PacketError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("option", ["02", "0200ffff", "0203", "08ff00"])
def test_broken_tcp_options(option: str) -> None:
    options = bytes.fromhex(option).ljust(4, b"\x05")
    raw = bytearray(Segment(1, 2, 3, 4, packets.SYN, 5).pack(A, B).payload + options)
    raw[12] = (20 + len(options)) // 4 << 4
    raw[16:18] = b"\0\0"
    packet = Ipv4(A, B, 6, bytes(raw))
    raw[16:18] = packets.checksum(packet.pseudo_header() + raw).to_bytes(2, "big")
    packet.payload = bytes(raw)
    with pytest.raises(PacketError, match="TCP option"):
        Segment.parse(packet)


def test_fragments_are_refused() -> None:
    raw = bytearray(Ipv4(A, B, 17, bytes(20)).pack())
    raw[6:8] = b"\x20\x00"
    raw[10:12] = b"\0\0"
    raw[10:12] = packets.checksum(bytes(raw[:20])).to_bytes(2, "big")
    with pytest.raises(PacketError, match="fragment"):
        Ipv4.parse(bytes(raw))
