"""Helpers of the network tests: an engine thread's loop, a clock to turn, a guest made of packets."""

import threading
import time
from collections import deque
from collections.abc import Callable

from machine.clock import Clock, RealClock, VirtualClock
from machine.net import packets
from machine.net.backend import Backend
from machine.net.gateway import GATEWAY, GUEST
from machine.net.packets import Arp, Ipv4, Segment, Udp

GUEST_MAC = bytes.fromhex("525400000015")


class Loop:
    """What `Computer` is to a back end: posted actions and due timers are run by whoever calls `until`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or RealClock()
        self._actions: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()

    def post(self, action: Callable[[], None]) -> None:
        with self._wake:
            self._actions.append(action)
            self._wake.notify()

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        """Run until `done()`; AssertionError after so many seconds of the host's time."""
        limit = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < limit, "nothing happened in time"
            deadline = self.clock.next_deadline()
            wait = 0.05 if deadline is None else min((deadline - self.clock.now()) / 1e9, 0.05)
            with self._wake:
                if not self._actions and wait > 0:
                    self._wake.wait(wait)
                actions, self._actions = self._actions, deque()
            for action in actions:
                action()
            self.clock.run_due()

    def spend(self, seconds: float) -> None:
        """Run for so long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 5)


class Turned(VirtualClock):
    """A clock that tests turn forward."""

    def advance(self, nanoseconds: int) -> None:
        """Let time pass, timer by timer."""
        end = self.now() + nanoseconds
        while (deadline := self.next_deadline()) is not None and deadline <= end:
            self.jump_to(deadline)
            self.run_due()
        self.jump_to(end)


class PacketGuest:
    """The guest's end of a gateway: keeps the frames that come, answers ARP if it is to, and sends packets."""

    def __init__(self, backend: Backend, answers_arp: bool = True) -> None:
        self.backend = backend
        self.frames: list[bytes] = []
        self.answers_arp = answers_arp
        backend.on_receive = self._received

    def _received(self, frame: bytes) -> None:
        self.frames.append(frame)
        if self.answers_arp and frame[12:14] == b"\x08\x06":
            arp = Arp.parse(frame[14:])
            if arp.operation == packets.ARP_REQUEST and arp.target_ip == GUEST:
                self.arp(packets.ARP_REPLY, arp.sender_mac, arp.sender_ip)

    def arp(self, operation: int, target_mac: bytes, target_ip: bytes, sender_ip: bytes = GUEST) -> None:
        arp = Arp(operation, GUEST_MAC, sender_ip, target_mac, target_ip)
        to = packets.BROADCAST_MAC if operation == packets.ARP_REQUEST else target_mac
        self.backend.send(packets.ethernet(to, GUEST_MAC, packets.ETHERTYPE_ARP, arp.pack()))

    def send(self, packet: Ipv4, to: bytes = bytes.fromhex("52550a000202")) -> None:
        self.backend.send(packets.ethernet(to, GUEST_MAC, packets.ETHERTYPE_IPV4, packet.pack()))

    def udp(self, destination: bytes, source_port: int, port: int, payload: bytes, source: bytes = GUEST) -> None:
        self.send(Udp(source_port, port, payload).pack(source, destination))

    def tcp(self, segment: Segment, destination: bytes = GATEWAY) -> None:
        self.send(segment.pack(GUEST, destination))

    def take_packets(self) -> list[Ipv4]:
        """The IPv4 packets that came since the last call; each is checked by parsing it."""
        frames, self.frames = self.frames, []
        return [Ipv4.parse(frame[14:]) for frame in frames if frame[12:14] == b"\x08\x00"]

    def take_segments(self) -> list[Segment]:
        """The TCP segments among them."""
        return [Segment.parse(p) for p in self.take_packets() if p.protocol == packets.PROTOCOL_TCP]
