"""A host folder as a disk: the folder's files through GPT and FAT, what is left out, and what the host does meanwhile."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from images.block import OverlayDevice
from images.disk import Disk
from images.errors import DeviceFailure, ImageError, NotFound, WriteProtected
from images.fat import FatVolume
from images.folder_disk import FolderDisk
from images.mosaic import Mosaic
from images.tree import ARCHIVE, DIRECTORY, READ_ONLY

MTIME = 1_700_000_000


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def volume_of(disk: FolderDisk) -> FatVolume:
    opened = Disk(OverlayDevice(disk))
    assert opened.scheme == "gpt"
    assert opened.problems == []
    return FatVolume(opened.esp())


def contents(volume: FatVolume) -> dict[str, bytes | None]:
    return {
        path[1:].replace("\\", "/"): None if entry.is_dir else entry.read(0, entry.size)
        for path, entry in volume.walk()
    }


def on_host(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in root.rglob("*")}


def test_the_folder_is_on_the_disk(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "EFI/BOOT/BOOTX64.EFI": os.urandom(123_457),
            "EFI/empty": b"",
            "loader/entries/A long name of an entry, 6.1.0.conf": b"title x\n",
            "Grüße 日本語 😀.txt": b"unicode",
            "readonly": b"r",
            "page": b"4" * 4096,
        },
    )
    (tmp_path / "EFI" / "nothing in it").mkdir()
    (tmp_path / "readonly").chmod(0o444)
    os.utime(tmp_path / "page", (MTIME, MTIME))
    disk = FolderDisk(tmp_path)
    volume = volume_of(disk)
    assert disk.problems == []
    assert contents(volume) == on_host(tmp_path)
    assert (volume.fat_type, volume.label) == (32, "CVMBOOT")
    assert volume.lookup("\\readonly").attributes == ARCHIVE | READ_ONLY
    assert volume.lookup("\\EFI").attributes == DIRECTORY
    assert volume.lookup("\\page").modified == MTIME * 10**9
    assert volume.free_bytes >= 1 << 30
    assert volume.lookup("\\efi\\boot\\bootx64.efi").short_name == "BOOTX64.EFI"


def test_the_same_folder_gives_the_same_disk(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place, names in zip(places, ("abc", "cba"), strict=True):
        for name in names:
            write(place, {f"{name} with a long name": name.encode() * 5000, f"sub/{name}": b"x"})
        for path in (place, *place.rglob("*")):
            os.utime(path, (MTIME, MTIME))
    disks = [FolderDisk(place) for place in places]
    used = 16 << 20
    assert disks[0].read(0, used) == disks[1].read(0, used)
    assert disks[0].read(disks[0].size - 65536, 65536) == disks[1].read(disks[1].size - 65536, 65536)
    write(places[1], {"sub/d": b"more"})
    other = Disk(FolderDisk(places[1]))
    same = Disk(disks[0])
    assert other.disk_guid != same.disk_guid
    assert other.partitions[0].signature != same.partitions[0].signature


def test_writes_stay_in_the_overlay(tmp_path: Path) -> None:
    write(tmp_path, {"kept": b"as it was" * 1000, "dir/x": b"x"})
    before = on_host(tmp_path)
    disk = FolderDisk(tmp_path)
    with pytest.raises(WriteProtected):
        disk.write(0, b"x")
    volume = volume_of(disk)
    volume.open("\\kept", write=True).write(3, b"CHANGED")
    volume.open("\\dir\\x", write=True).delete()
    volume.make("\\dir\\new file").write(0, b"n" * 3_000_000)
    fresh = FatVolume(volume.device)
    assert contents(fresh) == {
        "kept": before["kept"][:3] + b"CHANGED" + before["kept"][10:],  # type: ignore[index]
        "dir": None,
        "dir/new file": b"n" * 3_000_000,
    }
    assert on_host(tmp_path) == before


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"a" * 10_000, "b": b"b" * 10_000, "c": b"c"})
    volume = volume_of(FolderDisk(tmp_path))
    (tmp_path / "a").write_bytes(b"A" * 5000)
    (tmp_path / "b").unlink()
    (tmp_path / "c").unlink()
    os.mkfifo(tmp_path / "c")
    assert volume.open("\\a").read(0, 20_000) == b"A" * 5000 + bytes(5000)
    with pytest.raises(DeviceFailure, match="b: cannot be read"):
        volume.open("\\b").read(0, 1)
    with pytest.raises(DeviceFailure, match="no longer a regular file"):
        volume.open("\\c").read(0, 1)


def test_a_file_that_grew_keeps_its_size(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"a" * 100})
    disk = FolderDisk(tmp_path)
    (tmp_path / "a").write_bytes(b"A" * 100_000)
    assert volume_of(disk).open("\\a").read(0, 1000) == b"A" * 100


def test_what_fat_cannot_hold_is_left_out_and_named(tmp_path: Path) -> None:
    root = tmp_path / "esp"
    write(root, {"good": b"g", "Readme": b"upper", "readme": b"lower", "what?": b"", "trailing.": b"", " leading": b""})
    write(root, {"sub/file": b"f"})
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    (root / "out").symlink_to(outside)
    (root / "sub" / "up").symlink_to("../..")
    (root / "loop").symlink_to("loop")
    (root / "sub" / "again").symlink_to("..")
    (root / "link").symlink_to("sub/file")
    (root / "linked").symlink_to("sub")
    (root / "broken").symlink_to("nothing here")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    with (root / "huge").open("wb") as file:
        file.truncate(1 << 32)
    with (root / "largest").open("wb") as file:
        file.truncate((1 << 32) - 1)
    disk = FolderDisk(root)
    found = {path[1:].replace("\\", "/") for path, _ in volume_of(disk).walk()}
    assert found == {"good", "Readme", "sub", "sub/file", "link", "linked", "linked/file", "largest"}
    told = "\n".join(disk.problems)
    for text in (
        "readme is left out: differs from 'Readme' in case only",
        "what? is left out: FAT cannot hold its name",
        "trailing. is left out",
        " leading is left out",
        "out is left out: a link that leads out of the folder",
        "sub/up is left out: a link that leads out",
        "sub/again is left out: a link to a directory that holds it",
        "loop is left out",
        "broken is left out",
        "pipe is left out: neither a file nor a directory",
        "'\\udcff\\udcfe' is left out: its name is not UTF-8",
        "huge is left out: 4294967296 bytes, a file on FAT has at most 4294967295",
    ):
        assert text in told
    assert all("\n" not in problem for problem in disk.problems)
    assert volume_of(disk).open("\\largest").read((1 << 32) - 100, 200) == bytes(99)


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="not a directory"):
        FolderDisk(tmp_path / "missing")
    for number in range(257):
        with (tmp_path / f"{number}").open("wb") as file:
            file.truncate((1 << 32) - 1)
    with pytest.raises(ImageError, match="more than 1 TiB"):
        FolderDisk(tmp_path)
    monkeypatch.setattr("images.folder_scan.MOST_ENTRIES", 256)
    with pytest.raises(ImageError, match="more than 256 files"):
        FolderDisk(tmp_path)


def test_half_a_tebibyte(tmp_path: Path) -> None:
    for number in range(128):
        with (tmp_path / f"{number:03}").open("wb") as file:
            file.truncate((1 << 32) - 1)
    (tmp_path / "last").write_bytes(b"the last one")
    volume = volume_of(FolderDisk(tmp_path))
    assert volume.block_size == 32768
    assert volume.open("\\last").read(0, 100) == b"the last one"


def test_many_names_alike(tmp_path: Path) -> None:
    """Short names are made up; none of them is the name of another file."""
    names = [f"a long name {number}.txt" for number in range(300)]
    names += [f"ALONGN~{number}.TXT" for number in range(1, 100, 7)] + ["along~10.txt"]
    write(tmp_path, {name: name.encode() for name in names})
    volume = volume_of(FolderDisk(tmp_path))
    for name in names:
        assert volume.open(f"\\{name}").read(0, 100) == name.encode()
    shorts = [entry.short_name for _, entry in volume.walk()]
    assert len(set(shorts)) == len(shorts)
    for entry in (entry for _, entry in volume.walk()):
        assert volume.lookup(f"\\{entry.short_name}").name == entry.name


CHARACTERS = st.characters(codec="utf-8", exclude_characters="/\0")
NAMES = st.one_of(
    st.sampled_from(["a", "A.TXT", "a.txt", "B~1", "boot", "EFI", "lower.efi", ".hidden", "two.dots.x", "ß", "SS"]),
    st.text(CHARACTERS, min_size=1, max_size=40).filter(lambda text: text not in {".", ".."}),
)
TREES = st.recursive(
    st.binary(max_size=9000), lambda inner: st.dictionaries(NAMES, inner, max_size=6), max_leaves=25
).filter(lambda tree: isinstance(tree, dict))


def make(root: Path, tree: dict[str, object]) -> None:
    for name, content in tree.items():
        try:
            if isinstance(content, dict):
                (root / name).mkdir()
                make(root / name, content)
            else:
                assert isinstance(content, bytes)
                (root / name).write_bytes(content)
        except OSError:
            continue  # a name that the host does not take


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_random_trees(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]) -> None:
    root = tmp_path_factory.mktemp("tree")
    make(root, tree)
    disk = FolderDisk(root)
    found = contents(volume_of(disk))
    expected = on_host(root)
    assert found.items() <= expected.items()
    if not disk.problems:
        assert found == expected


@given(
    st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=60)), max_size=12),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=10),
)
def test_a_mosaic_is_what_was_placed(pieces: list[tuple[int, bytes]], reads: list[tuple[int, int]]) -> None:
    mosaic = Mosaic(400)
    expected, taken = bytearray(400), set[int]()
    for offset, data in pieces:
        place = set(range(offset, offset + len(data)))
        if place & taken:
            with pytest.raises(ImageError):
                mosaic.place_bytes(offset, data)
        else:
            mosaic.place_bytes(offset, data)
            expected[offset : offset + len(data)] = data
            taken |= place
    for offset, count in [*reads, (0, 400)]:
        if offset + count > 400:
            with pytest.raises(DeviceFailure):
                mosaic.read(offset, count)
        else:
            assert mosaic.read(offset, count) == bytes(expected[offset : offset + count])
