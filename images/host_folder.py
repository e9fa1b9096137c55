"""A host directory as a volume: changes stay in memory unless asked; nothing outside can be reached."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from images.cow import Budget
from images.errors import InvalidName, NotFound, WriteProtected
from images.folder_node import BLOCK_SIZE, FolderNode
from images.tree import File

DEFAULT_CAPACITY = 1 << 30
LABEL_LIMIT = 11  # characters, as on FAT


class HostFolder:
    """A FileSystem (images.tree) over a host directory; changes reach the host only with `write_through`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        write_through: bool = False,
        read_only: bool = False,
        capacity: int = DEFAULT_CAPACITY,
        label: str = "CVMBOOT",
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """`capacity`: bytes of memory that changes may take; `now`: ns since 1970 for the times of changed files.

        Raises NotFound if `path` is not a directory that can be listed.
        """
        self.path = os.path.realpath(path)
        if not Path(self.path).is_dir() or not os.access(self.path, os.R_OK | os.X_OK):
            raise NotFound(f"{path}: not a directory that can be read; name an existing folder")
        self.read_only = read_only
        self.write_through = write_through and not read_only
        self.block_size = BLOCK_SIZE
        self.budget = Budget(capacity)
        self.now = now
        self._label = label
        self.root_node = FolderNode(self, None, "", self.path, True)

    @property
    def total_bytes(self) -> int:
        """The host's file system when writing through, else the memory set aside for changes (bytes)."""
        if self.write_through:
            facts = os.statvfs(self.path)
            return facts.f_frsize * facts.f_blocks
        return self.budget.limit

    @property
    def free_bytes(self) -> int:
        """Bytes that can still be written; 0 on a read-only volume."""
        if self.read_only:
            return 0
        if self.write_through:
            facts = os.statvfs(self.path)
            return facts.f_frsize * facts.f_bavail
        return self.budget.limit - self.budget.used

    @property
    def label(self) -> str:
        """The volume label; it lives in memory only."""
        return self._label

    def set_label(self, label: str) -> None:
        """Up to 11 characters. Raises InvalidName, WriteProtected."""
        if self.read_only:
            raise WriteProtected("the volume is read-only; its label cannot change")
        if len(label) > LABEL_LIMIT:
            raise InvalidName(f"{label[:40]!r}: a volume label has at most {LABEL_LIMIT} characters")
        self._label = label

    def root(self) -> File:
        """The root directory, opened."""
        return File(self, self.root_node, not self.read_only)

    def open(self, path: str, write: bool = False, create: bool = False, attributes: int = 0) -> File:
        """File.open() from the root."""
        return self.root().open(path, write, create, attributes)

    def flush(self) -> None:
        """Nothing to do: memory needs no flush, and the host writes through its own cache."""

    def save(self) -> dict[str, Any]:
        """Every change as plain data; files of the host that did not change are not in it."""
        seen: list[tuple[FolderNode, int]] = [(self.root_node, -1)]
        for number, (node, _) in enumerate(seen):
            seen.extend((child, number) for child in node.known_children())
        kept = {0}
        for number in range(len(seen) - 1, 0, -1):  # children come after their parents: backwards marks whole paths
            if number in kept or seen[number][0].changed():
                kept.update((number, seen[number][1]))
        order = {number: position for position, number in enumerate(sorted(kept))}
        nodes = [seen[number][0].save(order.get(seen[number][1], -1)) for number in sorted(kept)]
        return {"label": self._label, "nodes": nodes}

    def load(self, state: dict[str, Any]) -> None:
        """Takes what save() returned, over the same folder; all open files are to be opened again by their paths."""
        self._label = state["label"]
        self.budget.used = 0
        made: list[FolderNode] = []
        for record in state["nodes"]:
            parent = made[record["parent"]] if record["parent"] >= 0 else None
            host = None if record["host"] is None else self.path + record["host"]
            node = FolderNode(self, parent, record["name"], host, record["is_dir"])
            node.load(record)
            if parent is not None:
                parent.adopt(node)
            made.append(node)
        self.root_node = made[0]
