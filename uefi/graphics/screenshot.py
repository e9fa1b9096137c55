"""Screenshots of the framebuffer as PNG."""

from pathlib import Path

from uefi.graphics.framebuffer import Framebuffer


def save_png(screen: Framebuffer, path: Path) -> None:
    """Write what the screen shows. Raises OSError when the file cannot be written."""
    from PIL import Image

    size = (screen.width, screen.height)
    image = Image.frombuffer("RGB", size, bytes(screen.pixels[: screen.size]), "raw", "BGRX", screen.pitch, 1)
    image.save(path, format="PNG")
