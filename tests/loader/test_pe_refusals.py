"""What is refused, and that one line says why."""

import struct

import pytest
from pe_builder import SectionSpec, build

from loader import pe
from loader.errors import DamagedImageError, LoaderError, NotPeError, UnsupportedImageError


def refusal(data: bytes, kind: type[LoaderError]) -> str:
    with pytest.raises(kind) as caught:
        pe.parse(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def at(offset: int, content: bytes, size: int = 0x9000) -> bytes:
    return bytes(offset) + content + bytes(size - offset - len(content))


ELF = b"\x7fELF\x02\x01\x01" + bytes(9)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "an empty file"),
        (b"\x7fELF", "an ELF file cut off after 4 bytes"),
        (ELF + struct.pack("<HH", 2, 62), "an ELF file (x86-64 executable)"),
        (ELF + struct.pack("<HH", 3, 183), "an ELF file (ARM64 shared object)"),
        (b"\x7fELF\x01\x02" + bytes(10) + struct.pack(">HH", 9, 4660), "an ELF file (machine 4660 of type 9)"),
        (b"\x1f\x8b\x08\0", "a gzip file; decompress it first"),
        (b"CVMSNAP\n", "a snapshot of cvmboot; cvmboot run --restore goes on from it"),
        (b"\xfd7zXZ\0", "an xz file; decompress it first"),
        (b"PK\x03\x04", "a zip archive; unpack it first"),
        (at(0x202, b"HdrS"), "a Linux kernel (bzImage) without the EFI stub (CONFIG_EFI_STUB)"),
        (at(0x8001, b"CD001"), "an ISO 9660 image"),
        (at(512, b"EFI PART"), "a disk image with a GPT"),
        (at(510, b"\x55\xaa"), "a boot sector or a disk image with an MBR"),
        (at(82, b"FAT32   "), "a FAT file system image"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (at(40, b"_FVH"), "a UEFI firmware volume"),
        (b"#!/bin/sh\n", "a script"),
        (b"hello, world\n", "a text file"),
        (bytes(100), "a file that begins with 100 zero bytes"),
        (b"\x01\x02\x03\x04\xff", "a file of unknown type that begins with 01 02 03 04"),
        (b"M", "a text file"),
    ],
)
def test_a_file_that_is_no_pe_image_is_named(data: bytes, name: str) -> None:
    assert refusal(data, NotPeError) == f"this is {name}, not an EFI image (PE32+)"


def test_a_dos_program_has_no_pe_signature() -> None:
    dos = b"MZ" + bytes(58) + struct.pack("<I", 0x40) + b"NE\x05\x3c" + bytes(100)
    assert refusal(dos, NotPeError) == (
        "no PE signature at 0x40: found 4e 45 05 3c (a 16-bit Windows program), want 50 45 00 00"
    )


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (0x014C, "32-bit x86 (IA32) (machine 0x014c)"),
        (0xAA64, "ARM64 (machine 0xaa64)"),
        (0x5064, "64-bit RISC-V (machine 0x5064)"),
        (0x1234, "an unknown machine (machine 0x1234)"),
    ],
)
def test_images_for_other_machines_are_named(machine: int, name: str) -> None:
    message = refusal(build(machine=machine), UnsupportedImageError)
    assert message == f"this is an image for {name}, want x86-64 (0x8664)"


def test_pe32_is_refused() -> None:
    assert refusal(build(magic=0x10B), UnsupportedImageError) == (
        "this is a 32-bit image (PE32, magic 0x10b), want PE32+ (0x20b)"
    )
    assert "magic 0x107, want 0x20b" in refusal(build(magic=0x107), DamagedImageError)


@pytest.mark.parametrize(
    ("subsystem", "name"),
    [(3, "Windows console application"), (13, "EFI ROM image"), (0, "subsystem 0"), (99, "subsystem 99")],
)
def test_images_for_other_systems_are_named(subsystem: int, name: str) -> None:
    message = refusal(build(subsystem=subsystem), UnsupportedImageError)
    assert message.startswith(
        f"this is for another system ({name}, subsystem {subsystem}), want an EFI application (10)"
    )


WHOLE = build([SectionSpec(".text", b"t" * 0x200), SectionSpec(".data", b"d" * 0x200)])
"""Headers to 0x200, .text at 0x200, .data at 0x400; the file ends at 0x600."""


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (2, "truncated: the DOS header at file offset 0x0 to 0x40, the file ends at 0x2"),
        (0x40, "the DOS stub points to a PE header at 0x80, the file ends at 0x40"),
        (0x90, "truncated: the PE header at file offset 0x80 to 0x9a, the file ends at 0x90"),
        (0x1D7, "truncated: the section table at file offset 0x188 to 0x1d8, the file ends at 0x1d7"),
        (0x1FF, "truncated: the headers at file offset 0x0 to 0x200, the file ends at 0x1ff"),
        (0x300, 'truncated: section ".text" at file offset 0x200 to 0x400, the file ends at 0x300'),
        (0x5FF, 'truncated: section ".data" at file offset 0x400 to 0x600, the file ends at 0x5ff'),
    ],
)
def test_truncation_names_what_is_missing(length: int, message: str) -> None:
    assert refusal(WHOLE[:length], DamagedImageError) == message


def test_every_truncation_is_refused() -> None:
    assert pe.parse(WHOLE).sections[1].raw_offset == 0x400
    for length in range(len(WHOLE)):
        refusal(WHOLE[:length], LoaderError)


TWO = [SectionSpec(".text", b"t", rva=0x1000, virtual_size=0x1001), SectionSpec(".data", b"d", rva=0x2000)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (build(pe_offset=0x20000), "the PE header is at 0x20000, want at most 0x10000"),
        (
            b"MZ" + bytes(58) + b"\xff\xff\xff\xff",
            "the DOS stub points to a PE header at 0xffffffff, the file ends at 0x40",
        ),
        (build(TWO), 'sections ".text" (RVA 0x1000 to 0x2001) and ".data" (from RVA 0x2000) overlap in memory'),
        (
            build([SectionSpec(".text", b"t", raw_offset=0x1000)]),
            'truncated: section ".text" at file offset 0x1000 to 0x1200, the file ends at 0x200',
        ),
        (
            build([SectionSpec(".text", b"t", raw_offset=0xFFFFFFFF, raw_size=0xFFFFFFFF)]),
            'truncated: section ".text" at file offset 0xffffffff to 0x1fffffffe, the file ends at 0x200',
        ),
        (
            build([SectionSpec(".bss", virtual_size=0x2001)], size_of_image=0x3000),
            'section ".bss" ends at RVA 0x3001, outside the image (SizeOfImage 0x3000)',
        ),
        (build(entry_rva=0), "the entry point is at RVA 0x0, want 1 to 0x1fff (inside the image)"),
        (build(entry_rva=0x2000), "the entry point is at RVA 0x2000, want 1 to 0x1fff (inside the image)"),
        (build(size_of_image=0), "SizeOfImage is 0x0, want 1 to 0x40000000 (1 GiB)"),
        (build(size_of_image=0x40000001), "SizeOfImage is 0x40000001, want 1 to 0x40000000 (1 GiB)"),
        (
            build(size_of_headers=0x100),
            "SizeOfHeaders is 0x100, want 0x1b0 (the end of the section table) to 0x2000 (SizeOfImage)",
        ),
        (build(section_count=0), "the image has 0 sections, want 1 to 256"),
        (build(section_count=257), "the image has 257 sections, want 1 to 256"),
        (build(optional_header_size=64), "the optional header has 64 bytes, want at least 112"),
        (
            build(optional_header_size=144, directory_count=5),
            "the image names 5 data directories, its optional header has room for 4",
        ),
        (
            build(directories={5: (0x1800, 0x801)}),
            "base relocations at RVA 0x1800 to 0x2001 do not fit the image of 0x2000 bytes or the file of 0x400 bytes",
        ),
        (
            build(directories={5: (0x1000, 0x401)}),
            "base relocations at RVA 0x1000 to 0x1401 do not fit the image of 0x2000 bytes or the file of 0x400 bytes",
        ),
    ],
)
def test_contradictions_are_refused(data: bytes, message: str) -> None:
    assert refusal(data, DamagedImageError) == message


def test_a_section_name_cannot_break_the_line_or_the_terminal() -> None:
    message = refusal(build([SectionSpec(b"\n\x1b[2J\xff", b"t", raw_offset=0x1000)]), DamagedImageError)
    assert message.startswith(r'truncated: section "??[2J\xff" at')
    assert message.isprintable()


def test_the_stub_is_not_scanned_for_a_rich_header() -> None:
    """A crafted Rich header in the DOS stub makes pefile raise an IndexError."""
    data = bytearray(build(pe_offset=0x100))
    key = 0x68636952 ^ 0x536E6144
    struct.pack_into("<II", data, 0x80, 0x68636952, key)
    assert pe.parse(bytes(data)).entry_rva == 0x1000


def test_headers_that_overlap_the_dos_header_are_read() -> None:
    """The smallest images put the PE signature at offset 4, so that ImageBase overlaps the pointer to it."""
    data = bytearray(build(pe_offset=0x80))
    head = data[0x80:0x1B0]
    data[4 : 4 + len(head)] = head
    struct.pack_into("<I", data, 60, 4)
    assert pe.parse(bytes(data)).sections[0].name == ".text"


def test_an_image_with_few_data_directories_loads() -> None:
    image = pe.parse(build(optional_header_size=112, directory_count=0))
    assert image.directories == []
    assert not image.relocatable
