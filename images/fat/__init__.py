"""FAT12, FAT16 and FAT32 volumes on a block device: read and written as Microsoft's FAT specification 1.03 says."""

from images.fat.entry import Entry
from images.fat.volume import FatVolume

__all__ = ["Entry", "FatVolume"]
