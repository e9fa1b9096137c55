"""The boot sector of a FAT volume and its BIOS parameter block (FAT specification 1.03, "Boot Sector and BPB")."""

from struct import unpack_from

from images.block import BlockDevice
from images.errors import DeviceFailure, FatError

BOOT_SECTOR_SIZE = 512
EXTENDED_BOOT_SIGNATURE = 0x29
# "FAT Type Determination": the number of clusters tells FAT12 from FAT16.
FAT12_CLUSTERS = 4085
FAT16_CLUSTERS = 65525
FAT32_CLUSTERS = 0x0FFFFFF5


class Bpb:
    """Where the parts of the volume lie; all offsets and sizes in bytes from the volume's start."""

    __slots__ = (
        "active_fat",
        "backup_boot_sector",
        "cluster_count",
        "cluster_size",
        "data_offset",
        "fat_count",
        "fat_offset",
        "fat_size",
        "fat_type",
        "fsinfo_sector",
        "label_offset",
        "mirrored",
        "root_cluster",
        "root_offset",
        "root_size",
        "sector_size",
        "volume_id",
    )

    def __init__(self, sector: bytes, device_size: int) -> None:
        """Parses the first 512 bytes of a volume on a device of `device_size` bytes.

        Raises FatError, naming the field, where the boot sector cannot be that of a FAT volume.
        """
        if len(sector) < BOOT_SECTOR_SIZE:
            raise FatError(f"FAT boot sector: {len(sector)} bytes, wanted {BOOT_SECTOR_SIZE}")
        if sector[510:512] != b"\x55\xaa":
            raise FatError(f"FAT boot sector: signature {sector[510:512].hex()}, wanted 55aa")
        sector_size, per_cluster, reserved, fats, root_entries, total, media, fat_sectors = unpack_from(
            "<HBHBHHBH", sector, 0x0B
        )
        total = total or unpack_from("<I", sector, 0x20)[0]
        _check("bytes per sector", sector_size, sector_size in {512, 1024, 2048, 4096}, "512, 1024, 2048 or 4096")
        _check("sectors per cluster", per_cluster, per_cluster.bit_count() == 1, "a power of two")
        _check("reserved sectors", reserved, reserved > 0, "at least 1")
        _check("number of FATs", fats, 1 <= fats <= 4, "1 to 4")
        _check("media", media, media == 0xF0 or media >= 0xF8, "0xf0 or 0xf8 to 0xff")
        is_fat32 = fat_sectors == 0
        if is_fat32:
            fat_sectors = unpack_from("<I", sector, 0x24)[0]
        _check("sectors per FAT", fat_sectors, fat_sectors > 0, "at least 1")
        _check("total sectors", total, 0 < total * sector_size <= device_size, f"at most {device_size // sector_size}")

        self.sector_size: int = sector_size
        self.cluster_size: int = sector_size * per_cluster
        self.fat_count: int = fats
        self.fat_offset: int = reserved * sector_size
        self.fat_size: int = fat_sectors * sector_size
        self.root_offset: int = self.fat_offset + fats * self.fat_size
        self.root_size: int = 0 if is_fat32 else root_entries * 32
        root_sectors = -(-self.root_size // sector_size)
        self.data_offset: int = self.root_offset + root_sectors * sector_size
        data_sectors = total - self.data_offset // sector_size
        _check("total sectors", total, data_sectors >= per_cluster, "room for one cluster after the FATs")
        count = data_sectors // per_cluster
        if is_fat32:
            self.fat_type = 32
            _check("clusters", count, count <= FAT32_CLUSTERS, f"at most {FAT32_CLUSTERS} on FAT32")
            _check("FAT32 version", version := unpack_from("<H", sector, 0x2A)[0], version == 0, "0")
        else:
            self.fat_type = 12 if count < FAT12_CLUSTERS else 16
            _check("clusters", count, count < FAT16_CLUSTERS, f"less than {FAT16_CLUSTERS} without FAT32 fields")
            _check("root entries", root_entries, root_entries > 0, "at least 1")
        # A FAT too short for all clusters leaves the last ones out of use.
        self.cluster_count: int = min(count, self.fat_size * 8 // self.fat_type - 2)
        _check("sectors per FAT", fat_sectors, self.cluster_count > 0, "room for one cluster")

        self.root_cluster = self.fsinfo_sector = self.backup_boot_sector = self.active_fat = 0
        self.mirrored = True
        if is_fat32:
            flags, _, self.root_cluster, self.fsinfo_sector, self.backup_boot_sector = unpack_from(
                "<HHIHH", sector, 0x28
            )
            last = self.cluster_count + 1
            _check("root cluster", self.root_cluster, 2 <= self.root_cluster <= last, f"2 to {last}")
            if flags & 0x80:
                self.mirrored = False
                self.active_fat = flags & 0x0F
                _check("active FAT", self.active_fat, self.active_fat < fats, f"less than {fats}")
            if not 0 < self.fsinfo_sector < reserved:
                self.fsinfo_sector = 0
            if not 0 < self.backup_boot_sector < reserved:
                self.backup_boot_sector = 0
        extended = 0x42 if is_fat32 else 0x26
        has_extended = sector[extended] == EXTENDED_BOOT_SIGNATURE
        self.volume_id: int = unpack_from("<I", sector, extended + 1)[0] if has_extended else 0
        self.label_offset: int = extended + 5 if has_extended else 0


def read_bpb(device: BlockDevice) -> Bpb:
    """The parameters of the volume on `device`. Raises FatError if there is none, DeviceFailure if unreadable."""
    if device.size < BOOT_SECTOR_SIZE:
        raise FatError(f"FAT boot sector: the device has {device.size} bytes, wanted at least {BOOT_SECTOR_SIZE}")
    return Bpb(device.read(0, BOOT_SECTOR_SIZE), device.size)


def looks_like_fat(device: BlockDevice) -> bool:
    """Whether a FAT volume starts at the device's first byte."""
    try:
        read_bpb(device)
    except (FatError, DeviceFailure):
        return False
    return True


def _check(field: str, value: int, good: bool, wanted: str) -> None:
    if not good:
        raise FatError(f"FAT boot sector: {field} is {value}, wanted {wanted}")
