"""The four block transfers of EFI_GRAPHICS_OUTPUT_PROTOCOL.Blt (UEFI 2.10, 12.9.2.3), a row at a time."""

from typing import Protocol

from uefi.graphics.framebuffer import BYTES_PER_PIXEL, Framebuffer

VIDEO_FILL, VIDEO_TO_BUFFER, BUFFER_TO_VIDEO, VIDEO_TO_VIDEO = range(4)


class BltError(ValueError):
    """A rectangle that is empty or leaves the screen; the message names it."""


class GuestMemory(Protocol):
    """What a transfer needs of guest memory; both raise an exception of their own for bad addresses."""

    def read(self, address: int, size: int, /) -> bytes:
        """`size` bytes at `address`."""
        ...

    def write(self, address: int, data: bytes, /) -> None:
        """Store `data` at `address`."""
        ...


class BltBuffer:
    """The guest's rectangle of EFI_GRAPHICS_OUTPUT_BLT_PIXEL; `delta` is the bytes of a row, 0 for just its width."""

    __slots__ = ("address", "delta", "memory")

    def __init__(self, memory: GuestMemory, address: int, delta: int = 0) -> None:
        self.memory = memory
        self.address = address
        self.delta = delta

    def row_step(self, width: int) -> int:
        """Bytes from one row to the next when `width` pixels are transferred."""
        return self.delta or width * BYTES_PER_PIXEL


Corner = tuple[int, int]
"""Column and row of a rectangle's first pixel; sizes are columns and rows, too."""


def fill(screen: Framebuffer, pixel: bytes, corner: Corner, size: Corner) -> None:
    """EfiBltVideoFill: every pixel of the rectangle gets the four bytes of `pixel`. Raises BltError."""
    _check(screen, corner, size)
    row = pixel * size[0]
    for start in _rows(screen, corner, size[1]):
        screen.pixels[start : start + len(row)] = row


def to_buffer(screen: Framebuffer, buffer: BltBuffer, source: Corner, destination: Corner, size: Corner) -> None:
    """EfiBltVideoToBltBuffer: from the screen at `source` to `destination` in the buffer.

    Raises BltError for the screen's rectangle, and what the guest's memory raises.
    """
    _check(screen, source, size)
    length, step = size[0] * BYTES_PER_PIXEL, buffer.row_step(size[0])
    at = _buffer_start(buffer, step, destination)
    for start in _rows(screen, source, size[1]):
        buffer.memory.write(at, bytes(screen.pixels[start : start + length]))
        at += step


def to_video(screen: Framebuffer, buffer: BltBuffer, source: Corner, destination: Corner, size: Corner) -> None:
    """EfiBltBufferToVideo: from `source` in the buffer to the screen at `destination`; raises as to_buffer."""
    _check(screen, destination, size)
    length, step = size[0] * BYTES_PER_PIXEL, buffer.row_step(size[0])
    at = _buffer_start(buffer, step, source)
    for start in _rows(screen, destination, size[1]):
        screen.pixels[start : start + length] = buffer.memory.read(at, length)
        at += step


def within_video(screen: Framebuffer, source: Corner, destination: Corner, size: Corner) -> None:
    """EfiBltVideoToVideo: from one rectangle to another, which may overlap it. Raises BltError."""
    _check(screen, source, size)
    _check(screen, destination, size)
    length = size[0] * BYTES_PER_PIXEL
    pairs = list(zip(_rows(screen, source, size[1]), _rows(screen, destination, size[1]), strict=True))
    # Downwards, the last row goes first, or rows would be read after they were overwritten.
    for read_from, write_to in reversed(pairs) if destination[1] > source[1] else pairs:
        screen.pixels[write_to : write_to + length] = screen.pixels[read_from : read_from + length]


def _check(screen: Framebuffer, corner: Corner, size: Corner) -> None:
    if not all(size) or corner[0] + size[0] > screen.width or corner[1] + size[1] > screen.height:
        raise BltError(
            f"rectangle {size[0]}x{size[1]} at {corner[0]},{corner[1]} on a screen of {screen.width}x{screen.height}"
        )


def _rows(screen: Framebuffer, corner: Corner, height: int) -> range:
    """Offsets of the rectangle's rows."""
    first = corner[1] * screen.pitch + corner[0] * BYTES_PER_PIXEL
    return range(first, first + height * screen.pitch, screen.pitch)


def _buffer_start(buffer: BltBuffer, step: int, corner: Corner) -> int:
    return buffer.address + corner[1] * step + corner[0] * BYTES_PER_PIXEL
