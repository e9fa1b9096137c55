"""A file or directory on a FAT volume: its directory entry, and its bytes (images.tree.Node)."""

from array import array
from struct import pack_into, unpack_from
from typing import TYPE_CHECKING

from images.errors import DirectoryNotEmpty, FatError, VolumeFull
from images.fat import times
from images.fat.names import decode_short
from images.tree import ARCHIVE, DIRECTORY, VALID_ATTRIBUTES, FileInfo

if TYPE_CHECKING:
    from images.fat.directory import Directory
    from images.fat.volume import FatVolume

DELETED = 0xE5
VOLUME_LABEL = 0x08
SIZE_LIMIT = 0xFFFFFFFF
# FAT specification 1.03, "Directory Structure": at most 65,536 entries of 32 bytes.
DIRECTORY_LIMIT = 65536 * 32
_ZEROS = 1 << 20


class Entry:
    """One directory entry; as long as anybody holds it, it is the only object for its file."""

    __slots__ = (
        "__weakref__",
        "_chain",
        "directory",
        "name",
        "raw",
        "removed",
        "slots",
        "volume",
    )

    def __init__(
        self,
        volume: "FatVolume",
        directory: "Directory | None",
        raw: bytearray,
        slots: range,
        name: str,
    ) -> None:
        """`raw`: the 32 bytes on disk; `slots`: where it lies in the directory, after its long name."""
        self.volume = volume
        self.directory = directory
        self.raw = raw
        self.slots = slots
        self.name = name
        self.removed = False
        self._chain: array[int] | None = None

    @property
    def parent(self) -> "Entry | None":
        """The directory's own entry; None for the root."""
        return None if self.directory is None else self.directory.owner

    @property
    def is_dir(self) -> bool:
        """Whether ATTR_DIRECTORY is set."""
        return bool(self.raw[11] & DIRECTORY)

    @property
    def attributes(self) -> int:
        """DIR_Attr without the volume label bit."""
        return self.raw[11] & VALID_ATTRIBUTES

    @property
    def short_name(self) -> str:
        """The 8.3 name."""
        return decode_short(bytes(self.raw[:11]))

    @property
    def size(self) -> int:
        """DIR_FileSize in bytes; 0 for a directory."""
        return int(unpack_from("<I", self.raw, 28)[0])

    @property
    def first_cluster(self) -> int:
        """Where the data starts; 0 for an empty file and for the fixed root."""
        high = unpack_from("<H", self.raw, 20)[0] if self.volume.bpb.fat_type == 32 else 0
        return int(high << 16 | unpack_from("<H", self.raw, 26)[0])

    @property
    def created(self) -> int | None:
        """Ns since 1970."""
        clock, date = unpack_from("<HH", self.raw, 14)
        return times.decode(date, clock, self.raw[13])

    @property
    def accessed(self) -> int | None:
        """Ns since 1970, a whole day."""
        return times.decode(unpack_from("<H", self.raw, 18)[0])

    @property
    def modified(self) -> int | None:
        """Ns since 1970, in steps of two seconds."""
        clock, date = unpack_from("<HH", self.raw, 22)
        return times.decode(date, clock)

    def info(self) -> FileInfo:
        """Node.info(); a directory's size is what it takes on the volume."""
        unit = self.volume.bpb.cluster_size
        if self.is_dir:
            try:
                size = len(self.chain()) * unit or self.volume.bpb.root_size
            except FatError:
                size = 0  # damaged: it can be seen, not opened
        else:
            size = self.size
        return FileInfo(
            self.name,
            self.attributes,
            size=size,
            physical_size=-(-size // unit) * unit,
            created=self.created,
            accessed=self.accessed,
            modified=self.modified,
        )

    def child(self, name: str) -> "Entry | None":
        """Node.child(). Raises FatError for a damaged directory."""
        return self.volume.directory(self).find(name)

    def children(self) -> "list[Entry]":
        """The directory's entries in their order on disk. Raises FatError for a damaged directory."""
        return self.volume.directory(self).entries()

    def entries(self) -> list[FileInfo]:
        """Node.entries()."""
        return [entry.info() for entry in self.children()]

    def create(self, name: str, attributes: int) -> "Entry":
        """Node.create(). Raises VolumeFull, FatError."""
        volume = self.volume
        raw = bytearray(32)
        is_dir = bool(attributes & DIRECTORY)
        raw[11] = attributes & VALID_ATTRIBUTES | (0 if is_dir else ARCHIVE)
        _stamp(raw, volume.now(), created=True)
        with volume.change():
            holder = volume.directory(self)
            if is_dir:
                cluster = volume.table.allocate(1)[0]
                _set_cluster(raw, cluster)
                up = 0 if self.parent is None else self.first_cluster
                dots = bytearray(volume.bpb.cluster_size)
                dots[0:64] = _dot(raw, b".", cluster) + _dot(raw, b"..", up)
                volume.device.write(volume.cluster_offset(cluster), dots)
            return holder.add(name, raw)

    def read(self, offset: int, count: int) -> bytes:
        """Node.read(). Raises FatError where the chain is shorter than the size, DeviceFailure."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        read = self.volume.device.read
        parts = [read(*piece) for piece in self.volume.runs(self.chain(), offset, count)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Node.write(). Raises VolumeFull with nothing changed if the clusters do not suffice, FatError."""
        volume = self.volume
        end = offset + len(data)
        with volume.change(self):
            if end > self.size:
                self._grow(end, offset)
            done = 0
            for where, count in volume.runs(self.chain(), offset, len(data)):
                volume.device.write(where, data if count == len(data) else data[done : done + count])
                done += count
            self._changed()

    def resize(self, size: int) -> None:
        """Node.resize(). Raises VolumeFull, FatError."""
        with self.volume.change(self):
            if size > self.size:
                self._grow(size, size)
            else:
                keep = -(-size // self.volume.bpb.cluster_size)
                chain = self._whole_chain()
                self.volume.table.release(chain[keep:])
                if keep:
                    self.volume.table.set(chain[keep - 1], self.volume.table.end_mark)
                else:
                    _set_cluster(self.raw, 0)
                self._chain = chain[:keep]
                pack_into("<I", self.raw, 28, size)
            self._changed()

    def remove(self) -> None:
        """Node.remove(): frees entry and clusters. Raises DirectoryNotEmpty, FatError."""
        if self.is_dir and self.children():
            raise DirectoryNotEmpty(f"{self.name}: the directory is not empty")
        with self.volume.change(self):
            chain = self.chain()
            assert self.directory is not None
            self.directory.erase(self)
            self.volume.table.release(chain)
            self.removed = True

    def move(self, parent: "Entry", name: str) -> None:
        """Node.move(). Raises VolumeFull with the entry where it was, FatError."""
        with self.volume.change(self):
            origin = self.parent
            self.volume.directory(parent).adopt(self, name)
            if self.is_dir and parent is not origin:
                up = 0 if parent.parent is None else parent.first_cluster
                contents = self.volume.device.read(where := self.volume.cluster_offset(self.first_cluster), 64)
                if contents[32:43] == b"..         ":
                    self.volume.device.write(where + 32, _dot(bytearray(contents[32:64]), b"..", up))

    def set_attributes(self, attributes: int) -> None:
        """Node.set_attributes()."""
        with self.volume.change(self):
            self.raw[11] = attributes & VALID_ATTRIBUTES & ~DIRECTORY | self.raw[11] & DIRECTORY
            self.store()

    def set_times(self, created: int | None, accessed: int | None, modified: int | None) -> None:
        """Node.set_times(); years outside 1980 to 2107 are clamped."""
        with self.volume.change(self):
            if created is not None:
                date, clock, self.raw[13] = times.encode(created)
                pack_into("<HH", self.raw, 14, clock, date)
            if accessed is not None:
                pack_into("<H", self.raw, 18, times.encode(accessed)[0])
            if modified is not None:
                date, clock, _ = times.encode(modified)
                pack_into("<HH", self.raw, 22, clock, date)
            self.store()

    def chain(self) -> "array[int]":
        """The clusters of the data, none for an empty file. Raises FatError for a damaged chain."""
        if self._chain is None:
            first = self.first_cluster
            bpb = self.volume.bpb
            limit = max(1, DIRECTORY_LIMIT // bpb.cluster_size) if self.is_dir else bpb.cluster_count
            self._chain = self.volume.table.chain(first, limit) if first else array("I")
        return self._chain

    def restore(self, raw: bytes) -> None:
        """Puts the 32 bytes back as they were before a change that failed; the chain is read again when needed."""
        self.raw[:] = raw
        self._chain = None

    def store(self) -> None:
        """Writes the 32 bytes back to the directory."""
        if self.directory is not None and not self.removed:
            self.directory.write_slots(self.slots[-1], self.raw)

    def _whole_chain(self) -> "array[int]":
        """The chain, as long as the size says it must be at least. Raises FatError if it is shorter."""
        chain = self.chain()
        if len(chain) * self.volume.bpb.cluster_size < self.size:
            raise FatError(f"FAT: {self.name} has {self.size} bytes in {len(chain)} clusters")
        return chain

    def _changed(self) -> None:
        self.raw[11] |= ARCHIVE
        _stamp(self.raw, self.volume.now())
        self.store()

    def _grow(self, size: int, zero_to: int) -> None:
        """Takes clusters for `size` bytes; what lies between the old end and `zero_to` becomes zeros."""
        if size > SIZE_LIMIT:
            raise VolumeFull(f"{self.name}: {size} bytes, FAT files hold at most {SIZE_LIMIT}")
        volume = self.volume
        chain = self._whole_chain()
        missing = -(-size // volume.bpb.cluster_size) - len(chain)
        if missing > 0:
            added = volume.table.allocate(missing, chain[-1] if chain else None)
            if not chain:
                _set_cluster(self.raw, added[0])
            chain.extend(added)
        old = self.size
        pack_into("<I", self.raw, 28, size)
        for where, count in volume.runs(chain, old, zero_to - old):
            for start in range(0, count, _ZEROS):
                volume.device.write(where + start, bytes(min(_ZEROS, count - start)))


def _set_cluster(raw: bytearray, cluster: int) -> None:
    pack_into("<H", raw, 20, cluster >> 16)
    pack_into("<H", raw, 26, cluster & 0xFFFF)


def _stamp(raw: bytearray, now: int, created: bool = False) -> None:
    date, clock, hundredths = times.encode(now)
    if created:
        raw[13] = hundredths
        pack_into("<HH", raw, 14, clock, date)
    pack_into("<H", raw, 18, date)
    pack_into("<HH", raw, 22, clock, date)


def _dot(raw: bytearray, name: bytes, cluster: int) -> bytes:
    dot = bytearray(raw)
    dot[:11] = name.ljust(11)
    dot[11] = DIRECTORY
    _set_cluster(dot, cluster)
    return bytes(dot)
