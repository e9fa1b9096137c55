"""Unikernels on disks that a BIOS boots: which of the files that `cvmboot run` is given are that."""

from pathlib import Path
from typing import TYPE_CHECKING

from cvmboot.errors import CvmbootError
from images.errors import ImageError

if TYPE_CHECKING:
    from images.bios.program import DiskProgram


def program_of(image: Path) -> "DiskProgram | None":
    """The program on a disk that a BIOS boots; None for any other file. CvmbootError for a damaged disk of that kind."""
    from images.bios.program import program_on
    from images.disk import open_device

    try:
        file, device = open_device(image)
    except ImageError:
        return None  # no disk, or one that whoever opens it next says what is wrong with
    try:
        return program_on(device)
    except ImageError as error:
        raise CvmbootError(f"{image}: {error}") from None
    finally:
        file.close()
