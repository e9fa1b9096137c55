"""The framebuffer: block transfers against a pixel-by-pixel model, screenshots, modes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from uefi.graphics import blt
from uefi.graphics.blt import BltBuffer, BltError
from uefi.graphics.framebuffer import MODES, Framebuffer, size_needed
from uefi.graphics.screenshot import save_png

SMALL = ((8, 6), (4, 4))


class Memory:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def read(self, address: int, size: int) -> bytes:
        if address + size > len(self.data):
            raise MemoryError
        return bytes(self.data[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        if address + len(data) > len(self.data):
            raise MemoryError
        self.data[address : address + len(data)] = data


def make() -> Framebuffer:
    screen = Framebuffer(memoryview(bytearray(size_needed(SMALL))), 0x80000000, SMALL, 0)
    for offset in range(screen.size):
        screen.pixels[offset] = offset & 0xFF
    return screen


def pixels(screen: Framebuffer) -> list[list[bytes]]:
    raw = bytes(screen.pixels[: screen.size])
    row = screen.pitch
    return [[raw[y * row + 4 * x : y * row + 4 * x + 4] for x in range(screen.width)] for y in range(screen.height)]


coordinates = st.tuples(st.integers(0, 8), st.integers(0, 6))
sizes = st.tuples(st.integers(0, 9), st.integers(0, 7))


@given(coordinates, coordinates, sizes)
def test_moving_is_as_if_through_a_copy(
    source: tuple[int, int], destination: tuple[int, int], size: tuple[int, int]
) -> None:
    screen = make()
    before = pixels(screen)
    inside = all(
        corner[0] + size[0] <= 8 and corner[1] + size[1] <= 6 for corner in (source, destination)
    ) and all(size)  # fmt: skip
    if not inside:
        with pytest.raises(BltError):
            blt.within_video(screen, source, destination, size)
        assert pixels(screen) == before
        return
    blt.within_video(screen, source, destination, size)
    expected = [row[:] for row in before]
    for y in range(size[1]):
        for x in range(size[0]):
            expected[destination[1] + y][destination[0] + x] = before[source[1] + y][source[0] + x]
    assert pixels(screen) == expected


@given(coordinates, sizes)
def test_fill(corner: tuple[int, int], size: tuple[int, int]) -> None:
    screen = make()
    before = pixels(screen)
    if not all(size) or corner[0] + size[0] > 8 or corner[1] + size[1] > 6:
        with pytest.raises(BltError):
            blt.fill(screen, b"BGR\0", corner, size)
        return
    blt.fill(screen, b"BGR\0", corner, size)
    for y, row in enumerate(pixels(screen)):
        for x, pixel in enumerate(row):
            inside = corner[0] <= x < corner[0] + size[0] and corner[1] <= y < corner[1] + size[1]
            assert pixel == (b"BGR\0" if inside else before[y][x])


def test_buffers_with_and_without_delta() -> None:
    screen, memory = make(), Memory(bytes(400))
    blt.to_buffer(screen, BltBuffer(memory, 16, 0), (1, 2), (0, 0), (3, 2))
    rows = pixels(screen)
    assert memory.read(16, 24) == b"".join(rows[2][1:4] + rows[3][1:4])
    assert memory.read(40, 360) == bytes(360)
    blt.to_buffer(screen, BltBuffer(memory, 100, 40), (0, 0), (2, 1), (1, 2))
    assert memory.read(100 + 40 + 8, 4) == rows[0][0]
    assert memory.read(100 + 80 + 8, 4) == rows[1][0]
    blt.to_video(screen, BltBuffer(memory, 100, 40), (2, 1), (7, 4), (1, 2))
    assert pixels(screen)[4][7] == rows[0][0]
    assert pixels(screen)[5][7] == rows[1][0]
    blt.to_video(screen, BltBuffer(memory, 16, 0), (0, 0), (0, 0), (3, 2))
    assert pixels(screen)[0][:3] == rows[2][1:4]


def test_buffers_outside_memory() -> None:
    screen, memory = make(), Memory(bytes(10))
    with pytest.raises(MemoryError):
        blt.to_buffer(screen, BltBuffer(memory, 0, 0), (0, 0), (0, 0), (8, 6))
    with pytest.raises(MemoryError):
        blt.to_video(screen, BltBuffer(memory, 0, 1 << 63), (0, 1), (0, 0), (1, 1))


def test_modes() -> None:
    screen = make()
    assert (screen.width, screen.height, screen.pitch, screen.size) == (8, 6, 32, 192)
    assert screen.set_mode(1)
    assert (screen.width, screen.height, screen.size) == (4, 4, 64)
    assert bytes(screen.pixels[:64]) == bytes(64)
    assert not screen.set_mode(2)
    other = make()
    other.load(screen.save())
    assert other.width == 4
    with pytest.raises(ValueError, match="wanted"):
        Framebuffer(memoryview(bytearray(100)), 0)
    assert size_needed() == 1920 * 1080 * 4
    assert size_needed(((33, 33),)) == 8192
    assert (800, 600) in MODES


def test_screenshot(tmp_path: Path) -> None:
    screen = make()
    blt.fill(screen, b"\x01\x02\x03\xff", (2, 3), (1, 1))
    file = tmp_path / "shot.png"
    save_png(screen, file)
    with Image.open(file) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (8, 6), "RGB")
        assert image.getpixel((2, 3)) == (3, 2, 1)
