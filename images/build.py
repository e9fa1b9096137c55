"""From a program to an image file: composes the disk, writes it in a format, and says what came of it."""

import os
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from images.block import FileDevice
from images.compose import DEFAULT_LABEL, Composition, Kernel, compose
from images.containers.deflate import ZLIB
from images.containers.writers import Format, format_for
from images.output_file import check_output, new_file
from images.sparse import Progress, device_sha256
from loader.authenticode_sign import Signer

__all__ = ["BuiltImage", "build", "write"]


class BuiltImage:
    """An image file that was written: `path`, `format` ("raw", "gce", ...) and the `composition` in it."""

    def __init__(self, path: str, format_name: str, composition: Composition) -> None:
        self.path = path
        self.format = format_name
        self.composition = composition
        self.file_size = os.stat(path).st_size  # noqa: PTH116
        self._sha256: str | None = None
        self._raw_sha256: str | None = None

    @property
    def boot(self) -> str:
        """ "uefi" or "bios"."""
        return self.composition.boot

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.composition.size

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal; read when first asked for."""
        return self.digests()[0]

    @property
    def raw_sha256(self) -> str:
        """Of the disk, in hexadecimal, whatever the format; read when first asked for."""
        return self.digests()[1]

    def digests(self, progress: Progress | None = None) -> tuple[str, str]:
        """(`sha256`, `raw_sha256`). Zeros have to be hashed too: half a second a GiB. Raises ImageError."""
        if self._sha256 is None or self._raw_sha256 is None:
            self._raw_sha256 = self.composition.sha256(progress)
            if self.format == "raw":
                self._sha256 = self._raw_sha256
            else:
                with closing(FileDevice(self.path)) as file:
                    self._sha256 = device_sha256(file, progress)
        return self._sha256, self._raw_sha256

    def to_json(self, *, digests: bool = True) -> dict[str, Any]:
        """Plain data; without `digests` those of file and disk, which take time, are None."""
        file_digest, disk_digest = self.digests() if digests else (None, None)
        return {
            "path": self.path,
            "format": self.format,
            "boot": self.boot,
            "file_size": self.file_size,
            "sha256": file_digest,
            "disk_size": self.size,
            "disk_sha256": disk_digest,
            "zlib": ZLIB if self.format in {"gce", "vmdk", "qcow2"} else None,
            "application_sha256": self.composition.application,
            "identity": self.composition.identity.hex(),
            "esp_size": self.composition.esp_size,
            "files": [{"path": path, "size": size, "sha256": digest} for path, size, digest in self.composition.files],
        }


def build(
    application: str | os.PathLike[str] | bytes,
    output: str | os.PathLike[str],
    *,
    format_name: str | None = None,
    size: int | None = None,
    esp_size: int | None = None,
    add: Iterable[tuple[str | os.PathLike[str], str]] = (),
    kernel: Kernel | None = None,
    label: str = DEFAULT_LABEL,
    epoch: int | None = None,
    signer: Signer | None = None,
    command_line: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> BuiltImage:
    """Writes the disk that boots `application` to `output`, and gives what was written.

    What the disk is made of (`application` to `command_line`): as images.compose.compose() takes it.
    `format_name`: "raw", "gce", ...; by default as the file's name ends (.raw, .tar.gz, ...). `force`: overwrite.
    `progress(done, total)` is called as the disk's bytes are written. The file appears when it is complete; when
    anything fails there is none, and an older one is as it was. No root, no mounts, constant memory.

    Raises UnfitInput (what was given cannot be used), OutputExists, ImageError (disk full, no permission, a file that
    changed meanwhile): one line each that says what to do.
    """
    kind = format_for(output, format_name)
    check_output(output, force=force)
    composition = compose(
        application,
        size=size,
        esp_size=esp_size,
        add=add,
        kernel=kernel,
        label=label,
        epoch=epoch,
        signer=signer,
        command_line=command_line,
    )
    return write(composition, output, kind, force=force, progress=progress)


def write(
    composition: Composition,
    output: str | os.PathLike[str],
    kind: Format,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> BuiltImage:
    """Writes a composed disk in format `kind`; as build()."""
    kind.check_size(composition.size)
    with new_file(output, force=force) as file:
        kind.write(composition.device, file, progress)
        composition.check()
    return BuiltImage(os.fspath(output), kind.name, composition)
