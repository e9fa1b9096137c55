"""A FAT directory: its slots on disk, the entries in them, and how entries come and go (FAT specification 1.03)."""

from typing import TYPE_CHECKING

from images.errors import FatError, FileSystemError, VolumeFull
from images.fat import names
from images.fat.entry import DELETED, DIRECTORY_LIMIT, VOLUME_LABEL, Entry
from images.fat.names import SLOT
from images.tree import fold

if TYPE_CHECKING:
    from images.fat.volume import FatVolume

_DOTS = (b".          ", b"..         ")


class Directory:
    """The contents of one directory, read once; every change goes to the device at once."""

    __slots__ = (
        "__weakref__",
        "_by_name",
        "_data",
        "_deleted",
        "_doubled",
        "_end",
        "_entries",
        "_hints",
        "_short_names",
        "owner",
        "volume",
    )

    def __init__(self, volume: "FatVolume", owner: Entry) -> None:
        """`owner` is the entry of the directory itself. Raises FatError for a damaged chain, DeviceFailure."""
        self.volume = volume
        self.owner = owner
        self._entries: dict[int, Entry] = {}  # by the slot of the short name
        self._by_name: dict[str, Entry] = {}
        self._short_names: set[bytes] = set()
        self._hints: dict[bytes, int] = {}
        self._doubled = False  # whether two entries share a name, so that erasing one must bring the other to light
        self._deleted = 0
        bpb = volume.bpb
        if chain := owner.chain():
            self._check_ancestors(owner.first_cluster)
            pieces = volume.runs(chain, 0, len(chain) * bpb.cluster_size)
            self._data = bytearray(b"".join(volume.device.read(offset, count) for offset, count in pieces))
        elif owner.parent is None:
            self._data = bytearray(volume.device.read(bpb.root_offset, bpb.root_size))
        else:
            raise FatError(f"FAT: the directory {owner.name} has no cluster")
        self._end = len(self._data) // SLOT
        self._parse()

    def entries(self) -> list[Entry]:
        """All entries in their order on disk, without ".", ".." and the label."""
        return [self._entries[slot] for slot in sorted(self._entries)]

    def find(self, name: str) -> Entry | None:
        """The entry with that long or short name, whatever the case."""
        return self._by_name.get(fold(name))

    def label(self) -> Entry | None:
        """The entry that holds the volume label, in the root directory only."""
        for slot in range(self._end):
            raw = self._data[slot * SLOT : (slot + 1) * SLOT]
            if raw[0] != DELETED and raw[11] & VOLUME_LABEL and raw[11] & 0x3F != names.LONG_NAME:
                return Entry(self.volume, self, raw, range(slot, slot + 1), "")
        return None

    def add(self, name: str, template: bytes | bytearray) -> Entry:
        """A new entry `name`; `template` is its 32 bytes but for the name. Raises VolumeFull, InvalidName."""
        short, needs_long = names.make_short(name, self._short_names, self._hints)
        return self._put(name, short, template, names.encode_long(name, short) if needs_long else b"")

    def add_label(self, raw: bytes) -> None:
        """A new volume label entry of these 32 bytes. Raises VolumeFull."""
        first = self._make_room(1)
        self.write_slots(first, raw)

    def adopt(self, entry: Entry, name: str) -> None:
        """Moves `entry` here as `name`; nothing changes if there is no room (VolumeFull, InvalidName)."""
        origin, old = entry.directory, entry.slots
        assert origin is not None
        origin._unindex(entry)  # its own short name may serve again
        try:
            made = self.add(name, entry.raw)
        except FileSystemError:
            origin._entries[old[-1]] = entry
            origin._index(entry)
            raise
        self._unindex(made)
        entry.directory, entry.name, entry.slots = self, made.name, made.slots
        entry.raw[:] = made.raw
        self._entries[entry.slots[-1]] = entry
        self._index(entry)
        origin._free_slots(old)

    def erase(self, entry: Entry) -> None:
        """Marks the slots of `entry` deleted; its clusters are the caller's affair."""
        self._free_slots(entry.slots)
        if self._entries.get(entry.slots[-1]) is entry:
            self._unindex(entry)

    def write_slots(self, first: int, data: bytes | bytearray) -> None:
        """Writes whole slots here and on the device."""
        offset = first * SLOT
        self._data[offset : offset + len(data)] = data
        if not (chain := self.owner.chain()):
            self.volume.device.write(self.volume.bpb.root_offset + offset, data)
            return
        done = 0
        for where, count in self.volume.runs(chain, offset, len(data)):
            self.volume.device.write(where, data[done : done + count])
            done += count

    def _check_ancestors(self, cluster: int) -> None:
        above = self.owner.parent
        while above is not None:
            if above.first_cluster == cluster:
                raise FatError(f"FAT: the directory {self.owner.name} at cluster {cluster} contains itself")
            above = above.parent

    def _parse(self) -> None:
        data = self._data
        long_slots: list[bytes] = []
        for slot in range(self._end):
            raw = data[slot * SLOT : (slot + 1) * SLOT]
            if raw[0] == 0:
                self._end = slot
                break
            attributes = raw[11]
            if raw[0] == DELETED:
                self._deleted += 1
                long_slots = []
            elif attributes & 0x3F == names.LONG_NAME:
                if raw[0] & names.LAST_LONG:
                    long_slots = []
                long_slots.append(bytes(raw))
            elif attributes & VOLUME_LABEL:
                long_slots = []
            else:
                short = bytes(raw[:11])
                if short not in _DOTS:
                    long = names.decode_long(long_slots, short) if long_slots else None
                    first = slot - len(long_slots) if long is not None else slot
                    name = names.decode_short(short, raw[12]) if long is None else long
                    entry = Entry(self.volume, self, raw, range(first, slot + 1), name)
                    self._entries[slot] = entry
                    self._index(entry)
                long_slots = []

    def _index(self, entry: Entry) -> None:
        # Of two equal names the first on disk counts.
        short = bytes(entry.raw[:11])
        for key in _keys(entry):
            if self._by_name.setdefault(key, entry) is not entry:
                self._doubled = True
        self._doubled |= short in self._short_names
        self._short_names.add(short)

    def _unindex(self, entry: Entry) -> None:
        del self._entries[entry.slots[-1]]
        if self._doubled:
            self._by_name, self._short_names, self._doubled = {}, set(), False
            for other in self.entries():
                self._index(other)
            return
        for key in _keys(entry):
            del self._by_name[key]
        self._short_names.discard(bytes(entry.raw[:11]))

    def _free_slots(self, slots: range) -> None:
        for slot in slots:
            self.write_slots(slot, bytes((DELETED,)) + self._data[slot * SLOT + 1 : (slot + 1) * SLOT])
        self._deleted += len(slots)

    def _put(self, name: str, short: bytes, template: bytes | bytearray, long: bytes) -> Entry:
        raw = bytearray(template)
        raw[:11] = short
        raw[12] = 0
        slots = len(long) // SLOT + 1
        first = self._make_room(slots)
        self.write_slots(first, long + raw)
        entry = Entry(self.volume, self, raw, range(first, first + slots), name)
        self._entries[entry.slots[-1]] = entry
        self._index(entry)
        return entry

    def _make_room(self, count: int) -> int:
        """The first of `count` adjacent free slots, extending the directory if there are none."""
        if self._deleted >= count:
            marks = self._data[: self._end * SLOT : SLOT]
            if (found := marks.find(bytes((DELETED,)) * count)) >= 0:
                self._deleted -= count
                return found
        first, end = self._end, self._end + count
        if end * SLOT > len(self._data):
            self._extend(end * SLOT - len(self._data))
        if end * SLOT < len(self._data) and self._data[end * SLOT] != 0:
            # What lies past the end mark is undefined: set the mark anew, before the old one is overwritten.
            self.write_slots(end, bytes(SLOT))
        self._end = end
        return first

    def _extend(self, missing: int) -> None:
        size = self.volume.bpb.cluster_size
        count = -(-missing // size)
        chain = self.owner.chain()
        if not chain or len(self._data) + count * size > DIRECTORY_LIMIT:
            raise VolumeFull(f"the directory has {len(self._data) // SLOT} entries and cannot grow")
        for cluster in (added := self.volume.table.allocate(count, chain[-1])):
            self.volume.device.write(self.volume.cluster_offset(cluster), bytes(size))
        chain.extend(added)
        self._data += bytes(count * size)


def _keys(entry: Entry) -> set[str]:
    return {fold(entry.name), fold(names.decode_short(bytes(entry.raw[:11])))}
