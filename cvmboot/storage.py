"""Which volumes a guest sees: the image it was given, a host folder, or the partitions of a disk image."""

from pathlib import Path

from cvmboot.errors import CvmbootError
from images.block import BlockDevice
from images.errors import ImageError
from images.tree import FileSystem
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.guids import Guid
from uefi.platform import PCI_ROOT, Platform, Volume

REMOVABLE_PATH = "\\EFI\\BOOT\\BOOTX64.EFI"
"""Where firmware looks for an image on a medium that it has no boot option for (UEFI 2.10, 3.5.1.1)."""

_VOLUME_NODE = nodes.vendor_hardware(Guid.parse("6c1b6f2e-5f0e-4d5e-9c0a-7c766d626f74"))
_DISK_NODES = (nodes.pci(3, 0), nodes.nvme(1))


def add_image_alone(platform: Platform, image: Path) -> Volume:
    """A volume in memory with nothing but the image in it, at the path of a removable medium."""
    from images.memory_folder import MemoryFolder

    folder = MemoryFolder(now=platform.firmware.clock.wall)
    try:
        folder.put(REMOVABLE_PATH, image)
    except ImageError as error:
        raise CvmbootError(str(error)) from None
    return platform.add_file_system(folder, _VOLUME_NODE)


def add_esp(platform: Platform, source: Path, *, write: bool) -> Volume:
    """The EFI system partition from a host folder or a disk image; its changes stay in memory unless `write`."""
    try:
        if source.is_dir():
            from images.host_folder import HostFolder

            folder = HostFolder(source, write_through=write, now=platform.firmware.clock.wall)
            return platform.add_file_system(folder, _VOLUME_NODE)
        return add_disk(platform, source, write=write)
    except ImageError as error:
        raise CvmbootError(f"--esp {error}") from None


def _open_fat(device: BlockDevice) -> FileSystem | None:
    from images.fat.bpb import looks_like_fat
    from images.fat.volume import FatVolume

    if not looks_like_fat(device):
        return None
    try:
        return FatVolume(device)
    except ImageError:
        return None


def add_disk(platform: Platform, source: Path, *, write: bool) -> Volume:
    """A disk image with its partitions; the volume to boot from is its ESP. ImageError or CvmbootError without one."""
    from images.disk import open_disk

    disk = open_disk(source, write)
    whole = device_path.join(PCI_ROOT, *_DISK_NODES)
    first = len(platform.volumes)
    platform.add_block_device(disk.device, whole, False, _open_fat if disk.scheme == "none" else lambda _device: None)
    esp = disk.esp()
    chosen: Volume | None = platform.volumes[first] if len(platform.volumes) > first else None
    for partition in disk.partitions:
        size = partition.last_lba - partition.first_lba + 1
        if disk.scheme == "gpt":
            node = nodes.hard_drive_gpt(partition.number, partition.first_lba, size, Guid(partition.signature))
        elif disk.scheme == "mbr":
            signature = int.from_bytes(partition.signature, "little")
            node = nodes.hard_drive_mbr(partition.number, partition.first_lba, size, signature)
        else:
            node = nodes.cdrom(partition.number, partition.first_lba, size)
        path = device_path.join(PCI_ROOT, *_DISK_NODES, node)
        before = len(platform.volumes)
        platform.add_block_device(partition.device, path, True, _open_fat)
        if partition.device is esp and len(platform.volumes) > before:
            chosen = platform.volumes[before]
    if chosen is None:
        raise CvmbootError(f"{source}: no EFI system partition with a FAT file system; give a disk that has one")
    return chosen
