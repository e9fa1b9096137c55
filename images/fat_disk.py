"""A disk of GPT and one EFI system partition, FAT32, that holds a given tree of files; made up as it is read."""

from struct import pack

from images.block import SliceDevice
from images.errors import FatError, ImageError, VolumeFull
from images.fat.bpb import Bpb, read_bpb
from images.fat.contiguous import ContiguousFat
from images.fat.format import format_fat
from images.fat.names import SLOT
from images.fat.table import FIRST_CLUSTER
from images.fat_directory import DirectoryImage
from images.fat_tree import TreeEntry
from images.gpt import EFI_SYSTEM_PARTITION
from images.gpt_write import NewPartition, first_aligned, write_gpt
from images.mosaic import Mosaic
from images.sketch import SketchDevice

BLOCK_SIZE = 512
PARTITION_START = first_aligned(BLOCK_SIZE) * BLOCK_SIZE
PARTITION_NAME = "EFI System Partition"
_FSINFO_FREE = 488


class Identity:
    """What must differ between disks that are seen together, and be the same for the same disk."""

    __slots__ = ("disk_guid", "partition_guid", "volume_id")

    def __init__(self, disk_guid: bytes, partition_guid: bytes, volume_id: int) -> None:
        """GUIDs as the 16 bytes on disk, the volume's number of 32 bits."""
        self.disk_guid = disk_guid
        self.partition_guid = partition_guid
        self.volume_id = volume_id


class FatDisk(Mosaic):
    """A read-only BlockDevice; the same tree, sizes and identity give the same bytes."""

    def __init__(
        self,
        root: TreeEntry,
        identity: Identity,
        *,
        size: int,
        volume_size: int,
        label: str,
        cluster_size: int | None = None,
        now: int = 0,
    ) -> None:
        """`size` of the disk, of the volume and of a cluster in bytes; `now`: ns since 1970, the label's time.

        Raises VolumeFull if the tree does not fit into the volume, FatError or PartitionError for sizes that cannot be.
        """
        super().__init__(size, BLOCK_SIZE)
        sketch, bpb = _format(identity, size, volume_size, label, cluster_size, now)
        self.cluster_size = bpb.cluster_size
        directories = directories_of(root)
        table, first_clusters = _allocate(directories, bpb.cluster_size)
        free = FIRST_CLUSTER + bpb.cluster_count - table.following
        if free < 0:
            raise VolumeFull(
                f"the files take {(table.following - FIRST_CLUSTER) * bpb.cluster_size} bytes, "
                f"the volume holds {bpb.cluster_count * bpb.cluster_size}"
            )
        self.volume_free = free * bpb.cluster_size
        root_entry = self._place_formatting(sketch, bpb, volume_size, pack("<II", free, table.following))

        start = PARTITION_START + bpb.fat_offset
        for copy in range(bpb.fat_count):
            self.place(start + copy * bpb.fat_size, bpb.fat_size, table.read)
        data = PARTITION_START + bpb.data_offset - FIRST_CLUSTER * bpb.cluster_size
        for directory in directories:
            contents = directory.pack(first_clusters, root_entry)
            self.place_bytes(data + first_clusters[directory.entry] * bpb.cluster_size, contents)
        for entry, cluster in first_clusters.items():
            if entry.read is not None:
                self.place(data + cluster * bpb.cluster_size, entry.size, entry.read)

    def _place_formatting(self, sketch: SketchDevice, bpb: Bpb, volume_size: int, free: bytes) -> bytes:
        """Partition table and boot sectors with the true count of free clusters; gives the label's directory entry."""
        table_at, end = PARTITION_START + bpb.fat_offset, PARTITION_START + volume_size
        for offset, data in sketch.written.items():
            if table_at <= offset < end:
                continue
            sector = (offset - PARTITION_START) // BLOCK_SIZE
            if sector in {bpb.fsinfo_sector, bpb.backup_boot_sector + bpb.fsinfo_sector}:
                self.place_bytes(offset, data[:_FSINFO_FREE] + free + data[_FSINFO_FREE + len(free) :])
            else:
                self.place_bytes(offset, data)
        return sketch.written.get(PARTITION_START + bpb.root_offset, b"")[:SLOT]


def directories_of(root: TreeEntry) -> list[DirectoryImage]:
    """The root and all directories below it, each before its own."""
    found = [DirectoryImage(root, None)]
    for directory in found:
        found.extend(DirectoryImage(child, directory) for child in directory.entry.children if child.is_dir)
    return found


def clusters_needed(root: TreeEntry, cluster_size: int) -> int:
    """How many clusters of `cluster_size` bytes the tree takes, directories and files."""
    needed = 0
    for directory in directories_of(root):
        needed += max(1, -(-directory.size // cluster_size))
        needed += sum(-(-child.size // cluster_size) for child in directory.entry.children)
    return needed


def _format(
    identity: Identity, size: int, volume_size: int, label: str, cluster_size: int | None, now: int
) -> tuple[SketchDevice, Bpb]:
    sketch = SketchDevice(size, BLOCK_SIZE)
    first, count = PARTITION_START // BLOCK_SIZE, volume_size // BLOCK_SIZE
    esp = NewPartition(
        first,
        first + count - 1,
        type_guid=EFI_SYSTEM_PARTITION,
        unique_guid=identity.partition_guid,
        name=PARTITION_NAME,
    )
    write_gpt(sketch, identity.disk_guid, [esp])
    volume = SliceDevice(sketch, PARTITION_START, volume_size)
    format_fat(
        volume,
        fat_type=32,
        label=label,
        volume_id=identity.volume_id,
        cluster_size=cluster_size,
        hidden_sectors=first,
        now=now,
    )
    try:
        return sketch, read_bpb(volume)
    except FatError as error:
        raise ImageError(f"internal error: the new volume is no FAT volume: {error}") from error


def _allocate(directories: list[DirectoryImage], cluster_size: int) -> tuple[ContiguousFat, dict[TreeEntry, int]]:
    """Clusters for all directories, the root first, and then for all files that are not empty."""
    table = ContiguousFat()
    first: dict[TreeEntry, int] = {}
    for directory in directories:
        first[directory.entry] = table.add(max(1, -(-directory.size // cluster_size)))
    for directory in directories:
        for child in directory.entry.children:
            if child.size:
                first[child] = table.add(-(-child.size // cluster_size))
    return table, first
