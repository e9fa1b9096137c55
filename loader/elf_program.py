"""ELF unikernels for x86: which bytes go where in memory, and how they want to be entered (System V gABI; Xen, pvh.pandoc)."""

import struct
from typing import Final, NamedTuple

from loader import lookalikes
from loader.errors import DamagedImageError, NotElfError, UnsupportedImageError

EM_386: Final = 3
EM_X86_64: Final = 62
_ET_EXEC: Final = 2
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
_MOST_PROGRAM_HEADERS: Final = 64
_MOST_NOTE_BYTES: Final = 1 << 20
_HEADER_64: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_HEADER_32: Final = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_64: Final = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
_PROGRAM_32: Final = struct.Struct("<IIIIIIII")  # type, offset, vaddr, paddr, filesz, memsz, flags, align


class Segment(NamedTuple):
    """A PT_LOAD: `file_size` bytes of the file at `offset` go to physical `address`; up to `memory_size` zeros follow."""

    offset: int
    address: int
    file_size: int
    memory_size: int


class ElfProgram:
    """A checked executable: every segment lies inside the file, and no two share an address."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Raises NotElfError, UnsupportedImageError (another machine or kind of ELF), DamagedImageError."""
        view = memoryview(data).cast("B")
        if bytes(view[:4]) != b"\x7fELF":
            raise NotElfError(f"this is {lookalikes.describe(view)}, not an ELF program")
        if len(view) < _HEADER_32.size:
            raise DamagedImageError(f"truncated: the ELF header, the file ends at {len(view):#x}")
        self.is_64 = view[4] == 2
        header = _HEADER_64 if self.is_64 else _HEADER_32
        if view[4] not in {1, 2} or view[5] != 1:
            raise UnsupportedImageError(f"this is {lookalikes.describe(view)}; want little-endian x86")
        if len(view) < header.size:
            raise DamagedImageError(f"truncated: the ELF header, the file ends at {len(view):#x}")
        fields = header.unpack_from(view)
        kind, self.machine, entry, table, size, count = (fields[n] for n in (1, 2, 4, 5, 9, 10))
        if self.machine != (EM_X86_64 if self.is_64 else EM_386):
            raise UnsupportedImageError(f"this is {lookalikes.describe(view)}; want x86-64 or x86")
        if kind != _ET_EXEC:
            raise UnsupportedImageError(f"this is {lookalikes.describe(view)}; want an executable with fixed addresses")
        self.entry: int = entry
        program = _PROGRAM_64 if self.is_64 else _PROGRAM_32
        if size != program.size or not 1 <= count <= _MOST_PROGRAM_HEADERS:
            raise DamagedImageError(
                f"{count} program headers of {size} bytes, want 1 to {_MOST_PROGRAM_HEADERS} of {program.size}"
            )
        if table + count * size > len(view):
            raise DamagedImageError(f"truncated: the program headers at {table:#x}, the file ends at {len(view):#x}")
        self.segments: list[Segment] = []
        self.pvh_entry: int | None = None
        """Where XEN_ELFNOTE_PHYS32_ENTRY says that 32-bit code begins; None without that note."""
        for number in range(count):
            self._take(view, program.unpack_from(view, table + number * size))
        self.segments.sort(key=lambda segment: segment.address)
        if not self.segments:
            raise DamagedImageError("the ELF file has nothing to load")
        for lower, upper in zip(self.segments, self.segments[1:], strict=False):
            if lower.address + lower.memory_size > upper.address:
                raise DamagedImageError(f"segments at {lower.address:#x} and {upper.address:#x} overlap in memory")

    def _take(self, view: memoryview, fields: tuple[int, ...]) -> None:
        if self.is_64:
            kind, _, offset, _, address, file_size, memory_size, _ = fields
        else:
            kind, offset, _, address, file_size, memory_size, _, _ = fields
        if kind not in {_PT_LOAD, _PT_NOTE}:
            return
        if offset + file_size > len(view):
            raise DamagedImageError(
                f"truncated: a segment at file offset {offset:#x} to {offset + file_size:#x}, "
                f"the file ends at {len(view):#x}"
            )
        if kind == _PT_NOTE:
            self._read_notes(bytes(view[offset : offset + min(file_size, _MOST_NOTE_BYTES)]))
        elif memory_size:
            if file_size > memory_size:
                raise DamagedImageError(
                    f"a segment has {file_size:#x} bytes in the file and {memory_size:#x} in memory"
                )
            self.segments.append(Segment(offset, address, file_size, memory_size))

    def _read_notes(self, notes: bytes) -> None:
        """gABI, "Note Section": name and description are each padded to 4 bytes."""
        at = 0
        while at + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            start = at + 12 + (name_size + 3 & ~3)
            if start + size > len(notes):
                return
            name = notes[at + 12 : at + 12 + name_size].rstrip(b"\0")
            if name == b"Xen" and kind == _XEN_ELFNOTE_PHYS32_ENTRY and size >= 4:
                self.pvh_entry = int.from_bytes(notes[start : start + min(size, 8)], "little")
            at = start + (size + 3 & ~3)

    def holds(self, address: int) -> bool:
        """Whether a byte of the file lies at that physical address."""
        return any(segment.address <= address < segment.address + segment.file_size for segment in self.segments)
