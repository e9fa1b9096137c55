"""Cables and what is put around them: hub, sockets, capture, impairment, TAP."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_harness import Loop, Turned

from machine.net.backend import Backend, NetworkError, NoNetwork
from machine.net.hub import MAXIMUM_WAITING, Hub
from machine.net.impairment import ImpairedBackend
from machine.net.passt import PasstBackend
from machine.net.pcap import Capture, CapturedBackend
from machine.net.poller import READABLE, Poller
from machine.net.port import NetworkPort
from machine.net.socket_link import open_link, parse_address
from machine.net.tap import TapBackend

MS = 1_000_000
SIZES = [14, 60, 1514, 1515, 9000, 65_535, 65_550]


class Echo(Backend):
    """Sends everything back."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self.on_receive(frame)


class End:
    """One end of a cable, with a loop of its own."""

    def __init__(self, backend: Backend, loop: Loop) -> None:
        self.backend, self.loop = backend, loop
        self.frames: list[bytes] = []
        self.links: list[bool] = []
        backend.on_receive = self.frames.append
        backend.on_link = self.links.append


@pytest.fixture
def loop() -> Loop:
    return Loop()


# -- hub


def test_a_hub_reaches_all_others() -> None:
    hub, loops = Hub(), [Loop() for _ in range(3)]
    ends = [End(hub.plug(loop.post), loop) for loop in loops]
    ends[0].backend.send(b"a" * 20)
    ends[2].backend.send(b"b" * 20)
    for end in ends:
        end.loop.spend(0.01)
    assert [end.frames for end in ends] == [[b"b" * 20], [b"a" * 20, b"b" * 20], [b"a" * 20]]
    ends[1].backend.close()
    ends[0].backend.send(b"c" * 20)
    assert len(ends[1].frames) == 2


def test_a_hub_of_threads_loses_and_repeats_nothing_within_its_limit() -> None:
    hub, loops = Hub(), [Loop() for _ in range(4)]
    ends = [End(hub.plug(loop.post), loop) for loop in loops]
    each = MAXIMUM_WAITING // 3

    def run(number: int) -> None:
        for count in range(each):
            ends[number].backend.send(bytes((number,)) + count.to_bytes(2, "big") + bytes(20))
        ends[number].loop.until(lambda: len(ends[number].frames) >= 3 * each)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for end in ends:
        for number in range(4):
            counts = [int.from_bytes(f[1:3], "big") for f in end.frames if f[0] == number]
            assert counts in ([], list(range(each)))


# -- sockets


def pair(loop: Loop, tmp_path: Path, kind: str) -> tuple[End, End]:
    first, second = f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"
    if kind == "dgram":
        links = [open_link(f"dgram:{first},{second}", loop.post), open_link(f"dgram:{second},{first}", loop.post)]
    else:
        if kind == "tcp":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                first = f"127.0.0.1:{probe.getsockname()[1]}"
        links = [open_link(f"listen:{first}", loop.post), open_link(first, loop.post)]
    ends = End(links[0], loop), End(links[1], loop)
    loop.until(lambda: ends[0].backend.link)
    return ends


@pytest.mark.parametrize("kind", ["unix", "tcp", "dgram"])
def test_frames_cross_sockets_both_ways(loop: Loop, tmp_path: Path, kind: str) -> None:
    a, b = pair(loop, tmp_path, kind)
    frames = [bytes((n,)) * size for n, size in enumerate(SIZES) if kind != "dgram" or size < 65_000]
    for here, there in ((a, b), (b, a)):
        for frame in frames:
            here.backend.send(frame)
        loop.until(lambda there=there: len(there.frames) == len(frames))  # type: ignore[misc]
        assert there.frames == frames
    a.backend.close()
    b.backend.close()
    a.backend.close()
    assert not list(tmp_path.iterdir())


def test_a_stream_that_ends_takes_the_link_down_and_the_next_peer_brings_it_up(loop: Loop, tmp_path: Path) -> None:
    a, b = pair(loop, tmp_path, "unix")
    b.backend.close()
    loop.until(lambda: not a.backend.link)
    a.backend.send(bytes(60))
    again = End(open_link(f"unix:{tmp_path}/a", loop.post), loop)
    loop.until(lambda: a.backend.link)
    a.backend.send(b"x" * 60)
    loop.until(lambda: bool(again.frames))
    assert again.frames == [b"x" * 60]
    assert a.links == [True, False, True]
    a.backend.close()
    again.backend.close()


def test_a_slow_peer_costs_bounded_memory_and_whole_frames_arrive(loop: Loop, tmp_path: Path) -> None:
    a, _ = pair(loop, tmp_path, "unix")
    b = _
    b.backend._poller.close()  # type: ignore[attr-defined]  # the peer reads nothing from now on
    for n in range(3000):
        a.backend.send(bytes((n & 0xFF,)) * 1514)
    assert len(a.backend._unsent) < 1_100_000  # type: ignore[attr-defined]
    peer = b.backend._peer  # type: ignore[attr-defined]
    peer.setblocking(True)
    peer.settimeout(0.2)
    data = bytearray()
    try:
        while True:
            loop.spend(0.001)
            data += peer.recv(1 << 20)
    except TimeoutError:
        pass
    count = 0
    while data:
        assert data[:4] == (1514).to_bytes(4, "big")
        assert len(set(data[4:1518])) == 1
        del data[:1518]
        count += 1
    assert 500 < count < 3000
    a.backend.close()


@pytest.mark.parametrize("wrong", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\1\0\x13" + bytes(65_555)])
def test_a_peer_that_sends_no_frames_is_hung_up_on(loop: Loop, tmp_path: Path, wrong: bytes) -> None:
    link = open_link(f"listen:unix:{tmp_path}/a", loop.post)
    end = End(link, loop)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/a")
        peer.sendall((60).to_bytes(4, "big") + bytes(60) + wrong)
        loop.until(lambda: end.links == [True, False])
        assert end.frames == [bytes(60)]
    link.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=14, max_size=300), max_size=20), st.integers(1, 50))
def test_frames_in_pieces(frames: list[bytes], piece: int) -> None:
    from machine.net.socket_link import StreamLink

    loop = Loop()
    ours, theirs = socket.socketpair()
    end = End(StreamLink(loop.post, peer=ours), loop)
    data = b"".join(len(f).to_bytes(4, "big") + f for f in frames)

    def send() -> None:
        for at in range(0, len(data), piece):
            theirs.sendall(data[at : at + piece])

    sender = threading.Thread(target=send)  # the socket takes a few hundred pieces, and then waits for who reads them
    sender.start()
    loop.until(lambda: len(end.frames) == len(frames))
    sender.join()
    assert end.frames == frames
    end.backend.close()
    theirs.close()


@pytest.mark.parametrize("text", ["", "x", "unix:", "host:", ":80", "host:0", "host:65536", "host:٣"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(NetworkError, match="no address"):
        parse_address(text)


def test_who_cannot_connect_is_told(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="start the other end first"):
        open_link(f"unix:{tmp_path}/nobody", lambda action: None)
    with pytest.raises(NetworkError, match="wanted dgram:LOCAL,REMOTE"):
        open_link("dgram:127.0.0.1:99", lambda action: None)


def test_a_stale_socket_file_is_replaced_and_a_living_one_is_not(loop: Loop, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{tmp_path}/a")
    link = open_link(f"listen:unix:{tmp_path}/a", loop.post)
    with pytest.raises(NetworkError, match="in use"):
        open_link(f"listen:unix:{tmp_path}/a", loop.post)
    link.close()


# -- capture


def records(path: Path) -> list[tuple[int, bytes]]:
    data = path.read_bytes()
    assert struct.unpack("<IHHiIII", data[:24]) == (0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, length, original = struct.unpack_from("<IIII", data, at)
        assert length == original
        found.append((seconds * 10**9 + nanoseconds, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return found


def test_capture(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "a.pcap")
    backend = CapturedBackend(Echo(), capture, lambda: 1_700_000_000_123_456_789)
    for size in SIZES:
        backend.send(bytes(size))
    expected = [(1_700_000_000_123_456_789, bytes(size)) for size in SIZES for _ in range(2)]
    assert records(tmp_path / "a.pcap") == expected, "complete before it is closed"
    capture.close()
    backend.send(bytes(60))
    with pytest.raises(NetworkError, match="cannot write"):
        Capture(tmp_path / "no" / "a.pcap")


# -- impairment


def test_delay_keeps_order_and_time() -> None:
    clock, echo = Turned(), Echo()
    bad = ImpairedBackend(echo, clock, 0, 20 * MS)
    got: list[tuple[int, bytes]] = []
    bad.on_receive = lambda frame: got.append((clock.now(), frame))
    for n in range(3):
        bad.send(bytes((n,)) * 60)
        clock.advance(5 * MS)
    assert not echo.sent
    clock.advance(100 * MS)
    assert got == [(40 * MS + n * 5 * MS, bytes((n,)) * 60) for n in range(3)]


def test_loss_is_a_share_and_repeatable() -> None:
    def run(seed: int) -> list[bytes]:
        echo = Echo()
        bad = ImpairedBackend(echo, Turned(), 0.3, 0, seed)
        for n in range(1000):
            bad.send(n.to_bytes(2, "big") * 30)
        return echo.sent

    assert run(1) == run(1) != run(2)
    assert 600 < len(run(1)) < 800


def test_impairment_saves_what_is_on_its_way() -> None:
    clock = Turned()
    bad = ImpairedBackend(Echo(), clock, 0.5, 10 * MS, 7)
    for n in range(20):
        bad.send(bytes((n,)) * 60)
    twin_clock, echo = Turned(), Echo()
    twin = ImpairedBackend(echo, twin_clock, 0.5, 10 * MS, 99)
    twin.load(bad.save())
    assert twin.save() == bad.save()
    twin_clock.advance(10 * MS)
    clock.advance(10 * MS)
    assert twin.save() == bad.save()
    assert echo.sent


# -- port


def test_nothing_and_the_port_around_it() -> None:
    port = NetworkPort(NoNetwork())
    assert not port.link
    for size in (0, 13, 14, 65_550, 65_551):
        port.send(bytes(size))
    assert (port.counters["runts"], port.counters["sent"], port.counters["oversize"]) == (2, 2, 1)


# -- poller


def test_the_poller_sleeps_while_a_ready_descriptor_waits_for_the_engine() -> None:
    actions: list[object] = []
    poller = Poller(actions.append)
    ours, theirs = socket.socketpair()
    called: list[int] = []
    poller.watch(ours.fileno(), READABLE, lambda: called.append(1))
    theirs.send(b"x")
    for _ in range(200):
        if actions:
            break
        threading.Event().wait(0.01)
    before = os.times()
    threading.Event().wait(0.3)
    after = os.times()
    assert len(actions) == 1
    assert after.user + after.system - before.user - before.system < 0.15
    actions[0]()  # type: ignore[operator]
    assert called == [1]
    poller.forget(ours.fileno())
    poller.close()
    ours.close()
    theirs.close()


# -- passt, TAP and the kernel's own TCP


def in_namespace(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    return subprocess.run(
        ["unshare", "-rn", sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def kernel_peer() -> Iterator[Path]:
    path = Path(__file__).with_name("kernel_peer.py")
    if shutil.which("ip") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("no ip program, or no /dev/net/tun")
    yield path


@pytest.mark.parametrize(("loss", "delay"), [("0", "0"), ("0.03", "2")])
def test_the_gateway_against_the_kernels_tcp(kernel_peer: Path, loss: str, delay: str) -> None:
    result = in_namespace(str(kernel_peer), loss, delay)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "all streams arrived whole"


def test_tap_says_who_may() -> None:
    for name in ("", "x" * 16, "a/b"):
        with pytest.raises(NetworkError, match="tap:"):
            TapBackend(lambda action: None, name)


def test_passt_is_started_asked_and_ended(loop: Loop) -> None:
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    try:
        backend = PasstBackend(loop.post, [])
    except NetworkError as error:
        pytest.skip(f"passt does not work here: {error}")
    from machine.net.gateway import DNS, GATEWAY
    from machine.net.packets import ARP_REQUEST, Arp, ethernet

    end = End(backend, loop)
    mac = bytes.fromhex("525400000015")
    for address in (GATEWAY, DNS):
        arp = Arp(ARP_REQUEST, mac, bytes((10, 0, 2, 15)), bytes(6), address)
        backend.send(ethernet(b"\xff" * 6, mac, 0x0806, arp.pack()))
    loop.until(lambda: len(end.frames) == 2)
    process = backend._process
    backend.close()
    assert process.returncode is not None
    assert end.links == [False]


def test_a_passt_that_dies_takes_the_link_down(loop: Loop) -> None:
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    try:
        backend = PasstBackend(loop.post, [])
    except NetworkError as error:
        pytest.skip(f"passt does not work here: {error}")
    end = End(backend, loop)
    backend._process.kill()
    loop.until(lambda: end.links == [False])
    backend.send(bytes(60))
    backend.close()


def test_a_passt_that_is_missing_or_refuses(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="not installed"):
        PasstBackend(lambda action: None, [], str(tmp_path / "passt"))
    fake = tmp_path / "passt"
    fake.write_text("#!/bin/sh\necho 'first line' >&2\necho 'External interface not usable' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(NetworkError, match="does not start: External interface not usable"):
        PasstBackend(lambda action: None, [], str(fake))


def test_random_frames_cross_a_hub_in_order() -> None:
    random = Random(3)
    hub, loop = Hub(), Loop()
    a, b = End(hub.plug(loop.post), loop), End(hub.plug(loop.post), loop)
    frames = [random.randbytes(random.randrange(14, 2000)) for _ in range(200)]
    for frame in frames:
        a.backend.send(frame)
    loop.until(lambda: len(b.frames) == 200)
    assert b.frames == frames


# -- QEMU at the other end


@pytest.mark.slow
def test_a_qemu_at_the_other_end_gets_its_address(loop: Loop, tmp_path: Path) -> None:
    """QEMU's -netdev stream, its virtio-net and its own network boot ROM: a DHCP client that none of us wrote."""
    from machine.net.gateway import GUEST, Gateway

    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64")
    link = open_link(f"listen:unix:{tmp_path}/wire", loop.post)
    gateway = Gateway(loop.post, loop.clock, resolvers=[])
    frames: list[bytes] = []

    def from_qemu(frame: bytes) -> None:
        frames.append(frame)
        gateway.send(frame)

    link.on_receive, gateway.on_receive = from_qemu, link.send
    netdev = f"stream,id=n,server=off,addr.type=unix,addr.path={tmp_path}/wire"
    machine = ("-accel", "tcg", "-m", "128", "-nodefaults", "-display", "none", "-boot", "n")
    with subprocess.Popen(
        ["qemu-system-x86_64", *machine, "-device", "virtio-net-pci,netdev=n", "-netdev", netdev],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as qemu:
        try:
            request = b"\x63\x82\x53\x63\x35\x01\x03"
            loop.until(lambda: any(request in frame and GUEST in frame for frame in frames), 60)
            loop.until(lambda: any(frame[12:14] == b"\x08\x06" and frame[28:32] == GUEST for frame in frames), 20)
        finally:
            qemu.terminate()
    loop.until(lambda: not link.link)
    link.close()
    gateway.close()
