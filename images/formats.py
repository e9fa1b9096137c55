"""What kind of file something is by its first and last bytes, and what to do with those that are not read here."""

from images.block import BlockDevice

RAW, QCOW2, VMDK, VHD, GCE, TAR = "raw", "qcow2", "vmdk", "vhd", "gce", "tar"

_QEMU_IMG = "qemu-img convert -O raw {name} {name}.raw"
_UNPACK = "{tool} -d < {name} > {name}.raw"
_FOOTER = b"conectix"

# (offset, bytes, format): what images.containers.readers opens.
_CONTAINERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", QCOW2),
    (0, b"KDMV", VMDK),
    (0, _FOOTER, VHD),
    (0, b"\x1f\x8b", GCE),
    (257, b"ustar", TAR),
)

# (offset, bytes, name, how to make a raw image of it)
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"COWD", "a VMDK image", _QEMU_IMG),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", _QEMU_IMG),
    (0, b"vhdxfile", "a VHDX image", _QEMU_IMG),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image", _QEMU_IMG),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK.replace("{tool}", "xz")),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK.replace("{tool}", "zstd")),
    (0, b"BZh", "a bzip2 file", _UNPACK.replace("{tool}", "bzip2")),
    (0, b"PK\x03\x04", "a zip archive", "unzip {name}"),
    (0, b"\x7fELF", "an ELF program", ""),
    (0, b"!<arch>\n", "an ar archive", ""),
)


def container_format(device: BlockDevice) -> str | None:
    """The format of a file that holds a disk image in a form of its own and is read here; None for all others."""
    head = device.read(0, min(512, device.size))
    for offset, magic, name in _CONTAINERS:
        if head[offset : offset + len(magic)] == magic:
            return name
    if device.size >= 1024 and device.read(device.size - 512, len(_FOOTER)) == _FOOTER:
        return VHD
    return None


def other_format(device: BlockDevice) -> tuple[str, str] | None:
    """(what the file looks like, the command that makes it raw or "") if it is known not to be a disk image read here."""
    head = device.read(0, min(512, device.size))
    for offset, magic, name, command in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name, command
    return None
