"""A linear framebuffer in guest RAM and the modes that it can take (UEFI 2.10, 12.9)."""

from typing import Any

BYTES_PER_PIXEL = 4
"""PixelBlueGreenRedReserved8BitPerColor: blue in the lowest byte."""

MODES = ((640, 480), (800, 600), (1024, 768), (1280, 720), (1280, 800), (1280, 1024), (1920, 1080))
DEFAULT_MODE = 2


def size_needed(modes: tuple[tuple[int, int], ...] = MODES) -> int:
    """Bytes that the largest mode takes, in whole 4 KiB pages."""
    return -(-max(width * height for width, height in modes) * BYTES_PER_PIXEL // 4096) * 4096


class Framebuffer:
    """`pixels` is the writable memory of size_needed() bytes that the guest sees at physical address `base`."""

    __slots__ = ("base", "height", "mode", "modes", "pixels", "width")

    def __init__(
        self, pixels: memoryview, base: int, modes: tuple[tuple[int, int], ...] = MODES, mode: int = DEFAULT_MODE
    ) -> None:
        """Nothing is drawn; fresh RAM is black. ValueError when `pixels` is too small or read-only."""
        if pixels.readonly or len(pixels) < size_needed(modes):
            raise ValueError(f"framebuffer of {len(pixels)} bytes, wanted {size_needed(modes)} writable ones")
        self.pixels = pixels
        self.base = base
        self.modes = modes
        self.mode = mode
        self.width, self.height = modes[mode]

    def __getstate__(self) -> dict[str, Any]:
        kept = ("base", "height", "mode", "modes", "width")
        return {name: getattr(self, name) for name in kept}  # the pixels are guest RAM: who restores it says where

    @property
    def pitch(self) -> int:
        """Bytes from one row to the next."""
        return self.width * BYTES_PER_PIXEL

    @property
    def size(self) -> int:
        """Bytes that the mode in use shows."""
        return self.pitch * self.height

    def set_mode(self, mode: int) -> bool:
        """Switch and clear to black; False when there is no such mode."""
        if not 0 <= mode < len(self.modes):
            return False
        self.mode = mode
        self.width, self.height = self.modes[mode]
        self.pixels[: self.size] = bytes(self.size)
        return True

    def save(self) -> dict[str, int]:
        """The mode; the pixels are part of guest RAM."""
        return {"mode": self.mode}

    def load(self, state: dict[str, int]) -> None:
        """Take over a saved mode without clearing."""
        self.mode = state["mode"]
        self.width, self.height = self.modes[self.mode]
