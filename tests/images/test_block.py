"""Block devices: what is written comes back, the base of an overlay never changes, and ranges hold."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.block import FileDevice, MemoryDevice, OverlayDevice, SliceDevice
from images.cow import CHUNK, Budget, CowBytes
from images.errors import DeviceFailure, ImageError, WriteProtected

SIZE = 5 * CHUNK + 1000
BASE = bytes(range(251)) * (SIZE // 251 + 1)
BASE = BASE[:SIZE]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "resize", "read"]),
        st.integers(0, SIZE),
        st.integers(0, 3 * CHUNK),
        st.integers(1, 255),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_copy_on_write_bytes_are_like_a_bytearray(steps: list[tuple[str, int, int, int]]) -> None:
    budget = Budget(1 << 30)
    cow = CowBytes(lambda offset, count: BASE[offset : offset + count], SIZE, budget)
    model = bytearray(BASE)
    for kind, offset, count, value in steps:
        if kind == "resize":
            cow.resize(offset)
            model = model[:offset] + bytes(max(0, offset - len(model)))
        elif kind == "read":
            assert cow.read(offset, count) == model[offset : offset + count]
        elif count:
            data = bytes([value if kind == "write" else 0]) * count
            cow.write(offset, data)
            model += bytes(max(0, offset - len(model)))
            model[offset : offset + count] = data
    assert cow.size == len(model)
    assert cow.read(0, cow.size + 10) == model
    other = CowBytes(lambda offset, count: BASE[offset : offset + count], SIZE, Budget(1 << 30))
    other.load(cow.save())
    assert other.read(0, other.size) == model
    cow.clear()
    assert budget.used == 0


def test_overlay_spares_its_base(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(BASE)
    overlay = OverlayDevice(FileDevice(path), limit=4 * CHUNK)
    part = SliceDevice(overlay, 1000, SIZE - 1000)
    part.write(5, b"changed")
    assert overlay.read(1000, 20) == BASE[1000:1005] + b"changed" + BASE[1012:1020]
    assert path.read_bytes() == BASE
    part.write(0, bytes(SIZE - 1000))
    with pytest.raises(DeviceFailure):
        part.write(0, b"\1" * (SIZE - 1000))
    again = OverlayDevice(FileDevice(path))
    again.load(overlay.save())
    assert again.read(0, SIZE) == overlay.read(0, SIZE)
    with pytest.raises(DeviceFailure):
        OverlayDevice(MemoryDevice(100)).load(overlay.save())
    assert path.read_bytes() == BASE


@pytest.mark.parametrize("kind", ["file", "memory", "slice", "overlay"])
def test_ranges_hold(tmp_path: Path, kind: str) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    file = FileDevice(tmp_path / "disk", writable=True)
    device = {
        "file": file,
        "memory": MemoryDevice(4096),
        "slice": SliceDevice(MemoryDevice(8192), 4096, 4096),
        "overlay": OverlayDevice(file),
    }[kind]
    assert device.size == 4096
    device.write(4090, b"sixsix")
    assert device.read(4088, 8) == b"\0\0sixsix"
    for offset, count in ((4091, 6), (-1, 2), (5000, 1), (1 << 64, 1), (0, 4097)):
        with pytest.raises(DeviceFailure):
            device.read(offset, count)
        with pytest.raises(DeviceFailure):
            device.write(offset, bytes(count))
    with pytest.raises(DeviceFailure):
        SliceDevice(device, 4000, 97)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        FileDevice(tmp_path / "missing")
    with pytest.raises(ImageError):
        FileDevice(tmp_path)
    (tmp_path / "disk").write_bytes(bytes(1024))
    with pytest.raises(WriteProtected):
        FileDevice(tmp_path / "disk").write(0, b"x")
    with pytest.raises(WriteProtected):
        MemoryDevice(1, read_only=True).write(0, b"x")
    device = FileDevice(tmp_path / "disk")
    (tmp_path / "disk").write_bytes(bytes(512))
    with pytest.raises(DeviceFailure):
        device.read(500, 100)
