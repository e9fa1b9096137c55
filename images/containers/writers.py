"""Which formats can be written, what their files are called, and which disk sizes they take."""

import os
from collections.abc import Callable
from typing import BinaryIO

from images.block import BlockDevice
from images.errors import UnfitInput
from images.sparse import Progress

GIB = 1 << 30
_MIB = 1 << 20
Writer = Callable[[BlockDevice, BinaryIO, Progress | None], None]


class Format:
    """One format. `unit`: the disk's size must be a multiple of so many bytes; `reason` says who wants that; `most` bytes."""

    def __init__(
        self,
        name: str,
        suffixes: tuple[str, ...],
        what: str,
        load: Callable[[], Writer],
        unit: int = 512,
        reason: str = "",
        most: int = 64 << 40,
    ) -> None:
        self.name = name
        self.suffixes = suffixes
        self.what = what
        self.unit = unit
        self.reason = reason
        self.most = most
        self._load = load

    def check_size(self, size: int) -> None:
        """Raises UnfitInput for a disk of `size` bytes that this format, or the cloud that it is for, does not take."""
        if size % self.unit:
            fits = -(-size // self.unit) * self.unit
            raise UnfitInput(f"a disk of {size} bytes as {self.name}: {self.reason}; --size {fits} would do")
        if size > self.most:
            raise UnfitInput(
                f"a disk of {size} bytes as {self.name}: at most {self.most} can be; give a smaller --size"
            )

    def write(self, device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
        """Writes all of `device` to an empty, seekable file, the same bytes each time; memory does not grow with it.

        OSError where the host cannot write, ImageError where the device cannot be read.
        """
        self._load()(device, file, progress)


def _raw() -> Writer:
    from images.containers.raw_write import write_raw

    return write_raw


def _gce() -> Writer:
    from images.containers.gce_write import write_gce

    return write_gce


def _vmdk() -> Writer:
    from images.containers.vmdk_write import write_vmdk

    return write_vmdk


def _vhd() -> Writer:
    from images.containers.vhd_write import write_vhd

    return write_vhd


def _qcow2() -> Writer:
    from images.containers.qcow2_write import write_qcow2

    return write_qcow2


def _qcow2_plain() -> Writer:
    from images.containers.qcow2_write import write_qcow2_plain

    return write_qcow2_plain


FORMATS = {
    entry.name: entry
    for entry in (
        Format("raw", (".raw", ".img"), "the disk's bytes, with holes", _raw),
        Format(
            "gce", (".tar.gz", ".tgz"), "Google Compute Engine's disk.raw in tar.gz", _gce, GIB,
            "Google takes whole GiB only",
        ),
        Format("vmdk", (".vmdk",), "VMDK streamOptimized", _vmdk, _MIB, "VMware and Amazon take whole MiB only", 2 << 40),
        Format("vhd", (".vhd",), "VHD, fixed", _vhd, _MIB, "Azure takes whole MiB only", 2040 * GIB),
        Format("qcow2", (".qcow2", ".qcow"), "qcow2 version 3, compressed with zlib", _qcow2),
        Format("qcow2-plain", (), "qcow2 version 3, not compressed", _qcow2_plain),
    )
}  # fmt: skip


def format_for(path: str | os.PathLike[str], name: str | None = None) -> Format:
    """The format called `name`, or the one that the file's name ends like. Raises UnfitInput if there is none."""
    if name is not None:
        if name not in FORMATS:
            raise UnfitInput(f"format {name}: wanted {', '.join(FORMATS)}")
        return FORMATS[name]
    text = os.fspath(path).lower()
    for entry in FORMATS.values():
        if text.endswith(entry.suffixes):
            return entry
    known = ", ".join(suffix for entry in FORMATS.values() for suffix in entry.suffixes)
    raise UnfitInput(f"{os.fspath(path)}: the name says no format (known: {known}); name one with --format")
