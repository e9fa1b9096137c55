"""A FAT directory made in one go: the names and short names of all its entries, then their bytes (FAT spec. 1.03)."""

from collections.abc import Mapping
from struct import Struct

from images.fat import times
from images.fat.names import SLOT, decode_short, encode_long, make_short
from images.fat_tree import TreeEntry
from images.tree import ARCHIVE, DIRECTORY, READ_ONLY, fold

# DIR_Name, Attr, NTRes, CrtTimeTenth, CrtTime, CrtDate, LstAccDate, FstClusHI, WrtTime, WrtDate, FstClusLO, FileSize
_RECORD = Struct("<11sBBBHHHHHHHI")
_SHORT_LIMIT = 12  # characters of a short name with its dot


class DirectoryImage:
    """The contents of one directory of a new volume: its size is known first, its bytes once clusters are given."""

    __slots__ = ("_names", "entry", "parent", "size")

    def __init__(self, entry: TreeEntry, parent: "DirectoryImage | None") -> None:
        """`entry` with its children, in `parent`; the root has none, and the volume's label in it."""
        self.entry = entry
        self.parent = parent
        self._names = _names(entry.children)
        lead = 1 if parent is None else 2
        self.size = lead * SLOT + sum(SLOT + len(long) for _, long in self._names)

    def pack(self, clusters: Mapping[TreeEntry, int], label: bytes) -> bytes:
        """The `size` bytes. `clusters`: the first of all but empty files; `label`: that entry's 32 bytes."""
        parent = self.parent
        if parent is None:
            parts = [label]
        else:
            # The root's cluster is not named here (FAT specification 1.03, "FAT Directory Structure").
            up = 0 if parent.parent is None else clusters[parent.entry]
            parts = [_record(b".".ljust(11), self.entry, clusters[self.entry])]
            parts.append(_record(b"..".ljust(11), parent.entry, up))
        for (short, long), child in zip(self._names, self.entry.children, strict=True):
            parts += (long, _record(short, child, clusters.get(child, 0)))
        return b"".join(parts)


def _names(children: list[TreeEntry]) -> list[tuple[bytes, bytes]]:
    """(short name, long name slots) of each. A name that is a short one already stays its own and nobody else's."""
    taken: set[bytes] = set()
    own: dict[str, tuple[bytes, bool]] = {}
    for child in children:
        folded = fold(child.name)
        if len(folded) <= _SHORT_LIMIT and folded.isascii():
            short, _ = make_short(folded, (), {})
            if decode_short(short) == folded:
                taken.add(short)
                if child.name.isascii():
                    own[child.name] = short, child.name != folded
    hints: dict[bytes, int] = {}
    names = []
    for child in children:
        known = own.get(child.name)
        if known is None:
            known = make_short(child.name, taken, hints)
            taken.add(known[0])
        names.append((known[0], encode_long(child.name, known[0]) if known[1] else b""))
    return names


def _record(short: bytes, entry: TreeEntry, cluster: int) -> bytes:
    date, clock, hundredths = times.encode(entry.modified)
    attributes = DIRECTORY if entry.is_dir else ARCHIVE | (READ_ONLY if entry.read_only else 0)
    high, low = cluster >> 16, cluster & 0xFFFF
    return _RECORD.pack(short, attributes, 0, hundredths, clock, date, date, high, clock, date, low, entry.size)
