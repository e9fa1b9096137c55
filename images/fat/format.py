"""Makes an empty FAT volume, the same bytes for the same arguments (FAT specification 1.03)."""

from struct import pack, pack_into

from images.block import BlockDevice
from images.errors import FatError
from images.fat import times
from images.fat.bpb import EXTENDED_BOOT_SIGNATURE, FAT12_CLUSTERS, FAT16_CLUSTERS, FAT32_CLUSTERS
from images.fat.names import label_bytes

_MEDIA = 0xF8  # not removable
_ROOT_ENTRIES = 512
_FAT32_RESERVED = 32
_FSINFO_SECTOR, _BACKUP_SECTOR = 1, 6
_MOST_CLUSTER = 32 * 1024
# Bytes of volume up to which Microsoft's table ("DskTableFAT32") takes this cluster size.
_FAT32_SIZES = ((260 << 20, 512), (8 << 30, 4096), (16 << 30, 8192), (32 << 30, 16384))
# int 18h (no bootable disk), then halt for ever.
_BOOT_CODE = bytes.fromhex("cd18 f4 ebfd")
_ZEROS = 1 << 20


class _Layout:
    """Sizes in sectors of one way to lay the volume out."""

    def __init__(self, total: int, sector: int, per_cluster: int, fat_type: int) -> None:
        self.fat_type = fat_type
        self.per_cluster = per_cluster
        self.reserved = _FAT32_RESERVED if fat_type == 32 else 1
        self.root_sectors = 0 if fat_type == 32 else -(-_ROOT_ENTRIES * 32 // sector)
        self.fat_sectors = 1
        while True:
            data = total - self.reserved - self.root_sectors - 2 * self.fat_sectors
            self.clusters = max(0, data // per_cluster)
            needed = -(-((self.clusters + 2) * fat_type) // (8 * sector))
            if needed <= self.fat_sectors:
                break
            self.fat_sectors = needed

    @property
    def fits(self) -> bool:
        """Whether a reader that counts clusters takes it for what it is."""
        if self.fat_type == 32:
            return FAT16_CLUSTERS <= self.clusters <= FAT32_CLUSTERS
        low, high = (1, FAT12_CLUSTERS) if self.fat_type == 12 else (FAT12_CLUSTERS, FAT16_CLUSTERS)
        return low <= self.clusters < high


def format_fat(
    device: BlockDevice,
    *,
    fat_type: int,
    label: str = "",
    volume_id: int = 0,
    cluster_size: int | None = None,
    hidden_sectors: int = 0,
    now: int = 0,
) -> None:
    """Writes boot sectors, tables and root directory of an empty volume over the whole of `device`.

    `fat_type`: 12, 16 or 32. `cluster_size` in bytes, chosen by size if None. `hidden_sectors`: blocks before the
    partition. `now`: ns since 1970, the label's time. What the data area held stays. Raises FatError where the device
    is too small or too large for the type, InvalidName for the label.
    """
    sector = device.block_size
    total = device.size // sector
    layout = _choose(total, sector, fat_type, cluster_size)
    name = label_bytes(label)
    fat_offset = layout.reserved * sector
    fat_size = layout.fat_sectors * sector
    root_offset = fat_offset + 2 * fat_size
    cleared = root_offset + (layout.root_sectors * sector or layout.per_cluster * sector)
    for start in range(0, cleared, _ZEROS):
        device.write(start, bytes(min(_ZEROS, cleared - start)))

    boot = _boot_sector(layout, sector, total, hidden_sectors)
    _put_extended(boot, fat_type, volume_id, name)
    device.write(0, boot)
    if fat_type == 32:
        info = bytearray(512)
        pack_into("<I", info, 0, 0x41615252)
        pack_into("<III", info, 484, 0x61417272, layout.clusters - 1, 3)
        pack_into("<I", info, 508, 0xAA550000)
        for first in (0, _BACKUP_SECTOR):
            device.write(first * sector, boot)
            device.write((first + _FSINFO_SECTOR) * sector, info)
            device.write((first + 2) * sector + 508, b"\0\0\x55\xaa")
    marks = {12: b"\xf8\xff\xff", 16: b"\xf8\xff\xff\xff", 32: pack("<III", 0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF)}
    for copy in range(2):
        device.write(fat_offset + copy * fat_size, marks[fat_type])
    if name.strip():
        date, clock, _ = times.encode(now)
        device.write(root_offset, name + pack("<B10xHH6x", 0x08, clock, date))


def _choose(total: int, sector: int, fat_type: int, cluster_size: int | None) -> _Layout:
    if fat_type not in {12, 16, 32}:
        raise FatError(f"FAT type {fat_type}, wanted 12, 16 or 32")
    if total > 0xFFFFFFFF:
        raise FatError(f"{total} sectors are too many for a FAT volume, at most {0xFFFFFFFF}")
    if cluster_size is not None:
        if cluster_size % sector or (cluster_size // sector).bit_count() != 1 or cluster_size // sector > 128:
            raise FatError(f"cluster size {cluster_size}, wanted {sector} times a power of two up to 128")
        sizes = [cluster_size]
    else:
        sizes = [sector << shift for shift in range(8) if sector << shift <= max(_MOST_CLUSTER, sector)]
        if fat_type == 32:
            usual = next((size for limit, size in _FAT32_SIZES if total * sector <= limit), _MOST_CLUSTER)
            # The usual size first, then smaller ones: a volume of few clusters would not be FAT32.
            sizes = sorted((size for size in sizes if size <= max(usual, sector)), reverse=True)
    for size in sizes:
        layout = _Layout(total, sector, size // sector, fat_type)
        if layout.fits:
            return layout
    raise FatError(f"{total * sector} bytes in sectors of {sector} do not make a FAT{fat_type} volume")


def _boot_sector(layout: _Layout, sector: int, total: int, hidden: int) -> bytearray:
    is_fat32 = layout.fat_type == 32
    short_total = total if total < 0x10000 and not is_fat32 else 0
    boot = bytearray(512)
    code_at = 0x5A if is_fat32 else 0x3E
    pack_into(
        "<BBB8sHBHBHHBHHHII",
        boot,
        0,
        0xEB,
        code_at - 2,
        0x90,
        b"CVMBOOT ",
        sector,
        layout.per_cluster,
        layout.reserved,
        2,
        0 if is_fat32 else _ROOT_ENTRIES,
        short_total,
        _MEDIA,
        0 if is_fat32 else layout.fat_sectors,
        63,
        255,
        hidden,
        0 if short_total else total,
    )
    if is_fat32:
        pack_into("<IHHIHH", boot, 0x24, layout.fat_sectors, 0, 0, 2, _FSINFO_SECTOR, _BACKUP_SECTOR)
    boot[code_at : code_at + len(_BOOT_CODE)] = _BOOT_CODE
    boot[510:512] = b"\x55\xaa"
    return boot


def _put_extended(boot: bytearray, fat_type: int, volume_id: int, name: bytes) -> None:
    extended = 0x40 if fat_type == 32 else 0x24
    shown = name if name.strip() else b"NO NAME    "
    kind = f"FAT{fat_type}".ljust(8).encode("ascii")
    pack_into("<BBBI11s8s", boot, extended, 0x80, 0, EXTENDED_BOOT_SIGNATURE, volume_id & 0xFFFFFFFF, shown, kind)
