"""What a file of a new image holds: bytes in memory, or a file of the host that must not change meanwhile."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Protocol

from images.errors import ImageError, UnfitInput
from images.fat.entry import SIZE_LIMIT
from images.host_file import HostFile
from images.sparse import Progress

_SPAN = 1 << 20
READ_LIMIT = 1 << 30
"""Bytes of a program that is read into memory as a whole."""


class Content(Protocol):
    """`size` bytes and their `sha256` (32 bytes)."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> bytes:
        """Of all bytes."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes of those that are there."""

    def check(self) -> None:
        """Raises ImageError if the bytes may have become others since `sha256` was computed."""


class Bytes:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).digest()

    def read(self, offset: int, count: int) -> bytes:
        """Content.read()."""
        return self.data[offset : offset + count]

    def check(self) -> None:
        """It cannot change."""


class FromHost:
    """A regular file of the host, read when its bytes are needed."""

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        """Reads it once for its digest. Raises UnfitInput if it cannot be read or is too large for FAT."""
        self.name = os.fspath(path)
        self._real = os.path.realpath(path)
        self._facts = self._look()
        self.size = self._facts[0]
        if self.size > SIZE_LIMIT:
            raise UnfitInput(f"{self.name}: {self.size} bytes, a file on FAT32 has at most {SIZE_LIMIT}")
        self._file = HostFile(self._real, self.size)
        state = hashlib.sha256()
        for offset in range(0, self.size, _SPAN):
            state.update(self.read(offset, min(_SPAN, self.size - offset)))
            if progress is not None:
                progress(offset, self.size)
        self.sha256 = state.digest()
        self.check()

    def read(self, offset: int, count: int) -> bytes:
        """Content.read(). Raises DeviceFailure."""
        return self._file.read(offset, count)

    def check(self) -> None:
        """Content.check(): size, times and inode are as they were."""
        if self._look() != self._facts:
            raise ImageError(f"{self.name}: changed while the image was made; try again when nobody writes to it")

    def _look(self) -> tuple[int, int, int, int]:
        try:
            facts = os.stat(self._real)  # noqa: PTH116  a name of the host, not a path to parse
        except OSError as error:
            raise UnfitInput(f"{self.name}: cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(facts.st_mode):
            raise UnfitInput(f"{self.name}: is no regular file")
        return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino


def read_program(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a program. Raises UnfitInput if it cannot be read, is no file, or has more than 1 GiB."""
    name = os.fspath(path)
    try:
        facts = Path(name).stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UnfitInput(f"{name}: is no regular file; name the EFI application or ELF unikernel to boot")
        if facts.st_size > READ_LIMIT:
            raise UnfitInput(f"{name}: {facts.st_size} bytes, a program has at most {READ_LIMIT}")
        return Path(name).read_bytes()
    except OSError as error:
        raise UnfitInput(f"{name}: cannot be read: {error.strerror}") from None
