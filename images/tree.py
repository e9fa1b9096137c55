"""A tree of files as EFI_SIMPLE_FILE_SYSTEM_PROTOCOL needs it: what a volume offers, and the handles opened on it."""

from typing import Protocol, Self

from images.errors import (
    AccessDenied,
    DeviceFailure,
    InvalidName,
    IsADirectory,
    NotADirectory,
    NotFound,
    WriteProtected,
)

# EFI_FILE_INFO.Attribute (UEFI 2.10, 13.5, EFI_FILE_PROTOCOL.Open()); the FAT directory entry has the same bits.
READ_ONLY = 0x01
HIDDEN = 0x02
SYSTEM = 0x04
DIRECTORY = 0x10
ARCHIVE = 0x20
VALID_ATTRIBUTES = READ_ONLY | HIDDEN | SYSTEM | DIRECTORY | ARCHIVE

# FAT specification 1.03, "Long Directory Entries": 255 characters a name, 260 a path with drive letter and NUL.
NAME_LIMIT = 255
PATH_LIMIT = 256
_FORBIDDEN = frozenset('"*/:<>?\\|') | {chr(code) for code in range(0x20)}


class FileInfo:
    """What EFI_FILE_INFO tells of a file; times are ns since 1970 by the volume's own clock, None if unknown."""

    __slots__ = ("accessed", "attributes", "created", "modified", "name", "physical_size", "size")

    def __init__(
        self,
        name: str,
        attributes: int,
        *,
        size: int = 0,
        physical_size: int = 0,
        created: int | None = None,
        accessed: int | None = None,
        modified: int | None = None,
    ) -> None:
        """Sizes in bytes; `attributes` as EFI_FILE_INFO.Attribute."""
        self.name = name
        self.attributes = attributes
        self.size = size
        self.physical_size = physical_size
        self.created = created
        self.accessed = accessed
        self.modified = modified

    @property
    def is_dir(self) -> bool:
        """Whether EFI_FILE_DIRECTORY is set."""
        return bool(self.attributes & DIRECTORY)

    def renamed(self, name: str) -> "FileInfo":
        """The same facts under another name."""
        return FileInfo(
            name,
            self.attributes,
            size=self.size,
            physical_size=self.physical_size,
            created=self.created,
            accessed=self.accessed,
            modified=self.modified,
        )

    def __repr__(self) -> str:
        return f"FileInfo({self.name!r}, attributes=0x{self.attributes:x}, size={self.size})"


class Node(Protocol):
    """A file or directory of a volume, one object however often it is open. Names that come in are already valid."""

    @property
    def name(self) -> str:
        """Its name; empty for the root."""

    @property
    def parent(self) -> Self | None:
        """The directory that holds it; None for the root."""

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""

    @property
    def removed(self) -> bool:
        """Whether it was deleted while a handle was open."""

    def info(self) -> FileInfo:
        """Its size, attributes and times."""

    def child(self, name: str) -> Self | None:
        """The entry of this directory by that name, whatever the case; AccessDenied for one that is fenced off."""

    def entries(self) -> list[FileInfo]:
        """The directory's entries without "." and "..", always in the same order."""

    def create(self, name: str, attributes: int) -> Self:
        """A new, empty file or (with DIRECTORY) directory in this directory, which has none of that name."""

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`."""

    def write(self, offset: int, data: bytes) -> None:
        """Writes at `offset`, extending the file; a gap becomes zeros."""

    def resize(self, size: int) -> None:
        """Truncates or extends with zeros to `size` bytes."""

    def remove(self) -> None:
        """Deletes the file or empty directory; DirectoryNotEmpty otherwise."""

    def move(self, parent: Self, name: str) -> None:
        """Puts it into `parent` as `name`; no other entry has that name."""

    def set_attributes(self, attributes: int) -> None:
        """Sets all attributes but DIRECTORY."""

    def set_times(self, created: int | None, accessed: int | None, modified: int | None) -> None:
        """Sets those that are not None (ns since 1970)."""


class FileSystem(Protocol):
    """A volume: what EFI_FILE_SYSTEM_INFO tells, and its root. FatFileSystem and HostFolder are the two kinds."""

    @property
    def read_only(self) -> bool:
        """Whether nothing on it can change."""

    @property
    def block_size(self) -> int:
        """Bytes that files grow by."""

    @property
    def total_bytes(self) -> int:
        """Size of the volume in bytes."""

    @property
    def free_bytes(self) -> int:
        """Bytes free for new files."""

    @property
    def label(self) -> str:
        """The volume label, at most 11 characters on FAT."""

    def set_label(self, label: str) -> None:
        """Changes the label; InvalidName if it cannot be one, WriteProtected on a read-only volume."""

    def root(self) -> "File":
        """EFI_SIMPLE_FILE_SYSTEM_PROTOCOL.OpenVolume(): the root directory, opened read/write where that is allowed."""

    def flush(self) -> None:
        """Makes changes lasting where they are kept."""


def clean_name(component: str) -> str:
    """The name under which FAT would store `component`: outer blanks and trailing dots go; InvalidName if none is left.

    FAT specification 1.03, "Name Limits and Character Sets"; the trimming is what EFI FAT drivers do.
    """
    name = component.lstrip(" ").rstrip(" .")
    units = len(name) if name.isascii() else len(name.encode("utf-16-le", "surrogatepass")) // 2
    if not 0 < units <= NAME_LIMIT or not _FORBIDDEN.isdisjoint(name):
        shown = component if len(component) <= 40 else component[:40] + "..."
        raise InvalidName(f'{shown!r} is not a file name: 1 to {NAME_LIMIT} characters, none of " * / : < > ? \\ |')
    return name


def fold(name: str) -> str:
    """The key that names are compared by: upper case, character by character, so the length never changes."""
    if name.isascii():
        return name.upper()
    return "".join(upper if len(upper := char.upper()) == 1 else char for char in name)


def join_surrogates(text: str) -> str:
    """UCS-2 from a guest as Python text: two surrogates that make one character are joined."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def path_of(node: Node) -> str:
    """The absolute path of a node with backslashes; the root is a single backslash."""
    names: list[str] = []
    current: Node | None = node
    while current is not None and current.parent is not None:
        names.append(current.name)
        current = current.parent
    return "\\" + "\\".join(reversed(names))


class File:
    """An open file or directory: the host side of one EFI_FILE_PROTOCOL (UEFI 2.10, 13.5), without its position."""

    __slots__ = ("file_system", "node", "writable")

    def __init__(self, file_system: FileSystem, node: Node, writable: bool) -> None:
        """`writable` is whether EFI_FILE_MODE_WRITE was asked for and granted."""
        self.file_system = file_system
        self.node = node
        self.writable = writable

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.node.is_dir

    @property
    def path(self) -> str:
        """Where it is now: `\\EFI\\BOOT`; with `writable`, enough to open it again after a snapshot."""
        return path_of(self.node)

    def open(self, path: str, write: bool = False, create: bool = False, attributes: int = 0) -> "File":
        """EFI_FILE_PROTOCOL.Open(): `path` from here, or from the root if it starts with a backslash.

        `.` and `..` are resolved here; `..` above the root is InvalidName. Raises NotFound, AccessDenied,
        WriteProtected, VolumeFull, InvalidName, VolumeCorrupted, DeviceFailure.
        """
        if (write or create) and self.file_system.read_only:
            raise WriteProtected(f"{path}: opened for writing on a read-only volume")
        if create and attributes & (READ_ONLY | ~VALID_ATTRIBUTES):
            raise InvalidName(f"{path}: attributes 0x{attributes:x} cannot be given to a new file")
        self._check_alive()
        parent, name, node = self._locate(path)
        if node is None:
            if not create:
                raise NotFound(f"{path}: no such file")
            if path.endswith("\\") and not attributes & DIRECTORY:
                raise InvalidName(f"{path}: ends like a directory, but a file was to be created")
            self._check_length(parent, name, path)
            node = parent.create(name, attributes)
        elif path.endswith("\\") and not node.is_dir:
            raise NotFound(f"{path}: is a file, not a directory")
        if write and not node.is_dir and node.info().attributes & READ_ONLY:
            raise AccessDenied(f"{path}: the file is marked read-only")
        return File(self.file_system, node, write)

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; empty at the end, DeviceFailure past it, IsADirectory for a directory."""
        self._check_alive()
        if self.node.is_dir:
            raise IsADirectory(f"{self.path}: is a directory; read its entries")
        data = self.node.read(offset, count)
        if not data and offset and offset > (size := self.node.info().size):
            raise DeviceFailure(f"{self.path}: read at {offset}, the file ends at {size}")
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Writes all of `data` at `offset`, extending the file.

        Raises IsADirectory, AccessDenied (opened read-only), WriteProtected, VolumeFull, DeviceFailure.
        """
        self._check_alive()
        if self.node.is_dir:
            raise IsADirectory(f"{self.path}: is a directory; it cannot be written")
        self._check_writable()
        if data:
            self.node.write(offset, data)

    def entries(self) -> list[FileInfo]:
        """What Read() on a directory gives, one after the other: "." and ".." (not in the root), then its entries."""
        self._check_alive()
        if not self.node.is_dir:
            raise NotADirectory(f"{self.path}: is not a directory")
        listed = self.node.entries()
        if (parent := self.node.parent) is None:
            return listed
        return [self.node.info().renamed("."), parent.info().renamed(".."), *listed]

    def info(self) -> FileInfo:
        """GetInfo(EFI_FILE_INFO_ID)."""
        self._check_alive()
        return self.node.info()

    def set_info(
        self,
        *,
        name: str | None = None,
        size: int | None = None,
        attributes: int | None = None,
        created: int | None = None,
        accessed: int | None = None,
        modified: int | None = None,
    ) -> None:
        """SetInfo(EFI_FILE_INFO_ID): whatever is not None and differs is changed; all is checked before any of it.

        `name` may hold a path (from the parent, or absolute): the file moves there. A handle opened read-only may
        change attributes only. Raises AccessDenied, WriteProtected, NotFound, InvalidName, VolumeFull, DeviceFailure.
        """
        self._check_alive()
        node = self.node
        if self.file_system.read_only:
            raise WriteProtected(f"{self.path}: on a read-only volume")
        parent = node.parent
        if parent is None:
            raise AccessDenied("\\: the root directory's information cannot be changed")
        now = node.info()
        locked = not self.writable or bool(now.attributes & READ_ONLY and not node.is_dir)
        if attributes is not None:
            if attributes & ~VALID_ATTRIBUTES:
                raise InvalidName(f"{self.path}: attributes 0x{attributes:x}, known are 0x{VALID_ATTRIBUTES:x}")
            if (attributes ^ now.attributes) & DIRECTORY:
                raise AccessDenied(f"{self.path}: a file cannot become a directory, nor the reverse")
        if size is not None and size != now.size:
            if node.is_dir or locked:
                raise AccessDenied(f"{self.path}: the size of a directory or read-only file cannot be changed")
        else:
            size = None
        target = None if name is None or name == node.name else self._target(name, parent, locked)

        if size is not None:
            node.resize(size)
        if target is not None:
            node.move(*target)
            if not node.is_dir and attributes is None:
                attributes = node.info().attributes | ARCHIVE
        if attributes is not None and attributes != node.info().attributes:
            node.set_attributes(attributes)
        if not locked and (created, accessed, modified) != (None, None, None):
            node.set_times(created, accessed, modified)

    def delete(self) -> None:
        """Delete(): removes the file or empty directory.

        Raises AccessDenied (root, opened read-only), DirectoryNotEmpty, WriteProtected: all of them are
        EFI_WARN_DELETE_FAILURE to the guest.
        """
        self._check_alive()
        if self.node.parent is None:
            raise AccessDenied("\\: the root directory cannot be deleted")
        self._check_writable()
        self.node.remove()

    def flush(self) -> None:
        """Flush(): makes the volume's changes lasting. Raises AccessDenied if opened read-only."""
        self._check_alive()
        self._check_writable()
        self.file_system.flush()

    def _check_alive(self) -> None:
        if self.node.removed:
            raise DeviceFailure(f"{self.node.name}: was deleted while it was open")

    def _check_writable(self) -> None:
        if self.file_system.read_only:
            raise WriteProtected(f"{self.path}: on a read-only volume")
        if not self.writable:
            raise AccessDenied(f"{self.path}: was opened for reading only")

    @staticmethod
    def _check_length(parent: Node, name: str, path: str) -> None:
        if len(path_of(parent)) + len(name) + 1 > PATH_LIMIT:
            raise InvalidName(f"{path[:40]}...: a full path has at most {PATH_LIMIT} characters")

    def _target(self, name: str, parent: Node, locked: bool) -> tuple[Node, str] | None:
        holder, last, found = self._locate(name, parent)
        if found is not None and found is not self.node:
            raise AccessDenied(f"{name}: exists already")
        if found is not None:
            # The same file: a new name only if the letters' case differs.
            typed = name.rstrip("\\").rpartition("\\")[2]
            if found.parent is not holder or fold(typed) != fold(found.name) or typed == found.name:
                return None
            last = clean_name(typed)
        if locked:
            raise AccessDenied(f"{self.path}: opened or marked read-only; it cannot be renamed")
        above: Node | None = holder
        while above is not None:
            if above is self.node:
                raise AccessDenied(f"{name}: a directory cannot be moved into itself")
            above = above.parent
        self._check_length(holder, last, name)
        return holder, last

    def _locate(self, path: str, start: Node | None = None) -> tuple[Node, str, Node | None]:
        """(directory, clean last name, node if it exists) for `path`; only the last part may be missing."""
        path = join_surrogates(path)
        if not path:
            raise InvalidName("an empty path names no file")
        node: Node = self.node if start is None else start
        if path[0] == "\\":
            node = self.file_system.root().node
        elif not node.is_dir and not path.startswith(".."):
            raise NotFound(f"{path}: {path_of(node)} is not a directory")
        components = [component for component in path.split("\\") if component]
        for position, component in enumerate(components):
            if component == ".":
                continue
            if component == "..":
                above: Node | None = node.parent
                if above is None:
                    raise InvalidName(f"{path}: leaves the root of the volume")
                node = above
                continue
            if not node.is_dir:
                raise NotFound(f"{path}: {path_of(node)} is not a directory")
            found: Node | None = node.child(component)
            name = component
            if found is None:
                name = clean_name(component)
                found = node.child(name) if name != component else None
            if found is None:
                if position + 1 < len(components):
                    raise NotFound(f"{path}: {component!r} is not in {path_of(node)}")
                return node, name, None
            node = found
        return node.parent or node, node.name, node
