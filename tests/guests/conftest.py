"""What the tests with whole guest programs share: where the programs are, the real command, and partitions to boot from."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from images.block import FileDevice
from images.fat import FatVolume
from images.fat.format import format_fat

SAMPLES = Path(__file__).parents[2] / "samples" / "built"
PATIENCE = 60
"""Seconds that the command may take before the test gives up on it; none comes near that."""
DEBIAN = (
    *("/usr/lib/systemd/boot/efi", "/usr/lib/grub/x86_64-efi/monolithic", "/usr/lib/grub/x86_64-efi-signed"),
    *("/usr/lib/shim", "/usr/lib/gnuefi/apps", "/usr/lib/ipxe", "/boot"),
)
"""Where Debian's packages put EFI programs."""

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Find = Callable[..., Path]
Esp = Callable[..., Path]


@pytest.fixture
def cvmboot() -> Run:
    """Run the command line to its end, with bytes for standard input."""

    def run(*words: object, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "cvmboot", *map(str, words)]
        return subprocess.run(command, input=typed, capture_output=True, timeout=PATIENCE, check=False)

    return run


@pytest.fixture
def sample() -> Find:
    """The path of a built sample."""
    return lambda name: SAMPLES / f"{name}.efi"


@pytest.fixture
def program() -> Find:
    """The path of a program that nobody here wrote, by any of its names; skips the test where there is none.

    Looked for in CVMBOOT_GUESTS, in the folders inside it, and where Debian's packages have theirs.
    """

    def find(*names: str) -> Path:
        guests = os.environ.get("CVMBOOT_GUESTS")
        folders = [Path(folder) for folder in DEBIAN]
        if guests:
            folders = [Path(guests), *sorted(Path(guests).glob("*/")), *folders]
        for name in names:
            for folder in folders:
                if (folder / name).is_file():
                    return folder / name
        where = f"CVMBOOT_GUESTS={guests}" if guests else "CVMBOOT_GUESTS, which is not set,"
        pytest.skip(f"no {' or '.join(names)} in {where} and none from a package of Debian's")

    return find


@pytest.fixture
def esp(tmp_path: Path) -> Esp:
    """Make a folder with these files, {path: source path, text or bytes}, to be an EFI system partition."""

    def make(files: Mapping[str, Path | str | bytes]) -> Path:
        folder = tmp_path / "esp"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return make


@pytest.fixture
def fat_image(tmp_path: Path) -> Esp:
    """Make a FAT image with these files, as `esp` takes them, of 64 MiB: FAT16."""

    def make(files: Mapping[str, Path | str | bytes]) -> Path:
        path = tmp_path / "disk.img"
        path.write_bytes(b"")
        os.truncate(path, 64 << 20)
        device = FileDevice(path, writable=True)
        format_fat(device, fat_type=16, label="TEST")
        volume = FatVolume(device)
        for name, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            volume.make(name.replace("/", "\\")).write(0, data.encode() if isinstance(data, str) else data)
        volume.flush()
        device.close()
        return path

    return make
