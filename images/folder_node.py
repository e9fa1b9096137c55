"""A file or directory of a HostFolder: backed by the host, changed in memory, or new."""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH112, PTH113, PTH116, PTH118
# Names come from the host with surrogate escapes and go to system calls: they are strings, not paths to parse.

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from images.cow import CowBytes
from images.errors import (
    AccessDenied,
    DeviceFailure,
    DirectoryNotEmpty,
    FileSystemError,
    InvalidName,
    VolumeFull,
    WriteProtected,
)
from images.tree import ARCHIVE, DIRECTORY, READ_ONLY, FileInfo, fold

if TYPE_CHECKING:
    from images.host_folder import HostFolder

BLOCK_SIZE = 4096
NODE_COST = 1024  # bytes of budget that a new entry counts for, so that empty files cannot fill the host's memory
# A directory changed this recently may change again within one tick of its time stamp: do not trust the stamp yet.
_RACY_NS = 50_000_000
_OF_THE_HOST = frozenset(("host", "link", "_stamp"))

_OS_ERRORS: dict[int | None, type[FileSystemError]] = {
    errno.ENOSPC: VolumeFull,
    errno.EDQUOT: VolumeFull,
    errno.EFBIG: VolumeFull,
    errno.EROFS: WriteProtected,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EEXIST: AccessDenied,
    errno.ETXTBSY: AccessDenied,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.ENAMETOOLONG: InvalidName,
    errno.EINVAL: InvalidName,
}


def _host_error(path: str, error: OSError | ValueError) -> FileSystemError | DeviceFailure:
    if isinstance(error, OSError):
        kind = _OS_ERRORS.get(error.errno, DeviceFailure)
        return kind(f"{path}: {error.strerror or error}")
    return InvalidName(f"{path!r}: the host cannot store this name")


class FolderNode:
    """One file or directory: backed by the host, changed in memory, or new (images.tree.Node)."""

    __slots__ = (
        "_attributes",
        "_children",
        "_content",
        "_fenced",
        "_folded",
        "_hidden",
        "_stamp",
        "_times",
        "folder",
        "host",
        "is_dir",
        "link",
        "name",
        "parent",
        "removed",
    )

    def __init__(self, folder: "HostFolder", parent: "FolderNode | None", name: str, host: str | None, is_dir: bool):
        """`host`: the real path that backs it, None for one that lives in memory."""
        self.folder = folder
        self.parent = parent
        self.name = name
        self.host = host
        self.link: str | None = None  # the symbolic link's own path where one leads to `host`
        self.is_dir = is_dir
        self.removed = False
        self._attributes: int | None = None
        self._times: list[int | None] = [None, None, None]
        self._content: CowBytes | None = None
        self._children: dict[str, FolderNode] = {}
        self._folded: dict[str, str] = {}
        self._hidden: set[str] = set()  # names in the host's directory that the guest deleted or moved away
        self._fenced: set[str] = set()  # folded names of links that lead out: neither shown nor opened nor replaced
        self._stamp: int | None = None
        if host is None:
            folder.budget.take(NODE_COST)
            if not is_dir:
                self._content = CowBytes(self._pread, 0, folder.budget)

    def __getstate__(self) -> dict[str, Any]:
        """All of a node that lives in memory; TypeError for one that stands for a file of the host."""
        if self.host is not None:
            raise TypeError(f"{self.host}: a file of the host is not part of a machine's state")
        return {name: getattr(self, name) for name in self.__slots__ if name not in _OF_THE_HOST}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from images.memory_folder import MemoryFolder

        if not isinstance(state["folder"], MemoryFolder) or any(name in state for name in _OF_THE_HOST):
            raise ValueError("a file in memory belongs to a volume in memory")
        self.host = self.link = self._stamp = None
        for name, value in state.items():
            object.__setattr__(self, name, value)

    # What the tree asks

    def info(self) -> FileInfo:
        """Facts of the host's file, overlaid by what changed; all three times are the host's modification time.

        The host's access and change times move by mere reading or copying: two runs of one image would differ.
        """
        modified, attributes = None, DIRECTORY if self.is_dir else ARCHIVE
        size = BLOCK_SIZE if self.is_dir else 0
        if self.host is not None:
            facts = self._stat()
            modified = facts.st_mtime_ns
            if not self.is_dir:
                size = facts.st_size
                if not facts.st_mode & stat.S_IWUSR:
                    attributes |= READ_ONLY
        if self._content is not None:
            size = self._content.size
        if self._attributes is not None:
            attributes = self._attributes
        created, accessed, changed = (modified if time is None else time for time in self._times)
        return FileInfo(
            self.name,
            attributes,
            size=size,
            physical_size=-(-size // BLOCK_SIZE) * BLOCK_SIZE,
            created=created,
            accessed=accessed,
            modified=changed,
        )

    def child(self, name: str) -> "FolderNode | None":
        """The entry `name`: exactly so spelled if there is one, else by any case."""
        self._refresh()
        key = fold(name)
        if key in self._fenced and name not in self._children:
            raise AccessDenied(f"{name}: a link that leads out of the folder")
        return self._children.get(name) or self._children.get(self._folded.get(key, ""))

    def entries(self) -> list[FileInfo]:
        """All entries, sorted by name without regard to case."""
        self._refresh()
        listed = []
        for _, child in sorted((fold(name), name) for name in self._children):
            try:
                listed.append(self._children[child].info())
            except DeviceFailure:
                continue  # the host removed it since the listing
        return listed

    def create(self, name: str, attributes: int) -> "FolderNode":
        """A new entry, in memory or on the host."""
        is_dir = bool(attributes & DIRECTORY)
        host = None
        if self.folder.write_through:
            host = os.path.join(self.host or "", name)
            try:
                if is_dir:
                    os.mkdir(host)
                else:
                    os.close(os.open(host, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            except (OSError, ValueError) as error:
                raise _host_error(name, error) from error
        node = FolderNode(self.folder, self, name, host, is_dir)
        extra = attributes & ~(DIRECTORY | ARCHIVE | READ_ONLY)
        if extra or host is None:
            node._attributes = extra | (DIRECTORY if is_dir else ARCHIVE)
        if host is None:
            node._times = [self.folder.now()] * 3
            self._touch()
        self.adopt(node)
        return node

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the host's file and what was written over them."""
        if self._content is not None:
            return self._content.read(offset, count)
        facts = self._stat()
        return self._pread(offset, min(count, facts.st_size - offset)) if offset < facts.st_size else b""

    def write(self, offset: int, data: bytes) -> None:
        """Into memory, or into the host's file."""
        if self.folder.write_through:
            self._on_host(os.O_WRONLY, lambda handle: _write_all(handle, data, offset))
        else:
            self._check_room(offset + len(data))
            self._own_content().write(offset, data)
            self._touch()

    def resize(self, size: int) -> None:
        """In memory, or the host's file."""
        if self.folder.write_through:
            self._on_host(os.O_WRONLY, lambda handle: os.ftruncate(handle, size))
        else:
            self._check_room(size)
            self._own_content().resize(size)
            self._touch()

    def remove(self) -> None:
        """Takes it away from its directory."""
        parent = self.parent
        assert parent is not None
        if self.is_dir:
            self._refresh()
            if self._children or self._fenced:
                raise DirectoryNotEmpty(f"{self.name}: the directory is not empty")
        if self.folder.write_through:
            path = self.link or self.host or ""
            try:
                if self.is_dir and self.link is None:
                    os.rmdir(path)
                else:
                    os.unlink(path)
            except OSError as error:
                raise _host_error(self.name, error) from error
        parent._forget(self)
        self.removed = True
        if self._content is not None:
            self._content.clear()
        if self.host is None:
            self.folder.budget.give(NODE_COST)

    def move(self, parent: "FolderNode", name: str) -> None:
        """Into another directory or under another name."""
        origin = self.parent
        assert origin is not None
        if self.folder.write_through:
            source = self.link or self.host or ""
            target = os.path.join(parent.host or "", name)
            try:
                if os.path.lexists(target):
                    raise AccessDenied(f"{name}: exists already")
                os.rename(source, target)
            except (OSError, ValueError) as error:
                raise _host_error(name, error) from error
            if self.link is not None:
                self.link = target
            elif self.host is not None:
                self._rebase(self.host, target)
        origin._forget(self)
        self.parent, self.name = parent, name
        parent.adopt(self)
        if not self.folder.write_through:
            origin._touch()
            parent._touch()

    def set_attributes(self, attributes: int) -> None:
        """READ_ONLY becomes the owner's write permission when writing through; the rest lives in memory."""
        if self.folder.write_through and not self.is_dir and self.host is not None:
            mode = stat.S_IMODE(self._stat().st_mode)
            mode = mode & ~0o222 if attributes & READ_ONLY else mode | stat.S_IWUSR
            try:
                os.chmod(self.host, mode)
            except OSError as error:
                raise _host_error(self.name, error) from error
        self._attributes = attributes & ~DIRECTORY | (DIRECTORY if self.is_dir else 0)

    def set_times(self, created: int | None, accessed: int | None, modified: int | None) -> None:
        """The modification time goes to the host when writing through; the others live in memory."""
        if self.folder.write_through and modified is not None and self.host is not None:
            try:
                os.utime(self.host, ns=(modified, modified))
            except (OSError, ValueError, OverflowError) as error:
                raise DeviceFailure(f"{self.name}: the host did not take the time {modified} ns: {error}") from error
            modified = None
        for index, value in enumerate((created, accessed, modified)):
            if value is not None:
                self._times[index] = value

    # What the folder asks

    def adopt(self, node: "FolderNode") -> None:
        """Takes `node` as a child under its name."""
        self._children[node.name] = node
        self._folded.setdefault(fold(node.name), node.name)

    def hold(self, name: str, read: Callable[[int, int], bytes], size: int, facts: os.stat_result) -> None:
        """Takes a file whose first contents `read(offset, count)` gives, with the times of the host's file that it was."""
        node = FolderNode(self.folder, self, name, None, False)
        node._content = CowBytes(read, size, self.folder.budget)
        node._times = [facts.st_mtime_ns] * 3
        node._attributes = ARCHIVE if facts.st_mode & stat.S_IWUSR else ARCHIVE | READ_ONLY
        self.adopt(node)

    def known_children(self) -> list["FolderNode"]:
        """The children seen so far; what is not among them is as it is on the host."""
        return list(self._children.values())

    def changed(self) -> bool:
        """Whether it differs from the host, or is not where the host has it; its children aside."""
        return (
            self._content is not None
            or self._attributes is not None
            or self._times != [None, None, None]
            or bool(self._hidden)
            or not self._at_home()
        )

    def save(self, parent: int) -> dict[str, Any]:
        """This node alone as plain data; `parent` is its number in the list."""
        return {
            "parent": parent,
            "name": self.name,
            "host": self._relative(self.host),
            "link": self._relative(self.link),
            "is_dir": self.is_dir,
            "attributes": self._attributes,
            "times": list(self._times),
            "hidden": sorted(self._hidden),
            "content": self._content.save() if self._content is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes what save() returned."""
        self.link = None if state["link"] is None else self.folder.path + state["link"]
        self._attributes = state["attributes"]
        self._times = list(state["times"])
        self._hidden = set(state["hidden"])
        if state["content"] is not None:
            self._content = CowBytes(self._pread, 0, self.folder.budget)
            self._content.load(state["content"])

    # The host's side

    def _relative(self, path: str | None) -> str | None:
        return None if path is None else path[len(self.folder.path) :]

    def _stat(self) -> os.stat_result:
        try:
            return os.stat(self.host or "", follow_symlinks=False)
        except OSError as error:
            raise DeviceFailure(f"{self.name}: gone from the host: {error.strerror}") from error

    def _pread(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes of the host's file; zeros where it became shorter."""
        parts: list[bytes] = []

        def read(handle: int) -> None:
            position, left = offset, count
            while left > 0 and (piece := os.pread(handle, left, position)):
                parts.append(piece)
                position += len(piece)
                left -= len(piece)
            if left > 0:
                parts.append(bytes(left))

        self._on_host(os.O_RDONLY, read)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _on_host(self, flags: int, action: Callable[[int], None]) -> None:
        # Opened for each call: nothing to close later, no limit of descriptors. O_NONBLOCK: it may be a FIFO by now.
        try:
            handle = os.open(self.host or "", flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _host_error(self.name, error) from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DeviceFailure(f"{self.name}: is no longer a regular file on the host")
            action(handle)
        except OSError as error:
            raise _host_error(self.name, error) from error
        finally:
            os.close(handle)

    def _check_room(self, size: int) -> None:
        limit = self.folder.budget.limit
        if size > limit and size > self.info().size:
            raise VolumeFull(f"{self.name}: {size} bytes, the volume holds {limit}")

    def _own_content(self) -> CowBytes:
        if self._content is None:
            self._content = CowBytes(self._pread, self._stat().st_size, self.folder.budget)
        return self._content

    def _touch(self) -> None:
        self._times[1] = self._times[2] = self.folder.now()
        if self._attributes is not None and not self.is_dir:
            self._attributes |= ARCHIVE

    def _at_home(self) -> bool:
        if self.parent is None:
            return True
        above, origin = self.parent.host, self.link or self.host
        return above is not None and origin == os.path.join(above, self.name)

    def _forget(self, node: "FolderNode") -> None:
        self._children.pop(node.name, None)
        if node._at_home() and not self.folder.write_through:
            self._hidden.add(node.name)
        self._index()

    def _index(self) -> None:
        self._folded = {}
        for name in sorted(self._children):
            self._folded.setdefault(fold(name), name)

    def _rebase(self, old: str, new: str) -> None:
        work = [self]
        while work:
            node = work.pop()
            if node.host is not None and (node.host == old or node.host.startswith(old + "/")):
                node.host = new + node.host[len(old) :]
            if node.link is not None and node.link.startswith(old + "/"):
                node.link = new + node.link[len(old) :]
            work.extend(node._children.values())

    def _refresh(self) -> None:
        """Reads the host's directory again if it changed."""
        if self.host is None:
            return
        stamp = self._stat().st_mtime_ns
        if stamp == self._stamp:
            return
        self._stamp = stamp if time.time_ns() - stamp > _RACY_NS else None
        found: dict[str, tuple[str, str | None, bool]] = {}
        fenced: set[str] = set()
        try:
            with os.scandir(self.host) as scan:
                for entry in scan:
                    if entry.name in self._hidden:
                        continue
                    if entry.is_symlink():
                        real = os.path.realpath(entry.path)
                        if not self._may_follow(real):
                            fenced.add(fold(entry.name))
                        elif os.path.isdir(real) or os.path.isfile(real):
                            found[entry.name] = (real, entry.path, os.path.isdir(real))
                    elif entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                        found[entry.name] = (entry.path, None, entry.is_dir(follow_symlinks=False))
        except OSError as error:
            raise _host_error(self.name or self.folder.path, error) from error
        self._merge(found)
        self._fenced = fenced

    def _merge(self, found: dict[str, tuple[str, str | None, bool]]) -> None:
        for name, child in list(self._children.items()):
            listed = found.get(name)
            # What the guest made, changed or brought here stays, whatever the host does meanwhile.
            ours = child._content is not None or not child._at_home()
            if not ours and (listed is None or listed[2] != child.is_dir or listed[0] != child.host):
                del self._children[name]
        for name, (host, link, is_dir) in found.items():
            if name not in self._children:
                node = FolderNode(self.folder, self, name, host, is_dir)
                node.link = link
                self._children[name] = node
        self._index()

    def _may_follow(self, real: str) -> bool:
        """A link must lead into the folder, to something that is there, and not to a directory that holds the link."""
        inside = real == self.folder.path or real.startswith(self.folder.path.rstrip("/") + "/")
        if not inside or not os.path.lexists(real):
            return False
        node: FolderNode | None = self
        while node is not None:
            if node.host == real:
                return False
            node = node.parent
        return True


def _write_all(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view = view[written:]
        offset += written
