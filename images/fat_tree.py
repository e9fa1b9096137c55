"""The files and directories that a new FAT volume is to hold: what is known of them before a byte is written."""

from images.mosaic import Reader


class TreeEntry:
    """A file or directory to be put on a volume. `size` in bytes, `modified` in ns since 1970."""

    __slots__ = ("children", "is_dir", "modified", "name", "read", "read_only", "size")

    def __init__(self, name: str, *, size: int = 0, modified: int = 0, read: Reader | None = None) -> None:
        """A file of `size` bytes that `read` gives; a directory without `read`. The root's name is empty."""
        self.name = name
        self.is_dir = read is None
        self.size = size
        self.modified = modified
        self.read = read
        self.read_only = False
        self.children: list[TreeEntry] = []
