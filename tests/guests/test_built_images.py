"""Disks that `cvmboot image build` makes of programs that nobody here wrote: go-boot with a kernel and its loader entry."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from images.containers.writers import FORMATS
from tests.samples import ovmf

TOOL_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
COMMAND_LINE = "console=ttyS0 panic=-1"


@pytest.fixture
def disk(cvmboot, program, tmp_path: Path):
    """go-boot, a kernel and an initrd on a disk, in a format."""

    def make(name: str) -> Path:
        path = tmp_path / f"disk{FORMATS[name].suffixes[0]}"
        words = ("--linux", program("vmlinuz"), "--initrd", program("initrd.img"), "--cmdline", COMMAND_LINE)
        done = cvmboot("image", "build", program("go-boot.efi"), "-o", path, "--no-digest", *words)
        assert done.returncode == 0, done.stderr
        return path

    return make


@pytest.mark.guests
@pytest.mark.parametrize("name", ["raw", "gce", "vmdk", "qcow2"])
def test_go_boot_runs_from_its_disk_and_sees_the_files(cvmboot, disk, name: str) -> None:
    done = cvmboot("run", disk(name), typed=b"ls\nstat \\loader\\entries\\arch.conf\nshutdown\n")
    assert done.returncode == 0, done.stderr
    assert b"f initrd.img\r\nd loader\r\nf vmlinuz\r\n" in done.stdout.replace(b"\n", b"\r\n").replace(b"\r\r", b"\r")
    assert b"arch.conf" in done.stdout


@pytest.mark.guests
@pytest.mark.slow
@pytest.mark.skipif(ovmf.missing() is not None, reason=str(ovmf.missing()))
def test_go_boot_starts_its_kernel_under_real_firmware(disk, sample, tmp_path: Path) -> None:
    """From the image as Google would unpack it, on EC2's kind of disk; the kernel has our command line."""
    if shutil.which("tar", path=TOOL_PATH) is None:
        pytest.skip("no tar")
    subprocess.run(["tar", "-xSzf", disk("gce"), "-C", tmp_path], check=True)
    assert (tmp_path / "disk.raw").stat().st_size == 1 << 30
    drive = f"if=none,id=image,format=raw,snapshot=on,file={tmp_path / 'disk.raw'}"
    console = ovmf.boot(
        {"no boot file": sample("hello")},
        options=("-drive", drive, "-device", "nvme,drive=image,serial=1,bootindex=0"),
        typed=[("> ", "linux\r")],
        until="] Command line:",
        timeout=110,
    )
    assert "loading boot loader entry \\loader\\entries\\arch.conf" in console
    assert "Linux version" in console
