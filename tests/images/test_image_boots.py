"""Every format boots real firmware, OVMF, on the buses that clouds have; and in cvmboot run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_tools import GIB, HELLO, MIB, tool

from images.build import build
from loader.authenticode_sign import Signer
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


SECURE_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
SECURE_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
SNAKEOIL_KEY, SNAKEOIL_CERTIFICATE = (Path(f"/usr/share/ovmf/PkKek-1-snakeoil.{end}") for end in ("key", "pem"))


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The key of Debian's test firmware, whose certificate is in that firmware's db, without its password."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

    for file in (SECURE_CODE, SECURE_VARIABLES, SNAKEOIL_KEY, SNAKEOIL_CERTIFICATE):
        if not file.exists():
            pytest.skip(f"{file} is not installed (Debian's ovmf)")
    key = load_pem_private_key(SNAKEOIL_KEY.read_bytes(), b"snakeoil")
    path = tmp_path_factory.mktemp("owner") / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path, SNAKEOIL_CERTIFICATE


@pytest.mark.slow
@pytest.mark.skipif(ovmf.missing() is not None, reason=str(ovmf.missing()))
@pytest.mark.parametrize("signed", [True, False])
def test_real_firmware_checks_our_signature(tmp_path: Path, owner: tuple[Path, Path], signed: bool) -> None:
    """Secure Boot is on in this firmware: it starts what --sign signed, and nothing else."""
    build(HELLO, tmp_path / "disk.raw", size=64 * MIB, signer=Signer.load(*owner) if signed else None)
    shutil.copyfile(SECURE_VARIABLES, tmp_path / "variables.fd")
    flash = "if=pflash,format=raw"
    command = [ovmf.QEMU, "-accel", "tcg", "-cpu", "max", "-M", "q35,smm=on", "-m", "512M", "-display", "none"]
    command += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-net", "none", "-serial", "stdio"]
    command += ["-monitor", "none", "-drive", f"{flash},unit=0,readonly=on,file={SECURE_CODE}"]
    command += ["-drive", f"{flash},unit=1,file={tmp_path / 'variables.fd'}"]
    command += ["-drive", f"if=none,id=image,format=raw,file={tmp_path / 'disk.raw'}", *BUSES["nvme"]]
    until = "Hello from an EFI application!" if signed else "Access Denied"
    console = ovmf.run(command, until=until, timeout=110)
    assert ("Hello from an EFI application!" in console) == signed
    assert ("Access Denied" in console) != signed
