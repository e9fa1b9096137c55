"""The file allocation table: chains of clusters, allocation and the FSInfo sector (FAT specification 1.03)."""

from array import array
from itertools import pairwise
from struct import pack_into, unpack_from

from images.block import BlockDevice
from images.errors import FatError, VolumeFull
from images.fat.bpb import Bpb

FIRST_CLUSTER = 2
_PAGE = 16384  # entries held together, so that a large table is neither read whole nor entry by entry
_PAGES_KEPT = 256
_FSINFO_SIGNATURES = ((0, 0x41615252), (484, 0x61417272), (508, 0xAA550000))
_UNKNOWN = 0xFFFFFFFF
# Past this many clusters the free count comes from FSInfo; counting would read many MiB.
_COUNTED = 1 << 22
_FAT32_MASK = int.from_bytes(b"\xff\xff\xff\x0f" * _PAGE, "little")


class FatTable:
    """The cluster chains of one volume. Changes wait in memory until commit(), which writes every copy of the table."""

    __slots__ = (
        "_bpb",
        "_device",
        "_dirty",
        "_free",
        "_fsinfo",
        "_fsinfo_dirty",
        "_high",
        "_next",
        "_pages",
        "end",
        "end_mark",
        "last",
    )

    def __init__(self, device: BlockDevice, bpb: Bpb) -> None:
        """`device` is the volume. Raises DeviceFailure if it cannot be read."""
        self._device = device
        self._bpb = bpb
        self.last = bpb.cluster_count + 1
        self.end_mark = {12: 0xFFF, 16: 0xFFFF, 32: 0x0FFFFFFF}[bpb.fat_type]
        self.end = self.end_mark - 7  # this value and above end a chain
        self._pages: dict[int, array[int]] = {}
        self._dirty: dict[int, tuple[int, int]] = {}
        self._high: dict[int, int] = {}  # FAT32: the upper four bits of an entry are not ours and are kept
        self._free: int | None = None
        self._next = FIRST_CLUSTER
        self._fsinfo: bytearray | None = None
        self._fsinfo_dirty = False
        if bpb.fsinfo_sector:
            sector = device.read(bpb.fsinfo_sector * bpb.sector_size, 512)
            if all(unpack_from("<I", sector, offset)[0] == mark for offset, mark in _FSINFO_SIGNATURES):
                self._fsinfo = bytearray(sector)
                free, following = unpack_from("<II", sector, 488)
                if FIRST_CLUSTER <= following <= self.last:
                    self._next = following
                if bpb.cluster_count > _COUNTED and free <= bpb.cluster_count:
                    self._free = free

    def get(self, cluster: int) -> int:
        """The table's entry for `cluster`. Raises FatError for a cluster that the volume does not have."""
        if not FIRST_CLUSTER <= cluster <= self.last:
            raise FatError(f"FAT: cluster {cluster} is outside the volume's {FIRST_CLUSTER} to {self.last}")
        page, index = divmod(cluster, _PAGE)
        return (self._pages.get(page) or self._load(page))[index]

    def set(self, cluster: int, value: int) -> None:
        """Changes the entry for `cluster`."""
        if not FIRST_CLUSTER <= cluster <= self.last:
            raise FatError(f"FAT: cluster {cluster} is outside the volume's {FIRST_CLUSTER} to {self.last}")
        page, index = divmod(cluster, _PAGE)
        (self._pages.get(page) or self._load(page))[index] = value
        low, high = self._dirty.get(page, (index, index))
        self._dirty[page] = (min(low, index), max(high, index))

    def chain(self, first: int, limit: int) -> "array[int]":
        """All clusters of the chain that starts at `first`.

        Raises FatError for a loop, a link to a free, bad or missing cluster, and more than `limit` clusters.
        """
        clusters = array("I")
        cluster, end = first, self.end
        anchor, countdown, power = first, 1, 1  # Brent's cycle search: needs no set of what was seen
        while True:
            following = self.get(cluster)
            clusters.append(cluster)
            if following >= end:
                return clusters
            if len(clusters) >= limit:
                raise FatError(f"FAT: the chain of cluster {first} has more than {limit} clusters")
            if following == anchor:
                raise FatError(f"FAT: the chain of cluster {first} loops at cluster {following}")
            countdown -= 1
            if countdown == 0:
                power *= 2
                anchor, countdown = following, power
            cluster = following

    def allocate(self, count: int, after: int | None = None) -> "array[int]":
        """`count` free clusters, linked to a chain of their own, or to `after` where that is the end of one.

        Raises VolumeFull, with nothing changed, if there are not that many.
        """
        clusters = array("I")
        start = self._next if after is None else after + 1
        for first, high in ((start, self.last), (FIRST_CLUSTER, min(start - 1, self.last))):
            low = first
            while low <= high and len(clusters) < count:
                low = self._collect_free(clusters, low, high, count)
        if len(clusters) < count:
            raise VolumeFull(f"{count} clusters of {self._bpb.cluster_size} bytes wanted, {len(clusters)} are free")
        if after is not None and count:
            self.set(after, clusters[0])
        for cluster, following in pairwise(clusters):
            self.set(cluster, following)
        if count:
            self.set(clusters[-1], self.end_mark)
            self._next = clusters[-1] + 1 if clusters[-1] < self.last else FIRST_CLUSTER
            self._count_free(-count)
        return clusters

    def release(self, clusters: "array[int]") -> None:
        """Marks them free."""
        freed = 0
        for cluster in clusters:
            if self.get(cluster):
                self.set(cluster, 0)
                freed += 1
        if freed:
            self._count_free(freed)

    @property
    def free_clusters(self) -> int:
        """How many clusters are free: counted once, then kept."""
        if self._free is None:
            free = 0
            for page in range(self.last // _PAGE + 1):
                entries = self._pages.get(page) or self._load(page)
                inside = min(_PAGE, self.last + 1 - page * _PAGE)
                free += entries[FIRST_CLUSTER if page == 0 else 0 : inside].count(0)
            self._free = free
        return self._free

    def commit(self) -> None:
        """Writes what changed to every copy of the table and to FSInfo."""
        bpb = self._bpb
        copies = range(bpb.fat_count) if bpb.mirrored else (bpb.active_fat,)
        for page, (low, high) in sorted(self._dirty.items()):
            offset, data = self._encode(page, low, high)
            for copy in copies:
                self._device.write(bpb.fat_offset + copy * bpb.fat_size + offset, data)
        self._dirty.clear()
        if self._fsinfo is not None and self._fsinfo_dirty:
            pack_into("<II", self._fsinfo, 488, self._free if self._free is not None else _UNKNOWN, self._next)
            self._device.write(bpb.fsinfo_sector * bpb.sector_size, self._fsinfo)
            self._fsinfo_dirty = False
        if len(self._pages) > _PAGES_KEPT:
            self._pages.clear()

    def forget(self) -> None:
        """Drops uncommitted changes and all that was read, as after a failed write or a write by someone else."""
        self._pages.clear()
        self._dirty.clear()
        self._free = None

    def _count_free(self, change: int) -> None:
        # When not yet counted, the pages already hold this change and the count will see it.
        if self._free is None:
            _ = self.free_clusters
        else:
            self._free = max(0, min(self._bpb.cluster_count, self._free + change))
        self._fsinfo_dirty = True

    def _collect_free(self, clusters: "array[int]", low: int, high: int, count: int) -> int:
        page, index = divmod(low, _PAGE)
        entries = self._pages.get(page) or self._load(page)
        stop = min(_PAGE, high + 1 - page * _PAGE)
        base = page * _PAGE
        try:
            while len(clusters) < count:
                index = entries.index(0, index, stop)
                clusters.append(base + index)
                index += 1
        except ValueError:
            return base + stop
        return base + index

    def _load(self, page: int) -> "array[int]":
        bpb = self._bpb
        table = bpb.fat_offset + bpb.active_fat * bpb.fat_size
        first = page * _PAGE
        count = min(_PAGE, self.last + 1 - first)
        entries: array[int]
        if bpb.fat_type == 12:  # fewer entries than a page
            data = self._device.read(table, (count * 3 + 1) // 2)
            entries = array("H")
            for cluster in range(count):
                offset = cluster * 3 // 2
                pair = data[offset] | data[offset + 1] << 8
                entries.append(pair >> 4 if cluster & 1 else pair & 0xFFF)
        elif bpb.fat_type == 16:
            entries = array("H", self._device.read(table + first * 2, count * 2))
        else:
            data = self._device.read(table + first * 4, count * 4)
            masked = (int.from_bytes(data, "little") & _FAT32_MASK).to_bytes(len(data), "little")
            entries = array("I", masked)
            if masked != data:
                for index, value in enumerate(array("I", data)):
                    if value >> 28:
                        self._high[first + index] = value & 0xF0000000
        self._pages[page] = entries
        return entries

    def _encode(self, page: int, low: int, high: int) -> tuple[int, bytes]:
        """(offset in the table, bytes) for the entries `low` to `high` of a page."""
        entries = self._pages[page]
        first = page * _PAGE
        if self._bpb.fat_type == 16:
            return (first + low) * 2, entries[low : high + 1].tobytes()
        if self._bpb.fat_type == 32:
            part = entries[low : high + 1]
            if self._high:
                for index in range(low, high + 1):
                    part[index - low] |= self._high.get(first + index, 0)
            return (first + low) * 4, part.tobytes()
        low &= ~1
        data = bytearray()
        for cluster in range(low, high + 1, 2):
            second = entries[cluster + 1] if cluster < self.last else 0
            data += (entries[cluster] | second << 12).to_bytes(3, "little")
        if high == self.last and not high & 1:
            # The upper half of the last entry's second byte belongs to no cluster: keep it.
            table = self._bpb.fat_offset + self._bpb.active_fat * self._bpb.fat_size
            kept = self._device.read(table + high * 3 // 2 + 1, 1)[0] & 0xF0
            del data[-1]
            data[-1] |= kept
        return low * 3 // 2, bytes(data)
