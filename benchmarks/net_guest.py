"""A unikernel's network under cvmboot and under QEMU: the same image, the same requests, the same peer.

tamago-sev-example has no iperf. Its web server discards the body of a request for a page that it does not have: that is the
transfer to the guest. Its list of symbols answers a long question with a page that it has made before it sends the first
byte: that is the transfer from the guest, timed from there on.
"""

import http.client
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import qemu
from benchmarks.session import PROMPT, Session, Silent
from machine.net import packets
from machine.net.packets import Arp, Ipv4

GUEST, PEER = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))
PEER_MAC = bytes.fromhex("52550a000202")
BODY = 262_143
"""The web server discards no longer body without closing the connection."""
QUESTION = "0x10120001+" * 88_000
UP = "net-virtio 10.0.2.15/24 : 10.0.2.2 debug\r"
UP_GVNIC = "net-gve 10.0.2.15/24 10.0.2.2 debug\r"
PINGS = 20


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def qemu_processor() -> str:
    """A -cpu under which TamaGo's clock is right.

    TamaGo takes the TSC's frequency from CPUID leaf 0x15, and QEMU's TCG echoes its highest leaf there. So the highest is
    leaf 1, and its EAX, the processor's signature, is such that EBX * ECX / EAX is the host's frequency. Otherwise the
    guest's clock runs a million times too fast, and its connections time out.
    """
    found = re.search(r"cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text())
    hertz = float(found.group(1)) * 1e6 if found else 2.5e9
    signature = min(round(0x800 * 0xF6D8_320B / hertz), 0xEFF)
    return f"max,level=1,family={signature >> 8},model={signature >> 4 & 15},stepping={signature & 15}"


def qemu_command(folder: Path, image: Path, network: list[str]) -> list[str]:
    """QEMU with OVMF and a virtio card of the old kind, as TamaGo wants it; `network` are the words behind -netdev."""
    words = qemu.prepare(folder, image)
    words[words.index("-cpu") + 1] = qemu_processor()
    at = words.index("-net")
    words[at : at + 2] = [
        "-nodefaults",
        "-netdev",
        *network,
        "-device",
        "virtio-net-pci,netdev=n,romfile=,disable-modern=true",
    ]
    return words


@contextmanager
def guest(command: list[str], gvnic: bool = False) -> Iterator[Session]:
    """The guest with its network up, and its SSH key made."""
    with Session(command) as session:
        session.wait_for(PROMPT, 120)
        session.type((UP_GVNIC if gvnic else UP).encode())
        session.wait_for(b"ssh://10.0.2.15:22", 60)
        yield session


def transfers(session: Session, port: int, megabytes: int) -> Iterator[tuple[str, float, float]]:
    """("to guest" or "from guest", Mbit/s, Mbit per second of processor time), the first round not counted."""
    connection = _connected(port)
    for counted in (False, True):
        begin, processor = time.perf_counter(), session.processor_seconds()
        for _ in range(megabytes * 4 if counted else 4):
            connection.request("GET", "/nothing", bytes(BODY))
            connection.getresponse().read()
        if counted:
            yield "to guest", *_rates(session, BODY * megabytes * 4, begin, processor)
    for counted in (False, True):
        connection.request("GET", f"/debug/pprof/symbol?{QUESTION}")
        answer = connection.getresponse()
        answer.read(1)
        begin, processor = time.perf_counter(), session.processor_seconds()
        size = len(answer.read())
        if counted:
            yield "from guest", *_rates(session, size, begin, processor)
    connection.close()


def _connected(port: int) -> http.client.HTTPConnection:
    """A connection to the guest's web server, once that listens and the guest has made its SSH key."""
    begin = time.monotonic()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return connection
        except (OSError, http.client.HTTPException):
            connection.close()
            if time.monotonic() > begin + 60:
                raise Silent("the guest's web server does not answer") from None
            time.sleep(0.5)


def _rates(session: Session, size: int, begin: float, processor: float) -> tuple[float, float]:
    seconds = time.perf_counter() - begin
    return 8e-6 * size / seconds, 8e-6 * size / max(session.processor_seconds() - processor, 0.01)


class Peer:
    """The other end of the guest's cable, a stream with QEMU's framing: answers ARP, and pings."""

    def __init__(self, path: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._cable: socket.socket | None = None

    def pings(self, count: int = PINGS) -> list[float]:
        """Round trips in milliseconds; the first one, with its ARP, does not count."""
        if self._cable is None:
            self._cable, _ = self._server.accept()
            self._cable.settimeout(60)
        request = Arp(packets.ARP_REQUEST, PEER_MAC, PEER, bytes(6), GUEST)

        def who() -> None:
            self._send(packets.BROADCAST_MAC, packets.ETHERTYPE_ARP, request.pack())

        answer = self._until(lambda frame: frame[12:14] == b"\x08\x06" and frame[28:32] == GUEST, who)
        mac = Arp.parse(answer[14:]).sender_mac
        found = []
        for number in range(count + 1):
            time.sleep(0.05)
            echo = b"\x08\0\0\0cv" + number.to_bytes(2, "big") + bytes(56)
            echo = echo[:2] + packets.checksum(echo).to_bytes(2, "big") + echo[4:]
            packet = Ipv4(PEER, GUEST, packets.PROTOCOL_ICMP, echo).pack()
            begin = time.perf_counter()
            self._until(
                lambda frame, tail=echo[4:]: frame.endswith(tail),  # type: ignore[misc]
                lambda packet=packet: self._send(mac, packets.ETHERTYPE_IPV4, packet),  # type: ignore[misc]
            )
            found.append((time.perf_counter() - begin) * 1000)
        return found[1:]

    def _send(self, mac: bytes, kind: int, payload: bytes) -> None:
        assert self._cable is not None
        frame = packets.ethernet(mac, PEER_MAC, kind, payload)
        self._cable.sendall(len(frame).to_bytes(4, "big") + frame)

    def _until(self, wanted: Callable[[bytes], bool], ask: Callable[[], None]) -> bytes:
        """The next frame that is wanted, asked for once a second; questions for our address are answered meanwhile."""
        assert self._cable is not None
        begin = time.monotonic()
        ask()
        while time.monotonic() < begin + 60:
            if not select.select([self._cable], [], [], 1)[0]:
                ask()
                continue
            size = int.from_bytes(self._cable.recv(4, socket.MSG_WAITALL), "big")
            frame = self._cable.recv(size, socket.MSG_WAITALL)
            if frame[12:14] == b"\x08\x06":
                arp = Arp.parse(frame[14:])
                if arp.operation == packets.ARP_REQUEST and arp.target_ip == PEER:
                    reply = Arp(packets.ARP_REPLY, PEER_MAC, PEER, arp.sender_mac, arp.sender_ip)
                    self._send(arp.sender_mac, packets.ETHERTYPE_ARP, reply.pack())
            if wanted(frame):
                return frame
        raise Silent("the guest answers neither ARP nor pings")

    def close(self) -> None:
        """Hang up."""
        path = self._server.getsockname()
        for each in (self._cable, self._server):
            if each is not None:
                each.close()
        Path(path).unlink()
