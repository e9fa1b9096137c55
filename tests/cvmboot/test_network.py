"""Networks through the front door: options, a web page and an SSH session of a unikernel, machines on one hub."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pexpect
import pytest
from guest_code import ECHO_COM1

from cvmboot import VirtualMachine
from cvmboot.errors import UsageError
from cvmboot.network import delay, loss, mac_address, network_name, port_pair
from machine.net import packets
from machine.net.hub import Hub
from machine.net.packets import Arp, Ipv4

GATEWAY, GUEST, MAC = bytes((10, 0, 2, 2)), bytes((10, 0, 2, 15)), bytes.fromhex("525400000099")
UP = "net-virtio 10.0.2.15/24 : 10.0.2.2 debug"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nic", "e1000"], b"--nic e1000"),
        (["--net", "lan"], b"--net lan"),
        (["--net", "tap:"], b"--net tap:"),
        (["--net", "user:10.0.0"], b"--net user:10.0.0: wanted the guest's IPv4 address"),
        (["--net", "user:10.0.0.255"], b"--net user:10.0.0.255"),
        (["--net", "user", "--forward", "80"], b"--forward 80"),
        (["--net", "user", "--forward", "1:2:3"], b"--forward 1:2:3"),
        (["--net", "user", "--forward", "0:80"], b"--forward 0:80"),
        (["--net", "user", "--forward", "80:65536"], b"--forward 80:65536"),
        (["--net", "none", "--forward", "8080:80"], b"--net user"),
        (["--net", "user", "--mac", "01:00:5e:00:00:01"], b"unicast"),
        (["--net", "user", "--mac", "52:54:00"], b"--mac 52:54:00"),
        (["--net", "user", "--net-loss", "120%"], b"120%"),
        (["--net", "user", "--net-delay", "soon"], b"soon"),
        (["--mac", "52:54:00:00:00:01"], b"--nic virtio"),
        (["--mtu", "1460"], b"--nic virtio"),
        (["--net", "user", "--mtu", "67"], b"--mtu 67: wanted 68 to 8896"),
        (["--net", "user", "--mtu", "9000"], b"--mtu 9000"),
        (["--net", "user", "--mtu", "1.5k"], b"--mtu 1.5k"),
        (["--net-loss", "5%"], b"--nic virtio"),
        (["--nic", "none", "--net", "user"], b"--nic none"),
        (["--net", "user", "--expose", "0"], b"--expose 0"),
        (["--net", "user", "--expose", "8000:80"], b"--expose 8000:80"),
        (["--net", "none", "--expose", "8000"], b"--net user"),
        (["--net", "user:passt", "--expose", "8000"], b"built-in"),
        (["--nic", "none", "--expose", "8000"], b"--nic virtio"),
    ],
)
def test_wrong_usage(cvmboot, sample, words, said):
    done = cvmboot("run", sample("hello"), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith(b"cvmboot: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--net", "tap:no-such-tap/0"],
        ["--net", "socket:unix:/nonexistent/socket"],
        ["--net", "socket:dgram:127.0.0.1:99"],
        ["--net", "user:builtin", "--pcap", "/nonexistent/file.pcap"],
    ],
)
def test_networks_that_cannot_be_had(cvmboot, sample, words):
    done = cvmboot("run", sample("hello"), *words)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_a_port_that_is_taken(cvmboot, sample):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for net in ("user", "user:builtin"):
            done = cvmboot("run", sample("hello"), "--net", net, "--forward", f"{port}:80")
            assert done.returncode == 1
            assert f"127.0.0.1:{port}".encode() in done.stderr


def test_values():
    assert network_name("socket:listen:unix:/tmp/x") == "socket:listen:unix:/tmp/x"
    assert port_pair("8080:80") == (8080, 80)
    assert mac_address("52:54:00:12:34:56") == bytes.fromhex("525400123456")
    assert (loss("5%"), loss("0.25"), loss("0")) == (0.05, 0.25, 0)
    assert (delay("20ms"), delay("1.5"), delay("0.5s"), delay("100us")) == (20_000_000, 1_500_000, 500_000_000, 100_000)
    for convert, text in ((delay, "-1ms"), (delay, "61s"), (delay, "nan"), (loss, "nan"), (port_pair, "٨:80")):
        with pytest.raises(UsageError):
            convert(text)


@pytest.mark.parametrize("nic", ["virtio", "virtio-legacy"])
def test_every_network_ends_with_the_machine(cvmboot, sample, tmp_path, nic):
    for net in ("user", "user:builtin", "none", f"socket:listen:unix:{tmp_path}/wire"):
        done = cvmboot("run", sample("hello"), "--nic", nic, "--net", net, "--pcap", tmp_path / "a.pcap")
        assert done.returncode == 0, (net, done.stderr)
        assert (tmp_path / "a.pcap").stat().st_size == 24
        assert not (tmp_path / "wire").exists()


def _backends(vm: VirtualMachine) -> list[str]:
    """The classes of what is behind one another at the machine's network device."""
    found: list[str] = []

    def look(assembly) -> None:
        backend = assembly.network.backend
        while backend is not None:
            found.append(type(backend).__name__)
            backend = getattr(backend, "_inner", None)

    vm._machine.call(look)
    deadline = time.monotonic() + 20
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_ports_are_forwarded_over_a_bad_network_by_what_repeats_a_lost_syn():
    forward = f"{free_port()}:80"
    with VirtualMachine(ECHO_COM1, nic="virtio", net="user", forward=forward, net_loss="3%") as vm:
        assert [line for line in vm.warnings if line.startswith("--net-loss: the built-in gateway is used")]
        assert len(vm.warnings) == 1
        assert _backends(vm) == ["ImpairedBackend", "Gateway"]
    for options in ({"net_delay": "1ms", "forward": forward}, {"net_loss": "3%"}):
        with VirtualMachine(ECHO_COM1, nic="virtio", net="user", **options) as vm:
            assert not [line for line in vm.warnings if line.startswith("--net-loss")]


# -- a unikernel with a web page and an SSH console


def started(guest, **options: object) -> VirtualMachine:
    vm = VirtualMachine(guest("tamago-sev-example.efi"), timeout=60, **options)
    vm.expect("show system running time")
    vm.expect("> ")
    return vm


def page(port: int) -> str:
    deadline = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/debug/pprof/", timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.guests
@pytest.mark.parametrize("nic", ["virtio", "virtio-legacy"])
def test_web_page_and_ssh_console(guest, nic, tmp_path):
    web, ssh = free_port(), free_port()
    capture = tmp_path / "wire.pcap"
    forward = [f"{web}:80", f"{ssh}:22"]
    with started(guest, nic=nic, net="user:builtin", forward=forward, pcap=capture) as vm:
        vm.sendline("lspci")
        vm.expect("1af4   1000" if nic == "virtio-legacy" else "1af4   1041")
        vm.sendline(UP)
        vm.expect("ssh://10.0.2.15:22")
        assert "goroutine" in page(web)
        if shutil.which("ssh") is None:
            return
        words = ["-tt", "-p", str(ssh), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        session = pexpect.spawn("ssh", [*words, "-o", "LogLevel=ERROR", "127.0.0.1"], timeout=40, encoding="utf-8")
        session.expect("uptime .*\n")
        session.expect("> ")
        session.send("uptime\r")
        session.expect("seconds")
        session.send("exit\r")
        session.expect(pexpect.EOF)
    assert capture.stat().st_size > 5000


@pytest.mark.guests
@pytest.mark.slow
def test_a_bad_network_slows_and_breaks_nothing(guest):
    port = free_port()
    with started(guest, net="user:builtin", forward=f"{port}:80", net_loss="5%", net_delay="5ms") as vm:
        vm.sendline(UP)
        vm.expect("ssh://10.0.2.15:22")
        for _ in range(5):
            assert "goroutine" in page(port)


@pytest.mark.guests
@pytest.mark.slow
def test_passt_where_it_works(guest):
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    port = free_port()
    with started(guest, net="user", forward=f"{port}:80") as vm:
        vm.sendline(UP)
        vm.expect("ssh://10.0.2.15:22")
        assert "goroutine" in page(port)


@pytest.mark.guests
def test_machines_and_programs_on_one_hub(guest):
    """Two unikernels and this program: each unikernel answers ARP and ping, under its own address."""
    hub = Hub()
    came: list[bytes] = []
    port = hub.plug(lambda action: action())
    port.on_receive = came.append

    def ask(frame: bytes, kind: bytes, at: slice, wanted: bytes) -> bytes:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            came.clear()
            port.send(frame)
            for _ in range(100):
                time.sleep(0.01)
                for answer in list(came):
                    if answer[12:14] == kind and answer[at] == wanted:
                        return answer
        raise AssertionError("no answer")

    with started(guest, net=hub) as first, started(guest, net=hub, nic="virtio-legacy") as second:
        first.sendline("net-virtio 10.0.2.15/24 52:54:00:00:00:15 10.0.2.2")
        second.sendline("net-virtio 10.0.2.16/24 52:54:00:00:00:16 10.0.2.2")
        first.expect("network initialized")
        second.expect("network initialized")
        for last in (15, 16):
            address, mac = bytes((10, 0, 2, last)), bytes.fromhex("5254000000") + bytes((last // 10 * 16 + last % 10,))
            request = Arp(packets.ARP_REQUEST, MAC, GATEWAY, bytes(6), address)
            frame = packets.ethernet(packets.BROADCAST_MAC, MAC, packets.ETHERTYPE_ARP, request.pack())
            assert ask(frame, b"\x08\x06", slice(6, 12), mac)
            echo = b"\x08\0\0\0\x12\x34\0\x01" + bytes(56)
            echo = echo[:2] + packets.checksum(echo).to_bytes(2, "big") + echo[4:]
            frame = packets.ethernet(mac, MAC, packets.ETHERTYPE_IPV4, Ipv4(GATEWAY, address, 1, echo).pack())
            answer = ask(frame, b"\x08\x00", slice(26, 30), address)
            assert Ipv4.parse(answer[14:]).payload[:1] == b"\0"


@pytest.mark.guests
def test_a_network_that_dies_leaves_the_machine_running(guest):
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    with started(guest, net="user:passt") as vm:
        vm.sendline(UP)
        vm.expect("ssh://10.0.2.15:22")
        words = ["pgrep", "-P", str(os.getpid())]
        children = subprocess.run(words, capture_output=True, text=True, check=False)
        for child in children.stdout.split():
            if Path(f"/proc/{child}/comm").read_text().startswith("passt"):
                subprocess.run(["kill", "-9", child], check=True)
        time.sleep(0.5)
        assert vm.isalive()
        started_at = time.monotonic()
    assert time.monotonic() - started_at < 3
