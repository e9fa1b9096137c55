"""Images that are built from an application: the same bytes anywhere, the files in them, and what is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from image_tools import GIB, HELLO, MIB, assert_same_disk, files_on

from images.build import build
from images.compose import Kernel, compose
from images.containers.deflate import ZLIB
from images.containers.readers import open_container
from images.containers.writers import FORMATS
from images.disk import Disk, open_disk
from images.errors import ImageError, OutputExists, UnfitInput
from images.fat import FatVolume
from images.sparse import device_sha256, nonzero_blocks
from loader.authenticode_sign import Signer
from tests.loader import pe_builder

BOOT = "\\EFI\\BOOT\\BOOTX64.EFI"
SMALL = 48 * MIB
"""Of formats that take any size: hashing a GiB takes a second."""


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_input_gives_the_same_file_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    outputs = []
    for place, mask, zone, moment in (
        ("one", 0o022, "UTC", 1_000_000_000),
        ("other place", 0o077, "Asia/Tokyo", 2**30),
    ):
        folder = tmp_path / place
        previous = os.umask(mask)
        try:
            (folder / "tree" / "b").mkdir(parents=True)
            for file in ("b/second", "first", "a third one.txt"):
                (folder / "tree" / file).write_bytes(file.encode() * 5000)
                os.utime(folder / "tree" / file, (moment, moment))
            shutil.copyfile(HELLO, folder / "app.efi")
            os.utime(folder / "app.efi", (moment, moment))
        finally:
            os.umask(previous)
        monkeypatch.setenv("TZ", zone)
        monkeypatch.chdir(folder)
        made = build("app.efi", "image", format_name=name, size=size_for(name), add=[("tree", "/data")])
        outputs.append((folder / "image").read_bytes() if made.file_size < 64 * MIB else made.sha256)
        assert files_on(made.composition.device)["\\data\\b\\second"] == b"b/second" * 5000
    assert outputs[0] == outputs[1]


# Of images that this project once made. A change here changes every image that people rebuild to compare: on purpose only.
GOLDEN = {
    "raw": "24b67373896226b1a335be1a209eb8756a33d134b1835752aa8bf8389ba82cfe",
    "gce": "d81684e6c192c92cf9211ebabbe69246c4a356187c3aa1c2d9607c82748008a6",
    "vmdk": "1910b83beef34d1d9ca707b21363475da4dafaaf665080b156d7d8c0b36300ed",
    "vhd": "d878c5fbe48698cf18be2e1de4b7247d922e7bd9d9f254aaa93d3351db5c5fe9",
    "qcow2": "5cba03ea09a1374f82c977e53658ab98de33589fc3eb03b26b867241673913d5",
    "qcow2-plain": "1d1816556e08aa2743116821a696b8e2a0914d493ab9d42e669da838495fe450",
}
DEFLATED = {"gce", "vmdk", "qcow2"}


@pytest.mark.parametrize("name", FORMATS)
def test_images_are_what_they_were(tmp_path: Path, name: str) -> None:
    if name in DEFLATED and not ZLIB.startswith("1.2.13"):
        pytest.skip(f"recorded with zlib 1.2.13, here is {ZLIB}")
    (tmp_path / "other").write_bytes(b"text " * 30_000)
    made = build(
        pe_builder.build(), tmp_path / "image", format_name=name, size=size_for(name),
        add=[(tmp_path / "other", "/Ein langer Name.txt")], epoch=1_700_000_000,
    )  # fmt: skip
    assert made.sha256 == GOLDEN[name]


def test_anything_that_differs_gives_other_guids(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    one = compose(HELLO, add=[(tmp_path / "file", "/file")])
    variants = [compose(HELLO), compose(HELLO, add=[(tmp_path / "file", "/other")]), compose(HELLO, size=2 * GIB)]
    variants += [compose(HELLO, label="OTHER"), compose(HELLO, epoch=1_700_000_000), compose(HELLO, esp_size=65 * MIB)]
    (tmp_path / "file").write_bytes(b"2")
    variants.append(compose(HELLO, add=[(tmp_path / "file", "/file")]))
    disks = [Disk(composition.device) for composition in (one, *variants)]
    assert len({disk.disk_guid for disk in disks}) == len(disks)
    assert len({disk.partitions[0].signature for disk in disks}) == len(disks)
    assert all(disk.disk_guid[7] >> 4 == 8 and disk.disk_guid[8] >> 6 == 2 for disk in disks)  # version and variant
    assert len({FatVolume(disk.esp()).bpb.volume_id for disk in disks}) == len(disks)


def test_the_files_and_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "deep" / "empty").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "Ein Name mit Umläuten.txt").write_bytes(b"long")
    (tmp_path / "single").write_bytes(b"single")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    composition = compose(
        HELLO,
        add=[(tmp_path / "tree", "/"), (tmp_path / "single", "docs/"), (tmp_path / "single", "\\docs\\other")],
        kernel=Kernel(HELLO, [tmp_path / "single"], options="console=ttyS0 quiet", title="A kernel"),
        label="My disk",
    )
    assert files_on(composition.device) == {
        BOOT: HELLO.read_bytes(),
        "\\deep\\Ein Name mit Umläuten.txt": b"long",
        "\\docs\\single": b"single",
        "\\docs\\other": b"single",
        "\\hello.efi": HELLO.read_bytes(),
        "\\single": b"single",
        "\\loader\\entries\\arch.conf": b"title A kernel\nlinux /hello.efi\ninitrd /single\noptions console=ttyS0 quiet\n",
    }
    volume = FatVolume(Disk(composition.device).esp())
    assert volume.label == "MY DISK"
    assert volume.open("\\deep\\empty").info().is_dir
    assert {entry.modified for _, entry in volume.walk()} == {1_700_000_000 * 10**9}
    assert volume.table.free_clusters * volume.bpb.cluster_size == composition.device.volume_free  # type: ignore[attr-defined]
    assert composition.size == GIB and composition.esp_size == 64 * MIB


def test_sizes_follow_the_content(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(205 * MIB)
        file.seek(200 * MIB)
        file.write(b"end")
    composition = compose(HELLO, add=[(tmp_path / "large", "/")])
    assert composition.size == GIB
    assert 225 * MIB < composition.esp_size < 240 * MIB
    entry = FatVolume(Disk(composition.device).esp()).lookup("\\large")
    assert entry.size == 205 * MIB and entry.read(200 * MIB, 3) == b"end"
    small = compose(HELLO, size=40 * MIB)
    assert small.esp_size == 38 * MIB
    assert files_on(small.device)[BOOT] == HELLO.read_bytes()


def test_many_long_names_count(tmp_path: Path) -> None:
    """The names alone take more than all the content."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(2000):
            (tmp_path / folder / f"{folder}{number} {'x' * 240}").write_bytes(b"")
    (tmp_path / "large").write_bytes(bytes(56 * MIB))
    trees = [(tmp_path / "a", "/a"), (tmp_path / "b", "/b")]
    composition = compose(HELLO, add=[*trees, (tmp_path / "large", "/")])
    assert composition.esp_size > 64 * MIB
    assert len(FatVolume(Disk(composition.device).esp()).lookup("\\b").children()) == 2000
    assert "its names take" in refused(add=[(tmp_path / "a", "/both"), (tmp_path / "b", "/both")])


def test_blocks_worth_sending_are_few() -> None:
    """What a cloud's uploader gets: EBS takes blocks of 512 KiB, and zeros need not be sent."""
    composition = compose(HELLO, size=SMALL)
    blocks = list(nonzero_blocks(composition.device, 512 * 1024))
    assert len(blocks) <= 6
    assert all(offset % (512 * 1024) == 0 and len(data) == 512 * 1024 for offset, data in blocks)
    image = bytearray(composition.size)
    for offset, data in blocks:
        image[offset : offset + len(data)] = data
    assert image == composition.device.read(0, composition.size)


def test_raw_is_sparse_and_complete(tmp_path: Path) -> None:
    made = build(HELLO, tmp_path / "disk.raw")
    facts = (tmp_path / "disk.raw").stat()
    assert facts.st_size == made.size == GIB
    assert facts.st_blocks * 512 < MIB
    assert device_sha256(made.composition.device) == made.sha256 == made.raw_sha256
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]
    assert facts.st_mode & 0o777 == 0o666 & ~_umask()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_disk(tmp_path: Path, name: str) -> None:
    made = build(HELLO, tmp_path / "image", format_name=name, size=size_for(name))
    disk = open_disk(tmp_path / "image")
    assert files_on(disk.device)[BOOT] == HELLO.read_bytes()
    assert disk.file is not None
    container = open_container(disk.file)
    assert (container.format if container is not None else "raw") == name.removesuffix("-plain")
    assert_same_disk(made.composition.device, disk.file if container is None else container.device)


def refused(**wanted: Any) -> str:
    """The message with which compose() refuses."""
    with pytest.raises(ImageError) as caught:
        compose(wanted.pop("application", HELLO), **wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_application_for_us(tmp_path: Path) -> None:
    foreign = bytearray(HELLO.read_bytes())
    place = int.from_bytes(foreign[60:64], "little") + 4
    foreign[place : place + 2] = b"\x64\xaa"
    for name, content, words in (
        ("text", b"hello", "a text file, not an EFI image"),
        ("empty", b"", "an empty file"),
        ("arm", bytes(foreign), "ARM64"),
        ("cut", HELLO.read_bytes()[:3000], "truncated"),
        ("zip", b"\x1f\x8b" + bytes(100), "gzip"),
    ):
        (tmp_path / name).write_bytes(content)
        message = refused(application=tmp_path / name)
        assert words in message and message.startswith(str(tmp_path / name))
    assert "cannot be read" in refused(application=tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in refused(application=tmp_path / "fifo")


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    assert "--size 65M or more" not in refused(size=GIB, esp_size=2 * GIB)
    assert "give --size 2050M or more" in refused(size=GIB, esp_size=2 * GIB)
    assert "too small for FAT32" in refused(size=20 * MIB)
    assert "too small for FAT32" in refused(esp_size=20 * MIB)
    assert "whole MiB" in refused(size=GIB + 512)
    assert "TiB" in refused(size=65 << 40)
    (tmp_path / "large").write_bytes(bytes(70 * MIB))
    message = refused(add=[(tmp_path / "large", "/")], esp_size=64 * MIB)
    assert "too large for the EFI system partition" in message
    advised = int(message.partition("--esp-size ")[2].partition("M")[0]) * MIB
    assert compose(HELLO, add=[(tmp_path / "large", "/")], esp_size=advised).size == GIB
    assert "--size 1G or more" in refused(add=[(tmp_path / "large", "/")], size=72 * MIB)
    for name, size, words in (("gce", 1500 * MIB, "whole GiB"), ("vhd", 2041 * GIB, "at most")):
        with pytest.raises(UnfitInput, match=words):
            build(HELLO, tmp_path / "image", format_name=name, size=size)
    assert not (tmp_path / "image").exists()


def test_names_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "bad?name").write_bytes(b"x")
    file = tmp_path / "file"
    for destination, words in (
        ("/efi/boot/bootx64.efi", "there is a file of that name"),
        ("/EFI", "there is a directory of that name"),
        ("/EFI/BOOT/BOOTX64.EFI/x", "is a file already"),
        ("/a:b", "no name for FAT"),
        ("/a./b", "no name for FAT"),
        ("/..", "no name for FAT"),
        ("/" + "x" * 256, "no name for FAT"),
        ("/" + "/".join(["x" * 100] * 3), "at most 256 characters"),
    ):
        assert words in refused(add=[(file, destination)])
    assert "bad?name is left out" in refused(add=[(tmp_path / "folder", "/")])
    assert "no such file" in refused(add=[(tmp_path / "missing", "/")])
    assert "at most 11 characters" in refused(label="twelve chars")
    assert "control characters" in refused(kernel=Kernel(file, options="a\nlinux /evil"))
    assert "gets no command line" in refused(command_line="x")


def test_an_epoch_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert "SOURCE_DATE_EPOCH=yesterday" in refused()


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "there.raw").write_bytes(b"older")
    with pytest.raises(OutputExists, match="--force"):
        build(HELLO, tmp_path / "there.raw")
    assert (tmp_path / "there.raw").read_bytes() == b"older"
    assert build(HELLO, tmp_path / "there.raw", force=True).size == GIB
    with pytest.raises(ImageError, match="make it first"):
        build(HELLO, tmp_path / "missing" / "disk.raw")
    with pytest.raises(ImageError, match="name a file in it"):
        build(HELLO, tmp_path, format_name="raw")
    with pytest.raises(ImageError, match="no regular file"):
        build(HELLO, "/dev/null", format_name="raw")
    with pytest.raises(UnfitInput, match=r"known: \.raw"):
        build(HELLO, tmp_path / "disk.iso")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's own answer, by way of /dev/full, for every format: at writing, flushing or closing."""
    real = os.fdopen

    def full(handle: int, *words: Any, **more: Any) -> Any:
        os.close(handle)
        return real(os.open("/dev/full", os.O_WRONLY), *words, **more)

    (tmp_path / "older.raw").write_bytes(b"older")
    monkeypatch.setattr("images.output_file.os.fdopen", full)
    monkeypatch.setattr("images.output_file.os.fchmod", lambda *_: None)
    for name in ("gce", "vmdk"):
        with pytest.raises(ImageError, match="the disk is full; free some room"):
            build(HELLO, tmp_path / "older.raw", format_name=name, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["older.raw"]
    assert (tmp_path / "older.raw").read_bytes() == b"older"


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    def meddle(done: int, total: int) -> None:
        (tmp_path / "file").write_bytes(b"y" * 100_000)

    with pytest.raises(ImageError, match="changed while the image was made"):
        build(HELLO, tmp_path / "disk.raw", add=[(tmp_path / "file", "/")], progress=meddle)
    assert not (tmp_path / "disk.raw").exists()


def test_a_file_that_somebody_makes_meanwhile_is_kept(tmp_path: Path) -> None:
    def meddle(done: int, total: int) -> None:
        (tmp_path / "disk.raw").write_bytes(b"theirs")

    with pytest.raises(OutputExists, match="--force"):
        build(HELLO, tmp_path / "disk.raw", progress=meddle)
    assert (tmp_path / "disk.raw").read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_keys_that_cannot_sign(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from loader.errors import SigningError

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "junk").write_bytes(b"secret junk")
    for name, words in (("ec", "no RSA key"), ("junk", "no private key"), ("missing", "cannot be read")):
        with pytest.raises(SigningError, match=words) as caught:
            Signer.load(tmp_path / name, tmp_path / "junk")
        assert "secret" not in str(caught.value)


def size_for(name: str) -> int:
    """Google takes whole GiB only."""
    return GIB if name == "gce" else SMALL


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
