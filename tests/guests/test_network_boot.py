"""Programs that boot from networks: iPXE with its own drivers and over ours, GRUB, and the Shell's view of it all."""

import functools
import http.server
import re
import threading
import time
from collections.abc import Iterator

import pytest
from boot_server import BootServer

from machine.net.hub import Hub

pytestmark = pytest.mark.guests

HELLO = "Hello from an EFI application!"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
DEBIANS = ["ipxe-debian.efi", "ipxe.efi"]
SNP = {"snp": True, "snp_check": "strict"}
IPXES = [
    # Debian's iPXE has a driver for virtio, which moves data by itself, and drives everything else through firmware.
    pytest.param(DEBIANS, "virtio", {}, "virtio-net", id="debian-virtio"),
    pytest.param(DEBIANS, "virtio-legacy", {}, "virtio-net", id="debian-legacy", marks=pytest.mark.slow),
    pytest.param(DEBIANS, "gvnic", {}, "SNP", id="debian-simple-network"),
    # Newer ones take buffers from EFI_PCI_IO_PROTOCOL, so that they work in a confidential guest.
    pytest.param(["ipxe-virtio.efi"], "virtio", {}, "virtio-net", id="virtio", marks=pytest.mark.slow),
    pytest.param(["ipxe-virtio.efi"], "virtio", SNP, "virtio-net", id="virtio-snp", marks=pytest.mark.slow),
    pytest.param(["ipxe-gve.efi"], "gvnic", {}, "gve", id="gve", marks=pytest.mark.slow),
    pytest.param(["ipxe-gve.efi"], "gvnic:dqo-rda", SNP, "gve", id="gve-snp"),
]


@pytest.fixture
def server(sample, program) -> Iterator[tuple[Hub, BootServer]]:
    """A hub with a machine that serves files."""
    hub = Hub()
    made = BootServer(hub, {"hello.efi": sample("hello").read_bytes(), "big.txt": b"0123456789" * 5000})
    yield hub, made
    made.close()


def ipxe_prompt(vm):
    """iPXE at its prompt, as a function of a command that gives its output."""
    vm.expect_exact("Ctrl-B")
    vm.sendcontrol("b")
    vm.expect_exact("iPXE> ")

    def ask(command: str) -> str:
        vm.sendline(command)
        vm.expect_exact("iPXE> ")
        return ANSI.sub("", vm.before).replace("\r", "").partition("\n")[2]

    return ask


@pytest.mark.parametrize(("names", "nic", "options", "driver"), IPXES)
def test_ipxe_boots_from_the_network(boot, program, server, names, nic, options, driver):
    """DHCP, a file by TFTP that is an application and runs, and the counters afterwards."""
    hub, host = server
    vm = boot(program(*names), net=hub, nic=nic, timeout=60, **options)
    ask = ipxe_prompt(vm)
    assert f"52:54:00:12:34:56 using {driver} on " in ask("ifstat")
    assert "ok" in ask("dhcp")
    assert "10.0.2.15/255.255.255.0 gw 10.0.2.2" in ask("route")
    told = ask("chain tftp://10.0.2.2/hello.efi")
    assert HELLO in told
    assert "All is well. Goodbye." in told
    ask("chain tftp://10.0.2.2/nosuch.efi")
    assert host.asked == ["hello.efi", "nosuch.efi"]
    counts = re.search(r"TX:(\d+) TXE:(\d+) RX:(\d+) RXE:(\d+)", ask("ifstat"))
    assert counts is not None
    sent, send_errors, received, receive_errors = map(int, counts.groups())
    blocks = len(host.files["hello.efi"]) // 1432
    assert sent > blocks
    assert received > blocks
    assert (send_errors, receive_errors) == (0, 0)
    vm.sendline("exit")
    assert vm.wait() == 0
    assert vm.report == []
    assert not [line for line in vm.warnings if "SEV-SNP" in line]


@pytest.fixture
def web(sample) -> Iterator[int]:
    """The port of a web server on this machine with the built samples."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sample("hello").parent)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made.server_port
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("name", "nic"),
    [
        pytest.param("ipxe-debian.efi", "virtio", marks=pytest.mark.slow),
        ("ipxe-gve.efi", "gvnic"),
        pytest.param("ipxe-debian.efi", "gvnic", marks=pytest.mark.slow),
    ],
)
def test_ipxe_boots_from_a_web_server(boot, program, web, name, nic):
    """A server of the host's loopback, which a guest reaches at its gateway where --expose says so."""
    vm = boot(program(name, "ipxe.efi"), net="user", nic=nic, expose=[web], timeout=60)
    ask = ipxe_prompt(vm)
    assert "ok" in ask("dhcp")
    assert HELLO in ask(f"chain http://${{net0/gateway}}:{web}/hello.efi")


# -- GRUB


def grub_prompt(vm):
    """GRUB at its prompt, as a function of a command that gives its output."""
    vm.expect_exact("grub> ")

    def ask(command: str) -> str:
        vm.sendline(command)
        vm.expect_exact("grub> ")
        return ANSI.sub("", vm.before).replace("\r", "").partition("\n")[2].strip()

    return ask


@pytest.fixture
def grub(boot, program, server):
    """GRUB at its prompt with its network drivers over ours."""
    vm = boot(program("grubnetx64.efi"), net=server[0], timeout=60, trace=True)
    return vm, grub_prompt(vm)


def test_grub_finds_the_card_and_gets_an_address(grub):
    _, ask = grub
    assert ask("net_ls_cards") == "efinet0 52:54:00:12:34:56"
    assert ask("net_bootp") == ""
    assert ask("net_ls_addr") == "efinet0:dhcp 52:54:00:12:34:56 10.0.2.15"
    assert "efinet0:dhcp:default 0.0.0.0/0 gw 10.0.2.2" in ask("net_ls_routes")


def test_grub_reads_files_and_starts_an_application(grub):
    vm, ask = grub
    ask("net_add_addr here efinet0 10.0.2.15")
    assert "0123456789012" in ask("cat (tftp,10.0.2.2)/big.txt")
    ask("set root=tftp,10.0.2.2")
    assert "error" not in ask("chainloader /hello.efi")
    vm.sendline("boot")
    vm.expect_exact(HELLO)
    vm.expect_exact("grub> ")
    # Every frame that GRUB has sent was given back before it went on.
    sent = [e for e in vm.trace if e["name"] == "EFI_SIMPLE_NETWORK_PROTOCOL.Transmit"]
    assert len(sent) > 30
    assert all(event["status"] == "EFI_SUCCESS" and "note" not in event for event in sent)


def test_ipxe_over_our_driver_alone(boot, program, server, esp, sample):
    """snponly.efi drives the device that it was loaded from."""
    hub, _ = server
    files = {"launcher.efi": sample("launcher"), "snponly.efi": program("snponly-debian.efi", "snponly.efi")}
    folder = esp({**files, "launch.txt": "network \\snponly.efi\r\n"})
    vm = boot(folder / "launcher.efi", esp=folder, net=hub, nic="gvnic", timeout=60)
    ask = ipxe_prompt(vm)
    assert "using SNP on SNP-0000:00:03.0" in ask("ifstat")
    assert "ok" in ask("dhcp")
    assert HELLO in ask("chain tftp://10.0.2.2/hello.efi")
    vm.sendline("exit")
    vm.expect_exact("# launcher: EFI_SUCCESS")


# -- the Shell


def shell_prompt(vm):
    """The Shell at its prompt, as a function of a command that gives its output."""
    vm.expect_exact("Press ESC")
    vm.send("\x1b")
    vm.expect_exact("Shell> ")

    def ask(command: str) -> str:
        vm.sendline(command)
        told = ""
        while vm.expect([r"\n\r?(?:Shell|FS0:\\)> ", "Press ENTER"]):
            told += vm.before
            vm.sendline()
        return ANSI.sub("", told + vm.before).replace("\r", "")

    return ask


@pytest.fixture
def shell(boot, program):
    """The Shell at its prompt, with a network device."""
    return shell_prompt(boot(program("Shell.efi"), net="user:builtin"))


def test_the_shell_lists_the_bus(shell):
    listed = shell("pci")
    for place, vendor in (
        ("00    00", "8086 Device 29C0"),
        ("03    00", "1AF4 Device 1041"),
        ("1F    00", "8086 Device 2918"),
    ):
        assert re.search(rf"00   00   {place} ==> .*\n +Vendor {vendor}", listed)
    assert "F4 1A 41 10" in shell("pci 00 03 00")
    tree = shell("devtree")
    assert re.search(r"\n Ctrl\[\w+\] PciRoot\(0x0\)/Pci\(0x3,0x0\)\n   Ctrl\[\w+\] .*/MAC\(525400123456,0x1\)", tree)
    assert "cvmboot network driver" in shell("drivers")


def handles_of(shell, protocol: str) -> list[str]:
    return re.findall(r"^([0-9A-F]+): ", shell(f"dh -p {protocol}"), re.MULTILINE)


def test_the_driver_leaves_and_comes_back(shell):
    assert len(handles_of(shell, "SimpleNetwork")) == 1
    device = re.search(r"Ctrl\[(\w+)\] PciRoot\(0x0\)/Pci\(0x3,0x0\)\n", shell("devtree"))[1]
    for _ in range(3):
        assert "Success" in shell(f"disconnect {device}")
        assert handles_of(shell, "SimpleNetwork") == []
        shell(f"connect {device}")
        assert len(handles_of(shell, "SimpleNetwork")) == 1
        shell(f"reconnect {device}")
        assert len(handles_of(shell, "SimpleNetwork")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("names", "nic"), [(DEBIANS, "virtio"), (["ipxe-gve.efi"], "gvnic")])
def test_ipxe_takes_the_device_and_gives_it_back(boot, program, esp, names, nic):
    folder = esp({"Shell.efi": program("Shell.efi"), "ipxe.efi": program(*names)})
    vm = boot(folder / "Shell.efi", esp=folder, net="user:builtin", nic=nic, timeout=60)
    shell = shell_prompt(vm)
    assert len(handles_of(shell, "SimpleNetwork")) == 1
    shell("fs0:")
    vm.sendline("ipxe.efi")
    ask = ipxe_prompt(vm)
    assert "using SNP" not in ask("ifstat")
    assert "ok" in ask("dhcp")
    vm.sendline("exit")
    vm.expect(r"FS0:\\> ")
    assert len(handles_of(shell, "SimpleNetwork")) == 1
    assert "cvmboot network driver" in shell("drivers")


# -- waiting


def test_a_loader_that_waits_for_frames_takes_no_processor(boot, program):
    """GRUB at its prompt asks for keys and frames over and over."""
    vm = boot(program("grubnetx64.efi"), net="user:builtin", timeout=60)
    ask = grub_prompt(vm)
    ask("net_bootp")
    time.sleep(0.5)
    idle = vm._machine.assembly.computer.idle
    before = idle.slept
    time.sleep(2)
    assert idle.slept - before > 20, "sleeps of 1 to 50 ms each"
