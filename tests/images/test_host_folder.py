"""HostFolder through File: what a guest sees of a host directory, and what the host sees of the guest."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from tree_operations import OPERATIONS, Operation, apply, contents

from images.errors import (
    AccessDenied,
    DeviceFailure,
    DirectoryNotEmpty,
    ImageError,
    InvalidName,
    IsADirectory,
    NotADirectory,
    NotFound,
    VolumeFull,
    WriteProtected,
)
from images.host_folder import HostFolder
from images.tree import ARCHIVE, DIRECTORY, HIDDEN, READ_ONLY, File

NOW = 1_700_000_000 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "esp"
    (inside / "EFI" / "BOOT").mkdir(parents=True)
    (inside / "EFI" / "BOOT" / "BOOTX64.EFI").write_bytes(b"MZ" + bytes(range(256)) * 1000)
    (inside / "loader.conf").write_text("timeout 3\n")
    (inside / "odd:name.").write_text("odd")
    (tmp_path / "secret").write_text("outside")
    return inside


def snapshot(path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}


def names(directory: File) -> list[str]:
    return [info.name for info in directory.entries()]


def test_reads_and_lists_as_fat_would(folder: Path) -> None:
    root = HostFolder(folder).root()
    assert names(root) == ["EFI", "loader.conf", "odd:name."]
    assert names(root.open("efi\\boot")) == [".", "..", "BOOTX64.EFI"]
    file = root.open("\\efi\\Boot\\.\\..\\BOOT\\bootx64.efi")
    assert file.path == "\\EFI\\BOOT\\BOOTX64.EFI"
    assert file.read(0, 2) == b"MZ"
    assert file.read(256_000, 100) == bytes([254, 255])
    assert file.read(256_002, 100) == b""
    info = file.info()
    assert (info.name, info.size, info.attributes) == ("BOOTX64.EFI", 256_002, ARCHIVE)
    assert info.physical_size >= info.size
    assert info.modified == (folder / "EFI/BOOT/BOOTX64.EFI").stat().st_mtime_ns
    assert root.open("odd:name.").read(0, 9) == b"odd"
    assert root.open("LOADER.CONF. ").read(0, 7) == b"timeout"
    assert file.open("..\\..\\..").open("loader.conf").info().size == 10


def test_changes_stay_in_memory(folder: Path) -> None:
    before = snapshot(folder)
    volume = HostFolder(folder, now=lambda: NOW)
    root = volume.root()
    boot = root.open("EFI\\BOOT\\BOOTX64.EFI", write=True)
    boot.write(100_000, b"patched")
    boot.write(300_000, b"end")
    assert (
        boot.read(99_998, 11)
        == (b"MZ" + bytes(range(256)) * 1000)[99_998:100_000]
        + b"patched"
        + (b"MZ" + bytes(range(256)) * 1000)[100_007:100_009]
    )
    assert boot.read(256_002, 10) == bytes(10)
    assert boot.info().size == 300_003
    assert boot.info().modified == NOW
    new = root.open("new\\", create=True, write=True, attributes=DIRECTORY)
    new.open("a.txt", create=True, write=True).write(0, b"hello")
    root.open("loader.conf", write=True).set_info(name="\\new\\renamed.conf", attributes=HIDDEN)
    root.open("odd:name.", write=True).delete()
    assert names(root) == ["EFI", "new"]
    assert names(new) == [".", "..", "a.txt", "renamed.conf"]
    moved = root.open("new\\renamed.conf")
    assert moved.read(0, 99) == b"timeout 3\n"
    assert moved.info().attributes == HIDDEN
    root.open("EFI", write=True).set_info(name="new\\efi2")
    assert root.open("new\\efi2\\boot\\bootx64.efi").read(100_000, 7) == b"patched"
    assert snapshot(folder) == before
    assert HostFolder(folder).open("loader.conf").read(0, 4) == b"time"


def test_write_through_reaches_the_host(folder: Path) -> None:
    root = HostFolder(folder, write_through=True).root()
    root.open("loader.conf", write=True).write(8, b"9")
    sub = root.open("sub", create=True, write=True, attributes=DIRECTORY)
    sub.open("x.bin", create=True, write=True).write(3, b"abc")
    root.open("EFI", write=True).set_info(name="\\sub\\EFI")
    boot = root.open("sub\\efi\\boot\\bootx64.efi", write=True)
    boot.set_info(size=2)
    boot.set_info(modified=NOW, attributes=READ_ONLY)
    root.open("odd:name.", write=True).delete()
    assert snapshot(folder) == {
        "loader.conf": b"timeout 9\n",
        "sub": None,
        "sub/EFI": None,
        "sub/EFI/BOOT": None,
        "sub/EFI/BOOT/BOOTX64.EFI": b"MZ",
        "sub/x.bin": b"\0\0\0abc",
    }
    facts = (folder / "sub/EFI/BOOT/BOOTX64.EFI").stat()
    assert facts.st_mtime_ns == NOW
    assert facts.st_mode & 0o222 == 0
    with pytest.raises(DirectoryNotEmpty):
        sub.delete()


@pytest.mark.parametrize("write_through", [False, True])
def test_nothing_outside_is_reached(folder: Path, write_through: bool) -> None:
    outside = folder.parent
    (folder / "leak").symlink_to(outside / "secret")
    (folder / "up").symlink_to("..")
    (folder / "dangling").symlink_to(outside / "made")
    (folder / "EFI" / "loop").symlink_to(folder)
    (folder / "good").symlink_to("loader.conf")
    (folder / "gooddir").symlink_to(folder / "EFI" / "BOOT")
    root = HostFolder(folder, write_through=write_through).root()
    assert names(root) == ["EFI", "good", "gooddir", "loader.conf", "odd:name."]
    assert names(root.open("EFI")) == [".", "..", "BOOT"]
    for path in ("leak", "LEAK", "up\\secret", "dangling", "EFI\\loop"):
        for create in (False, True):
            with pytest.raises(AccessDenied):
                root.open(path, write=create, create=create)
    for path in ("..", "..\\secret", "\\..\\secret", "EFI\\..\\..\\secret", ".\\..\\esp\\loader.conf"):
        with pytest.raises(InvalidName):
            root.open(path)
    for path in ("../secret", "EFI/../../secret", "\\a/b", "x\0y", "a" * 256, "\udc80/x", "...", " "):
        with pytest.raises(InvalidName):
            root.open(path, create=True, write=True)
        with pytest.raises(InvalidName):
            root.open("loader.conf", write=True).set_info(name=path)
    root.open("good", write=True).write(0, b"T")
    assert root.open("gooddir\\bootx64.efi").read(0, 2) == b"MZ"
    assert (folder / "loader.conf").read_bytes()[:1] == (b"T" if write_through else b"t")
    root.open("good", write=True).delete()
    assert (folder / "good").is_symlink() is not write_through
    assert (folder / "loader.conf").exists()
    assert not (outside / "made").exists()


def test_special_files_are_not_shown(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sock"))
        root = HostFolder(folder).root()
        assert names(root) == ["EFI", "loader.conf", "odd:name."]
        with pytest.raises(NotFound):
            root.open("fifo")


def test_statuses(folder: Path) -> None:
    (folder / "locked").write_text("x")
    (folder / "locked").chmod(0o444)
    volume = HostFolder(folder)
    root = volume.root()
    conf = root.open("loader.conf")
    with pytest.raises(NotFound):
        root.open("nothing")
    with pytest.raises(NotFound):
        root.open("nothing\\deeper", create=True, write=True)
    with pytest.raises(NotFound):
        root.open("loader.conf\\x")
    with pytest.raises(NotFound):
        root.open("loader.conf\\")
    with pytest.raises(InvalidName):
        root.open("")
    with pytest.raises(InvalidName):
        root.open("new\\", create=True, write=True)
    with pytest.raises(InvalidName):
        root.open("new", create=True, write=True, attributes=0x40)
    with pytest.raises(AccessDenied):
        conf.write(0, b"x")
    with pytest.raises(AccessDenied):
        conf.delete()
    with pytest.raises(AccessDenied):
        conf.set_info(size=1)
    with pytest.raises(AccessDenied):
        conf.set_info(name="other")
    with pytest.raises(AccessDenied):
        root.open("locked", write=True)
    with pytest.raises(AccessDenied):
        root.open("loader.conf", write=True).set_info(name="locked")
    with pytest.raises(AccessDenied):
        root.open("EFI", write=True).set_info(name="\\EFI\\BOOT\\inside")
    with pytest.raises(AccessDenied):
        root.open("EFI", write=True).set_info(size=5)
    with pytest.raises(AccessDenied):
        root.delete()
    with pytest.raises(AccessDenied):
        root.set_info(name="x")
    with pytest.raises(DirectoryNotEmpty):
        root.open("EFI", write=True).delete()
    with pytest.raises(IsADirectory):
        root.read(0, 10)
    with pytest.raises(IsADirectory):
        root.write(0, b"x")
    with pytest.raises(NotADirectory):
        conf.entries()
    with pytest.raises(DeviceFailure):
        conf.read(11, 1)
    conf.set_info(attributes=READ_ONLY)
    with pytest.raises(AccessDenied):
        root.open("loader.conf", write=True)
    both = root.open("x", create=True, write=True), root.open("X", write=True)
    both[0].delete()
    with pytest.raises(DeviceFailure):
        both[1].read(0, 1)
    with pytest.raises(InvalidName):
        volume.set_label("twelve chars")
    with pytest.raises(NotFound):
        HostFolder(folder / "loader.conf")


def test_read_only_volume(folder: Path) -> None:
    volume = HostFolder(folder, read_only=True, write_through=True)
    root = volume.root()
    assert volume.free_bytes == 0
    for action in (
        lambda: root.open("loader.conf", write=True),
        lambda: root.open("new", write=True, create=True),
        lambda: root.open("loader.conf").set_info(attributes=0),
        lambda: root.open("loader.conf").delete(),
        lambda: volume.set_label("X"),
    ):
        with pytest.raises(WriteProtected):
            action()


@pytest.mark.parametrize("write_through", [False, True])
def test_rename_that_only_changes_case(folder: Path, write_through: bool) -> None:
    root = HostFolder(folder, write_through=write_through).root()
    file = root.open("loader.conf", write=True)
    file.set_info(name="Loader.Conf")
    assert file.info().name == "Loader.Conf"
    assert names(root) == ["EFI", "Loader.Conf", "odd:name."]
    assert root.open("LOADER.conf").read(0, 4) == b"time"


def test_memory_is_bounded(folder: Path) -> None:
    volume = HostFolder(folder, capacity=1 << 20)
    root = volume.root()
    file = root.open("big", create=True, write=True)
    file.write(0, b"keep")
    with pytest.raises(VolumeFull):
        file.write(4, b"x" * (2 << 20))
    with pytest.raises(VolumeFull):
        file.set_info(size=1 << 62)
    file.write(0, bytes(1 << 20))
    with pytest.raises(VolumeFull):
        for number in range(2000):
            root.open(f"f{number}", create=True, write=True)
    for info in root.entries():
        if info.name.startswith(("f", "big")):
            root.open(info.name, write=True).delete()
    assert volume.free_bytes == 1 << 20
    again = root.open("again", create=True, write=True)
    with pytest.raises(VolumeFull):
        again.write(0, b"y" * (1 << 20))
    again.set_info(size=500_000)
    assert set(again.read(0, 500_000)) == {0}, "what a failed write left behind must not show"


def test_huge_sparse_file_is_read_lazily(folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 4)
        file.write(b"tail")
    root = HostFolder(folder).root()
    huge = root.open("huge", write=True)
    assert huge.info().size == 1 << 40
    huge.write((1 << 39) + 5, b"middle")
    assert huge.read((1 << 39) + 4, 8) == b"\0middle\0"
    assert huge.read((1 << 40) - 5, 50) == b"\0tail"


def test_the_host_may_add_and_remove_files(folder: Path) -> None:
    root = HostFolder(folder).root()
    assert "late.efi" not in names(root)
    (folder / "late.efi").write_bytes(b"1")
    assert root.open("LATE.EFI").read(0, 1) == b"1"
    (folder / "late.efi").write_bytes(b"22")
    assert root.open("late.efi").info().size == 2
    handle = root.open("late.efi")
    (folder / "late.efi").unlink()
    with pytest.raises(NotFound):
        root.open("late.efi")
    with pytest.raises(ImageError):
        handle.read(0, 1)


def test_snapshot_keeps_changes(folder: Path) -> None:
    volume = HostFolder(folder, now=lambda: NOW)
    root = volume.root()
    root.open("EFI\\BOOT\\BOOTX64.EFI", write=True).write(1, b"z")
    root.open("EFI\\made", create=True, write=True, attributes=DIRECTORY).open(
        "deep", create=True, write=True, attributes=HIDDEN
    ).write(70_000, b"deep")
    root.open("loader.conf", write=True).set_info(name="EFI\\made\\moved.conf")
    root.open("odd:name.", write=True).delete()
    volume.set_label("SAVED")
    state = volume.save()

    other = HostFolder(folder, now=lambda: NOW)
    other.load(state)
    assert other.label == "SAVED"
    assert other.budget.used == volume.budget.used
    assert names(other.root()) == ["EFI"]
    made = other.open("EFI\\made")
    assert names(made) == [".", "..", "deep", "moved.conf"]
    assert made.open("deep").read(69_999, 9) == b"\0deep"
    assert made.open("deep").info().attributes == HIDDEN | ARCHIVE
    assert made.open("moved.conf").read(0, 4) == b"time"
    assert other.open("EFI\\BOOT\\BOOTX64.EFI").read(0, 3) == b"Mz\0"
    assert other.save() == state


def test_two_spellings_on_the_host(folder: Path) -> None:
    (folder / "Same").write_text("first")
    (folder / "same").write_text("second")
    root = HostFolder(folder).root()
    assert root.open("same").read(0, 9) == b"second"
    assert root.open("Same").read(0, 9) == b"first"
    assert root.open("SAME").read(0, 9) == b"first"


def test_names_beyond_ascii(folder: Path) -> None:
    (folder / "Grüße😀").write_text("hi")
    (Path(os.fsdecode(bytes(folder) + b"/raw\xff"))).write_text("bytes")
    root = HostFolder(folder, write_through=True).root()
    assert root.open("GRÜßE\ud83d\ude00").read(0, 2) == b"hi"
    assert root.open("RAW\udcff").read(0, 5) == b"bytes"
    root.open("RAW\udcff", write=True).set_info(name="new\udcff")
    assert Path(os.fsdecode(bytes(folder) + b"/new\xff")).read_text() == "bytes"
    with pytest.raises(InvalidName):
        root.open("lone\ud800", create=True, write=True)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_overlay_and_host_behave_alike(tmp_path_factory: pytest.TempPathFactory, operations: list[Operation]) -> None:
    """The host's own file system is the model: what write-through does there, the overlay does in memory."""
    real, shown = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("shown")
    for path in (real, shown):
        (path / "a").mkdir()
        (path / "a" / "c.txt").write_bytes(b"text" * 30_000)
        (path / "B").write_bytes(b"b")
    before = snapshot(shown)
    through, overlay = HostFolder(real, write_through=True), HostFolder(shown)
    for operation in operations:
        assert apply(overlay.root(), operation) == apply(through.root(), operation), operation
    assert contents(overlay.root()) == contents(through.root()) == contents(HostFolder(real).root())
    assert snapshot(shown) == before
    again = HostFolder(shown)
    again.load(overlay.save())
    assert contents(again.root()) == contents(overlay.root())
