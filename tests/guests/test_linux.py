"""Debian's kernel, each way that a person boots it, to a shell on ttyS0 in which commands are typed."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from linux_guest import PATIENCE, PROMPT, Linux, ask, find_linux

from cvmboot import VirtualMachine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 100)]

GRUB_MENU = "set timeout=0\nmenuentry Debian {\n linux /vmlinuz console=ttyS0\n initrd /initrd.gz\n}\n"
ENTRY = "title Debian\nlinux {0}vmlinuz\ninitrd {0}initrd.gz\noptions console=ttyS0\n"
"""A boot loader entry (UAPI.1); go-boot takes paths as they are, the others know only slashes."""


@pytest.fixture
def linux() -> Linux:
    return find_linux()


def to_the_shell(vm: VirtualMachine) -> None:
    """Linux sees the firmware below it, and its first program asks for a command."""
    vm.expect(r"efi: EFI v2\.70 by cvmboot", timeout=PATIENCE)
    vm.expect(PROMPT, timeout=PATIENCE)


def test_commands_at_the_shell_of_a_kernel_that_its_efi_stub_loaded(
    linux: Linux, esp: Callable[..., Path], boot: Callable[..., VirtualMachine]
) -> None:
    folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": linux.initrd(files={"greeting": b"hello from the disk"})})
    vm = boot(
        folder / "vmlinuz.efi", esp=folder, args="console=ttyS0 initrd=\\initrd.gz rdinit=/bin/sh", timeout=PATIENCE
    )
    to_the_shell(vm)
    ask(vm, "/bin/busybox --install -s /bin; dmesg -n 1")  # what the kernel says by the way would mix with answers
    ask(vm, "mount -t proc proc /proc; mount -t sysfs sys /sys")
    assert ask(vm, "echo $((6*7))") == "42"
    assert ask(vm, "cat greeting") == "hello from the disk"
    assert {"bin", "init", "proc"} <= set(ask(vm, "ls").split())
    assert linux.version in ask(vm, "uname -a")
    told = ask(vm, "cat /proc/cpuinfo")
    assert "AMD EPYC-Milan Processor (cvmboot)" in told
    assert told.count("processor\t:") == 1
    log = ask(vm, "dmesg")
    assert "Linux version " + linux.version in log
    assert "Loaded initrd from command line option" not in log
    for trouble in ("BUG:", "WARNING:", "Oops", "Call Trace", "Firmware Bug"):
        assert trouble not in log
    assert ask(vm, "cat /sys/firmware/efi/fw_platform_size") == "64"
    assert ask(vm, "cat /sys/class/dmi/id/sys_vendor") == "cvmboot"
    assert ask(vm, "cat /sys/bus/pci/devices/0000:00:00.0/class") == "0x060000"
    assert "ttyS0" in ask(vm, "cat /proc/consoles")
    vm.sendline("reboot -f")
    vm.expect_exact("reboot: Restarting system", timeout=60)
    vm.expect_exact("EFI stub: Loaded initrd from command line option", timeout=PATIENCE)


def test_linux_through_grub(
    linux: Linux, esp: Callable[..., Path], boot: Callable[..., VirtualMachine], program: Callable[..., Path]
) -> None:
    files = {"EFI/debian/grubx64.efi": program("grubx64.efi"), "EFI/debian/grub.cfg": GRUB_MENU}
    folder = esp({**files, "vmlinuz": linux.kernel, "initrd.gz": linux.initrd()})
    vm = boot(folder / "EFI/debian/grubx64.efi", esp=folder, timeout=PATIENCE)
    finish(vm, "BOOT_IMAGE=/vmlinuz console=ttyS0")


def test_linux_through_systemd_boot(
    linux: Linux, esp: Callable[..., Path], boot: Callable[..., VirtualMachine], program: Callable[..., Path]
) -> None:
    files = {"loader/loader.conf": "timeout 0\n", "loader/entries/debian.conf": ENTRY.format("/")}
    loader = "EFI/BOOT/BOOTX64.EFI"
    folder = esp(
        {loader: program("systemd-bootx64.efi"), **files, "vmlinuz": linux.kernel, "initrd.gz": linux.initrd()}
    )
    vm = boot(folder / loader, esp=folder, timeout=PATIENCE)
    finish(vm, "initrd=\\initrd.gz console=ttyS0")


def test_linux_in_a_unified_kernel_image(
    linux: Linux, tmp_path: Path, boot: Callable[..., VirtualMachine], program: Callable[..., Path]
) -> None:
    """Kernel, command line and initial RAM disk in one EFI application (UAPI.5), put together as before ukify."""
    if shutil.which("objcopy") is None:
        pytest.skip("no objcopy")
    (tmp_path / "command").write_text("console=ttyS0")
    (tmp_path / "initrd").write_bytes(linux.initrd())
    words = ["objcopy"]
    for name, file, address in (
        (".cmdline", tmp_path / "command", 0x3_0000),
        (".linux", linux.kernel, 0x200_0000),
        (".initrd", tmp_path / "initrd", 0x300_0000),
    ):
        words += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={address:#x}"]
    image = tmp_path / "debian.efi"
    subprocess.run([*words, program("linuxx64.efi.stub"), image], check=True, timeout=60)
    vm = boot(image, timeout=PATIENCE)
    finish(vm, "console=ttyS0")


@pytest.mark.guests
def test_linux_through_go_boot(
    linux: Linux, esp: Callable[..., Path], boot: Callable[..., VirtualMachine], program: Callable[..., Path]
) -> None:
    entry = {"loader/entries/debian.conf": ENTRY.format("\\")}
    folder = esp({**entry, "vmlinuz": linux.kernel, "initrd.gz": linux.initrd()})
    vm = boot(program("go-boot.efi"), esp=folder, timeout=PATIENCE)
    vm.expect_exact("windows,win,w")
    vm.expect_exact("> ")
    vm.sendline("linux \\loader\\entries\\debian.conf")
    vm.expect_exact("exiting EFI boot services and jumping to kernel", timeout=PATIENCE)
    finish(vm, "console=ttyS0")


def finish(vm: VirtualMachine, command_line: str) -> None:
    """The kernel got the command line and the RAM disk; the machine switches off when it is told to."""
    to_the_shell(vm)
    assert ask(vm, "cat /proc/cmdline") == command_line
    assert ask(vm, "echo $((6*7))") == "42"
    vm.sendline("poweroff -f")
    vm.expect_exact("reboot: Power down", timeout=60)
    assert vm.wait(60) == 0
