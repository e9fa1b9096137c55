"""Disk images: GPT, MBR, volumes without partitions, CDs; damaged ones, and those of other formats."""

import os
import shutil
import struct
import subprocess
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.block import FileDevice, MemoryDevice, OverlayDevice
from images.disk import Disk, open_disk
from images.errors import ContainerError, ImageError, PartitionError, UnsupportedFormat
from images.fat import FatVolume
from images.fat.format import format_fat
from images.gpt import EFI_SYSTEM_PARTITION, Gpt, guid_text, read_gpt
from images.gpt_write import NewPartition, first_aligned, usable_range, write_gpt
from images.mbr import Mbr

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
LINUX_DATA = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
DISK_GUID = bytes(range(16))
SIZE = 8 << 20


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool, path=PATH) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def tool(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def gpt_disk(block: int = 512, size: int = SIZE) -> MemoryDevice:
    device = MemoryDevice(size, block_size=block)
    start = first_aligned(block)
    parts = [
        NewPartition(start, start + (2 << 20) // block - 1, type_guid=LINUX_DATA, unique_guid=b"\2" * 16, name="data"),
        NewPartition(
            start + (2 << 20) // block,
            usable_range(size, block)[1],
            type_guid=EFI_SYSTEM_PARTITION,
            unique_guid=b"\1" * 16,
            name="système",
            attributes=4,
        ),
    ]
    write_gpt(device, DISK_GUID, parts)
    esp = Disk(device).partitions[1].device
    format_fat(esp, fat_type=12, label="ESP")
    FatVolume(esp).make("\\EFI\\BOOT\\BOOTX64.EFI").write(0, b"MZ")
    return device


@pytest.mark.parametrize("block", [512, 4096])
def test_gpt(tmp_path: Path, block: int) -> None:
    path = tmp_path / "disk.raw"
    content = bytes(gpt_disk(block).data)
    path.write_bytes(content)
    disk = open_disk(path)
    assert (disk.scheme, disk.device.block_size, disk.problems) == ("gpt", block, [])
    assert disk.disk_guid == DISK_GUID
    data, esp = disk.partitions
    assert (data.number, data.name, data.is_esp, data.type_guid) == (1, "data", False, LINUX_DATA)
    assert (esp.number, esp.name, esp.is_esp, esp.attributes) == (2, "système", True, 4)
    assert (esp.first_lba, esp.signature) == ((3 << 20) // block, b"\1" * 16)
    assert esp.device.size == (esp.last_lba + 1 - esp.first_lba) * block
    volume = FatVolume(disk.esp())
    volume.make("\\new").write(0, b"new")
    assert volume.open("\\EFI\\BOOT\\BOOTX64.EFI").read(0, 9) == b"MZ"
    assert path.read_bytes() == content
    disk.close()
    writable = open_disk(path, writable=True)
    FatVolume(writable.esp()).make("\\new").write(0, b"new")
    writable.flush()
    writable.close()
    assert FatVolume(open_disk(path).esp()).open("\\new").read(0, 9) == b"new"


@needs("sgdisk")
def test_sgdisk_agrees(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.write_bytes(gpt_disk().data)
    assert "No problems found" in tool("sgdisk", "-v", ours)
    shown = tool("sgdisk", "-i", "2", ours)
    assert "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" in shown
    assert "système" in shown
    theirs = sparse(tmp_path / "theirs", 64 << 20)
    tool(
        "sgdisk", "-n", "1:2048:+10M", "-t", "1:8300", "-c", "1:root", "-n", "5:0:0", "-t", "5:ef00", "-c", "5:EFI",
        "-A", "5:set:2", "-U", "11223344-5566-7788-99AA-BBCCDDEEFF00", theirs,
    )  # fmt: skip
    disk = open_disk(theirs)
    assert guid_text(disk.disk_guid) == "11223344-5566-7788-99aa-bbccddeeff00"
    assert [(part.number, part.name, part.is_esp, part.attributes) for part in disk.partitions] == [
        (1, "root", False, 0),
        (5, "EFI", True, 4),
    ]
    shown = tool("sgdisk", "-i", "5", theirs)
    assert f"First sector: {disk.partitions[1].first_lba} " in shown
    assert f"Last sector: {disk.partitions[1].last_lba} " in shown
    assert guid_text(disk.partitions[1].signature).upper() in shown
    with pytest.raises(PartitionError, match="holds no FAT"):
        disk.esp()


def test_backup_header_serves() -> None:
    for damage in (512, 512 + 16, 1024, 1024 + 130):
        device = gpt_disk()
        device.write(damage, b"\xaa\x55\xaa\x55")
        disk = Disk(device)
        assert [part.number for part in disk.partitions] == [1, 2]
        assert len(disk.problems) == 1
        assert "backup" in disk.problems[0]
        device.write(device.size - 512, bytes(512))
        with pytest.raises(PartitionError):
            Disk(device)
    device = gpt_disk()
    device.write(device.size - 512, bytes(512))
    assert Disk(device).problems == []


def reseal(device: MemoryDevice) -> None:
    """Makes the CRCs of the first header right again."""
    header = bytearray(device.read(512, 92))
    entries, count, size = struct.unpack_from("<QII", header, 72)
    struct.pack_into("<I", header, 88, crc32(device.data[entries * 512 : entries * 512 + min(count * size, 1 << 20)]))
    header[16:20] = bytes(4)
    struct.pack_into("<I", header, 16, crc32(header))
    device.write(512, header)
    device.write(device.size - 512, bytes(512))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (12, struct.pack("<I", 91), "size 91"),
        (12, struct.pack("<I", 513), "size 513"),
        (24, struct.pack("<Q", 7), "LBA 7"),
        (72, struct.pack("<Q", 0), "outside"),
        (72, struct.pack("<Q", 1 << 60), "outside"),
        (80, struct.pack("<I", 0xFFFFFFFF), "4294967295 entries"),
        (84, struct.pack("<I", 0), "0 bytes"),
        (84, struct.pack("<I", 127), "127 bytes"),
    ],
)
def test_hostile_headers(offset: int, value: bytes, message: str) -> None:
    device = gpt_disk()
    device.write(512 + offset, value)
    header = bytearray(device.read(512, 92))
    header[16:20] = bytes(4)
    device.write(512 + 16, struct.pack("<I", crc32(header)))
    with pytest.raises(PartitionError, match=message):
        Gpt(device, 1)


def test_bad_entries_are_left_out() -> None:
    device = gpt_disk()
    for number, (first, last) in enumerate([(0, 10), (5000, 4000), (1 << 63, (1 << 63) + 5), (3000, 3000)], start=3):
        device.write(1024 + (number - 1) * 128, LINUX_DATA + bytes([number]) * 16 + struct.pack("<QQ", first, last))
    reseal(device)
    disk = Disk(device)
    assert [part.number for part in disk.partitions] == [1, 2]
    assert len(disk.problems) == 4


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2048), st.integers(0, 255)), min_size=1, max_size=8), st.booleans())
def test_flipped_tables(changes: list[tuple[int, int]], seal: bool) -> None:
    device = MemoryDevice(1 << 20)
    first, last = usable_range(device.size, 512)
    write_gpt(device, DISK_GUID, [NewPartition(first, last, type_guid=EFI_SYSTEM_PARTITION, unique_guid=DISK_GUID)])
    for offset, value in changes:
        device.data[offset] = value
    if seal and int.from_bytes(device.data[512 + 72 : 512 + 80], "little") < 1024:
        reseal(device)
    try:
        disk = Disk(device)
    except PartitionError as error:
        assert "\n" not in str(error)
        return
    for part in disk.partitions:
        part.device.read(0, 1)
    for one in disk.partitions:
        for other in disk.partitions:
            assert one is other or one.last_lba < other.first_lba or other.last_lba < one.first_lba


@given(st.binary(max_size=3000))
def test_any_bytes_as_a_disk(data: bytes) -> None:
    for block in (512, 4096):
        try:
            disk = Disk(MemoryDevice(data, block_size=block))
        except PartitionError:
            continue
        assert disk.scheme in {"none", "mbr"}
        with pytest.raises(PartitionError):
            disk.esp()


def mbr_disk(records: list[tuple[int, int, int, int]]) -> MemoryDevice:
    device = MemoryDevice(SIZE)
    table = b"".join(
        struct.pack("<B3sB3sII", flag, bytes(3), kind, bytes(3), start, count) for flag, kind, start, count in records
    )
    device.write(440, b"SIGN" + bytes(2) + table)
    device.write(510, b"\x55\xaa")
    return device


def test_mbr() -> None:
    device = mbr_disk([(0x80, 0x83, 63, 1000), (0, 0xEF, 2048, 8192), (0, 0x05, 10240, 100), (0, 0, 0, 0)])
    disk = Disk(device)
    assert disk.scheme == "mbr"
    assert disk.mbr_signature == b"SIGN"
    assert [(part.number, part.mbr_type, part.first_lba, part.last_lba, part.is_esp) for part in disk.partitions] == [
        (1, 0x83, 63, 1062, False),
        (2, 0xEF, 2048, 10239, True),
    ]
    with pytest.raises(PartitionError):
        disk.esp()
    format_fat(disk.partitions[1].device, fat_type=12)
    FatVolume(disk.esp()).make("\\here")
    assert FatVolume(Disk(device).esp()).open("\\here")


def test_mbr_without_esp_type() -> None:
    """The first FAT partition serves, whatever its type: many boards and cards are made so."""
    disk = Disk(mbr_disk([(0, 0x83, 63, 1000), (0, 0x0C, 2048, 8192)]))
    with pytest.raises(PartitionError, match="no EFI system partition among 2"):
        disk.esp()
    format_fat(disk.partitions[1].device, fat_type=12)
    assert disk.esp() is disk.partitions[1].device


def test_bad_mbr_records() -> None:
    disk = Disk(mbr_disk([(7, 0x83, 63, 100), (0, 0xEF, 1, 1 << 31), (0, 0x83, 100, 50), (0, 0x83, 120, 50)]))
    assert [part.number for part in disk.partitions] == [3]
    assert len(disk.problems) == 3
    with pytest.raises(PartitionError):
        Mbr(bytes(512), 10)


def test_stale_gpt_under_an_mbr() -> None:
    """UEFI 2.10, 5.2.3: without a protective record the GPT does not count."""
    device = gpt_disk()
    device.write(0, mbr_disk([(0, 0xEF, 2048, 100)]).read(0, 512))
    assert Disk(device).scheme == "mbr"
    device.write(0, bytes(512))
    disk = Disk(device)
    assert disk.scheme == "gpt"
    assert disk.problems == ["the GPT has no protective MBR"]


@pytest.mark.parametrize("sector", [512, 4096])
def test_volume_without_partitions(tmp_path: Path, sector: int) -> None:
    path = sparse(tmp_path / "volume", 16 << 20)
    format_fat(FileDevice(path, writable=True, block_size=sector), fat_type=12)
    disk = open_disk(path)
    assert (disk.scheme, disk.partitions, disk.device.block_size) == ("none", [], sector)
    assert disk.esp() is disk.device
    assert FatVolume(disk.esp()).root().entries() == []


def cd(efi: bool = True, wrong: int | None = None) -> bytes:
    """An ISO 9660 image with an El Torito catalog: a BIOS entry, then an EFI section."""
    esp = MemoryDevice(1 << 20)
    format_fat(esp, fat_type=12, label="CD")
    FatVolume(esp).make("\\EFI\\BOOT\\BOOTX64.EFI").write(0, b"MZ")
    image = bytearray(40 * 2048) + esp.data + bytes(300 * 2048)
    image[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    image[17 * 2048 : 17 * 2048 + 39] = b"\x00CD001\x01" + b"EL TORITO SPECIFICATION".ljust(32, b"\0")
    struct.pack_into("<I", image, 17 * 2048 + 0x47, 20)
    image[18 * 2048 : 18 * 2048 + 7] = b"\xffCD001\x01"
    catalog = 20 * 2048
    image[catalog : catalog + 32] = b"\x01\0\0\0" + bytes(26) + b"\x55\xaa"
    image[catalog + 32 : catalog + 44] = b"\x88\0\0\0\0\0" + struct.pack("<HI", 4, 30)
    image[catalog + 64 : catalog + 68] = b"\x91\xef\x01\0" if efi else b"\x91\0\x01\0"
    image[catalog + 96 : catalog + 108] = b"\x88\0\0\0\0\0" + struct.pack("<HI", 0, 40 if wrong is None else wrong)
    return bytes(image)


def test_cd(tmp_path: Path) -> None:
    path = tmp_path / "install.iso"
    path.write_bytes(cd())
    disk = open_disk(path)
    assert (disk.scheme, disk.device.block_size) == ("eltorito", 2048)
    (part,) = disk.partitions
    assert (part.number, part.first_lba, part.device.size) == (1, 40, 1 << 20)
    assert FatVolume(disk.esp()).open("\\efi\\boot\\bootx64.efi").read(0, 9) == b"MZ"
    for image in (cd(efi=False), cd(wrong=1 << 30), cd(wrong=30)):
        path.write_bytes(image)
        disk = open_disk(path)
        assert (disk.scheme, disk.partitions) == ("eltorito", [])
        with pytest.raises(PartitionError):
            disk.esp()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(16 * 2048, 21 * 2048), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_cds(changes: list[tuple[int, int]]) -> None:
    device = OverlayDevice(MemoryDevice(cd(), block_size=2048))
    for offset, value in changes:
        device.write(offset, bytes([value]))
    for part in Disk(device).partitions:
        FatVolume(part.device).root().entries()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.vmdk", b"# Disk DescriptorFile\n", "VMDK descriptor; make it raw first: qemu-img convert -O raw"),
        ("a.vhdx", b"vhdxfile", "VHDX"),
        ("a.xz", b"\xfd7zXZ\0", "xz -d"),
        ("a b.zst", b"\x28\xb5\x2f\xfd", "zstd -d < '"),
        ("a.elf", b"\x7fELF\2\1\1", "ELF program; wanted a disk image"),
    ],
)
def test_other_formats(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.ljust(4096, b"\0"))
    with pytest.raises(UnsupportedFormat) as caught:
        open_disk(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@needs("qemu-img")
@pytest.mark.parametrize("kind", ["vhdx", "vdi"])
def test_images_that_qemu_makes(tmp_path: Path, kind: str) -> None:
    tool("qemu-img", "create", "-f", kind, tmp_path / "image", "8M")
    with pytest.raises(UnsupportedFormat, match="qemu-img convert"):
        open_disk(tmp_path / "image")


def test_a_damaged_container_names_the_file(tmp_path: Path) -> None:
    for name, content in (("a.qcow2", b"QFI\xfb"), ("b.vmdk", b"KDMV"), ("c.tar.gz", b"\x1f\x8b\x08\0")):
        (tmp_path / name).write_bytes(content.ljust(4096, b"\0"))
        with pytest.raises((ContainerError, UnsupportedFormat)) as caught:
            open_disk(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_containers_are_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "a.qcow2").write_bytes(b"QFI\xfb".ljust(4096, b"\0"))
    with pytest.raises(UnsupportedFormat, match="only read here"):
        open_disk(tmp_path / "a.qcow2", writable=True)


def test_files_that_are_no_disks(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 100)
    for name in ("short", "missing", "."):
        with pytest.raises(ImageError):
            open_disk(tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError):
        open_disk(tmp_path / "fifo")


def test_writer_refuses() -> None:
    device = MemoryDevice(SIZE)
    first, last = usable_range(SIZE, 512)

    def part(low: int, high: int) -> NewPartition:
        return NewPartition(low, high, type_guid=LINUX_DATA, unique_guid=DISK_GUID)

    for parts in ([part(first - 1, last)], [part(first, last + 1)], [part(100, 99)], [part(50, 70), part(40, 50)]):
        with pytest.raises(PartitionError):
            write_gpt(device, DISK_GUID, parts)
    with pytest.raises(PartitionError):
        write_gpt(device, DISK_GUID, [part(100 + number, 100 + number) for number in range(129)])
    with pytest.raises(PartitionError):
        write_gpt(MemoryDevice(512 * 60), DISK_GUID, [])
    with pytest.raises(PartitionError):
        NewPartition(1, 2, type_guid=LINUX_DATA, unique_guid=DISK_GUID, name="x" * 37)
    assert bytes(device.data) == bytes(SIZE)
    write_gpt(device, DISK_GUID, [part(first, last)])
    assert read_gpt(device).partitions[0].last_lba == last
