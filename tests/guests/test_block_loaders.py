"""Boot loaders that bring their own FAT driver find the files of a folder on its disk."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmboot import VirtualMachine

pytestmark = pytest.mark.guests

Find = Callable[..., Path]
Esp = Callable[..., Path]
MODULES = (
    *("normal", "minicmd", "ls", "cat", "echo", "configfile", "fat", "part_gpt", "chain", "boot", "test"),
    *("search", "search_label", "loadenv"),
)
MENU = """
set timeout=0
menuentry "Hello" { chainloader /hello.efi }
"""
HELLO = "Hello from an EFI application!"


@pytest.fixture
def grub(tmp_path: Path, program: Find) -> Path:
    """GRUB as its own tool makes it."""
    if shutil.which("grub-mkimage") is None:
        pytest.skip("no grub-mkimage (Debian's package grub-common)")
    modules = program("x86_64-efi/normal.mod", "../normal.mod").parent
    image = tmp_path / "grub.efi"
    command = ["grub-mkimage", "-d", str(modules), "-O", "x86_64-efi", "-o", str(image), "-p", "(hd0,gpt1)/grub"]
    subprocess.run([*command, *MODULES], check=True, timeout=60)
    return image


def test_grub_at_its_prompt(grub: Path, sample: Find, esp: Esp) -> None:
    folder = esp({"hello.efi": sample("hello"), "sub/A long name.txt": "some text\n"})
    with VirtualMachine(grub, esp=folder) as vm:
        for command, answer in (
            ("ls", r"\(hd0\) \(hd0,gpt1\)"),
            ("ls (hd0,gpt1)/ (hd0,gpt1)/sub", "hello.efi sub/.*A long name.txt"),
            ("cat (hd0,gpt1)/sub/A\\ long\\ name.txt", "some text\n"),
            ("search --label CVMBOOT", "hd0,gpt1"),
            ("chainloader (hd0,gpt1)/hello.efi", "hello.efi"),
            ("boot", HELLO),
        ):
            vm.expect_exact("grub> ")
            vm.sendline(command)
            vm.expect_exact(f"{command}\n\r")  # the echo
            vm.expect(answer)


def test_grub_finds_its_configuration(grub: Path, sample: Find, esp: Esp) -> None:
    with VirtualMachine(grub, esp=esp({"hello.efi": sample("hello"), "grub/grub.cfg": MENU})) as vm:
        vm.expect_exact("Booting `Hello'")
        vm.expect_exact(HELLO)


def test_grub_writes_a_block_that_its_files_show(grub: Path, esp: Esp) -> None:
    """save_env stores into the blocks of the file, beneath the file system."""
    environment = "# GRUB Environment Block\n".ljust(1024, "#")
    folder = esp({"grub/grubenv": environment, "x": "x"})
    with VirtualMachine(grub, esp=folder) as vm:
        vm.expect_exact("grub> ")
        vm.sendline("set kept=as_told")
        vm.sendline("save_env -f (hd0,gpt1)/grub/grubenv kept")
        vm.expect_exact("grub> ")
        vm.sendline("cat (hd0,gpt1)/grub/grubenv")
        vm.expect(r"# GRUB Environment Block\s+kept=as_told")
    assert (folder / "grub" / "grubenv").read_text() == environment


def test_debians_grub_finds_its_configuration(program: Find, sample: Find, esp: Esp) -> None:
    folder = esp({"hello.efi": sample("hello"), "EFI/debian/grub.cfg": MENU})
    with VirtualMachine(program("grubx64.efi"), esp=folder) as vm:
        vm.expect_exact("Booting `Hello'")
        vm.expect_exact(HELLO)


def test_limine(program: Find, sample: Find, esp: Esp) -> None:
    menu = "timeout: 0\nserial: yes\n/Hello\nprotocol: efi_chainload\nimage_path: boot():/hello.efi\n"
    folder = esp({"hello.efi": sample("hello"), "limine.conf": menu})
    with VirtualMachine(program("limine/BOOTX64.EFI"), esp=folder) as vm:
        vm.expect_exact(HELLO)


def test_ipxe_waits_for_keys_by_halting(program: Find, esp: Esp) -> None:
    with VirtualMachine(program("ipxe.efi"), esp=esp({"x": "x"})) as vm:
        vm.expect_exact("Press Ctrl-B for the iPXE command line...")
        vm.send("\x02")
        vm.expect_exact("iPXE> ")
        vm.sendline("echo it works")
        vm.expect_exact("it works\r\n")
