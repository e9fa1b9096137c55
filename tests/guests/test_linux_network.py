"""Linux's own drivers against our network devices: virtio_net, modern and legacy, and gve, as Debian's kernel has them.

Each machine runs DHCP, ping, a download and a web server of its own; what differs is said by the test.
"""

import functools
import hashlib
import http.server
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linux_guest import PATIENCE, PROMPT, Linux, ask, find_linux
from network_sessions import free_port, page, until

from cvmboot import VirtualMachine
from machine.net.gateway import Gateway
from machine.net.socket_link import StreamLink
from tests.machine.net.network_harness import Loop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 200)]

VIRTIO = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net"),
)
GVE = ("gve",)
LEASE = b"""#!/bin/sh
[ $1 = bound ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip route add default via $router
"""
"""What udhcpc calls with what it was offered."""

TROUBLE = ("BUG:", "WARNING:", "Oops", "Call Trace", "timed out", "timeout", "Failed", "error -", "NETDEV WATCHDOG")
PAGE = b"a page of the guest's\n"

Start = Callable[..., VirtualMachine]


@pytest.fixture
def download(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """(port, SHA-256) of a file of 1 MB that a web server of the host's loopback gives."""
    folder = tmp_path / "served"
    folder.mkdir()
    data = random.Random(5).randbytes(1_000_000)
    (folder / "file").write_bytes(data)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, hashlib.sha256(data).hexdigest()
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(esp: Callable[..., Path], boot: Start) -> Start:
    """Boot Debian's kernel with a network device, at its shell with the device's driver loaded and the interface up."""
    linux: Linux = find_linux()

    def begin(nic: str, arguments: str = "", **options: object) -> VirtualMachine:
        modules = GVE if nic.startswith("gvnic") else VIRTIO
        files = {"lease": LEASE, "page": PAGE}
        folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": linux.initrd(modules, files)})
        line = f"console=ttyS0 tsc=reliable initrd=\\initrd.gz {arguments}"
        vm = boot(folder / "vmlinuz.efi", esp=folder, args=line, nic=nic, timeout=2 * PATIENCE, **options)
        vm.expect(PROMPT, timeout=PATIENCE)
        for module in modules:
            assert ask(vm, f"insmod /modules/{module}.ko") == ""
        assert ask(vm, "ip link set eth0 up") == ""
        return vm

    return begin


def lease(vm: VirtualMachine) -> None:
    """The built-in gateway's DHCP server and its answers to pings."""
    assert "lease of 10.0.2.15 obtained from 10.0.2.2" in ask(vm, "udhcpc -i eth0 -s /lease -n -q -t 9")
    assert "5 packets transmitted, 5 packets received" in ask(vm, "ping -c 5 -i 0.1 -W 9 10.0.2.2")


def transfer(vm: VirtualMachine, download: tuple[int, str], web: int) -> None:
    """A file from the host, a page for the host."""
    port, digest = download
    assert digest in ask(vm, f"wget -q -O f 10.0.2.2:{port}/file; sha256sum f", PATIENCE)
    ask(vm, "httpd -p 80 -h /")
    assert page(web, "/page").encode() == PAGE


def quiet(vm: VirtualMachine) -> None:
    """Neither kernel nor driver has complained."""
    log = ask(vm, "dmesg")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)], log


def features(vm: VirtualMachine) -> set[int]:
    """Bits that Linux has negotiated."""
    text = ask(vm, "cat /sys/bus/virtio/devices/virtio0/features")
    return {bit for bit, value in enumerate(text.strip()) if value == "1"}


def interrupts(vm: VirtualMachine) -> list[str]:
    """The lines of /proc/interrupts that have a name of a device of ours, and have come."""
    lines = ask(vm, "cat /proc/interrupts").splitlines()
    return [line for line in lines if ("virtio" in line or "ntfy" in line) and line.split()[1] != "0"]


def test_virtio_net(start: Start, download: tuple[int, str]) -> None:
    """The modern device: MSI-X, control queue, a driver that goes and comes back."""
    web = free_port()
    vm = start("virtio", forward=[f"{web}:80"], expose=[str(download[0])])
    where = "/sys/bus/pci/devices/0000:00:03.0"
    assert ask(vm, f"cd {where}; cat vendor device class revision; cd /").split() == [
        "0x1af4",
        "0x1041",
        "0x020000",
        "0x01",
    ]
    assert {3, 5, 15, 16, 17, 18, 23, 28, 29, 32} <= features(vm)
    assert ask(vm, "cat /sys/class/net/eth0/mtu") == "1500"
    lease(vm)
    transfer(vm, download, web)
    names = [line.split()[-1] for line in interrupts(vm)]
    assert "virtio0-input.0" in names
    assert all("PCI-MSI" in line for line in interrupts(vm))
    assert ask(vm, "ip link set eth0 promisc on; ip link set eth0 promisc off") == ""
    assert ask(vm, "ip link set eth0 address 02:00:00:00:00:77") == ""
    assert "3 packets received" in ask(vm, "ping -c 3 -i 0.1 -W 9 10.0.2.2")
    assert ask(vm, "rmmod virtio_net; insmod /modules/virtio_net.ko") == ""
    assert "52:54:00:12:34:56" in ask(vm, "ip link set eth0 up; cat /sys/class/net/eth0/address")
    lease(vm)
    quiet(vm)


def test_virtio_net_legacy_with_a_shared_interrupt_line(start: Start, download: tuple[int, str]) -> None:
    """The interface of before VirtIO 1.0, and INTx through the I/O APIC."""
    web = free_port()
    vm = start("virtio-legacy", "pci=nomsi", forward=[f"{web}:80"], expose=[str(download[0])])
    assert {3, 5, 15, 16, 17, 28, 29} <= features(vm)
    assert 32 not in features(vm)
    lease(vm)
    transfer(vm, download, web)
    assert ["IO-APIC" in line for line in interrupts(vm)] == [True]
    quiet(vm)


@pytest.mark.parametrize("nic", ["gvnic", "gvnic:gqi-qpl", "gvnic:gqi-rda", "gvnic:dqo-rda"])
def test_gve(start: Start, download: tuple[int, str], nic: str) -> None:
    """Google's own driver takes each queue format that it knows, and the best of all."""
    web = free_port()
    vm = start(nic, forward=[f"{web}:80"], expose=[str(download[0])])
    where = "/sys/bus/pci/devices/0000:00:03.0"
    assert ask(vm, f"cd {where}; cat vendor device class; cd /").split() == ["0x1ae0", "0x0042", "0x020000"]
    lease(vm)
    transfer(vm, download, web)
    assert len(interrupts(vm)) == 2
    assert ask(vm, "ip link set eth0 mtu 1400; cat /sys/class/net/eth0/mtu") == "1400"
    assert "3 packets received" in ask(vm, "ping -c 3 -i 0.1 -W 9 10.0.2.2")
    assert ask(vm, "rmmod gve; insmod /modules/gve.ko; ip link set eth0 up") == ""
    lease(vm)
    quiet(vm)


@pytest.mark.parametrize("nic", ["virtio", "gvnic"])
def test_a_cable_that_is_pulled(start: Start, nic: str) -> None:
    """The other end of a cable goes away: the interface has no carrier, and has it again when somebody comes. --mtu."""
    port, loop, over = free_port(), Loop(), threading.Event()
    vm = start(nic, net=f"socket:listen:127.0.0.1:{port}", mtu=1460)
    assert ask(vm, "cat /sys/class/net/eth0/mtu") == "1460"
    carrier = "cat /sys/class/net/eth0/carrier"
    until(lambda: ask(vm, carrier) == "0", "no carrier before anybody comes", PATIENCE)
    for _ in range(2):
        link = StreamLink(loop.post, peer=socket.create_connection(("127.0.0.1", port)))
        gateway = Gateway(loop.post, loop.clock, resolvers=[])
        link.on_receive, gateway.on_receive = gateway.send, link.send
        thread = threading.Thread(target=lambda: loop.until(over.is_set, 2 * PATIENCE))
        thread.start()
        try:
            until(lambda: ask(vm, carrier) == "1", "a carrier", PATIENCE)
            lease(vm)
        finally:
            over.set()
            thread.join()
            over.clear()
            link.close()
            gateway.close()
        until(lambda: ask(vm, carrier) == "0", "no carrier any more", PATIENCE)
    quiet(vm)
