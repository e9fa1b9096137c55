"""Which files a new EFI system partition gets, and where: collected from single files and from folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from images.content import Bytes, Content, FromHost
from images.errors import InvalidName, NotFound, UnfitInput
from images.fat_tree import TreeEntry
from images.folder_scan import FolderEntry, FolderScan
from images.sparse import Progress
from images.tree import PATH_LIMIT, clean_name, fold

MOST_FILES = 65536


class FileList:
    """Files by their path on the volume. Case does not tell names apart, as on FAT."""

    def __init__(self, progress: Progress | None = None) -> None:
        """`progress` is told of each file of the host while it is read for its digest."""
        self._progress = progress
        self._files: dict[tuple[str, ...], tuple[tuple[str, ...], Content | None]] = {}

    def put(self, path: str, content: Content) -> None:
        """Puts a file at `path`, with slashes or backslashes. Raises UnfitInput: a bad name, or one that is taken."""
        parts = _parts(path)
        if not parts:
            raise UnfitInput(f"{path!r} names no file on the EFI system partition")
        self._put(parts, content)

    def add(self, source: str | os.PathLike[str], destination: str) -> None:
        """Puts a file of the host, or a folder with all that is in it, at `destination`.

        A destination that ends in a slash is a directory to put it into. A folder's contents go into the directory
        `destination`. Raises UnfitInput: not readable, a bad or taken name, anything in a folder that FAT cannot hold.
        """
        name = os.fspath(source)
        if not Path(name).is_dir():
            if not Path(name).exists():
                raise UnfitInput(f"{name}: no such file or folder; look at the name given to --add")
            into = not destination or destination[-1] in "/\\"
            self.put(f"{destination}/{Path(name).name}" if into else destination, self.from_host(name))
            return
        try:
            scan = FolderScan(name)
        except NotFound as error:
            raise UnfitInput(str(error)) from None
        if scan.problems:
            raise UnfitInput(f"{name}: {scan.problems[0]}; rename or remove it, or add the files one by one")
        self._add_folder(scan.root, _parts(destination))

    def from_host(self, path: str) -> FromHost:
        """A file of the host, read once. Raises UnfitInput."""
        return FromHost(path, self._progress)

    def _add_folder(self, folder: FolderEntry, parts: tuple[str, ...]) -> None:
        if parts:
            self._put(parts, None)
        for child in folder.children:
            assert isinstance(child, FolderEntry)
            inner = (*parts, child.name)
            if child.is_dir:
                self._add_folder(child, inner)
            else:
                self._put(inner, self.from_host(child.host))

    def _put(self, parts: tuple[str, ...], content: Content | None) -> None:
        """`content` None: a directory."""
        shown = "\\" + "\\".join(parts)
        if len(shown) > PATH_LIMIT:
            raise UnfitInput(f"{shown[:60]}...: a path on FAT has at most {PATH_LIMIT} characters")
        for depth in range(1, len(parts)):
            above = self._files.setdefault(_key(parts[:depth]), (parts[:depth], None))
            if above[1] is not None:
                raise UnfitInput(f"{shown}: {parts[depth - 1]} is a file already, it cannot be a directory too")
        known = self._files.get(_key(parts))
        if known is not None and (known[1] is not None or content is not None):
            what = "directory" if known[1] is None else "file"
            raise UnfitInput(f"{shown}: there is a {what} of that name on the image already; give another destination")
        if known is None:
            self._files[_key(parts)] = parts, content
        if len(self._files) > MOST_FILES:
            raise UnfitInput(f"more than {MOST_FILES} files and directories; an image takes fewer")

    def __iter__(self) -> Iterator[tuple[str, Content | None]]:
        """(path with backslashes, content) in the order of the paths; None for a directory."""
        for _, (parts, content) in sorted(self._files.items()):
            yield "\\" + "\\".join(parts), content

    def tree(self, modified: int) -> TreeEntry:
        """The root with everything in it; `modified`: ns since 1970, of all files."""
        root = TreeEntry("", modified=modified)
        made: dict[tuple[str, ...], TreeEntry] = {(): root}
        for key, (parts, content) in sorted(self._files.items()):
            size, read = (0, None) if content is None else (content.size, content.read)
            entry = made[key] = TreeEntry(parts[-1], size=size, modified=modified, read=read)
            made[key[:-1]].children.append(entry)
        return root

    def check(self) -> None:
        """Raises ImageError if a file has changed since it was put here."""
        for _, content in self._files.values():
            if content is not None:
                content.check()


def loader_entry(files: FileList, linux: str, initrds: Iterable[str], *, title: str, options: str, name: str) -> None:
    """Puts a kernel with its initial RAM disks on the volume, and the entry that names them, `\\loader\\entries\\NAME.conf`.

    UAPI group, Boot Loader Specification, type #1 entries: go-boot, systemd-boot and others read them.
    Raises UnfitInput for files that cannot be read, taken names, and line breaks in the texts.
    """
    for what, text in (("title", title), ("kernel command line", options), ("entry name", name)):
        if any(ord(char) < 0x20 for char in text):
            raise UnfitInput(f"the {what} {text!r} has control characters in it")
    lines = [f"title {title}"]
    for keyword, source in (("linux", linux), *(("initrd", one) for one in initrds)):
        path = f"/{Path(source).name}"
        files.put(path, files.from_host(source))
        lines.append(f"{keyword} {path}")
    if options:
        lines.append(f"options {options}")
    files.put(f"\\loader\\entries\\{name}.conf", Bytes(("\n".join(lines) + "\n").encode()))


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(fold(part) for part in parts)


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(part for part in path.replace("/", "\\").split("\\") if part)
    for part in parts:
        try:
            fits = clean_name(part) == part
        except InvalidName:
            fits = False
        if not fits:
            raise UnfitInput(
                f'{path!r}: {part!r} is no name for FAT: at most 255 characters, none of " * : < > ? |, '
                "no blank at its ends, no dot at its end"
            )
    return parts
