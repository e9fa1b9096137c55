"""A host folder as a disk: GPT, one EFI system partition, FAT32 with the folder's files, made up as it is read."""

import os
from struct import pack
from zlib import crc32

from images.fat.table import FIRST_CLUSTER
from images.fat_directory import DirectoryImage
from images.fat_disk import BLOCK_SIZE, PARTITION_START, FatDisk, Identity, clusters_needed, directories_of
from images.folder_scan import FolderScan

__all__ = ["BLOCK_SIZE", "DEFAULT_ROOM", "LABEL", "PARTITION_START", "FolderDisk"]

DEFAULT_ROOM = 1 << 30
LABEL = "CVMBOOT"
_MIB = 1 << 20
_LEAST_CLUSTERS = 70_000  # so many that nobody takes it for FAT16
# Bytes on the volume up to which a cluster size serves, so that the table stays small.
_CLUSTER_SIZES = ((8 << 30, 4096), (16 << 30, 8192), (32 << 30, 16384))
_MOST_CLUSTER = 32768


class FolderDisk(FatDisk):
    """A read-only BlockDevice over the folder as it is now; the same names, sizes and times give the same bytes.

    Files are read from the host when their blocks are: one that became shorter reads as zeros there, one that vanished
    raises DeviceFailure. `problems` says in one line each which files are not on the disk, and why.
    """

    def __init__(self, path: str | os.PathLike[str], *, room: int = DEFAULT_ROOM) -> None:
        """`room`: bytes left free for new files. Raises NotFound, ImageError (too many files, or too large ones)."""
        scan = FolderScan(path)
        self.problems = scan.problems
        cluster_size = next((size for limit, size in _CLUSTER_SIZES if scan.total + room <= limit), _MOST_CLUSTER)
        directories = directories_of(scan.root)
        clusters = clusters_needed(scan.root, cluster_size)
        volume_size = _volume_size(FIRST_CLUSTER + clusters + room // cluster_size, cluster_size)
        facts = _facts(directories)
        super().__init__(
            scan.root,
            Identity(_guid(b"disk", facts), _guid(b"partition", facts), crc32(facts)),
            size=PARTITION_START + volume_size + _MIB,
            volume_size=volume_size,
            label=LABEL,
            cluster_size=cluster_size,
        )


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
