"""A FAT32 table of chains that each lie in one piece, computed where it is read: it costs memory for its ends only."""

from array import array
from bisect import bisect_left

from images.fat.table import FIRST_CLUSTER

_ENTRY = 4
_MEDIA_ENTRY = 0x0FFFFFF8
_END = 0x0FFFFFFF


class ContiguousFat:
    """Chains from cluster 2 on without a gap, then free clusters (FAT specification 1.03, "FAT Data Structure")."""

    __slots__ = ("_ends", "_following")

    def __init__(self) -> None:
        """No chain yet."""
        self._ends = array("I")
        self._following = FIRST_CLUSTER

    @property
    def following(self) -> int:
        """The first free cluster."""
        return self._following

    def add(self, count: int) -> int:
        """A chain of `count` clusters, at least one; gives its first cluster."""
        first = self._following
        self._following += count
        self._ends.append(self._following - 1)
        return first

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the table from `offset`; past the last entry in use they are zero."""
        first = offset // _ENTRY
        stop = min(-(-(offset + count) // _ENTRY), self._following)
        if stop <= first:
            return bytes(count)
        entries = array("I", range(first + 1, stop + 1))
        for index in range(bisect_left(self._ends, first), bisect_left(self._ends, stop)):
            entries[self._ends[index] - first] = _END
        for reserved, value in enumerate((_MEDIA_ENTRY, _END)):
            if first <= reserved < stop:
                entries[reserved - first] = value
        start = offset - first * _ENTRY
        return entries.tobytes()[start : start + count].ljust(count, b"\0")
