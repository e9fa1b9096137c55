"""The files that cases name: their digests, and their bytes for workers elsewhere; a folder counts as one file, a tar archive."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

from cvmboot.errors import CvmbootError

LARGEST = 1 << 30
"""Bytes of one file or folder that go to a cluster."""
MOST_FILES = 10_000


class Contents:
    """Each path is looked at once. CvmbootError for what cannot be read."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes, or of the names and bytes in a folder."""
        if path not in self._digests:
            digest = hashlib.sha256()
            try:
                if not path.is_dir():
                    _add(digest, path)
                else:
                    for name, file in _files(path):
                        digest.update(f"{len(os.fsencode(name))}:".encode() + os.fsencode(name))
                        digest.update(f"{file.stat().st_size}:".encode())
                        _add(digest, file)
            except OSError as error:
                raise CvmbootError(f"{error.filename or path}: {error.strerror}") from None
            self._digests[path] = digest.hexdigest()
        return self._digests[path]

    def data(self, path: Path) -> bytes:
        """A file's bytes, or a folder's tar archive."""
        try:
            if not path.is_dir():
                size = path.stat().st_size
                if size > LARGEST:
                    raise CvmbootError(f"{path}: {size} bytes; --cluster carries files of at most {LARGEST}")
                return path.read_bytes()
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, file in _files(path):
                    if archive.tell() + file.stat().st_size > LARGEST:
                        raise CvmbootError(f"{path}: more than {LARGEST} bytes in it; --cluster does not carry so many")
                    tar.add(file.resolve(), arcname=name, recursive=False)
            return archive.getvalue()
        except OSError as error:
            raise CvmbootError(f"{error.filename or path}: {error.strerror}") from None


def place(data: bytes, is_folder: bool, path: Path) -> None:
    """Make the file or folder that `Contents.data` gave."""
    if not is_folder:
        path.write_bytes(data)
        return
    path.mkdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(path, filter="data")


def _add(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _files(folder: Path) -> list[tuple[str, Path]]:
    """The regular files in a folder by their names from there, in order. Linked folders are not gone into."""
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.is_file():
                found.append((str(path.relative_to(folder)), path))
        if len(found) > MOST_FILES:
            raise CvmbootError(f"{folder}: more than {MOST_FILES} files in it")
    return found
