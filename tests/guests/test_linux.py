"""A real kernel: Debian's linux-image through its own EFI stub, to its init and power-off."""

import os
import shutil
from pathlib import Path

import pytest

from cvmboot import VirtualMachine

GUESTS = Path(os.environ.get("CVMBOOT_GUESTS", "/nonexistent"))
KERNELS = sorted(GUESTS.glob("linux-image-*/vmlinuz-*"))
INITRDS = sorted(GUESTS.glob("linux-image-*/initrd-busybox.gz"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not KERNELS or not INITRDS, reason="CVMBOOT_GUESTS has no linux-image-*/vmlinuz-* with an initrd-busybox.gz"
    ),
]


@pytest.fixture
def esp(tmp_path: Path) -> Path:
    (tmp_path / "loader/entries").mkdir(parents=True)
    shutil.copy(KERNELS[-1], tmp_path / "vmlinuz.efi")
    shutil.copy(INITRDS[-1], tmp_path / "initrd.gz")
    return tmp_path


def test_the_efi_stub_reaches_init_and_powers_off(esp: Path) -> None:
    arguments = "vmlinuz.efi console=ttyS0 initrd=\\initrd.gz"
    with VirtualMachine(esp / "vmlinuz.efi", esp=esp, args=arguments) as vm:
        vm.expect("efi: EFI v2.70 by cvmboot", timeout=120)
        vm.expect("Run /init as init process", timeout=200)
        vm.expect("reboot: Power down", timeout=100)
        assert vm.wait(60) == 0
