"""The disk made from a folder, judged by sgdisk, fsck and mtools."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images.block import OverlayDevice
from images.disk import Disk
from images.fat import FatVolume
from images.folder_disk import PARTITION_START, FolderDisk

ENVIRONMENT = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
    "MTOOLS_SKIP_CHECK": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
MISSING = [
    tool for tool in ("sgdisk", "fsck.vfat", "mdir", "mcopy") if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)} (gdisk, dosfstools, mtools)")
MIB = 1 << 20


def tool(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def dump(device: FolderDisk | OverlayDevice, path: Path, start: int = 0, end: int | None = None) -> Path:
    """The device's bytes as a sparse file."""
    end = device.size if end is None else end
    with path.open("wb") as file:
        file.truncate(end - start)
        for offset in range(start, end, MIB):
            data = device.read(offset, min(MIB, end - offset))
            if data != bytes(len(data)):
                file.seek(offset - start)
                file.write(data)
    return path


def judge(device: FolderDisk | OverlayDevice, work: Path) -> dict[str, bytes]:
    """All tools' consent, and the files as mtools copies them out."""
    assert "No problems found" in tool("sgdisk", "-v", dump(device, work / "disk"))
    (work / "disk").unlink()
    size = Disk(device).partitions[0].device.size
    volume = dump(device, work / "volume", PARTITION_START, PARTITION_START + size)
    # -n changes nothing and repairs nothing: whatever it finds is its exit status.
    tool("fsck.vfat", "-n", "-v", volume)
    out = work / "out"
    out.mkdir()
    if "No files" not in tool("mdir", "-a", "-i", volume, "::/"):
        tool("mcopy", "-s", "-m", "-n", "-i", volume, "::/*", out)
    volume.unlink()
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def on_host(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_tools_agree(tmp_path: Path) -> None:
    root = tmp_path / "esp"
    chance = random.Random(3)
    for number in range(400):
        place = root / ("many" if number % 3 else f"EFI/directory {number % 7}/deeper") / f"File number {number}.bin"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(chance.randbytes(chance.choice([0, 1, 511, 4095, 4096, 4097, 70_000])))
    (root / "Grüße 日本語.txt").write_bytes(b"unicode")
    (root / ("x" * 250 + ".txt")).write_bytes(b"long")
    os.utime(root / "many" / "File number 1.bin", (1_700_000_000, 1_700_000_000))
    disk = FolderDisk(root)
    assert judge(disk, tmp_path) == on_host(root)
    assert int((tmp_path / "out" / "many" / "File number 1.bin").stat().st_mtime) == 1_700_000_000


def test_tools_agree_after_changes(tmp_path: Path) -> None:
    root = tmp_path / "esp"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "old").write_bytes(b"o" * 100_000)
    (root / "cut").write_bytes(b"c" * 100_000)
    device = OverlayDevice(FolderDisk(root))
    volume = FatVolume(Disk(device).esp())
    volume.open("\\sub\\old", write=True).delete()
    volume.open("\\cut", write=True).set_info(size=5)
    for number in range(200):
        volume.make(f"\\sub\\a new file {number}").write(0, bytes([number]) * number * 50)
    expected = {f"sub/a new file {number}": bytes([number]) * number * 50 for number in range(200)}
    assert judge(device, tmp_path) == {**expected, "cut": b"ccccc"}


# What mcopy itself can write out again: it does not take every name that FAT and the host do.
NAMES = st.text("abcXYZ019 ._-~+=[],;äßÜ日", min_size=1, max_size=30).filter(
    lambda name: name.strip(" .") == name and not name.startswith("-")
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=4).map(tuple), st.binary(max_size=6000), max_size=30))
def test_random_trees(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, ...], bytes]) -> None:
    work = tmp_path_factory.mktemp("tree")
    root = work / "esp"
    root.mkdir()
    for parts, content in files.items():
        try:
            root.joinpath(*parts).parent.mkdir(parents=True, exist_ok=True)
            root.joinpath(*parts).write_bytes(content)
        except OSError:
            continue  # a file where a directory is wanted
    disk = FolderDisk(root)
    found = judge(disk, work)
    through_us = {
        path[1:].replace("\\", "/"): entry.read(0, entry.size)
        for path, entry in FatVolume(Disk(disk).esp()).walk()
        if not entry.is_dir
    }
    assert found == through_us
    assert found.items() <= on_host(root).items()
    if not disk.problems:
        assert found == on_host(root)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "esp").mkdir()
    assert judge(FolderDisk(tmp_path / "esp"), tmp_path) == {}
