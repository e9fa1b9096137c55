"""Resources of a PE image (PE/COFF specification, section 6.9): UEFI drivers carry their HII packages there."""

import struct

from loader.pe import PeImage

DIRECTORY_RESOURCE = 2
_HII = "HII"
_NAMED = _SUBDIRECTORY = 0x8000_0000
_MAXIMUM_ENTRIES = 4096


def hii_package_list(image: PeImage, memory: memoryview) -> tuple[int, int] | None:
    """RVA and size of the HII package list (UEFI 2.10, 33.3.2), the first resource of the type named "HII".

    `memory` is the loaded image. None if there is no such resource or its directory is damaged: the image runs without.
    """
    rva, size = image.directory(DIRECTORY_RESOURCE)
    if not size or rva + size > len(memory):
        return None
    section = memory[rva : rva + size]
    try:
        entry = _find(section, 0, _HII)
        for _ in range(2):  # below the type: name, then language; the first of each will do
            if entry is None or not entry & _SUBDIRECTORY:
                return None
            entry = _find(section, entry & ~_SUBDIRECTORY, None)
        if entry is None or entry & _SUBDIRECTORY:
            return None
        data_rva, data_size = struct.unpack_from("<II", section, entry)
    except struct.error:
        return None
    return (data_rva, data_size) if data_size and data_rva + data_size <= len(memory) else None


def _find(section: memoryview, directory: int, name: str | None) -> int | None:
    """The offset field of the entry called `name`, or of the first one."""
    named, numbered = struct.unpack_from("<HH", section, directory + 12)
    for index in range(min(named + numbered, _MAXIMUM_ENTRIES)):
        label, offset = struct.unpack_from("<II", section, directory + 16 + 8 * index)
        if name is None:
            return int(offset)
        if label & _NAMED and _name(section, label & ~_NAMED) == name:
            return int(offset)
    return None


def _name(section: memoryview, offset: int) -> str:
    (length,) = struct.unpack_from("<H", section, offset)
    return bytes(section[offset + 2 : offset + 2 + 2 * length]).decode("utf-16-le", "replace")
