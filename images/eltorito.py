"""The EFI boot image of a bootable CD: a FAT volume that the El Torito boot catalog points to (UEFI 2.10, 13.3.2.1)."""

from struct import unpack_from

from images.block import BlockDevice, SliceDevice
from images.errors import FatError
from images.fat.bpb import looks_like_fat

CD_BLOCK = 2048
EMULATED_SECTOR = 512
_FIRST_DESCRIPTOR, _MOST_DESCRIPTORS = 16, 64
_STANDARD = b"CD001"
_EL_TORITO = b"EL TORITO SPECIFICATION"
_EFI_PLATFORM = 0xEF
_BOOTABLE = 0x88
_HEADER, _LAST_HEADER, _EXTENSION = 0x90, 0x91, 0x44


class BootImage:
    """One boot catalog entry for EFI: its number there, where it starts (CD blocks), how long it claims to be."""

    __slots__ = ("entry", "first_block", "size")

    def __init__(self, entry: int, first_block: int, size: int) -> None:
        """`size` in bytes as the catalog says; often too small, for the field counts 512-byte sectors in 16 bits."""
        self.entry = entry
        self.first_block = first_block
        self.size = size


def is_iso9660(device: BlockDevice) -> bool:
    """Whether an ISO 9660 volume descriptor stands at block 16."""
    offset = _FIRST_DESCRIPTOR * CD_BLOCK
    return device.size >= offset + CD_BLOCK and device.read(offset + 1, 5) == _STANDARD


def efi_boot_images(device: BlockDevice) -> list[BootImage]:
    """The EFI entries of the boot catalog, none if there is no catalog (El Torito 1.0, figures 2 to 5)."""
    for number in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + _MOST_DESCRIPTORS):
        offset = number * CD_BLOCK
        if offset + CD_BLOCK > device.size:
            return []
        descriptor = device.read(offset, CD_BLOCK)
        if descriptor[1:6] != _STANDARD or descriptor[0] == 0xFF:
            return []
        if descriptor[0] == 0 and descriptor[7:39].rstrip(b"\0 ") == _EL_TORITO:
            catalog = unpack_from("<I", descriptor, 0x47)[0] * CD_BLOCK
            return _catalog(device.read(catalog, CD_BLOCK)) if catalog + CD_BLOCK <= device.size else []
    return []


def boot_volume(device: BlockDevice, image: BootImage) -> SliceDevice:
    """The FAT volume of a boot image; its own boot sector says how long it is. Raises FatError if it is none."""
    start = image.first_block * CD_BLOCK
    if start >= device.size:
        raise FatError(f"El Torito entry {image.entry}: starts at {start}, the image ends at {device.size}")
    volume = SliceDevice(device, start, device.size - start, block_size=EMULATED_SECTOR)
    if not looks_like_fat(volume):
        raise FatError(f"El Torito entry {image.entry}: no FAT volume at {start}")
    sector = volume.read(0, 512)
    sectors = unpack_from("<H", sector, 0x13)[0] or unpack_from("<I", sector, 0x20)[0]
    size = max(sectors * unpack_from("<H", sector, 0x0B)[0], image.size)
    return SliceDevice(device, start, min(size, device.size - start), block_size=EMULATED_SECTOR)


def _catalog(raw: bytes) -> list[BootImage]:
    if raw[0] != 1 or raw[30:32] != b"\x55\xaa":
        return []
    images: list[BootImage] = []
    platform = raw[1]
    entry = 0
    for offset in range(32, CD_BLOCK, 32):
        kind = raw[offset]
        if kind in {_HEADER, _LAST_HEADER}:
            platform = raw[offset + 1]
            continue
        if kind == _EXTENSION:
            continue
        if kind == _BOOTABLE and platform == _EFI_PLATFORM:
            sectors, block = unpack_from("<HI", raw, offset + 6)
            images.append(BootImage(entry, block, sectors * EMULATED_SECTOR))
        entry += 1
    return images
