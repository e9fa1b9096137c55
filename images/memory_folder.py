"""A volume that lives in memory, with the contents of files put into it: what a guest sees of the host is what it was given."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from images.cow import Budget
from images.errors import NotFound
from images.folder_node import BLOCK_SIZE, FolderNode
from images.host_folder import DEFAULT_CAPACITY, HostFolder
from images.tree import DIRECTORY


class MemoryFolder(HostFolder):
    """A FileSystem (images.tree) that starts empty. Changes stay in memory; host files put in are never changed."""

    def __init__(
        self, *, capacity: int = DEFAULT_CAPACITY, label: str = "CVMBOOT", now: Callable[[], int] = time.time_ns
    ) -> None:
        """`capacity`: bytes of memory that changes may take; `now`: ns since 1970 for the times of changed files."""
        self.path = ""
        self.read_only = False
        self.write_through = False
        self.block_size = BLOCK_SIZE
        self.budget = Budget(capacity)
        self.now = now
        self._label = label
        self.root_node = FolderNode(self, None, "", None, True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.path, self.write_through = "", False  # it never touches the host, whoever says so

    def put(self, path: str, host: str | os.PathLike[str], data: bytes | memoryview) -> None:
        """Show `data`, read from the host's file `host`, as `path` (backslashes), with that file's time, making directories.

        Raises NotFound if it is no file.
        """
        try:
            facts = Path(host).stat()
        except OSError:
            facts = None
        if facts is None or not stat.S_ISREG(facts.st_mode):
            raise NotFound(f"{host}: not a file that can be read")
        *parts, name = [part for part in path.split("\\") if part]
        node = self.root_node
        for part in parts:
            node = node.child(part) or node.create(part, DIRECTORY)
        node.hold(name, HeldBytes(data).read, len(data), facts)


class HeldBytes:
    """What a file of the volume holds before the guest writes to it."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes that are there."""
        return bytes(self._data[offset : offset + count])
