"""A disk image as a guest sees it: its blocks, its partitions, and which of them is the EFI system partition."""

import os
from typing import Any

from images import eltorito, gpt, mbr
from images.block import BlockDevice, BlockSizedDevice, FileDevice, OverlayDevice, SliceDevice
from images.errors import ContainerError, FatError, ImageError, PartitionError, UnsupportedFormat
from images.fat.bpb import looks_like_fat
from images.formats import container_format, other_format

SECTOR_SIZES = (512, 4096)


class Partition:
    """A part of the disk with what its device path node needs (UEFI 2.10, 10.3.5: hard drive and CD-ROM media)."""

    __slots__ = (
        "attributes",
        "device",
        "first_lba",
        "is_esp",
        "last_lba",
        "mbr_type",
        "name",
        "number",
        "signature",
        "type_guid",
    )

    def __init__(self, number: int, device: SliceDevice, *, is_esp: bool) -> None:
        """`number` counts from 1 (El Torito: the catalog entry, from 0); `device` is exactly the partition."""
        self.number = number
        self.device = device
        self.is_esp = is_esp
        self.first_lba = device.start // device.base.block_size
        self.last_lba = (device.start + device.size) // device.base.block_size - 1
        self.name = ""
        self.attributes = 0
        self.type_guid = b""  # GPT: 16 bytes as on disk
        self.signature = b""  # GPT: the unique GUID's 16 bytes; MBR: the disk's 4 bytes
        self.mbr_type = 0


class Disk:
    """An opened image. `scheme` is "gpt", "mbr", "eltorito", or "none" (a volume without partitions, an empty disk)."""

    __slots__ = ("device", "disk_guid", "file", "mbr_signature", "partitions", "problems", "scheme")

    def __init__(self, device: BlockDevice, file: FileDevice | None = None) -> None:
        """Reads the partitions of `device`; what is wrong but bearable goes to `problems`, one line each.

        Raises PartitionError for a GPT of which neither copy is valid.
        """
        self.device = device
        self.file = file
        self.partitions: list[Partition] = []
        self.problems: list[str] = []
        self.disk_guid = b""
        self.mbr_signature = b""
        self.scheme = "none"
        self._read()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return {**state, "file": None}

    def esp(self) -> BlockDevice:
        """The EFI system partition: one so typed, else a FAT volume on the whole disk, else the first FAT partition.

        Raises PartitionError if there is none.
        """
        typed = [part.device for part in self.partitions if part.is_esp]
        usable = [device for device in typed if looks_like_fat(device)]
        if usable:
            return usable[0]
        if self.scheme == "none" and looks_like_fat(self.device):
            return self.device
        for part in self.partitions:
            if looks_like_fat(part.device):
                return part.device
        if typed:
            raise PartitionError("the EFI system partition holds no FAT volume")
        raise PartitionError(f"no EFI system partition among {len(self.partitions)} partitions, and no FAT volume")

    def flush(self) -> None:
        """Makes what was written lasting, if it goes to the file at all."""
        self.device.flush()

    def close(self) -> None:
        """Closes the file under it."""
        if self.file is not None:
            self.file.close()

    def _read(self) -> None:
        device = self.device
        table = _mbr_of(device)
        protective = table is not None and table.protective
        # A FAT boot sector's code may look like partition records; the MBR of a disk never looks like a FAT volume.
        is_fat = looks_like_fat(device)
        ordinary = is_fat or (table is not None and bool(table.partitions))
        # A GPT without its protective MBR is none when the MBR has partitions of its own (UEFI 2.10, 5.2.3).
        if (protective and not is_fat) or (gpt.has_gpt(device) and (protective or not ordinary)):
            self._take_gpt(gpt.read_gpt(device), protective)
        elif _is_pure_cd(device):
            self._take_el_torito()
        elif table is not None and table.partitions and not is_fat:
            self._take_mbr(table)

    def _take_gpt(self, table: gpt.Gpt, protected: bool) -> None:
        self.scheme = "gpt"
        self.disk_guid = table.disk_guid
        self.problems = table.problems
        if not protected:
            self.problems.append("the GPT has no protective MBR")
        for found in table.partitions:
            part = self._add(found.number, found.first_lba, found.last_lba, found.type_guid == gpt.EFI_SYSTEM_PARTITION)
            part.name, part.attributes = found.name, found.attributes
            part.type_guid, part.signature = found.type_guid, found.unique_guid

    def _take_mbr(self, table: mbr.Mbr) -> None:
        self.scheme = "mbr"
        self.mbr_signature = table.signature
        self.problems = table.problems
        for found in table.partitions:
            if found.type not in mbr.EXTENDED:
                last = found.first_lba + found.blocks - 1
                part = self._add(found.number, found.first_lba, last, found.type == mbr.EFI_SYSTEM_PARTITION)
                part.mbr_type, part.signature = found.type, table.signature

    def _take_el_torito(self) -> None:
        self.scheme = "eltorito"
        for image in eltorito.efi_boot_images(self.device):
            try:
                self.partitions.append(Partition(image.entry, eltorito.boot_volume(self.device, image), is_esp=True))
            except FatError as error:
                self.problems.append(str(error))

    def _add(self, number: int, first: int, last: int, is_esp: bool) -> Partition:
        block = self.device.block_size
        part = Partition(number, SliceDevice(self.device, first * block, (last + 1 - first) * block), is_esp=is_esp)
        self.partitions.append(part)
        return part


def open_disk(path: str | os.PathLike[str], writable: bool = False, *, block_size: int | None = None) -> Disk:
    """The disk image at `path`: raw, a partition, an ISO, or in qcow2, VMDK, VHD or GCE's tar.gz.

    Without `writable` what the guest writes stays in memory; only raw images can be written to. `block_size` in bytes: by
    default 512, or 4096 where the GPT lies so, or 2048 for a CD. Raises UnsupportedFormat for images of other formats
    (the message names the format and the command that converts), ContainerError for a damaged one, ImageError if the
    file cannot be opened, PartitionError for a damaged GPT.
    """
    file, device = open_device(path, writable, block_size=block_size)
    try:
        return Disk(device if writable else OverlayDevice(device), file)
    except PartitionError as error:
        file.close()
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    except BaseException:
        file.close()
        raise


def open_device(
    path: str | os.PathLike[str], writable: bool = False, *, block_size: int | None = None
) -> tuple[FileDevice, BlockSizedDevice]:
    """The file at `path` and the disk in it, as open_disk() takes and refuses them; nothing is read of the partitions."""
    file = FileDevice(path, writable=writable)
    name = os.fspath(path)
    try:
        device = _device_in(file, name)
        device.block_size = block_size or guess_block_size(device)
    except (PartitionError, ContainerError, UnsupportedFormat) as error:
        file.close()
        raise type(error)(f"{name}: {error}") from error
    except BaseException:
        file.close()
        raise
    return file, device


def _device_in(file: FileDevice, name: str) -> BlockSizedDevice:
    """The disk in an opened file."""
    if file.size < mbr.SIZE:
        raise ImageError(f"{name}: {file.size} bytes are no disk image, wanted at least {mbr.SIZE}")
    kind = container_format(file)
    if kind is not None:
        from images.containers.readers import open_container

        if not file.read_only:
            raise UnsupportedFormat(f"is a {kind} image, which is only read here; make a raw one to write to")
        container = open_container(file)
        assert container is not None
        return container.device
    if other := other_format(file):
        from shlex import quote  # only for this message; it brings re

        look, command = other
        advice = f"make it raw first: {command.format(name=quote(name))}" if command else "wanted a disk image"
        raise UnsupportedFormat(f"looks like {look}; {advice}")
    return file


def guess_block_size(file: BlockSizedDevice) -> int:
    """Bytes of a logical block, by where the tables lie: 512, 4096, or 2048 for a CD. Leaves `block_size` changed."""
    for size in SECTOR_SIZES:
        file.block_size = size
        if gpt.has_gpt(file):
            return size
    file.block_size = SECTOR_SIZES[0]
    if looks_like_fat(file):
        return int.from_bytes(file.read(0x0B, 2), "little")
    return eltorito.CD_BLOCK if _is_pure_cd(file) else SECTOR_SIZES[0]


def _mbr_of(device: BlockDevice) -> mbr.Mbr | None:
    if device.size < mbr.SIZE:
        return None
    try:
        return mbr.Mbr(device.read(0, mbr.SIZE), device.size // device.block_size)
    except PartitionError:
        return None


def _is_pure_cd(device: BlockDevice) -> bool:
    """An ISO 9660 image whose MBR, if any, shows no EFI system partition."""
    if not eltorito.is_iso9660(device):
        return False
    table = _mbr_of(device)
    return table is None or all(part.type != mbr.EFI_SYSTEM_PARTITION for part in table.partitions)
