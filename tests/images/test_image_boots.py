"""Every format boots real firmware, OVMF, on the buses that clouds have; and in cvmboot run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_tools import GIB, HELLO, MIB, tool

from images.build import build
from tests.samples import ovmf

# (format, QEMU's name of it)
FORMATS = (("raw", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhd", "vpc"), ("gce", "raw"))
BUSES = {
    "virtio-blk": ("-device", "virtio-blk-pci,drive=image,bootindex=0"),
    "nvme": ("-device", "nvme,drive=image,serial=1,bootindex=0"),
    "virtio-scsi": ("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=image,bootindex=0"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of hello.efi in each format; the tar.gz unpacked by tar, as Google does it."""
    folder = tmp_path_factory.mktemp("images")
    for name, _ in FORMATS:
        build(HELLO, folder / name, format_name=name, size=GIB if name == "gce" else 64 * MIB)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(ovmf.missing() is not None, reason=str(ovmf.missing()))
@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize(("name", "kind"), FORMATS)
def test_firmware_boots_it(made: Path, tmp_path: Path, name: str, kind: str, bus: str) -> None:
    file = made / name
    if name == "gce":
        tool("tar", "-xSzf", file, "-C", tmp_path)
        file = tmp_path / "disk.raw"
    drive = f"if=none,id=image,format={kind},snapshot=on,file={file}"
    console = ovmf.boot(
        {"no boot file": HELLO},
        options=("-drive", drive, *BUSES[bus]),
        until="Hello from an EFI application!",
        timeout=110,
    )
    assert "Hello from an EFI application!" in console


@pytest.mark.parametrize("name", [name for name, _ in FORMATS])
def test_cvmboot_runs_it(made: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cvmboot", "run", made / name], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Hello from an EFI application!" in done.stdout


@pytest.mark.parametrize("name", ["vmdk", "gce"])
def test_a_damaged_image_is_one_line(made: Path, tmp_path: Path, name: str) -> None:
    shutil.copyfile(made / name, tmp_path / name)
    with (tmp_path / name).open("r+b") as file:
        file.truncate((tmp_path / name).stat().st_size - 700)
    done = subprocess.run(
        [sys.executable, "-m", "cvmboot", "run", tmp_path / name], stdin=subprocess.DEVNULL, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1 and name in done.stderr.decode()
