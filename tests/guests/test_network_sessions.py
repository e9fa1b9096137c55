"""A person's session with a unikernel over the network: its web page, its SSH console, and what the wire shows of them."""

import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from network_sessions import IMAGE, free_port, leave, namespace, page, running, ssh, until, up
from scapy.layers.inet import TCP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

from machine.net.gateway import Gateway
from machine.net.socket_link import StreamLink
from tests.machine.net.network_harness import Loop

pytestmark = pytest.mark.guests

IDS = {"virtio": "1af4   1041", "virtio-legacy": "1af4   1000", "gvnic": "1ae0   0042"}


def check_capture(capture: Path) -> None:
    """Wireshark's reader and scapy's both understand the file; every TCP checksum in it is right."""
    frames = rdpcap(str(capture))
    assert any(ARP in frame for frame in frames)
    segments = [frame for frame in frames if TCP in frame]
    assert any(bytes(frame[TCP].payload).startswith(b"HTTP/1.1 200 OK") for frame in segments)
    for frame in segments:
        told = frame[TCP].chksum
        del frame[TCP].chksum
        assert Ether(bytes(frame))[TCP].chksum == told
    if shutil.which("tshark") is not None:
        words = ["tshark", "-r", str(capture), "-o", "tcp.check_checksum:TRUE", "-Y"]
        for condition, found in (('_ws.malformed || tcp.checksum.status == "Bad"', False), ("http.response", True)):
            done = subprocess.run([*words, condition], capture_output=True, text=True, check=True, timeout=60)
            assert bool(done.stdout) == found, done.stdout


@pytest.mark.parametrize(
    ("nic", "more"),
    [
        ("gvnic", []),
        ("gvnic", ["--snp"]),
        pytest.param("virtio", [], marks=pytest.mark.slow),
        pytest.param("virtio", ["--snp"], marks=pytest.mark.slow),
        pytest.param("virtio-legacy", [], marks=pytest.mark.slow),
        pytest.param("virtio-legacy", ["--snp"], marks=pytest.mark.slow),
        pytest.param("virtio", ["--net-loss", "3%", "--net-delay", "3ms"], marks=pytest.mark.slow),
        pytest.param("gvnic", ["--net-loss", "3%", "--net-delay", "3ms"], marks=pytest.mark.slow),
    ],
)
def test_web_page_and_ssh_console(program, tmp_path, nic, more):
    if shutil.which("ssh") is None:
        pytest.skip("no ssh client")
    web, console, capture = free_port(), free_port(), tmp_path / "wire.pcap"
    words = ["--nic", nic, "--net", "user", "--forward", f"{web}:80", "--forward", f"{console}:22"]
    with running(program(IMAGE), *words, "--pcap", str(capture), *more) as guest:
        guest.sendline("lspci")
        guest.expect(IDS[nic])
        guest.sendline(up(nic))
        guest.expect("ssh://10.0.2.15:22")
        assert "goroutine" in page(web)
        with ssh(console) as session:
            session.send("uptime\r")
            session.expect(r"\d+ (milli)?seconds?")
            session.send("lspci\r")
            session.expect(IDS[nic])
        assert leave(guest) == 0
    check_capture(capture)


def test_fixed_and_random_addresses(program):
    """The gVNIC's driver tells which address its device has."""
    found = []
    for words in (["--mac", "02:11:22:33:44:55"], ["--mac", "random"], ["--mac", "random"]):
        with running(program(IMAGE), "--nic", "gvnic", "--net", "user:builtin", *words) as guest:
            guest.sendline(up("gvnic"))
            guest.expect(r"network initialized \(10.0.2.15/24 ([0-9a-f:]{17})\)")
            found.append(guest.match.group(1))
    assert found[0] == "02:11:22:33:44:55"
    assert found[1] != found[2]
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac) for mac in found[1:])


def test_a_strict_device_refuses_a_driver_that_negotiates_nothing(program):
    """TamaGo's is one; the lenient mode, which is the default, takes it."""
    with running(program(IMAGE), "--nic", "virtio:strict", "--net", "user:builtin") as guest:
        guest.sendline(up("virtio"))
        guest.expect("could not initialize VirtIO device")


def test_an_end_that_goes_away_takes_the_link_down_and_no_more(program, tmp_path):
    """The other end of the cable closes in the middle of a download; the guest sees that its link is down, and lives on."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with running(program(IMAGE), "--nic", "virtio", "--net", f"socket:{address}") as guest:
            loop = Loop()
            link = StreamLink(loop.post, peer=server.accept()[0])
            gateway = Gateway(loop.post, loop.clock, [(port, 80)], resolvers=[])
            link.on_receive, gateway.on_receive = gateway.send, link.send
            over = threading.Event()
            thread = threading.Thread(target=lambda: loop.until(over.is_set, 100))
            thread.start()
            try:
                guest.sendline("peek c0002000 8")
                guest.expect(r"52 54 00 12 34 56 01 00")
                guest.sendline(up("virtio"))
                guest.expect("ssh://10.0.2.15:22")
                assert "goroutine" in page(port)
                with socket.create_connection(("127.0.0.1", port)) as client:
                    words = b"+".join([b"0x10120001"] * 20_000)
                    client.sendall(b"GET /debug/pprof/symbol?" + words + b" HTTP/1.1\r\nHost: guest\r\n\r\n")
                    assert client.recv(1000)
                    loop.post(link.close)
                    until(lambda: not link.link, "the link goes down")
                guest.sendline("peek c0002000 8")
                guest.expect(r"52 54 00 12 34 56 00 00")
                guest.sendline("uptime")
                guest.expect("seconds?")
                assert leave(guest) == 0
            finally:
                over.set()
                thread.join()
                gateway.close()


@pytest.mark.parametrize(
    ("what", "needs"), [("dns", "mount"), ("tap", "ping"), ("passt", "passt")], ids=["dns", "tap", "passt"]
)
@pytest.mark.parametrize("nic", ["virtio", pytest.param("gvnic", marks=pytest.mark.slow)])
def test_networks_of_the_host(program, what, needs, nic):
    """`network_namespaces.py` in a namespace of its own: the resolver's answers, the kernel as a neighbour, passt."""
    in_namespace(needs, what, program(IMAGE), nic)


def test_passt_keeps_the_guest_out_of_the_hosts_loopback():
    in_namespace("passt", "loopback")


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("board", "nic"),
    [("microvm", "virtio"), ("firecracker", "virtio"), ("cloud_hypervisor", "virtio"), ("gcp", "virtio-legacy")],
)
def test_servers_of_a_unikernel_without_firmware(program, board, nic):
    in_namespace("ssh", "unikernel", program(f"tamago-example-{board}.elf"), nic, timeout=400)


def in_namespace(needs, *words, timeout=110):
    for tool in ("unshare", "ip", needs):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    probe = subprocess.run(["unshare", "--map-root-user", "--net", "--mount", "true"], check=False)
    if probe.returncode or not Path("/dev/net/tun").exists():
        pytest.skip("no namespaces here, or no /dev/net/tun")
    done = namespace(*words, timeout=timeout)
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr[-3000:]
