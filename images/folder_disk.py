"""A host folder as a disk: GPT, one EFI system partition, FAT32 with the folder's files, made up as it is read."""

import os
from struct import pack
from zlib import crc32

from images.block import SliceDevice
from images.fat.bpb import Bpb, read_bpb
from images.fat.contiguous import ContiguousFat
from images.fat.format import format_fat
from images.fat.names import SLOT
from images.fat.table import FIRST_CLUSTER
from images.folder_names import DirectoryImage
from images.folder_scan import FolderEntry, FolderScan
from images.gpt import EFI_SYSTEM_PARTITION
from images.gpt_write import NewPartition, first_aligned, write_gpt
from images.host_file import HostFile
from images.mosaic import Mosaic
from images.sketch import SketchDevice

BLOCK_SIZE = 512
DEFAULT_ROOM = 1 << 30
LABEL = "CVMBOOT"
PARTITION_START = first_aligned(BLOCK_SIZE) * BLOCK_SIZE
_MIB = 1 << 20
_LEAST_CLUSTERS = 70_000  # so many that nobody takes it for FAT16
# Bytes on the volume up to which a cluster size serves, so that the table stays small.
_CLUSTER_SIZES = ((8 << 30, 4096), (16 << 30, 8192), (32 << 30, 16384))
_MOST_CLUSTER = 32768
_FSINFO_FREE = 488


class FolderDisk(Mosaic):
    """A read-only BlockDevice over the folder as it is now; the same names, sizes and times give the same bytes.

    Files are read from the host when their blocks are: one that became shorter reads as zeros there, one that vanished
    raises DeviceFailure. `problems` says in one line each which files are not on the disk, and why.
    """

    def __init__(self, path: str | os.PathLike[str], *, room: int = DEFAULT_ROOM) -> None:
        """`room`: bytes left free for new files. Raises NotFound, ImageError (too many files, or too large ones)."""
        scan = FolderScan(path)
        self.problems = scan.problems
        cluster_size = next((size for limit, size in _CLUSTER_SIZES if scan.total + room <= limit), _MOST_CLUSTER)
        directories = _directories(scan.root)
        table, first_clusters = _allocate(directories, cluster_size)
        volume_size = _volume_size(table.following + room // cluster_size, cluster_size)
        super().__init__(PARTITION_START + volume_size + _MIB, BLOCK_SIZE)
        bpb, label = self._place_formatting(volume_size, cluster_size, table.following, _facts(directories))

        start = PARTITION_START + bpb.fat_offset
        for copy in range(bpb.fat_count):
            self.place(start + copy * bpb.fat_size, bpb.fat_size, table.read)
        data = PARTITION_START + bpb.data_offset - FIRST_CLUSTER * cluster_size
        for directory in directories:
            contents = directory.pack(first_clusters, label)
            self.place_bytes(data + first_clusters[directory.entry] * cluster_size, contents)
        for entry, cluster in first_clusters.items():
            if not entry.is_dir:
                self.place(data + cluster * cluster_size, entry.size, HostFile(entry.host, entry.size).read)

    def _place_formatting(self, volume_size: int, cluster_size: int, following: int, facts: bytes) -> tuple[Bpb, bytes]:
        """Partition table and boot sectors; gives the volume's parameters and the directory entry of its label."""
        sketch = SketchDevice(self.size, BLOCK_SIZE)
        first, count = PARTITION_START // BLOCK_SIZE, volume_size // BLOCK_SIZE
        esp = NewPartition(
            first,
            first + count - 1,
            type_guid=EFI_SYSTEM_PARTITION,
            unique_guid=_guid(b"partition", facts),
            name="EFI System Partition",
        )
        write_gpt(sketch, _guid(b"disk", facts), [esp])
        volume = SliceDevice(sketch, PARTITION_START, volume_size)
        format_fat(
            volume,
            fat_type=32,
            label=LABEL,
            volume_id=crc32(facts),
            cluster_size=cluster_size,
            hidden_sectors=first,
        )
        bpb = read_bpb(volume)
        free = pack("<II", FIRST_CLUSTER + bpb.cluster_count - following, following)
        table_at, end = PARTITION_START + bpb.fat_offset, PARTITION_START + volume_size
        for offset, data in sketch.written.items():
            if table_at <= offset < end:
                continue
            sector = (offset - PARTITION_START) // BLOCK_SIZE
            if sector in {bpb.fsinfo_sector, bpb.backup_boot_sector + bpb.fsinfo_sector}:
                self.place_bytes(offset, data[:_FSINFO_FREE] + free + data[_FSINFO_FREE + len(free) :])
            else:
                self.place_bytes(offset, data)
        return bpb, sketch.written[PARTITION_START + bpb.root_offset][:SLOT]


def _directories(root: FolderEntry) -> list[DirectoryImage]:
    """The root and all directories below it, each before its own."""
    found = [DirectoryImage(root, None)]
    for directory in found:
        found.extend(DirectoryImage(child, directory) for child in directory.entry.children if child.is_dir)
    return found


def _allocate(directories: list[DirectoryImage], cluster_size: int) -> tuple[ContiguousFat, dict[FolderEntry, int]]:
    """Clusters for all directories, the root first, and then for all files that are not empty."""
    table = ContiguousFat()
    first: dict[FolderEntry, int] = {}
    for directory in directories:
        first[directory.entry] = table.add(max(1, -(-directory.size // cluster_size)))
    for directory in directories:
        for child in directory.entry.children:
            if child.size:
                first[child] = table.add(-(-child.size // cluster_size))
    return table, first


def _volume_size(clusters: int, cluster_size: int) -> int:
    """Bytes in whole MiB that a FAT32 volume of at least so many clusters takes."""
    clusters = max(clusters, _LEAST_CLUSTERS)
    tables = 2 * 4 * (clusters + BLOCK_SIZE)
    return -(-(clusters * cluster_size + tables) // _MIB) * _MIB + _MIB


def _facts(directories: list[DirectoryImage]) -> bytes:
    """What tells one folder from another: all names and sizes."""
    lines = []
    for directory in directories:
        lines.append(f"{directory.entry.name}\\")
        lines.extend(f"{child.name} {child.size}" for child in directory.entry.children)
    return "\n".join(lines).encode()


def _guid(purpose: bytes, facts: bytes) -> bytes:
    """16 bytes that are the same for the same folder: a GUID of version 8, made by a rule of one's own (RFC 9562)."""
    raw = bytearray(b"".join(pack("<I", crc32(facts, crc32(purpose + bytes((part,))))) for part in range(4)))
    raw[7] = raw[7] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)
