"""Names a file that is not a PE image: what it looks like, and what to do about it."""

import struct
from typing import Final

# Magic numbers in the order of trial: (file offset, bytes, what it is).
_MAGICS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x1f\x8b", "a gzip file; decompress it first"),
    (0, b"\xfd7zXZ\x00", "an xz file; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; decompress it first"),
    (0, b"BZh", "a bzip2 file; decompress it first"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file; decompress it first"),
    (0, b"PK\x03\x04", "a zip archive; unpack it first"),
    (0, b"070701", "a cpio archive (an initrd?)"),
    (0, b"CVMSNAP\n", "a snapshot of cvmboot; cvmboot run --restore goes on from it"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"KDMV", "a VMDK disk image"),
    (0, b"vhdxfile", "a VHDX disk image"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree blob"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O (macOS) program"),
    (0, b"\xca\xfe\xba\xbe", "a Mach-O (macOS) program or a Java class"),
    (0, b"!<arch>\n", "an ar archive (a static library or a .deb package)"),
    (0, b"VZ", "a TE (terse executable) image of the firmware's own PEI phase"),
    (0, b"#!", "a script"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x64\x86", "a COFF object file; link it first"),
    (40, b"_FVH", "a UEFI firmware volume"),
    (257, b"ustar", "a tar archive"),
    (512, b"EFI PART", "a disk image with a GPT"),
    (4096, b"EFI PART", "a disk image with a GPT (4096-byte sectors)"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0x202, b"HdrS", "a Linux kernel (bzImage) without the EFI stub (CONFIG_EFI_STUB)"),
    (54, b"FAT1", "a FAT file system image"),
    (82, b"FAT32", "a FAT file system image"),
    (510, b"\x55\xaa", "a boot sector or a disk image with an MBR"),
)

_ELF_MACHINES: Final = {
    **{3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 62: "x86-64", 183: "ARM64"},
    **{243: "RISC-V", 258: "LoongArch"},
}
_ELF_TYPES: Final = {1: "relocatable object", 2: "executable", 3: "shared object", 4: "core dump"}


def describe(view: memoryview) -> str:
    """Say what the file in `view` (from offset 0, any length) looks like, as in "an ELF file (x86-64 executable)".

    Raises nothing: an unknown file is described by its first bytes.
    """
    if not len(view):
        return "an empty file"
    if bytes(view[:4]) == b"\x7fELF":
        return _describe_elf(view)
    for offset, magic, name in _MAGICS:
        if bytes(view[offset : offset + len(magic)]) == magic:
            return name
    head = bytes(view[:4096])
    if not any(head):
        return f"a file that begins with {len(head)} zero bytes"
    if head.isascii() and all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head):
        return "a text file"
    return f"a file of unknown type that begins with {head[:4].hex(' ')}"


def multiboot(view: memoryview) -> str:
    """ "Multiboot" or "Multiboot2" for a kernel with such a header, whose first words add up to 0; "" for anything else.

    Multiboot 0.6.96, 3.1: in the first 8 KiB, at a multiple of 4; Multiboot2 2.0, 3.1: in the first 32 KiB, at a multiple of 8.
    """
    for name, magic, words, reach, step in (
        ("Multiboot", 0x1BAD_B002, 3, 8 << 10, 4),
        ("Multiboot2", 0xE852_50D6, 4, 32 << 10, 8),
    ):
        head = bytes(view[:reach])
        at = -1
        while (at := head.find(magic.to_bytes(4, "little"), at + 1)) >= 0:
            header = head[at : at + 4 * words]
            if at % step == 0 and len(header) == 4 * words and not sum(struct.unpack(f"<{words}I", header)) % (1 << 32):
                return name
    return ""


def _describe_elf(view: memoryview) -> str:
    """The machine and type of an ELF file; EI_DATA says the byte order of e_type and e_machine (gABI, chapter 4)."""
    if len(view) < 20:
        return f"an ELF file cut off after {len(view)} bytes"
    kind, machine = struct.unpack_from(">HH" if view[5] == 2 else "<HH", view, 16)
    machine_name = _ELF_MACHINES.get(machine, f"machine {machine}")
    return f"an ELF file ({machine_name} {_ELF_TYPES.get(kind, f'of type {kind}')})"
