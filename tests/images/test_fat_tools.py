"""FAT volumes against the tools of the trade: mkfs.vfat and mtools write, we read; we write, fsck and mtools read."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from images.block import FileDevice, OverlayDevice
from images.fat import FatVolume
from images.fat.format import format_fat
from images.tree import ARCHIVE, DIRECTORY, HIDDEN, READ_ONLY

NEEDED = ["mkfs.vfat", "fsck.vfat", "mcopy", "mdir", "mmd", "mattrib", "mlabel"]
ENVIRONMENT = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
    "MTOOLS_SKIP_CHECK": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
MISSING = [tool for tool in NEEDED if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)} (dosfstools, mtools)")

NOW = 1_700_000_001_230_000_000
MADE_BY_MKFS = {
    "fat12": (2 << 20, ["-F", "12"]),
    "fat12-floppy": (1440 << 10, []),
    "fat16": (40 << 20, ["-F", "16"]),
    "fat32": (40 << 20, ["-F", "32", "-s", "1"]),
    "fat16-2k-sectors": (40 << 20, ["-F", "16", "-S", "2048"]),
    "fat32-4k-sectors": (300 << 20, ["-F", "32", "-S", "4096", "-s", "1"]),
    "fat32-one-table": (40 << 20, ["-F", "32", "-s", "1", "-f", "1"]),
}


def tool(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def check(image: Path) -> None:
    tool("fsck.vfat", "-n", image)


@pytest.fixture(params=sorted(MADE_BY_MKFS))
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    size, options = MADE_BY_MKFS[request.param]
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(size)
    tool("mkfs.vfat", *options, "-n", "MADE", "-i", "cafe1234", path)
    return path


def sample_tree(root: Path) -> dict[str, bytes]:
    chance = random.Random(7)
    files = {
        "EFI/BOOT/BOOTX64.EFI": chance.randbytes(300_000),
        "EFI/BOOT/empty": b"",
        "loader/entries/A very long name of an entry, 6.1.0-18-amd64.conf": b"title x\n",
        "Grüße 日本語.txt": b"unicode",
        "lower.txt": b"l",
        "MiXed.TxT": b"m",
        "one.two.three.four": b"dots",
        "x" * 200 + ".longextension": b"long",
    }
    for number in range(60):
        files[f"many/file number {number}.bin"] = chance.randbytes(number * 37)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return files


def test_reads_what_mtools_wrote(image: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    files = sample_tree(source)
    tool("mcopy", "-s", "-m", "-i", image, *sorted(source.iterdir()), "::/")
    tool("mattrib", "-i", image, "+r", "+h", "-a", "::/lower.txt")
    volume = FatVolume(FileDevice(image))
    assert volume.label == "MADE"
    assert volume.bpb.volume_id == 0xCAFE1234
    found = {path[1:].replace("\\", "/"): entry for path, entry in volume.walk()}
    assert {name for name, entry in found.items() if not entry.is_dir} == set(files)
    for name, content in files.items():
        assert found[name].read(0, len(content) + 100) == content, name
        assert found[name].read(len(content) // 2, 7) == content[len(content) // 2 :][:7]
        modified = int((source / name).stat().st_mtime)
        assert abs((found[name].modified or 0) // 10**9 - modified) <= 2
    assert found["lower.txt"].attributes == READ_ONLY | HIDDEN
    assert volume.lookup("\\efi\\boot\\bootx64.efi").attributes == ARCHIVE
    assert volume.lookup("ONE~1.FOU" if found["one.two.three.four"].short_name == "ONE~1.FOU" else "lower.TXT")
    listed = tool("mdir", "-i", image, "::/")
    free = int("".join(char for char in listed.split("bytes free")[0].splitlines()[-1] if char.isdigit()))
    assert volume.free_bytes == free


def test_mtools_reads_what_we_wrote(image: Path, tmp_path: Path) -> None:
    volume = FatVolume(FileDevice(image, writable=True), now=lambda: NOW)
    source = tmp_path / "source"
    source.mkdir()
    files = sample_tree(source)
    for name, content in files.items():
        entry = volume.make("\\" + name.replace("/", "\\"))
        for start in range(0, len(content), 70_001):
            entry.write(start, content[start : start + 70_001])
    check(image)
    root = volume.root()
    for number in range(0, 60, 2):
        root.open(f"many\\file number {number}.bin", write=True).delete()
        del files[f"many/file number {number}.bin"]
    root.open("loader", write=True).set_info(name="\\EFI\\boot\\loader moved")
    files = {name.replace("loader/", "EFI/BOOT/loader moved/"): content for name, content in files.items()}
    root.open("EFI\\BOOT\\BOOTX64.EFI", write=True).set_info(size=123_456)
    files["EFI/BOOT/BOOTX64.EFI"] = files["EFI/BOOT/BOOTX64.EFI"][:123_456]
    gap = root.open("gap", create=True, write=True)
    gap.write(100_000, b"end")
    files["gap"] = bytes(100_000) + b"end"
    root.open("MiXed.TxT", write=True).set_info(name="mIxED.tXt")
    files["mIxED.tXt"] = files.pop("MiXed.TxT")
    for number in range(40):
        root.open("refill", create=True, write=True, attributes=DIRECTORY).open(
            f"again and again {number}", create=True, write=True
        ).write(0, bytes([number]) * 1000)
        files[f"refill/again and again {number}"] = bytes([number]) * 1000
    volume.set_label("CHANGED")
    check(image)
    assert "CHANGED" in tool("mlabel", "-i", image, "-s", "::")
    copied = tmp_path / "copied"
    copied.mkdir()
    tool("mcopy", "-s", "-m", "-i", image, "::/*", copied)
    assert {str(p.relative_to(copied)): p.read_bytes() for p in copied.rglob("*") if p.is_file()} == files
    assert int((copied / "gap").stat().st_mtime) == NOW // 10**9 // 2 * 2
    fresh = FatVolume(FileDevice(image))
    assert {path[1:].replace("\\", "/"): e.read(0, e.size) for path, e in fresh.walk() if not e.is_dir} == files
    assert fresh.free_bytes == volume.free_bytes
    for name in [info.name for info in root.entries()]:
        remove_all(volume, "\\" + name)
    check(image)
    assert "0 files" in tool("mdir", "-i", image, "::/") or "No files" in tool("mdir", "-i", image, "::/")


def test_fat32_with_few_clusters(tmp_path: Path) -> None:
    """By its clusters it would be FAT16; Linux, mkfs and UEFI's own driver go by the field of the table's size."""
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(20 << 20)
    tool("mkfs.vfat", "-F", "32", path)
    volume = FatVolume(FileDevice(path, writable=True))
    assert volume.fat_type == 32
    volume.make("\\EFI\\BOOT\\BOOTX64.EFI").write(0, b"MZ" * 100_000)
    check(path)
    assert FatVolume(FileDevice(path)).open("\\EFI\\BOOT\\BOOTX64.EFI").read(199_998, 9) == b"MZ"


def remove_all(volume: FatVolume, path: str) -> None:
    handle = volume.open(path, write=True)
    if handle.is_dir:
        for info in handle.entries():
            if info.name not in {".", ".."}:
                remove_all(volume, f"{path}\\{info.name}")
    handle.delete()


FORMATS = [
    (12, 1 << 20, 512),
    (12, 16 << 20, 4096),
    (16, 3 << 20, 512),
    (16, 200 << 20, 512),
    (16, 64 << 20, 4096),
    (32, 34 << 20, 512),
    (32, 300 << 20, 512),
    (32, 300 << 20, 4096),
    (32, 100 << 30, 512),
]


@pytest.mark.parametrize(("fat_type", "size", "sector"), FORMATS)
def test_our_volumes_pass_fsck(tmp_path: Path, fat_type: int, size: int, sector: int) -> None:
    images = []
    for number in range(2):
        path = tmp_path / f"volume{number}"
        with path.open("wb") as file:
            file.truncate(size)
        device = FileDevice(path, writable=True, block_size=sector)
        format_fat(device, fat_type=fat_type, label="OURS", volume_id=0x1234ABCD, hidden_sectors=2048, now=NOW)
        volume = FatVolume(device, now=lambda: NOW)
        assert (volume.fat_type, volume.label, volume.free_bytes) == (
            fat_type,
            "OURS",
            volume.total_bytes - (volume.block_size if fat_type == 32 else 0),
        )
        volume.make("\\EFI\\BOOT\\BOOTX64.EFI").write(0, b"MZ" * 1000)
        images.append(path)
    check(images[0])
    assert "1234-ABCD" in tool("mdir", "-i", images[0], "::/EFI/BOOT")
    if size < 1 << 30:
        assert images[0].read_bytes() == images[1].read_bytes()


def test_an_overlay_leaves_the_image_alone(image: Path) -> None:
    before = image.read_bytes()
    volume = FatVolume(OverlayDevice(FileDevice(image)))
    volume.make("\\a\\b\\c").write(0, b"x" * 100_000)
    volume.set_label("OTHER")
    assert volume.open("\\A\\B\\C").read(99_999, 9) == b"x"
    assert image.read_bytes() == before
