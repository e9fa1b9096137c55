"""Which volumes a guest sees: the image it was given, a host folder, or the partitions of a disk image."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cvmboot.errors import CvmbootError
from cvmboot.media import Media
from images.errors import ImageError
from uefi.device_path import nodes
from uefi.device_path import path as device_path
from uefi.guids import Guid
from uefi.platform import PCI_ROOT, Platform, Volume

if TYPE_CHECKING:
    from images.block import BlockDevice
    from images.disk import Disk
    from images.fat.volume import FatVolume

REMOVABLE_PATH = "\\EFI\\BOOT\\BOOTX64.EFI"
"""Where firmware looks for an image on a medium that it has no boot option for (UEFI 2.10, 3.5.1.1)."""

_VOLUME_NODE = nodes.vendor_hardware(Guid.parse("6c1b6f2e-5f0e-4d5e-9c0a-7c766d626f74"))
_DISK_NODES = (nodes.pci(3, 0), nodes.nvme(1))


def add_image_alone(platform: Platform, image: Path, data: bytes | memoryview, media: Media) -> Volume:
    """A volume in memory with nothing but the image in it, at the path of a removable medium."""
    from images.memory_folder import MemoryFolder

    def make() -> MemoryFolder:
        made = MemoryFolder()
        made.put(REMOVABLE_PATH, image, data)
        return made

    try:
        folder = media.folder(image, make)
    except ImageError as error:
        raise CvmbootError(str(error)) from None
    folder.now = platform.firmware.clock.wall
    return platform.add_file_system(folder, _VOLUME_NODE)


def add_esp(platform: Platform, source: Path, media: Media, *, write: bool) -> Volume:
    """The EFI system partition from a host folder or a disk image; its changes stay in memory unless `write`."""
    from images.disk import open_disk

    try:
        if not source.is_dir():
            return add_disk(platform, media.disk(source, lambda: open_disk(source, write)), source)
        if not write:
            return add_disk(platform, media.disk(source, lambda: _folder_as_disk(platform, source)), source)
        from images.host_folder import HostFolder

        folder = HostFolder(source, write_through=True, now=platform.firmware.clock.wall)
        return platform.add_file_system(folder, _VOLUME_NODE)
    except ImageError as error:
        raise CvmbootError(f"--esp {error}") from None


def _folder_as_disk(platform: Platform, source: Path) -> "Disk":
    """Boot loaders with a FAT driver of their own read blocks: they find the folder's files on a disk."""
    from images.block import OverlayDevice
    from images.disk import Disk
    from images.folder_disk import FolderDisk

    folder = FolderDisk(source)
    for problem in folder.problems:
        platform.firmware.warn(f"--esp {source}: {problem}")
    return Disk(OverlayDevice(folder))


class _Mounts:
    """The file systems of one disk; they are read anew when the guest has written blocks underneath them."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._volumes: list[FatVolume] = []

    def open_fat(self, device: "BlockDevice") -> "FatVolume | None":
        """The FAT volume on `device`, if there is one."""
        from images.fat.bpb import looks_like_fat
        from images.fat.volume import FatVolume

        if not looks_like_fat(device):
            return None
        try:
            volume = FatVolume(device, now=self._now)
        except ImageError:
            return None
        self._volumes.append(volume)
        return volume

    def reload(self) -> None:
        """Have nothing in memory that could differ from the disk."""
        for volume in self._volumes:
            volume.reload()


def add_disk(platform: Platform, disk: "Disk", source: Path) -> Volume:
    """A disk with its partitions; the volume to boot from is its ESP. ImageError or CvmbootError without one."""
    mounts = _Mounts(platform.firmware.clock.wall)
    whole = device_path.join(PCI_ROOT, *_DISK_NODES)
    first = len(platform.volumes)
    open_whole = mounts.open_fat if disk.scheme == "none" else lambda _device: None
    platform.add_block_device(disk.device, whole, False, open_whole, mounts.reload)
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
        platform.add_block_device(partition.device, path, True, mounts.open_fat, mounts.reload)
        if partition.device is esp and len(platform.volumes) > before:
            chosen = platform.volumes[before]
    if chosen is None:
        raise CvmbootError(f"{source}: no EFI system partition with a FAT file system; give a disk that has one")
    return chosen
