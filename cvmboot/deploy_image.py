"""From what a person names to a disk that can be sent: an EFI application, an ELF unikernel, or an image that is there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.arguments import size_of
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.progress import progress_bar

if TYPE_CHECKING:
    from cloud.source import Source

_BOOT_FILE = "\\EFI\\BOOT\\BOOTX64.EFI"


def source_of(path: Path, *, size: str | None = None, add: list[str] | None = None) -> "Source":
    """The disk that boots `path`, with its digest: half a second a GiB. Nothing is written.

    `size` and `add` as --size and --add have them: for applications, not for images. Raises ImageError, CvmbootError if
    it cannot be read, UsageError for options that make no sense, CvmbootError for an image that no cloud would boot.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise CvmbootError(
            f"{path}: {error.strerror}; wanted an EFI application, an ELF unikernel or a disk image"
        ) from None
    if head[:2] == b"MZ" or head == b"\x7fELF":
        return _composed(path, size, add or [])
    if size is not None or add:
        raise UsageError(f"{path}: is no application; --size and --add are for those, an image is taken as it is")
    return _opened(path)


def _composed(path: Path, size: str | None, add: list[str]) -> "Source":
    from cloud.order import ImageFacts
    from cloud.source import Source
    from images.compose import compose
    from images.pe_facts import pe_facts

    composition = compose(path, size=None if size is None else size_of("--size", size), add=[_pair(one) for one in add])
    signed = composition.boot == "uefi" and bool(pe_facts(path.read_bytes(), _no_facts).get("signatures"))
    with progress_bar(f"{path.name}: SHA-256") as progress:
        digest = composition.sha256(progress)
    return Source(
        composition.device, ImageFacts(digest, composition.size, composition.boot, signed), check=composition.check
    )


def _opened(path: Path) -> "Source":
    from cloud.order import ImageFacts
    from cloud.source import Source
    from images.block import BlockDevice, FileDevice
    from images.cloud_rules import refusals
    from images.containers.readers import open_container
    from images.errors import ImageError
    from images.inspect import inspect
    from images.sparse import device_sha256

    facts = inspect(path, _no_facts)
    # Whatever the file's format is, the clouds get the disk in it in a format of theirs.
    if reasons := refusals({**facts, "format": "raw"})["ec2"]:
        raise CvmbootError(f"{path}: {reasons[0]}")
    file = FileDevice(path)
    container = open_container(file)
    device: BlockDevice = container.device if container is not None else file
    before = _identity(path)
    with progress_bar(f"{path.name}: SHA-256") as progress:
        digest = device_sha256(device, progress)

    def check() -> None:
        if _identity(path) != before:
            raise ImageError(f"{path}: has changed while it was sent")

    signed = any(
        each["path"].upper() == _BOOT_FILE and each["pe"] and each["pe"].get("signatures") for each in facts["files"]
    )
    return Source(device, ImageFacts(digest, device.size, facts["boot"], signed), check=check)


def _no_facts(_blob: bytes, _digest: Callable[[str], bytes]) -> dict[str, Any]:
    return {"problem": None, "signers": []}


def _identity(path: Path) -> tuple[int, ...]:
    try:
        seen = os.stat(path)  # noqa: PTH116
    except OSError:
        return ()
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _pair(text: str) -> tuple[str, str]:
    source, colon, destination = text.rpartition(":")
    if not colon or not source or not destination:
        raise UsageError(f"--add {text[:80]}: wanted SRC:DEST, such as kernel:EFI/Linux/kernel")
    return source, destination
