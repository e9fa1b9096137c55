"""One look at a host folder: which of its files and directories a FAT volume can hold, and why not the others."""

# ruff: noqa: PTH116  names from the host are strings with surrogate escapes, not paths to parse.

import os
import stat
from pathlib import Path

from images.errors import ImageError, InvalidName, NotFound
from images.fat.entry import DIRECTORY_LIMIT, SIZE_LIMIT
from images.fat.names import SLOT
from images.fat_tree import TreeEntry
from images.host_file import HostFile
from images.tree import clean_name, fold

MOST_ENTRIES = 65536
MOST_BYTES = 1 << 40
_PROBLEMS_KEPT = 20
_SLOT_CHARS = 13
# ".", ".." or the label come before the names.
_SLOTS_LIMIT = DIRECTORY_LIMIT // SLOT - 2


class FolderEntry(TreeEntry):
    """A file or directory as it was when scanned."""

    __slots__ = ("host",)

    def __init__(self, name: str, host: str, facts: os.stat_result) -> None:
        """`host`: its path on the host without symbolic links; empty `name` for the root."""
        is_dir = stat.S_ISDIR(facts.st_mode)
        size = 0 if is_dir else facts.st_size
        super().__init__(
            name, size=size, modified=facts.st_mtime_ns, read=None if is_dir else HostFile(host, size).read
        )
        self.host = host
        self.read_only = not is_dir and not facts.st_mode & stat.S_IWUSR


class _Unfit(Exception):
    """Why a file cannot be on the volume."""


class FolderScan:
    """`root` with everything below it, in the same order for the same names; `problems`: a line for each left out."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises NotFound if `path` is no directory that can be listed, ImageError for more than a volume holds."""
        self.path = os.path.realpath(path)
        if not Path(self.path).is_dir() or not os.access(self.path, os.R_OK | os.X_OK):
            raise NotFound(f"{path}: not a directory that can be read; name an existing folder")
        self.problems: list[str] = []
        self.total = 0
        self._seen = 0
        self._skipped = 0
        self.root = FolderEntry("", self.path, os.stat(self.path))
        work: list[tuple[FolderEntry, tuple[str, ...]]] = [(self.root, (self.path,))]
        while work:
            directory, above = work.pop()
            children = self._list(directory, above)
            directory.children.extend(children)
            work.extend((child, (*above, child.host)) for child in reversed(children) if child.is_dir)
        if self._skipped > _PROBLEMS_KEPT:
            self.problems.append(f"{self._skipped - _PROBLEMS_KEPT} more files are left out for such reasons")

    def _list(self, directory: FolderEntry, above: tuple[str, ...]) -> list[FolderEntry]:
        children: list[FolderEntry] = []
        found: list[tuple[str, str, FolderEntry]] = []
        try:
            with os.scandir(directory.host) as listing:
                for item in listing:
                    self._count(item.path)
                    try:
                        found.append((fold(item.name), item.name, self._take(item, above)))
                    except OSError as error:
                        self._skip(item.path, f"cannot be looked at: {error.strerror}")
                    except _Unfit as reason:
                        self._skip(item.path, str(reason))
        except OSError as error:
            self._skip(directory.host, f"cannot be listed: {error.strerror}")
        found.sort(key=lambda item: item[:2])
        slots = 0
        previous: tuple[str, str] | None = None
        for key, name, entry in found:
            if previous is not None and previous[0] == key:
                self._skip(entry.host, f"differs from {previous[1]!r} in case only, which FAT cannot tell apart")
                continue
            needed = 1 + -(-len(name.encode("utf-16-le")) // (2 * _SLOT_CHARS))
            if slots + needed > _SLOTS_LIMIT:
                self._skip(entry.host, f"a FAT directory holds {DIRECTORY_LIMIT >> 20} MiB of names")
                continue
            slots += needed
            previous = (key, name)
            self.total += entry.size
            children.append(entry)
        if self.total > MOST_BYTES:
            raise ImageError(f"{self.path}: more than {MOST_BYTES >> 40} TiB of files; give a folder with less in it")
        return children

    def _take(self, item: "os.DirEntry[str]", above: tuple[str, ...]) -> FolderEntry:
        try:
            item.name.encode()
        except UnicodeEncodeError:
            raise _Unfit("its name is not UTF-8") from None
        try:
            if clean_name(item.name) != item.name:
                raise _Unfit("FAT cannot hold a name with a blank before it, or a blank or dot after it")
        except InvalidName:
            raise _Unfit('FAT cannot hold its name: at most 255 characters, none of " * / : < > ? \\ |') from None
        host = item.path
        if item.is_symlink():
            host = os.path.realpath(host)
            if not host.startswith(self.path.rstrip("/") + "/") and host != self.path:
                raise _Unfit("a link that leads out of the folder")
            if host in above:
                raise _Unfit("a link to a directory that holds it")
            facts = os.stat(host, follow_symlinks=False)
        else:
            facts = item.stat(follow_symlinks=False)
        if stat.S_ISREG(facts.st_mode):
            if facts.st_size > SIZE_LIMIT:
                raise _Unfit(f"{facts.st_size} bytes, a file on FAT has at most {SIZE_LIMIT}")
        elif not stat.S_ISDIR(facts.st_mode):
            raise _Unfit("neither a file nor a directory")
        return FolderEntry(item.name, host, facts)

    def _count(self, path: str) -> None:
        self._seen += 1
        if self._seen > MOST_ENTRIES:
            raise ImageError(f"{self.path}: more than {MOST_ENTRIES} files; give a folder with fewer, or a disk image")

    def _skip(self, path: str, reason: str) -> None:
        self._skipped += 1
        if self._skipped <= _PROBLEMS_KEPT:
            inside = os.path.relpath(path, self.path)
            shown = inside if inside.isprintable() else ascii(inside)
            self.problems.append(f"{shown} is left out: {reason}")
