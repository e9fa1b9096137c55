"""A FAT volume as a whole: finding its files, its label and its room; a FileSystem as images.tree wants it."""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import pack_into
from typing import Any
from weakref import ref

from images.block import BlockDevice
from images.errors import DeviceFailure, FatError, FileSystemError, InvalidName, NotADirectory, NotFound, WriteProtected
from images.fat import times
from images.fat.bpb import read_bpb
from images.fat.directory import Directory
from images.fat.entry import VOLUME_LABEL, Entry
from images.fat.names import decode_label, label_bytes
from images.fat.table import FIRST_CLUSTER, FatTable
from images.tree import DIRECTORY, File, clean_name

_DIRECTORIES_KEPT = 64
_NO_LABEL = b"NO NAME    "


class FatVolume:
    """FAT12, FAT16 or FAT32 on a block device. Every operation leaves the device in a state that others can read."""

    def __init__(self, device: BlockDevice, *, now: Callable[[], int] = time.time_ns) -> None:
        """`now` gives ns since 1970 for the times of changed files. Raises FatError if there is no FAT volume."""
        self.device = device
        self.now = now
        self.bpb = read_bpb(device)
        self.table = FatTable(device, self.bpb)
        self.root_entry = Entry(self, None, bytearray(32), range(0), "")
        self.root_entry.raw[11] = DIRECTORY
        pack_into("<H", self.root_entry.raw, 20, self.bpb.root_cluster >> 16)
        pack_into("<H", self.root_entry.raw, 26, self.bpb.root_cluster & 0xFFFF)
        self._failed = False
        # Directories in use are found again through their entries' weak references; the latest few stay in memory.
        self._open: dict[int, ref[Directory]] = {}
        self._recent: dict[int, Directory] = {}

    def __getstate__(self) -> dict[str, Any]:
        held = [known() for known in self._open.values()]
        return {
            **self.__dict__,
            "_open": [each for each in held if each is not None],
            "_recent": [*self._recent.values()],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = {id(each.owner): ref(each) for each in state["_open"]}
        self._recent = {id(each.owner): each for each in state["_recent"]}

    @property
    def fat_type(self) -> int:
        """12, 16 or 32."""
        return self.bpb.fat_type

    @property
    def read_only(self) -> bool:
        """As the device."""
        return self.device.read_only

    @property
    def block_size(self) -> int:
        """Bytes of a cluster."""
        return self.bpb.cluster_size

    @property
    def total_bytes(self) -> int:
        """Bytes in all clusters."""
        return self.bpb.cluster_count * self.bpb.cluster_size

    @property
    def free_bytes(self) -> int:
        """Bytes in free clusters."""
        return self.table.free_clusters * self.bpb.cluster_size

    @property
    def label(self) -> str:
        """The label in the root directory, else the one in the boot sector; empty if there is none."""
        entry = self.directory(self.root_entry).label()
        raw = bytes(entry.raw[:11]) if entry is not None else b""
        if entry is None and self.bpb.label_offset:
            raw = self.device.read(self.bpb.label_offset, 11)
        return "" if raw == _NO_LABEL else decode_label(raw)

    def set_label(self, label: str) -> None:
        """FileSystem.set_label(): in the root directory and the boot sectors; empty takes it away.

        Raises InvalidName, WriteProtected, VolumeFull (a FAT12 or FAT16 root without a free entry).
        """
        if self.read_only:
            raise WriteProtected("the volume is read-only; its label cannot change")
        raw = label_bytes(label)
        with self.change():
            root = self.directory(self.root_entry)
            entry = root.label()
            if entry is not None and not raw.strip():
                root.erase(entry)
            elif entry is not None:
                entry.raw[:11] = raw
                entry.store()
            elif raw.strip():
                date, clock, _ = times.encode(self.now())
                stamp = clock.to_bytes(2, "little") + date.to_bytes(2, "little")
                root.add_label(raw + bytes((VOLUME_LABEL,)) + bytes(10) + stamp + bytes(6))
            if self.bpb.label_offset:
                for sector in {0, self.bpb.backup_boot_sector}:
                    self.device.write(
                        sector * self.bpb.sector_size + self.bpb.label_offset, raw if raw.strip() else _NO_LABEL
                    )

    def root(self) -> File:
        """FileSystem.root()."""
        return File(self, self.root_entry, not self.read_only)

    def open(self, path: str, write: bool = False, create: bool = False, attributes: int = 0) -> File:
        """File.open() from the root."""
        return self.root().open(path, write, create, attributes)

    def lookup(self, path: str) -> Entry:
        """The entry at `path`, backslashes between names. Raises NotFound, NotADirectory, FatError."""
        entry = self.root_entry
        for name in filter(None, path.split("\\")):
            if not entry.is_dir:
                raise NotADirectory(f"{path}: {entry.name} is a file")
            found = entry.child(name)
            if found is None:
                raise NotFound(f"{path}: {name!r} is not there")
            entry = found
        return entry

    def make(self, path: str, attributes: int = 0) -> Entry:
        """The entry at `path`, made with its directories where missing. Raises InvalidName, VolumeFull, FatError."""
        parts = [part for part in path.split("\\") if part]
        entry = self.root_entry
        for number, name in enumerate(parts):
            if not entry.is_dir:
                raise NotADirectory(f"{path}: {entry.name} is a file")
            wanted = attributes if number + 1 == len(parts) else DIRECTORY
            if name in {".", ".."}:
                raise InvalidName(f"{path}: {name} cannot be made")
            entry = entry.child(name) or entry.create(clean_name(name), wanted)
        return entry

    def walk(self) -> Iterator[tuple[str, Entry]]:
        """(path, entry) of everything on the volume, a directory before what it holds.

        Raises FatError for a damaged directory, and for one that is reached twice.
        """
        seen: set[int] = set()
        work = [("", self.root_entry)]
        while work:
            path, entry = work.pop()
            if path:
                yield path, entry
            if entry.is_dir:
                if entry.first_cluster in seen:
                    raise FatError(f"FAT: the directory {path} shares cluster {entry.first_cluster} with another")
                seen.add(entry.first_cluster)
                work.extend((f"{path}\\{child.name}", child) for child in reversed(entry.children()))

    def flush(self) -> None:
        """Makes changes lasting on the device. Raises DeviceFailure."""
        self.device.flush()

    def reload(self) -> None:
        """Reads everything anew from the device, after somebody else wrote to it; open files stay as they were."""
        self.table.forget()
        self._open.clear()
        self._recent.clear()
        self.root_entry.restore(bytes(self.root_entry.raw))
        self._failed = False

    def directory(self, entry: Entry) -> Directory:
        """The contents of the directory `entry`. Raises FatError if they are damaged."""
        key = id(entry)
        held = self._recent.get(key)
        if held is None:
            known = self._open.get(key)
            held = known() if known is not None else None
            if held is None or held.owner is not entry:
                held = Directory(self, entry)
                self._open[key] = ref(held)
            self._recent[key] = held
            if len(self._recent) > _DIRECTORIES_KEPT:
                self._recent.pop(next(iter(self._recent)))
                self._open = {number: known for number, known in self._open.items() if known() is not None}
        return held

    def cluster_offset(self, cluster: int) -> int:
        """Bytes from the volume's start to `cluster`, which must be one of the volume's."""
        return self.bpb.data_offset + (cluster - FIRST_CLUSTER) * self.bpb.cluster_size

    def runs(self, chain: "array[int]", offset: int, count: int) -> Iterator[tuple[int, int]]:
        """(offset on the device, bytes) of the pieces that hold `count` bytes from `offset` of a chain.

        Raises FatError if the chain is too short.
        """
        if count <= 0:
            return
        size = self.bpb.cluster_size
        if offset + count > len(chain) * size:
            raise FatError(f"FAT: a file of {offset + count} bytes or more has a chain of {len(chain)} clusters")
        index, start = divmod(offset, size)
        last = (offset + count - 1) // size
        while count:
            first = chain[index]
            length = 1
            while index + length <= last and chain[index + length] == first + length:
                length += 1
            piece = min(count, length * size - start)
            yield self.cluster_offset(first) + start, piece
            index, start, count = index + length, 0, count - piece

    @contextmanager
    def change(self, *entries: Entry) -> Iterator[None]:
        """Around every change: the table is written at the end; after a failure nothing of the change is kept.

        Where the device itself failed half-way, memory and device differ: nothing more is written until reload().
        """
        if self.read_only:
            raise WriteProtected("the volume is read-only")
        if self._failed:
            raise DeviceFailure("an earlier write to the FAT volume failed; it takes no more changes")
        before = [bytes(entry.raw) for entry in entries]
        try:
            yield
            self.table.commit()
        except BaseException as error:
            self._failed = not isinstance(error, FileSystemError)
            self.table.forget()
            for entry, raw in zip(entries, before, strict=True):
                entry.restore(raw)
            raise
