"""Unikernels on the network through UEFI: go-boot's `net`, tamago-sev-example's `net-uefi`, beside their own drivers."""

import shutil
import socket
import time
import urllib.request

import pexpect
import pytest

pytestmark = pytest.mark.guests

ADDRESS = "10.0.2.15/24 : 10.0.2.2 debug"
GO_BOOT, TAMAGO = "go-boot-net.efi", "tamago-sev-example.efi"
MACHINES = [
    pytest.param(GO_BOOT, "net", {"nic": "virtio"}, id="go-boot"),
    pytest.param("go-boot-net-text.efi", "net", {"nic": "gvnic"}, id="go-boot-text-gvnic", marks=pytest.mark.slow),
    pytest.param("go-boot-net-lneto.efi", "net", {"nic": "virtio-legacy"}, id="go-boot-lneto", marks=pytest.mark.slow),
    pytest.param(TAMAGO, "net-uefi", {"nic": "virtio"}, id="tamago", marks=pytest.mark.slow),
    pytest.param(TAMAGO, "net-uefi", {"nic": "gvnic", "snp": True, "snp_check": "strict"}, id="tamago-snp"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(port: int) -> str:
    """The unikernel's page, as soon as it answers."""
    deadline = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/debug/pprof/", timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def ssh_uptime(port: int) -> None:
    """Log in, ask for the uptime, log out."""
    words = ["-tt", "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    session = pexpect.spawn("ssh", [*words, "-o", "LogLevel=ERROR", "127.0.0.1"], timeout=40, encoding="utf-8")
    session.expect("uptime .*\n")
    session.expect("> ")
    session.send("uptime\r")
    session.expect("second")
    session.send("exit\r")
    session.expect(pexpect.EOF)


@pytest.mark.parametrize(("name", "command", "options"), MACHINES)
def test_web_page_and_ssh_console(boot, program, name, command, options):
    web, ssh = free_port(), free_port()
    vm = boot(program(name), net="user:builtin", forward=[f"{web}:80", f"{ssh}:22"], timeout=60, trace=True, **options)
    vm.expect("show system running time")
    vm.expect("> ")
    vm.sendline(f"{command} {ADDRESS}")
    vm.expect("network initialized")
    assert "goroutine" in page(web)
    if shutil.which("ssh") is not None:
        ssh_uptime(ssh)
    # The one mistake of theirs that stricter firmware would not have let pass.
    notes = [(event["name"], event["note"]) for event in vm.trace if "note" in event]
    assert [called for called, _ in notes] == ["EFI_SIMPLE_NETWORK_PROTOCOL.ReceiveFilters"]
    assert notes[0][1].startswith("quirk: StationAddress(Reset, New) called through the slot of ReceiveFilters")


def test_without_a_network_device_it_says_so(boot, program):
    vm = boot(program(GO_BOOT))
    vm.expect("show system running time")
    vm.sendline(f"net {ADDRESS}")
    vm.expect("could not locate network protocol")


def test_a_unikernels_own_driver_takes_over_from_firmware(boot, program):
    """What the guest resets is the guest's; firmware's side then says that it has lost the device.

    The driver that polls, not the ones for VirtIO: those wait for interrupts, which TamaGo switches off with each call of a UEFI
    service, and its first network goes on calling Receive.
    """
    web = free_port()
    vm = boot(program(TAMAGO), net="user:builtin", forward=f"{web}:80", nic="gvnic", timeout=60, trace=True)
    vm.expect("show system running time")
    vm.expect("> ")
    vm.sendline("net-uefi 10.0.2.15/24 52:54:00:12:34:56 10.0.2.2")  # one address: neighbours remember it
    vm.expect("network initialized")
    vm.sendline("net-gve 10.0.2.15/24 10.0.2.2 debug")
    vm.expect("network initialized")
    assert "goroutine" in page(web)
    lost = [event for event in vm.trace if event["name"].endswith("NETWORK_PROTOCOL.Receive")][-1]
    assert lost["status"] == "EFI_DEVICE_ERROR"
    assert "a driver of the guest's has reset the network device" in lost["note"]


def test_names_are_resolved(boot, program):
    """Through the gateway's relay; a host without resolvers has the error told instead."""
    vm = boot(program(TAMAGO), net="user:builtin", timeout=60)
    vm.expect("show system running time")
    vm.sendline(f"net-uefi {ADDRESS}")
    vm.expect("network initialized")
    vm.sendline("dns localhost")
    vm.expect([r"\[[0-9a-f.:]+", "query error"])


def test_a_frame_wakes_a_guest_that_idles(boot, program):
    """A unikernel that polls Receive sleeps; what comes for it is answered long before it would have looked by itself."""
    web = free_port()
    vm = boot(program(GO_BOOT), net="user:builtin", forward=f"{web}:80", timeout=60)
    vm.expect("show system running time")
    vm.expect("> ")
    vm.sendline(f"net {ADDRESS}")
    vm.expect("network initialized")
    page(web)
    time.sleep(3)
    idle = vm._machine.assembly.computer.idle
    before = idle.slept
    time.sleep(2)
    assert idle.slept - before > 20, "sleeps of 1 to 50 ms each"
    assert "goroutine" in page(web)
