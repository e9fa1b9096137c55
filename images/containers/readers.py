"""Opens the disk in a container file, by what its bytes say it is."""

from collections.abc import Callable
from typing import Any

from images.block import BlockDevice, BlockSizedDevice
from images.formats import GCE, QCOW2, TAR, VHD, VMDK, container_format
from images.sparse import Progress


class Container:
    """A disk image within a file: its `format`, the `device` that reads it, and `facts` about it as plain data."""

    def __init__(self, name: str, device: BlockSizedDevice, facts: dict[str, Any]) -> None:
        self.format = name
        self.device = device
        self.facts = facts


def open_container(file: BlockDevice, progress: Progress | None = None) -> Container | None:
    """The disk in `file`; None if the file is no container that is read here (it may be a raw image).

    `progress(done, total)` is called while a GCE image is unpacked.

    Raises ContainerError for a damaged one, UnsupportedFormat for a variant that is not read, ImageError where a GCE
    image cannot be unpacked for want of room.
    """
    name = container_format(file)
    return None if name is None else _READERS[name](file, progress)


def _qcow2(file: BlockDevice, _: Progress | None) -> Container:
    from images.containers.qcow2 import Qcow2Device

    device = Qcow2Device(file)
    return Container(QCOW2, device, {"version": device.version, "cluster_size": device.cluster_size})


def _vmdk(file: BlockDevice, _: Progress | None) -> Container:
    from images.containers.vmdk import VmdkDevice

    device = VmdkDevice(file)
    kind = device.descriptor().get("createType", "unknown")
    return Container(
        VMDK, device, {"create_type": kind, "grain_size": device.grain_size, "compressed": device.compressed}
    )


def _vhd(file: BlockDevice, _: Progress | None) -> Container:
    from images.containers.vhd import open_vhd

    device = open_vhd(file)
    return Container(VHD, device, {"kind": device.kind})


def _tar(file: BlockDevice, progress: Progress | None, compressed: bool) -> Container:
    from images.containers.gce import TarDevice

    device = TarDevice(file, compressed=compressed, progress=progress)
    member = device.member
    facts = {
        "member": member.name,
        "tar_format": member.form,
        "sparse": member.sparse,
        "stored": member.stored,
        "other_members": bool(device.others),
    }
    return Container(GCE if compressed else TAR, device, facts)


_READERS: dict[str, Callable[[BlockDevice, Progress | None], Container]] = {
    QCOW2: _qcow2,
    VMDK: _vmdk,
    VHD: _vhd,
    GCE: lambda file, progress: _tar(file, progress, True),
    TAR: lambda file, progress: _tar(file, progress, False),
}
