"""FAT volumes made to hurt: whatever the bytes say, the answer is an answer or a FatError, and soon."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.block import BlockDevice, MemoryDevice, OverlayDevice
from images.errors import DeviceFailure, FatError, FileSystemError, InvalidName
from images.fat import FatVolume
from images.fat.bpb import Bpb, read_bpb
from images.fat.format import format_fat
from images.tree import DIRECTORY

SIZES = {12: 256 << 10, 16: 3 << 20, 32: 34 << 20}


def make_volume(fat_type: int) -> FatVolume:
    device = MemoryDevice(SIZES[fat_type])
    format_fat(device, fat_type=fat_type, label="TEST")
    volume = FatVolume(device)
    for path, size in (("\\EFI\\BOOT\\BOOTX64.EFI", 20_000), ("\\EFI\\a long name.conf", 700), ("\\small", 10)):
        volume.make(path).write(0, b"x" * size)
    volume.make("\\EFI\\empty directory", DIRECTORY)
    return volume


def use_everything(device: BlockDevice) -> None:
    """Reads and changes all that can be reached, in an overlay."""
    try:
        volume = FatVolume(OverlayDevice(device))
    except FatError as error:
        assert "\n" not in str(error)
        return
    actions = [lambda: volume.label, lambda: volume.free_bytes, lambda: volume.set_label("NEW")]
    found = []
    try:
        for path, entry in volume.walk():
            found.append(path)
            if len(found) > 200:
                break
            if not entry.is_dir:
                actions.append(lambda entry=entry: entry.read(0, 1 << 16))  # type: ignore[misc]
                actions.append(lambda entry=entry: entry.read(max(0, entry.size - 5), 10))  # type: ignore[misc]
    except (FileSystemError, DeviceFailure):
        pass
    for path in found[:40]:
        actions.append(lambda path=path: volume.open(path).info())  # type: ignore[misc]
        actions.append(lambda path=path: volume.open(path, write=True).write(3000, b"y" * 3000))  # type: ignore[misc]
        actions.append(lambda path=path: volume.open(path, write=True).set_info(size=100))  # type: ignore[misc]
        actions.append(lambda path=path: volume.open(path, write=True).set_info(name="\\moved"))  # type: ignore[misc]
        actions.append(lambda path=path: volume.open(path + "\\new", write=True, create=True))  # type: ignore[misc]
        actions.append(lambda path=path: volume.open(path, write=True).delete())  # type: ignore[misc]
    actions.append(lambda: volume.make("\\made\\by\\us").write(0, b"z" * 5000))
    for action in actions:
        try:
            action()
        except (FileSystemError, DeviceFailure) as error:
            assert "\n" not in str(error)


BASES = {fat_type: bytes(make_volume(fat_type).device.read(0, SIZES[fat_type])) for fat_type in SIZES}
DEVICES = {fat_type: MemoryDevice(base, read_only=True) for fat_type, base in BASES.items()}


def interesting(fat_type: int) -> list[tuple[int, int]]:
    """(offset, length) of the parts with structure in them: boot sector, FSInfo, table, directories."""
    bpb = read_bpb(MemoryDevice(BASES[fat_type]))
    return [
        (0, 96),
        (bpb.sector_size, 512),
        (bpb.fat_offset, 256),
        (bpb.root_offset, 256),
        (bpb.data_offset, 4096),
    ]


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_flipped_bytes(fat_type: int) -> None:
    places = interesting(fat_type)

    @settings(max_examples=250, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, len(places) - 1), st.integers(0, 4095), st.integers(0, 255)),
            min_size=1,
            max_size=12,
        )
    )
    def run(changes: list[tuple[int, int, int]]) -> None:
        device = OverlayDevice(DEVICES[fat_type])
        for place, offset, value in changes:
            start, length = places[place]
            device.write(start + offset % length, bytes([value]))
        use_everything(device)

    run()


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_random_tables(fat_type: int) -> None:
    chance = random.Random(fat_type)
    bpb = read_bpb(MemoryDevice(BASES[fat_type]))
    for _ in range(15):
        device = OverlayDevice(DEVICES[fat_type])
        length = min(bpb.fat_size, 4096)
        few = bytes(chance.randrange(16) if chance.random() < 0.5 else 0 for _ in range(length))
        device.write(bpb.fat_offset, few if chance.random() < 0.7 else chance.randbytes(length))
        use_everything(device)


@settings(max_examples=400, deadline=None)
@given(st.binary(min_size=0, max_size=512), st.integers(0, 1 << 40))
def test_any_boot_sector(sector: bytes, size: int) -> None:
    for candidate in (sector, sector.ljust(510, b"\0")[:510] + b"\x55\xaa"):
        try:
            bpb = Bpb(candidate, size)
        except FatError:
            continue
        assert bpb.data_offset + bpb.cluster_count * bpb.cluster_size <= size
        assert bpb.fat_offset + bpb.fat_count * bpb.fat_size <= bpb.data_offset


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (0x0B, b"\x00\x00", "bytes per sector"),
        (0x0B, b"\x00\x20", "bytes per sector"),
        (0x0D, b"\x00", "sectors per cluster"),
        (0x0D, b"\x03", "sectors per cluster"),
        (0x0E, b"\x00\x00", "reserved sectors"),
        (0x10, b"\x00", "number of FATs"),
        (0x10, b"\xff", "number of FATs"),
        (0x15, b"\x00", "media"),
        (0x20, b"\xff\xff\xff\xff", "total sectors"),
        (0x20, b"\x00\x00\x00\x00", "total sectors"),
        (0x24, b"\x00\x00\x00\x00", "sectors per FAT"),
        (0x24, b"\xff\xff\xff\xff", "total sectors"),
        (0x2A, b"\x01\x00", "FAT32 version"),
        (0x2C, b"\x00\x00\x00\x00", "root cluster"),
        (0x2C, b"\xff\xff\xff\x0f", "root cluster"),
        (0x28, b"\x85\x00", "active FAT"),
        (0x1FE, b"\x00\x00", "signature"),
    ],
)
def test_bad_fields_are_named(offset: int, value: bytes, field: str) -> None:
    data = bytearray(BASES[32])
    data[offset : offset + len(value)] = value
    with pytest.raises(FatError, match=field):
        FatVolume(MemoryDevice(data))


def test_too_short() -> None:
    for size in (0, 511, 512, 1000, len(BASES[12]) - 512):
        with pytest.raises(FatError):
            FatVolume(MemoryDevice(BASES[12][:size]))


def link(volume: FatVolume, cluster: int, following: int) -> None:
    volume.table.set(cluster, following)
    volume.table.commit()


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_loops_and_wild_chains(fat_type: int) -> None:
    for target in ("self", "start", "free", "outside", "reserved", "bad", "short"):
        volume = make_volume(fat_type)
        entry = volume.lookup("\\EFI\\BOOT\\BOOTX64.EFI")
        chain = entry.chain()
        middle = chain[len(chain) // 2]
        following = {
            "self": middle,
            "start": chain[0],
            "free": volume.table.last,
            "outside": volume.table.last + 1,
            "reserved": 1,
            "bad": volume.table.end - 1,
            "short": volume.table.end_mark,
        }[target]
        link(volume, middle, following)
        fresh = FatVolume(volume.device)
        file = fresh.open("\\EFI\\BOOT\\BOOTX64.EFI", write=True)
        assert file.info().size == 20_000
        with pytest.raises(FatError):
            file.read(0, 20_000)
        if target != "short":
            for action in (
                lambda file=file: file.write(0, b"1"),
                lambda file=file: file.delete(),
                lambda file=file: file.set_info(size=0),
            ):
                with pytest.raises(FatError):
                    action()
        fresh.make("\\other").write(0, b"still works")


def test_a_long_loop_ends_soon() -> None:
    """A ring of 120,000 clusters is found by walking it once or twice."""
    device = MemoryDevice(66 << 20)
    format_fat(device, fat_type=32, cluster_size=512)
    volume = FatVolume(device)
    entry = volume.make("\\ring")
    entry.resize(60 << 20)
    chain = entry.chain()
    link(volume, chain[-1], chain[1])
    with pytest.raises(FatError, match=r"loops|more than"):
        FatVolume(device).open("\\ring").read(0, 1)


def test_directory_that_contains_itself() -> None:
    for name in ("\\EFI", "\\"):
        volume = make_volume(32)
        entry = volume.make("\\EFI\\evil", DIRECTORY)
        first = volume.lookup(name).first_cluster
        struct.pack_into("<H", entry.raw, 26, first)
        struct.pack_into("<H", entry.raw, 20, 0)
        entry.store()
        fresh = FatVolume(volume.device)
        with pytest.raises(FatError, match="contains itself"):
            fresh.open("\\EFI\\evil\\evil")
        with pytest.raises(FatError):
            list(fresh.walk())
        assert "evil" in [info.name for info in fresh.open("\\EFI").entries()]


def test_crosslinked_directories_end() -> None:
    volume = make_volume(16)
    one, two = volume.make("\\one", DIRECTORY), volume.make("\\two", DIRECTORY)
    for holder, target in ((one, two), (two, one)):
        inner = holder.create("inner", DIRECTORY)
        struct.pack_into("<H", inner.raw, 26, target.first_cluster)
        inner.store()
    fresh = FatVolume(volume.device)
    with pytest.raises(FatError):
        list(fresh.walk())
    with pytest.raises(FatError, match="contains itself"):
        fresh.open("\\one\\inner\\inner\\inner")


def test_hostile_names() -> None:
    volume = make_volume(16)
    entry = volume.make("\\EFI\\victim")
    entry.raw[:11] = b"..\\X    \\/ "
    entry.store()
    long = volume.make("\\EFI\\long victim name")
    directory = long.directory
    assert directory is not None
    data = bytearray(directory.volume.device.read(volume.cluster_offset(directory.owner.first_cluster), 2048))
    at = data.find("long ".encode("utf-16-le")[:10])
    data[at : at + 6] = "..\\".encode("utf-16-le")
    volume.device.write(volume.cluster_offset(directory.owner.first_cluster), data)
    fresh = FatVolume(volume.device)
    shown = [info.name for info in fresh.open("\\EFI").entries()]
    assert all("\\" not in name and "/" not in name for name in shown)
    assert "LONGVI~1" in shown
    with pytest.raises(InvalidName):
        fresh.open("\\EFI\\..\\..\\x")


def test_every_slot_a_long_name_part() -> None:
    volume = make_volume(16)
    root = volume.bpb.root_offset
    volume.device.write(root, (b"\x41" + b"a\0" * 5 + b"\x0f\0\x55" + b"a\0" * 6 + b"\0\0" + b"a\0" * 2) * 512)
    fresh = FatVolume(volume.device)
    assert fresh.root().entries() == []
    volume.device.write(root, (b"\x13" + b"a\0" * 5 + b"\x0f\0\x55" + b"a\0" * 6 + b"\0\0" + b"a\0" * 2) * 512)
    assert FatVolume(volume.device).root().entries() == []


@pytest.mark.parametrize("fat_type", [12, 16, 32])
@pytest.mark.parametrize("first", [0, None])
def test_size_beyond_the_chain(fat_type: int, first: int | None) -> None:
    volume = make_volume(fat_type)
    entry = volume.lookup("\\small")
    struct.pack_into("<I", entry.raw, 28, 0xFFFF_FFF0)
    if first is not None:
        struct.pack_into("<H", entry.raw, 26, first)
    entry.store()
    fresh = FatVolume(volume.device)
    file = fresh.open("\\small", write=True)
    for action in (
        lambda: file.read(5000, 10),
        lambda: file.write(0xFFFF_FFF0, b"end"),
        lambda: file.write(5000, b"inside"),
        lambda: file.set_info(size=1000),
        lambda: file.set_info(size=0xFFFF_FFF8),
    ):
        with pytest.raises(FatError):
            action()
    file.delete()
