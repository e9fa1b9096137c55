"""FAT through its public face, without other tools: against a model, at its limits, and with times and names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_operations import OPERATIONS, Operation, apply, contents

from images.block import MemoryDevice
from images.errors import (
    AccessDenied,
    DeviceFailure,
    DirectoryNotEmpty,
    FatError,
    InvalidName,
    NotFound,
    VolumeFull,
    WriteProtected,
)
from images.fat import FatVolume, names, times
from images.fat.format import format_fat
from images.host_folder import HostFolder
from images.tree import ARCHIVE, DIRECTORY, HIDDEN, READ_ONLY, SYSTEM

NOW = 1_700_000_000 * 10**9
SIZES = {12: 1 << 20, 16: 3 << 20, 32: 34 << 20}


def make_volume(fat_type: int = 16, size: int | None = None) -> FatVolume:
    device = MemoryDevice(size or SIZES[fat_type])
    format_fat(device, fat_type=fat_type, label="TEST")
    return FatVolume(device, now=lambda: NOW)


def check(volume: FatVolume) -> None:
    """No cluster is lost or used twice, both tables are alike, and a fresh reader sees the same."""
    fresh = FatVolume(volume.device)
    used: list[int] = []
    if fresh.fat_type == 32:
        used += fresh.root_entry.chain()
    for path, entry in fresh.walk():
        chain = entry.chain()
        used += chain
        if not entry.is_dir:
            assert len(chain) == -(-entry.size // fresh.block_size), path
    assert len(used) == len(set(used))
    bpb = fresh.bpb
    assert fresh.table.free_clusters == bpb.cluster_count - len(used) == volume.table.free_clusters
    tables = [fresh.device.read(bpb.fat_offset + copy * bpb.fat_size, bpb.fat_size) for copy in range(bpb.fat_count)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_random_operations(fat_type: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The overlay of a host folder is the model, itself compared with the host's file system in test_host_folder."""
    empty = tmp_path_factory.mktemp("empty")
    base = make_volume(fat_type)
    before = bytes(base.device.read(0, base.device.size))

    @settings(max_examples=120, deadline=None)
    @given(OPERATIONS)
    def run(operations: list[Operation]) -> None:
        volume = FatVolume(MemoryDevice(before), now=lambda: NOW)
        model = HostFolder(empty)
        for operation in operations:
            assert apply(volume.root(), operation) == apply(model.root(), operation), operation
        assert contents(volume.root()) == contents(model.root())
        assert contents(FatVolume(volume.device).root()) == contents(model.root())
        check(volume)

    run()


def test_two_handles_see_one_file() -> None:
    volume = make_volume()
    one = volume.open("\\a", create=True, write=True)
    two = volume.open("\\A", write=True)
    one.write(0, b"x" * 5000)
    two.write(5000, b"y")
    assert one.read(4999, 9) == b"xy"
    two.set_info(name="renamed file")
    assert one.path == "\\renamed file"
    one.delete()
    with pytest.raises(DeviceFailure):
        two.read(0, 1)
    check(volume)


def test_attributes_and_times() -> None:
    volume = make_volume()
    file = volume.open("\\f", create=True, write=True, attributes=HIDDEN)
    info = file.info()
    assert info.attributes == HIDDEN | ARCHIVE
    assert (info.created, info.modified) == (NOW, NOW)
    assert info.accessed == NOW // (86400 * 10**9) * 86400 * 10**9
    day = 86400 * 10**9
    file.set_info(created=20 * 365 * day + 10**7, accessed=11 * 365 * day + 5, modified=12 * 365 * day + 3 * 10**9)
    fresh = FatVolume(volume.device).open("\\f").info()
    assert fresh.created == 20 * 365 * day + 10**7
    assert fresh.modified == 12 * 365 * day + 2 * 10**9
    assert fresh.accessed == 11 * 365 * day
    file.set_info(attributes=READ_ONLY | SYSTEM)
    with pytest.raises(AccessDenied):
        volume.open("\\F", write=True)
    file.delete()  # the mark forbids opening for writing; this handle was opened before
    directory = volume.open("\\d", create=True, write=True, attributes=DIRECTORY | HIDDEN)
    assert directory.info().attributes == DIRECTORY | HIDDEN
    with pytest.raises(AccessDenied):
        directory.set_info(attributes=0)
    directory.open("x", create=True, write=True)
    with pytest.raises(DirectoryNotEmpty):
        directory.delete()


@given(st.integers(-(1 << 70), 1 << 70))
def test_any_time_can_be_stored(moment: int) -> None:
    decoded = times.decode(*times.encode(moment))
    assert decoded is not None
    inside = max(315532800 * 10**9, min(moment, 4354819198 * 10**9 + 999_999_999))
    assert abs(decoded - inside) < 10**9
    assert times.encode(decoded) == times.encode(moment)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 255))
def test_any_stored_time_can_be_read(date: int, clock: int, hundredths: int) -> None:
    decoded = times.decode(date, clock, hundredths)
    assert decoded is None or 315532800 <= decoded // 10**9 <= 4354819200 + 3 * 86400


@settings(max_examples=300)
@given(st.sets(st.text(min_size=1, max_size=30).map(lambda text: text.encode("utf-8", "ignore").decode()), max_size=12))
def test_any_names(wanted: set[str]) -> None:
    volume = make_volume(12)
    root = volume.root()
    made: dict[str, str] = {}
    for name in sorted(wanted):
        if "\\" in name or name.strip(" .") == "":
            continue
        try:
            file = root.open(name, create=True, write=True)
        except InvalidName:
            continue
        made.setdefault(file.info().name, name)
    shown = [entry.name for entry in FatVolume(volume.device).root_entry.children()]
    assert sorted(shown) == sorted(made)
    shorts = [entry.short_name for entry in FatVolume(volume.device).root_entry.children()]
    assert len(set(shorts)) == len(shorts)
    for name in made:
        assert FatVolume(volume.device).open(name.swapcase() if name.isascii() else name).info().name == name
    check(volume)


@pytest.mark.parametrize(
    ("name", "short", "needs_long"),
    [
        ("README.TXT", b"README  TXT", False),
        ("readme.txt", b"README  TXT", True),
        ("NOEXT", b"NOEXT      ", False),
        ("The quick brown.fox", b"THEQUI~1FOX", True),
        (".bashrc", b"BASHRC~1   ", True),
        ("a.b.c", b"AB~1    C  ", True),
        ("x+y", b"X_Y~1      ", True),
        ("日本", b"__~1       ", True),
    ],
)
def test_short_names(name: str, short: bytes, needs_long: bool) -> None:
    assert names.make_short(name, set(), {}) == (short, needs_long)


def test_many_alike_names() -> None:
    volume = make_volume(32)
    root = volume.root()
    for number in range(1500):
        root.open(f"kernel-image-{number}.efi", create=True, write=True)
    assert len(root.entries()) == 1500
    assert root.open("KERNEL~1.EFI").info().name == "kernel-image-0.efi"
    for number in range(0, 1500, 2):
        root.open(f"kernel-image-{number}.efi", write=True).delete()
    size = root.info().size
    for number in range(750):
        root.open(f"kernel-image-{number}.new", create=True, write=True)
    assert root.info().size == size, "deleted entries are used again"
    assert len(FatVolume(volume.device).root_entry.children()) == 1500
    check(volume)


def test_full_volume() -> None:
    volume = make_volume(12)
    root = volume.root()
    file = root.open("big", create=True, write=True)
    file.write(0, b"1" * 600_000)
    with pytest.raises(VolumeFull):
        file.write(600_000, b"2" * 600_000)
    assert file.info().size == 600_000
    with pytest.raises(VolumeFull):
        file.set_info(size=1 << 40)
    file.write(600_000, b"3" * (volume.free_bytes - 1000))
    with pytest.raises(VolumeFull):
        for number in range(10):
            root.open(f"dir{number}", create=True, write=True, attributes=DIRECTORY)
    assert file.read(599_999, 2) == b"13"
    check(volume)
    file.delete()
    with pytest.raises(VolumeFull):
        for number in range(600):
            root.open(f"F{number}", create=True, write=True)
    assert len(root.entries()) > 500
    check(volume)


def test_four_gigabytes_are_the_limit() -> None:
    volume = make_volume()
    file = volume.open("\\f", create=True, write=True)
    with pytest.raises(VolumeFull):
        file.write(0xFFFFFFFF, b"x")


def test_read_only_device() -> None:
    device = MemoryDevice(1 << 20)
    format_fat(device, fat_type=12)
    FatVolume(device).make("\\f").write(0, b"1")
    device.read_only = True
    volume = FatVolume(device)
    with pytest.raises(WriteProtected):
        volume.open("\\f", write=True)
    with pytest.raises(WriteProtected):
        volume.make("\\g")
    with pytest.raises(WriteProtected):
        volume.set_label("X")
    assert volume.open("\\f").read(0, 2) == b"1"


def test_labels() -> None:
    volume = make_volume(32)
    for label in ("ESP", "", "TWO WORDS", "lower"):
        volume.set_label(label)
        assert FatVolume(volume.device).label == label.upper()
    for label in ("TWELVE CHARS", "A.B", "ü"):
        with pytest.raises(InvalidName):
            volume.set_label(label)
    assert volume.root().entries() == []


def test_lookup() -> None:
    volume = make_volume()
    entry = volume.make("\\EFI\\BOOT\\BOOTX64.EFI")
    assert volume.lookup("efi\\boot\\\\bootx64.efi") is entry
    assert volume.lookup("\\") is volume.root_entry
    with pytest.raises(NotFound):
        volume.lookup("\\EFI\\nothing")
    with pytest.raises(InvalidName):
        volume.open("..")
    assert [info.name for info in volume.open("\\EFI").entries()] == [".", "..", "BOOT"]


def test_a_failed_device_stops_changes() -> None:
    class Failing(MemoryDevice):
        left = 1 << 60

        def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            self.left -= 1
            if self.left < 0:
                raise DeviceFailure("worn out")
            super().write(offset, data)

    for left in range(12):
        device = Failing(1 << 20)
        format_fat(device, fat_type=12)
        volume = FatVolume(device)
        volume.make("\\old").write(0, b"old" * 1000)
        device.left = left
        with pytest.raises(DeviceFailure):
            for number in range(5):
                volume.make(f"\\new{number}\\file").write(0, b"new" * 1000)
        assert volume.open("\\old").read(0, 3) == b"old"
        device.left = 1 << 60
        with pytest.raises(DeviceFailure):
            volume.make("\\more")
        volume.reload()
        volume.make("\\more").write(0, b"more")
        assert FatVolume(device).open("\\more").read(0, 9) == b"more"


@pytest.mark.parametrize(
    ("fat_type", "size", "cluster"),
    [
        (32, 1 << 20, None),
        (16, 1 << 20, None),
        (12, 1 << 10, None),
        (11, 1 << 20, None),
        (12, 300 << 20, None),
        (16, 3 << 20, 1000),
    ],
)
def test_format_refuses_what_cannot_be(fat_type: int, size: int, cluster: int | None) -> None:
    with pytest.raises(FatError):
        format_fat(MemoryDevice(size), fat_type=fat_type, cluster_size=cluster)


@pytest.mark.parametrize("fat_type", [12, 16, 32])
def test_old_contents_never_show(fat_type: int) -> None:
    """What deleted files left in the clusters is not seen in gaps, grown files or new directories."""
    volume = make_volume(fat_type)
    filler = volume.open("\\filler", create=True, write=True)
    filler.write(0, b"A" * volume.free_bytes)
    filler.delete()
    root = volume.root()
    gap = root.open("gap", create=True, write=True)
    gap.write(100, b"a")
    gap.write(40_000, b"b")
    assert gap.read(0, 40_001) == bytes(100) + b"a" + bytes(39_899) + b"b"
    gap.set_info(size=50)
    gap.set_info(size=70_000)
    assert gap.read(0, 70_000) == bytes(70_000)
    directory = root.open("d", create=True, write=True, attributes=DIRECTORY)
    for number in range(100):
        directory.open(f"N{number}", create=True, write=True)
    assert len(FatVolume(volume.device).lookup("\\d").children()) == 100
    check(volume)


def test_what_follows_a_directorys_end_stays_hidden() -> None:
    """Slots after the end mark may hold anything (FAT specification 1.03, DIR_Name[0])."""
    volume = make_volume(16)
    ghost = b"GHOST   TXT" + bytes(21)
    volume.device.write(volume.bpb.root_offset + 64, ghost * 50)
    fresh = FatVolume(volume.device)
    for number in range(20):
        fresh.make(f"\\A rather long name {number}")
        shown = [entry.name for entry in FatVolume(volume.device).root_entry.children()]
        assert shown == [f"A rather long name {count}" for count in range(number + 1)]


def test_bits_of_the_table_that_are_not_ours() -> None:
    volume = make_volume(32)
    table = volume.bpb.fat_offset
    volume.device.write(table + 3 * 4, bytes.fromhex("000000a0 000000b0 000000c0"))
    fresh = FatVolume(volume.device, now=lambda: NOW)
    assert fresh.free_bytes == volume.free_bytes
    file = fresh.open("\\f", create=True, write=True)
    file.write(0, b"x" * 1500)
    assert fresh.lookup("\\f").chain().tolist() == [3, 4, 5]
    assert fresh.device.read(table + 3 * 4, 12) == bytes.fromhex("040000a0 050000b0 ffffffcf")
    file.delete()
    assert fresh.device.read(table + 3 * 4, 12) == bytes.fromhex("000000a0 000000b0 000000c0")


def test_the_half_byte_after_the_last_entry_of_fat12() -> None:
    volume = next(
        volume for blocks in range(2048, 2060) if (volume := make_volume(12, blocks * 512)).table.last % 2 == 0
    )
    where = volume.bpb.fat_offset + volume.table.last * 3 // 2 + 1
    volume.device.write(where, bytes([0x70]))
    fresh = FatVolume(volume.device)
    fresh.make("\\all").write(0, b"1" * fresh.free_bytes)
    assert fresh.free_bytes == 0
    assert fresh.device.read(where, 1) == bytes([0x7F])


def test_only_the_active_table_where_mirroring_is_off() -> None:
    volume = make_volume(32)
    bpb = volume.bpb
    volume.device.write(0x28, b"\x81\x00")
    first = volume.device.read(bpb.fat_offset, bpb.fat_size)
    fresh = FatVolume(volume.device)
    fresh.make("\\f").write(0, b"x" * 5000)
    assert volume.device.read(bpb.fat_offset, bpb.fat_size) == first
    assert FatVolume(volume.device).open("\\f").read(4999, 9) == b"x"
