"""Snapshots of real guests: each goes on from its prompt as if nothing had happened."""

import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from linux_guest import PATIENCE, PROMPT, ask, find_linux

from cvmboot import VirtualMachine
from tests.engines import ENGINES

pytestmark = pytest.mark.guests

TAMAGO = r"\x1b\[31m> \x1b\[0m"
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Program = Callable[..., Path]


def answer(vm: VirtualMachine, command: str) -> str:
    """What a TamaGo shell answers, without its prompt."""
    vm.sendline(command)
    vm.expect(TAMAGO)
    return str(vm.before)


def test_every_clone_of_go_boot_answers_all_that_go_boot_does(program: Program) -> None:
    commands = ("info", "memmap", "lspci", "uefi", "cpuid 0 0", "efivar", "protocol", "stat .", "ls", "log", "help")
    with VirtualMachine(program("go-boot.efi"), cpus=2) as vm:
        vm.expect(TAMAGO)
        frozen = vm.snapshot()
        expected = {command: answer(vm, command) for command in commands}
    with frozen:
        for _ in range(2):
            with frozen.clone() as clone:
                assert {command: answer(clone, command) for command in commands} == expected
                clone.sendline("shutdown")
                assert clone.wait() == 0


def test_virtual_time_goes_on_bit_by_bit(program: Program, cvmboot: Run, tmp_path: Path) -> None:
    image, path = program("go-boot.efi"), tmp_path / "virtual.snap"
    typed = b"uptime\ninfo\ndate\nmemmap\nuptime\nshutdown\n"
    whole = cvmboot("run", image, "--clock", "virtual", typed=typed)
    prompt = "\x1b[31m> \x1b[0m"
    first = cvmboot("snapshot", image, "--clock", "virtual", "-o", path, "--at", prompt)
    for _ in range(2):
        second = cvmboot("run", "--restore", path, typed=typed)
        assert (second.returncode, second.stderr) == (0, b"")
        assert first.stdout + second.stdout == whole.stdout
    assert whole.stdout.count(b"milliseconds") == 2


def test_text_console_of_the_firmware(program: Program) -> None:
    """It waits in ReadKeyStroke or WaitForEvent: calls in progress are part of the state."""
    with VirtualMachine(program("go-boot-text.efi")) as vm:
        vm.expect("> ")
        frozen = vm.snapshot()
    with frozen, frozen.clone() as clone:
        clone.sendline("info")
        clone.expect("Frequency")


def test_an_snp_guest_asks_for_reports_after_it_was_restored(program: Program, tmp_path: Path, cvmboot: Run) -> None:
    platform = tmp_path / "chip"
    assert cvmboot("platform", "new", platform).returncode == 0
    image = program("tamago-sev-example.efi")
    path = tmp_path / "sev.snap"
    with VirtualMachine(image, snp=True, platform=platform) as vm:
        vm.expect(TAMAGO)
        before = answer(vm, "sev-report")
        vm.snapshot(path).close()
    measurement = r"Measurement \.+: ([0-9a-f]+)"
    wanted = re.search(measurement, before)
    assert wanted is not None, before
    for _ in range(2):
        with VirtualMachine(restore=path) as clone:
            assert "SEV-SNP ............: true" in answer(clone, "sev")
            for _ in range(2):  # counters of messages go on, too
                found = re.search(measurement, answer(clone, "sev-report"))
                assert found is not None
                assert found.group(1) == wanted.group(1)


@pytest.mark.parametrize("board", ["microvm", "firecracker", "cloud_hypervisor", "gcp"])
def test_unikernels(program: Program, board: str) -> None:
    with VirtualMachine(program(f"tamago-example-{board}.elf")) as vm:
        vm.expect(TAMAGO)
        frozen = vm.snapshot()
        expected = answer(vm, "info")
    with frozen, frozen.clone() as clone:
        assert answer(clone, "info") == expected
        first, second = answer(clone, "rand"), answer(clone, "rand")
        assert first != second
        assert "T" in answer(clone, "date")


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 100)
def test_linux_in_the_middle_of_its_start_and_at_its_shell(esp: Callable[..., Path]) -> None:
    linux = find_linux()
    folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": linux.initrd()})
    arguments = "console=ttyS0 initrd=\\initrd.gz"
    with VirtualMachine(folder / "vmlinuz.efi", esp=folder, args=arguments, timeout=PATIENCE) as vm:
        vm.expect(r"efi: EFI v2\.70 by cvmboot")
        starting = vm.snapshot()
    with starting, starting.clone(timeout=PATIENCE) as vm:
        vm.expect(PROMPT)
        ask(vm, "touch /before")
        shell = vm.snapshot()
    with shell:
        for number in range(2):
            with shell.clone(timeout=60) as clone:
                assert ask(clone, f"touch /clone-{number}; ls / | grep -e before -e clone").split() == [
                    "before",
                    f"clone-{number}",
                ]
                assert "up 0 min" in ask(clone, "uptime")
                log = ask(clone, "dmesg")
                for trouble in ("BUG:", "WARNING:", "Oops", "Call Trace", "soft lockup"):
                    assert trouble not in log


def page(port: int) -> str:
    """The unikernel's page, as soon as it answers."""
    deadline = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/debug/pprof/", timeout=30) as told:
                return str(told.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


ADDRESSES = {
    **dict.fromkeys(("net", "net-uefi", "net-virtio"), "10.0.2.15/24 : 10.0.2.2"),
    "net-gve": "10.0.2.15/24 10.0.2.2",
}
"""With a MAC address where firmware's driver wants one."""


@pytest.mark.parametrize(
    ("name", "command", "options"),
    [
        pytest.param("go-boot-net.efi", "net", {"nic": "virtio"}, id="firmware's driver"),
        pytest.param("tamago-sev-example.efi", "net-gve", {"nic": "gvnic"}, id="gvnic"),
        pytest.param("tamago-sev-example.efi", "net-virtio", {"nic": "virtio-legacy"}, id="virtio"),
        pytest.param(
            "tamago-sev-example.efi", "net-uefi", {"nic": "gvnic", "snp": True}, id="snp", marks=pytest.mark.slow
        ),
    ],
)
def test_a_web_server_answers_clones_on_networks_of_their_own(
    program: Program, name: str, command: str, options: dict[str, Any]
) -> None:
    first = free_port()
    with VirtualMachine(program(name), net="user:builtin", forward=f"{first}:80", timeout=60, **options) as vm:
        vm.expect(TAMAGO)
        vm.sendline(f"{command} {ADDRESSES[command]} debug")
        vm.expect("network initialized|stopping serial console")
        assert "goroutine" in page(first)
        frozen = vm.snapshot()
        assert "goroutine" in page(first), "the original goes on"
    with frozen:
        for port in (free_port(), free_port()):
            with frozen.clone(net="user:builtin", forward=f"{port}:80") as clone:
                assert "goroutine" in page(port)
                assert clone.isalive()
        with frozen.clone() as unplugged:
            port_of_device = unplugged._machine.assembly.board.port
            assert not port_of_device.link


@pytest.mark.parametrize("frozen_on", ENGINES)
@pytest.mark.parametrize("restored_on", ENGINES)
def test_a_machine_goes_on_under_the_other_engine(program: Program, frozen_on: str, restored_on: str) -> None:
    with VirtualMachine(program("go-boot.efi"), engine=frozen_on) as vm:
        vm.expect(TAMAGO)
        frozen = vm.snapshot()
    with frozen, frozen.clone(engine=restored_on) as clone:
        assert "CPU" in answer(clone, "info")
        assert "second" in answer(clone, "uptime")
        with clone.snapshot() as again, again.clone(engine=frozen_on) as back:
            assert "second" in answer(back, "uptime")
