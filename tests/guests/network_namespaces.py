"""Run in a network namespace by tests: `python network_namespaces.py FUNCTION [IMAGE NIC]`. What fails is an AssertionError.

The namespace has no way out, so that nothing here depends on the network of who runs the tests.
"""

import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pexpect
from network_sessions import PATIENCE, page, ssh, up
from scapy.layers.dns import DNS, DNSRR

sys.path.insert(0, str(Path(__file__).parents[2]))

from cvmboot import VirtualMachine
from cvmboot.unikernel import UnikernelAssembly
from machine import registers as reg
from machine.net.gateway import GATEWAY
from machine.net.packets import ARP_REQUEST, SYN, Segment
from machine.net.passt import PasstBackend
from machine.net.tap import TapBackend
from tests.machine.net.network_harness import Loop, PacketGuest

NAME, ADDRESS = "unikernel.test", "192.0.2.77"
PUBLIC_RESOLVER = "8.8.8.8"
"""The one that tamago-sev-example asks."""
BOOTS, SAMPLES = 5, 20
"""So often a guest that locks itself is booted; so many looks tell that it has."""
PACKET_PROCESSOR = ("gvisor.dev/gvisor/pkg/tcpip/transport/tcp.", "gvisor.dev/gvisor/pkg/sync.")


def ip(words: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *words.split()], check=True)


def resolver(address: str) -> None:
    """Answer DNS queries for NAME at `address`, for as long as this program runs."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))

    def serve() -> None:
        while True:
            data, client = server.recvfrom(65535)
            query = DNS(data)
            known = query.qd[0].qname.decode().rstrip(".") == NAME and query.qd[0].qtype == 1
            answers = DNSRR(rrname=query.qd[0].qname, ttl=60, rdata=ADDRESS) if known else None
            server.sendto(bytes(DNS(id=query.id, qr=1, ra=1, qd=query.qd, an=answers)), client)

    threading.Thread(target=serve, daemon=True).start()


def started(image: str, nic: str, **options: object) -> VirtualMachine:
    """The guest with its network up."""
    vm = VirtualMachine(image, timeout=PATIENCE, nic=nic, **options)
    vm.expect("show system running time")
    vm.expect("> ")
    vm.sendline(up(nic))
    vm.expect("ssh://10.0.2.15:22")
    return vm


def look_up(vm: VirtualMachine, nic: str, console: int) -> None:
    """The guest resolves a name; with gVNIC its serial console is over and SSH is left."""
    if nic.startswith("gvnic"):
        with ssh(console) as session:
            session.send(f"dns {NAME}\r")
            session.expect(re.escape(f"[{ADDRESS}]"))
    else:
        vm.expect("> ")
        vm.sendline(f"dns {NAME}")
        vm.expect(re.escape(f"[{ADDRESS}]"))


def dns(image: str, nic: str) -> None:
    """The gateway relays to the host's resolver."""
    ip("link set lo up")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("nameserver 127.0.0.1\n")
        file.flush()
        subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
        resolver("127.0.0.1")
        with started(image, nic, net="user", forward=["2222:22"]) as vm:
            assert any("built-in gateway" in warning for warning in vm.warnings), vm.warnings
            look_up(vm, nic, 2222)


def way_out() -> TapBackend:
    """Give the namespace a default route, without which passt does not start."""
    ip("link set lo up")
    outside = TapBackend(lambda action: None, "outside")  # an interface that somebody holds has a carrier
    ip("addr add 198.51.100.7/24 dev outside")
    ip("link set outside up")
    ip("route add default via 198.51.100.1")
    return outside


def loopback() -> None:
    """What listens on the host's loopback is not the guest's, not at the gateway's address either, as passt would have it."""
    outside = way_out()
    ip("addr add 198.51.100.8/32 dev lo")
    loop, flags = Loop(), {}
    backend = PasstBackend(loop.post, [])
    guest = PacketGuest(backend)
    guest.arp(ARP_REQUEST, bytes(6), GATEWAY)
    servers = [socket.create_server((address, 0)) for address in ("127.0.0.1", "198.51.100.8")]
    for number, (server, address) in enumerate(zip(servers, (GATEWAY, bytes((198, 51, 100, 8))), strict=True)):
        syn = Segment(40_000 + number, server.getsockname()[1], 1000, 0, SYN, 65_535)
        guest.tcp(syn, address)
        flags[number] = 0

        def answered(number: int = number) -> bool:
            for segment in guest.take_segments():
                if segment.destination == 40_000 + number:
                    flags[number] = segment.flags
            return flags[number] != 0

        if number:
            loop.until(answered)
        else:
            loop.spend(2)
            answered()
    assert not flags[0] & SYN, "passt let the guest in"
    assert flags[1] & SYN, "nor would it let it anywhere else"
    servers[0].settimeout(0)
    try:
        servers[0].accept()
        raise AssertionError("somebody connected to the loopback")
    except BlockingIOError:
        pass
    backend.close()
    outside.close()


def passt(image: str, nic: str) -> None:
    """With a default route passt itself serves: connections in, and datagrams out to an address that the host has."""
    outside = way_out()
    ip(f"addr add {PUBLIC_RESOLVER}/32 dev lo")
    resolver(PUBLIC_RESOLVER)
    with started(image, nic, net="user", forward=["8080:80", "2222:22"]) as vm:
        assert not vm.warnings, vm.warnings
        assert "goroutine" in page(8080)
        look_up(vm, nic, 2222)
    outside.close()


def tap(image: str, nic: str) -> None:
    """The kernel's own network stack is the guest's neighbour."""
    ip("link set lo up")
    ip("tuntap add wire0 mode tap")
    ip("addr add 10.0.2.2/24 dev wire0")
    ip("link set wire0 up")
    with started(image, nic, net="tap:wire0") as vm:
        assert not vm.warnings, vm.warnings
        assert "goroutine" in page(80, host="10.0.2.15")
        for size in (56, 1400, 4000):
            words = ["ping", "-c", "5", "-i", "0.05", "-W", "5", "-s", str(size), "10.0.2.15"]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert "5 received" in done.stdout, done
            print(done.stdout.splitlines()[-1])
        ip("link del wire0")
        assert vm.isalive()


def trusting(certificate: str) -> ssl.SSLContext:
    """A client that trusts this certificate (PEM) and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Livelocked(Exception):
    """The guest's network stack waits, without an end, for a lock whose holder it does not let run (docs/networking.md)."""


def places(vm: VirtualMachine) -> list[str]:
    """The functions in which the guest is, at moments of one second."""
    seen: list[str] = []

    def look(assembly: UnikernelAssembly) -> None:
        seen.append(assembly.symbols.function(assembly.computer.cpu.get(reg.RIP)).partition("+")[0])

    for _ in range(SAMPLES):
        vm._machine.call(look)
        time.sleep(1 / SAMPLES)
    return seen


def wait_for(vm: VirtualMachine, session: pexpect.spawn, what: str) -> None:
    """What `session.expect` does, and Livelocked once it is clear that it does not come.

    That is so when all that the guest executes is gVisor's packet processor, which puts a locked connection back into its queue.
    """
    deadline = time.monotonic() + 3 * PATIENCE
    while session.expect([what, pexpect.TIMEOUT], timeout=5):
        seen = places(vm)
        if len(seen) > SAMPLES // 2 and all(place.startswith(PACKET_PROCESSOR) for place in seen):
            raise Livelocked
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what!r} but {session.before[-200:]!r}; the guest is in {sorted(set(seen))}")


def unikernel(image: str, nic: str) -> None:
    """tamago-example's web pages by HTTP and HTTPS, and its shell over SSH; its own tests make /dir."""
    guest, host = ("10.132.0.2", "10.132.0.1") if "gcp" in Path(image).name else ("10.0.0.1", "10.0.0.2")
    ip("link set lo up")
    ip("tuntap add wire0 mode tap")
    ip(f"addr add {host}/24 dev wire0")
    ip("link set wire0 up")
    for tries_left in reversed(range(BOOTS)):
        try:
            servers(image, nic, guest)
        except Livelocked:
            print("the guest's network stack has locked itself", file=sys.stderr)
            if not tries_left:
                raise
        else:
            return


def servers(image: str, nic: str, guest: str) -> None:
    """One boot of it, and all that it serves. Livelocked."""
    with VirtualMachine(image, timeout=PATIENCE, nic=nic, net="tap:wire0") as vm:
        vm.expect("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----")
        certificate = vm.after.replace("\r", "")
        vm.expect(f"starting web server at {guest}:443")
        assert "/tamago-example.log" in page(80, "/", guest)
        assert "starting ssh server" in page(80, "/tamago-example.log", guest)
        client = trusting(certificate)
        assert "/tamago-example.log" in page(443, "/", guest, client)
        with ssh(22, guest) as session:
            session.send("test\r")
            wait_for(vm, session, "completed all tests")
            session.send("uptime\r")
            wait_for(vm, session, r"\d+ (milli)?seconds?")
        for port, trusted in ((80, None), (443, client)):
            assert "tamago.txt" in page(port, "/dir/", guest, trusted)
            assert page(port, "/dir/tamago.txt", guest, trusted)
        assert vm.isalive()


if __name__ == "__main__":
    {"dns": dns, "loopback": loopback, "passt": passt, "tap": tap, "unikernel": unikernel}[sys.argv[1]](*sys.argv[2:])
    print("done")
