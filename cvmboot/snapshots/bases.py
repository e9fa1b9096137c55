"""What lies under the disks of a machine: files and folders of the host, which must be as they were when it was frozen."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.media import Media
from cvmboot.snapshots.errors import BadState, SnapshotError
from images.errors import ImageError

if TYPE_CHECKING:
    from images.block import BlockDevice, FileDevice

FILE, FOLDER = "file", "folder"


def describe(media: Media) -> list[dict[str, Any]]:
    """Each base as plain data: path, kind, and what tells whether it has changed. SnapshotError if it is gone."""
    return [_describe(Path(os.path.realpath(path))) for path in media.disks()]


def _describe(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            return {"path": str(path), "kind": FOLDER, "mark": _mark_of_folder(path)}
        facts = path.stat()
        return {"path": str(path), "kind": FILE, "mark": f"{facts.st_size} {facts.st_mtime_ns}"}
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror or error}; the machine's disk lies there") from None


def _mark_of_folder(root: Path) -> str:
    """A digest over the names, sizes and times of everything in a folder."""
    from images.folder_scan import MOST_ENTRIES

    digest = hashlib.sha256()
    entries = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        entries += len(folders) + len(files)
        if entries > MOST_ENTRIES:
            raise SnapshotError(f"{root}: more than {MOST_ENTRIES} files, too many for a machine's disk")
        for name in sorted(files):
            path = Path(folder, name)
            facts = path.stat()
            line = f"{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


class Bases:
    """The bases of a snapshot, opened again. SnapshotError for one that is gone or has changed."""

    def __init__(self, described: list[dict[str, Any]]) -> None:
        self.devices: list[BlockDevice] = []
        self._files: list[FileDevice | None] = []
        try:
            for each in described:
                self._open(each)
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise BadState(f"its disks make no sense: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, described: dict[str, Any]) -> None:
        path = Path(described["path"])
        now = _describe(path)
        if now != described:
            raise SnapshotError(
                f"{path}: changed since the machine was frozen, whose disk it is; make the snapshot anew"
            )
        try:
            if described["kind"] == FOLDER:
                from images.folder_disk import FolderDisk

                self.devices.append(FolderDisk(path))
                self._files.append(None)
            else:
                from images.disk import open_device

                file, device = open_device(path)
                self.devices.append(device)
                self._files.append(file)
        except ImageError as error:
            raise SnapshotError(str(error)) from None

    def hand_over(self, media: Media) -> None:
        """Let the restored machine's disks close the files."""
        for disk, file in zip(media.disks().values(), self._files, strict=True):
            disk.file = file
        self._files.clear()

    def close(self) -> None:
        """Close what was not handed over."""
        for file in self._files:
            if file is not None:
                file.close()
        self._files.clear()
