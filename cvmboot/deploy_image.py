"""From what a person names to a disk that can be sent: an EFI application, an ELF unikernel, or an image that is there."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from cloud.source import Source
    from images.block import BlockDevice

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def source_of(path: Path, *, size: str | None = None, add: list[str] | None = None) -> "Source":
    """The disk that boots `path`. Its holes are not read, its digest is computed here: half a second a GiB.

    `size` and `add` as --size and --add have them: for applications, not for images. Raises ImageError, CvmbootError.
    """
    from images.compose import compose

    from cloud.order import ImageFacts
    from cloud.source import Source, digest_of

    if not path.exists():
        raise CvmbootError(f"{path}: no such file; name an EFI application, an ELF unikernel or a disk image")
    if (device := _as_image(path)) is not None:
        if size is not None or add:
            raise UsageError(f"{path}: is a disk image already; --size and --add are for applications")
        boot, signed = _boot_of(path, device)
        return Source(device, ImageFacts(digest_of(device), device.size, boot, signed))
    composition = compose(path, size=_bytes(size), add=[_pair(one) for one in add or ()])
    facts = ImageFacts(digest_of(composition.device), composition.size, composition.boot, _is_signed(path.read_bytes()))
    composition.check()
    return Source(composition.device, facts)


def _as_image(path: Path) -> "BlockDevice | None":
    """The disk if the file is an image; None for a program."""
    from images.block import FileDevice

    device = FileDevice(path)
    head = device.read(0, min(512, device.size))
    if head[:2] == b"MZ" or head[:4] == b"\x7fELF":
        device.close()
        return None
    return device


def _boot_of(path: Path, device: "BlockDevice") -> tuple[str, bool]:
    """How a disk image boots, and whether its EFI application is signed. Unfit if no firmware would boot it."""
    from cloud.order import BOOT_BIOS, BOOT_UEFI
    from images.disk import Disk
    from images.errors import ImageError
    from images.fat.volume import FatVolume

    disk = Disk(device)
    try:
        file = FatVolume(disk.esp()).lookup("\\EFI\\BOOT\\BOOTX64.EFI")
        return BOOT_UEFI, _is_signed(file.read(0, file.info().size))
    except ImageError:
        pass
    if device.size >= 512 and device.read(510, 2) == b"\x55\xaa" and any(device.read(0, 440)):
        return BOOT_BIOS, False
    raise CvmbootError(
        f"{path}: has neither \\EFI\\BOOT\\BOOTX64.EFI nor a boot sector; make an image with `cvmboot image build`"
    )


def _is_signed(data: bytes) -> bool:
    from loader import authenticode, pe
    from loader.errors import LoaderError

    try:
        return any(True for _ in authenticode.certificates(pe.parse(data)))
    except LoaderError:
        return False


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"--size {text[:40]}: wanted a size such as 512M or 2G")
    return int(match[1]) * _UNITS[match[2].upper()]


def _pair(text: str) -> tuple[str, str]:
    source, colon, destination = text.rpartition(":")
    if not colon or not source or not destination:
        raise UsageError(f"--add {text[:80]}: wanted SRC:DEST, such as kernel:EFI/Linux/kernel")
    return source, destination
