"""What kind of file something is by its first and last bytes, and what to do with those that are not read here."""

from images.block import BlockDevice

_QEMU_IMG = "qemu-img convert -O raw {name} {name}.raw"
_UNPACK = "{tool} -d < {name} > {name}.raw"

# (offset, bytes, name, how to make a raw image of it)
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"QFI\xfb", "a qcow2 image", _QEMU_IMG),
    (0, b"KDMV", "a VMDK image", _QEMU_IMG),
    (0, b"COWD", "a VMDK image", _QEMU_IMG),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor", _QEMU_IMG),
    (0, b"conectix", "a VHD image", _QEMU_IMG),
    (0, b"vhdxfile", "a VHDX image", _QEMU_IMG),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image", _QEMU_IMG),
    (
        0,
        b"\x1f\x8b",
        "a gzip file",
        "tar -xOzf {name} disk.raw > disk.raw  (a GCE image), or gzip -dc {name} > disk.raw",
    ),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK.replace("{tool}", "xz")),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK.replace("{tool}", "zstd")),
    (0, b"BZh", "a bzip2 file", _UNPACK.replace("{tool}", "bzip2")),
    (0, b"PK\x03\x04", "a zip archive", "unzip {name}"),
    (257, b"ustar", "a tar archive", "tar -xf {name}"),
    (0, b"\x7fELF", "an ELF program", ""),
    (0, b"!<arch>\n", "an ar archive", ""),
)


def other_format(device: BlockDevice) -> tuple[str, str] | None:
    """(what the file looks like, the command that makes it raw or "") if it is known not to be a raw image."""
    head = device.read(0, min(512, device.size))
    for offset, magic, name, command in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name, command
    if device.size >= 512 and device.read(device.size - 512, 8) == b"conectix":
        return "a fixed VHD image", _QEMU_IMG
    return None
