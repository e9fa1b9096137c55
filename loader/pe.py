"""PE32+ images for x86-64 UEFI: what the headers say, and how the image lies in memory.

Microsoft PE/COFF specification, sections 2 to 4; UEFI 2.10, section 2.1.1. Where the specification is silent the rules
are those of the firmware that images are tried on in practice: odd alignments load, raw data beyond the virtual size
is dropped.
"""

import itertools
import mmap
import struct
from typing import Any, Final

from loader import lookalikes, relocations
from loader.errors import BaseTakenError, DamagedImageError, NotPeError, UnsupportedImageError

MACHINE_X86_64: Final = 0x8664
APPLICATION: Final = 10
BOOT_SERVICE_DRIVER: Final = 11
RUNTIME_DRIVER: Final = 12

SUBSYSTEM_NAMES: Final = {
    1: "native Windows driver",
    2: "Windows GUI application",
    3: "Windows console application",
    5: "OS/2 console application",
    7: "POSIX console application",
    8: "Windows 9x driver",
    9: "Windows CE application",
    APPLICATION: "EFI application",
    BOOT_SERVICE_DRIVER: "EFI boot service driver",
    RUNTIME_DRIVER: "EFI runtime driver",
    13: "EFI ROM image",
    14: "Xbox application",
    16: "Windows boot application",
}
MACHINE_NAMES: Final = {
    0x014C: "32-bit x86 (IA32)",
    0x0200: "Itanium",
    0x01C0: "32-bit ARM",
    0x01C2: "32-bit ARM (Thumb)",
    0x01C4: "32-bit ARM (Thumb-2)",
    0x0EBC: "EFI byte code",
    0x5032: "32-bit RISC-V",
    0x5064: "64-bit RISC-V",
    0x6232: "32-bit LoongArch",
    0x6264: "64-bit LoongArch",
    MACHINE_X86_64: "x86-64",
    0xA641: "ARM64EC",
    0xAA64: "ARM64",
}

RELOCS_STRIPPED: Final = 0x0001
"""IMAGE_FILE_RELOCS_STRIPPED, a bit of PeImage.characteristics."""
DYNAMIC_BASE: Final = 0x0040
"""IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, a bit of PeImage.dll_characteristics."""
DIRECTORY_SECURITY: Final = 4
DIRECTORY_BASERELOC: Final = 5

MAX_SIZE_OF_IMAGE: Final = 1 << 30
MAX_SECTIONS: Final = 256
_MAX_STUB: Final = 0x10000
_LOWEST_PREFERRED_BASE: Final = 0x100000
_DOS_HEADER_SIZE: Final = 64
_COFF_HEADER_SIZE: Final = 24  # with the signature
_OPTIONAL_HEADER_SIZE: Final = 112  # PE32+, without data directories
_SECTION_HEADER_SIZE: Final = 40
_IMAGE_BASE_OFFSET: Final = _COFF_HEADER_SIZE + 24  # from the PE signature


class Section:
    """One section: `name`; `rva` and `virtual_size` (bytes in memory); `raw_offset` and `raw_size` (bytes in the file).

    `virtual_size` is never 0 unless the section is empty: a VirtualSize of 0 stands for SizeOfRawData.
    A name of more than eight bytes stays as "/NN", an offset into the COFF string table: loader.symbols reads those.
    """

    __slots__ = ("characteristics", "name", "raw_offset", "raw_size", "rva", "virtual_size")

    def __init__(
        self, *, name: str, rva: int, virtual_size: int, raw_offset: int, raw_size: int, characteristics: int
    ) -> None:
        self.name = name
        self.rva = rva
        self.virtual_size = virtual_size
        self.raw_offset = raw_offset
        self.raw_size = raw_size
        self.characteristics = characteristics

    @property
    def stored_size(self) -> int:
        """Bytes that come from the file; the rest of `virtual_size` is zero."""
        return min(self.raw_size, self.virtual_size)

    @property
    def executable(self) -> bool:
        """IMAGE_SCN_MEM_EXECUTE."""
        return bool(self.characteristics & 0x20000000)

    @property
    def writable(self) -> bool:
        """IMAGE_SCN_MEM_WRITE."""
        return bool(self.characteristics & 0x80000000)

    def __repr__(self) -> str:
        file = f"{self.raw_offset:#x}+{self.raw_size:#x}"
        return f"<Section {self.name} rva={self.rva:#x}+{self.virtual_size:#x} file={file}>"


class PeImage:
    """A checked image: every range that it names lies inside the file and inside `size_of_image`.

    It keeps a view of the caller's buffer and copies nothing until load_into().
    """

    __slots__ = (
        "characteristics",
        "coff_symbol_count",
        "coff_symbol_offset",
        "directories",
        "dll_characteristics",
        "entry_rva",
        "file",
        "image_base",
        "machine",
        "pe_offset",
        "section_alignment",
        "sections",
        "size_of_headers",
        "size_of_image",
        "subsystem",
    )

    def __init__(self, file: memoryview, pe_offset: int, sections: list[Section], headers: Any) -> None:
        """`headers` is pefile's view of the headers at `pe_offset`; parse() is the way to make a PeImage."""
        coff, optional = headers.FILE_HEADER, headers.OPTIONAL_HEADER
        self.file = file
        self.pe_offset = pe_offset
        self.sections = sections
        self.machine: int = coff.Machine
        self.characteristics: int = coff.Characteristics
        self.coff_symbol_offset: int = coff.PointerToSymbolTable
        self.coff_symbol_count: int = coff.NumberOfSymbols
        self.subsystem: int = optional.Subsystem
        self.dll_characteristics: int = optional.DllCharacteristics
        self.image_base: int = optional.ImageBase
        self.size_of_image: int = optional.SizeOfImage
        self.size_of_headers: int = optional.SizeOfHeaders
        self.section_alignment: int = optional.SectionAlignment
        self.entry_rva: int = optional.AddressOfEntryPoint
        self.directories: list[tuple[int, int]] = [(d.VirtualAddress, d.Size) for d in optional.DATA_DIRECTORY]

    @property
    def subsystem_name(self) -> str:
        """The subsystem in words, as in "EFI application"."""
        return SUBSYSTEM_NAMES.get(self.subsystem, f"subsystem {self.subsystem}")

    @property
    def machine_name(self) -> str:
        """The machine in words, as in "x86-64"."""
        return MACHINE_NAMES.get(self.machine, f"machine {self.machine:#06x}")

    def directory(self, index: int) -> tuple[int, int]:
        """The (address, size) of data directory `index`, (0, 0) if the image has none.

        The address is an RVA, but a file offset for DIRECTORY_SECURITY (PE/COFF specification, section 3.4.3).
        """
        return self.directories[index] if index < len(self.directories) else (0, 0)

    @property
    def relocatable(self) -> bool:
        """Whether the image has base relocations that may be applied."""
        return not self.characteristics & RELOCS_STRIPPED and self.directory(DIRECTORY_BASERELOC)[1] > 0

    @property
    def needs_preferred_base(self) -> bool:
        """Whether the image works at `image_base` only.

        True without relocations: TamaGo clears RELOCS_STRIPPED, yet its code cannot be moved. With the flag clear, two
        kinds of image have no relocations because they need none: those with DYNAMIC_BASE set (a small program by lld
        at its usual base of 5 GiB), and those with an ImageBase near 0, where no image can lie (Linux, edk2's tools).
        """
        if self.relocatable:
            return False
        if self.characteristics & RELOCS_STRIPPED:
            return True
        return self.image_base >= _LOWEST_PREFERRED_BASE and not self.dll_characteristics & DYNAMIC_BASE

    def load_into(self, buffer: memoryview, base: int) -> int:
        """Write headers and sections into `buffer`, relocated for address `base`; returns how many addresses changed.

        `buffer` is writable, filled with zeros, at least `size_of_image` bytes. The ImageBase in the loaded headers
        becomes `base`. Raises BaseTakenError if the image cannot lie at `base`, DamagedImageError for bad relocations
        (the buffer is then partly written), ValueError for a buffer that is too small.
        """
        if self.needs_preferred_base and base != self.image_base:
            raise BaseTakenError(
                f"the image has no relocations and runs at {self.image_base:#x} only "
                f"({self.size_of_image:#x} bytes), which is taken; it cannot lie at {base:#x}"
            )
        target = memoryview(buffer).cast("B")[: self.size_of_image]
        if len(target) < self.size_of_image:
            raise ValueError(f"buffer has {len(target):#x} bytes, the image needs {self.size_of_image:#x}")
        source = self.file
        target[: self.size_of_headers] = source[: self.size_of_headers]
        for section in self.sections:
            size = section.stored_size
            target[section.rva : section.rva + size] = source[section.raw_offset : section.raw_offset + size]
        if base == self.image_base:
            return 0
        changed = 0
        if self.relocatable:
            rva, size = self.directory(DIRECTORY_BASERELOC)
            changed = relocations.apply(target, rva, size, base - self.image_base)
        struct.pack_into("<Q", target, self.pe_offset + _IMAGE_BASE_OFFSET, base)
        return changed


def parse(data: bytes | bytearray | mmap.mmap | memoryview) -> PeImage:
    """Parse and check the PE32+ x86-64 EFI image in `data`, which the result keeps a view of.

    Raises NotPeError (not a PE file), UnsupportedImageError (another machine or operating system) or DamagedImageError.
    """
    file = memoryview(data).cast("B")
    pe_offset = _find_pe_header(file)
    _check_machine(file, pe_offset)
    section_count, optional_size = struct.unpack_from("<2xH12xH", file, pe_offset + 4)
    table = pe_offset + _COFF_HEADER_SIZE + optional_size
    table_end = table + section_count * _SECTION_HEADER_SIZE
    if not 1 <= section_count <= MAX_SECTIONS:
        raise DamagedImageError(f"the image has {section_count} sections, want 1 to {MAX_SECTIONS}")
    if table_end > len(file):
        raise DamagedImageError(_truncated("the section table", table, table_end, file))
    headers = _parse_headers(file, pe_offset, table_end)
    sections = [_parse_section(file, table + i * _SECTION_HEADER_SIZE) for i in range(section_count)]
    image = PeImage(file, pe_offset, sections, headers)
    _check_headers(image, table_end, optional_size)
    _check_sections(image)
    return image


def _find_pe_header(file: memoryview) -> int:
    """The file offset of the PE signature (PE/COFF specification, section 2.1)."""
    if bytes(file[:2]) != b"MZ":
        raise NotPeError(f"this is {lookalikes.describe(file)}, not an EFI image (PE32+)")
    if len(file) < _DOS_HEADER_SIZE:
        raise DamagedImageError(_truncated("the DOS header", 0, _DOS_HEADER_SIZE, file))
    pe_offset: int = struct.unpack_from("<I", file, 60)[0]
    if pe_offset >= len(file):
        raise DamagedImageError(
            f"the DOS stub points to a PE header at {pe_offset:#x}, the file ends at {len(file):#x}"
        )
    signature = bytes(file[pe_offset : pe_offset + 4])
    if pe_offset + 4 <= len(file) and signature != b"PE\0\0":
        kind = {b"NE": " (a 16-bit Windows program)", b"LE": " (a Windows 9x driver)", b"LX": " (an OS/2 program)"}
        found = signature.hex(" ") + kind.get(signature[:2], "")
        raise NotPeError(f"no PE signature at {pe_offset:#x}: found {found}, want 50 45 00 00")
    if pe_offset > _MAX_STUB:
        raise DamagedImageError(f"the PE header is at {pe_offset:#x}, want at most {_MAX_STUB:#x}")
    # The magic number of the optional header is needed, too, to say what kind of PE it is.
    if pe_offset + _COFF_HEADER_SIZE + 2 > len(file):
        raise DamagedImageError(_truncated("the PE header", pe_offset, pe_offset + _COFF_HEADER_SIZE + 2, file))
    return pe_offset


def _check_machine(file: memoryview, pe_offset: int) -> None:
    """Refuse other machines and PE32 before anything is read that lies elsewhere in their headers."""
    machine, optional_size, magic = struct.unpack_from("<4xH14xH2xH", file, pe_offset)
    if machine != MACHINE_X86_64:
        name = MACHINE_NAMES.get(machine, "an unknown machine")
        raise UnsupportedImageError(f"this is an image for {name} (machine {machine:#06x}), want x86-64 (0x8664)")
    if magic == 0x10B:
        raise UnsupportedImageError("this is a 32-bit image (PE32, magic 0x10b), want PE32+ (0x20b)")
    if magic != 0x20B:
        raise DamagedImageError(f"the optional header has magic {magic:#x}, want 0x20b (PE32+)")
    if optional_size < _OPTIONAL_HEADER_SIZE:
        raise DamagedImageError(f"the optional header has {optional_size} bytes, want at least {_OPTIONAL_HEADER_SIZE}")


def _parse_headers(file: memoryview, pe_offset: int, table_end: int) -> Any:
    """pefile's FILE_HEADER and OPTIONAL_HEADER.

    pefile gets the headers only, with the DOS stub cut out: it scans the stub for a Rich header, byte by byte, and
    fails on a crafted one. Its section list is not used: it is sorted and lacks what pefile finds suspicious.
    """
    import pefile  # type: ignore[import-untyped]

    head = b"MZ" + bytes(58) + struct.pack("<I", _DOS_HEADER_SIZE) + bytes(file[pe_offset:table_end])
    try:
        return pefile.PE(data=head, fast_load=True)
    except pefile.PEFormatError as error:
        raise DamagedImageError(f"the PE headers at {pe_offset:#x} are damaged: {error.value}") from None


def _parse_section(file: memoryview, offset: int) -> Section:
    """One section header (PE/COFF specification, section 4)."""
    raw_name, virtual_size, rva, raw_size, raw_offset, characteristics = struct.unpack_from("<8s4I12xI", file, offset)
    name = raw_name.rstrip(b"\0").decode("ascii", "backslashreplace")
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return Section(
        name=printable,
        rva=rva,
        virtual_size=virtual_size or raw_size,
        raw_offset=raw_offset,
        raw_size=raw_size,
        characteristics=characteristics,
    )


def _check_headers(image: PeImage, table_end: int, optional_size: int) -> None:
    """Refuse what is not for UEFI, and sizes that cannot be."""
    if image.subsystem not in {APPLICATION, BOOT_SERVICE_DRIVER, RUNTIME_DRIVER}:
        raise UnsupportedImageError(
            f"this is for another system ({image.subsystem_name}, subsystem {image.subsystem}), "
            "want an EFI application (10), boot service driver (11) or runtime driver (12)"
        )
    directories = (optional_size - _OPTIONAL_HEADER_SIZE) // 8
    (count,) = struct.unpack_from("<I", image.file, image.pe_offset + _COFF_HEADER_SIZE + _OPTIONAL_HEADER_SIZE - 4)
    if count > directories:
        raise DamagedImageError(
            f"the image names {count} data directories, its optional header has room for {directories}"
        )
    if not 1 <= image.size_of_image <= MAX_SIZE_OF_IMAGE:
        raise DamagedImageError(f"SizeOfImage is {image.size_of_image:#x}, want 1 to {MAX_SIZE_OF_IMAGE:#x} (1 GiB)")
    if not table_end <= image.size_of_headers <= image.size_of_image:
        raise DamagedImageError(
            f"SizeOfHeaders is {image.size_of_headers:#x}, want {table_end:#x} (the end of the section table) "
            f"to {image.size_of_image:#x} (SizeOfImage)"
        )
    if image.size_of_headers > len(image.file):
        raise DamagedImageError(_truncated("the headers", 0, image.size_of_headers, image.file))
    if not 1 <= image.entry_rva < image.size_of_image:
        raise DamagedImageError(
            f"the entry point is at RVA {image.entry_rva:#x}, want 1 to {image.size_of_image - 1:#x} (inside the image)"
        )
    rva, size = image.directory(DIRECTORY_BASERELOC)
    if image.relocatable and (rva + size > image.size_of_image or size > len(image.file)):
        raise DamagedImageError(
            f"base relocations at RVA {rva:#x} to {rva + size:#x} do not fit "
            f"the image of {image.size_of_image:#x} bytes or the file of {len(image.file):#x} bytes"
        )


def _check_sections(image: PeImage) -> None:
    """Each section lies inside file and image, and no two share an address."""
    for section in image.sections:
        raw_end = section.raw_offset + section.raw_size
        if section.raw_size and raw_end > len(image.file):
            raise DamagedImageError(_truncated(f'section "{section.name}"', section.raw_offset, raw_end, image.file))
        end = section.rva + section.virtual_size
        if section.virtual_size and end > image.size_of_image:
            raise DamagedImageError(
                f'section "{section.name}" ends at RVA {end:#x}, outside the image '
                f"(SizeOfImage {image.size_of_image:#x})"
            )
    occupied = sorted((s for s in image.sections if s.virtual_size), key=lambda s: s.rva)
    for lower, upper in itertools.pairwise(occupied):
        if upper.rva < lower.rva + lower.virtual_size:
            raise DamagedImageError(
                f'sections "{lower.name}" (RVA {lower.rva:#x} to {lower.rva + lower.virtual_size:#x}) '
                f'and "{upper.name}" (from RVA {upper.rva:#x}) overlap in memory'
            )


def _truncated(what: str, start: int, end: int, file: memoryview) -> str:
    return f"truncated: {what} at file offset {start:#x} to {end:#x}, the file ends at {len(file):#x}"
