"""Base relocations of a PE image: adds the load address's difference to every address in the loaded image.

Microsoft PE/COFF specification, section 5.6 (".reloc"); the treatment of each type follows UEFI firmware practice.
"""

import struct
from typing import Final

from loader.errors import DamagedImageError

ABSOLUTE: Final = 0
HIGH: Final = 1
LOW: Final = 2
HIGHLOW: Final = 3
DIR64: Final = 10

_WIDTHS: Final = {DIR64: 8, HIGHLOW: 4, HIGH: 2, LOW: 2}
# A block describes one 4 KiB page; 64 KiB would already hold each of its addresses eight times.
_MAX_BLOCK: Final = 0x10000
_MASK64: Final = (1 << 64) - 1


def apply(image: memoryview, directory_rva: int, directory_size: int, delta: int) -> int:
    """Add `delta` (bytes, any sign) to the addresses that the relocation directory of the loaded `image` lists.

    `image` is writable and starts at RVA 0; the directory is read from it. Returns the number of addresses changed.
    Raises DamagedImageError for a block that overruns the directory, an address outside the image, an unknown type;
    the image is then partly relocated and must be thrown away.
    """
    end = directory_rva + directory_size
    if end > len(image):
        raise DamagedImageError(
            f"base relocations at RVA {directory_rva:#x} to {end:#x} lie outside the image of {len(image):#x} bytes"
        )
    quads = image[: len(image) & ~7].cast("Q")
    changed = 0
    position = directory_rva
    # Fewer than 8 bytes left over are padding.
    while end - position >= 8:
        page, block_size = struct.unpack_from("<II", image, position)
        if not 8 <= block_size <= min(end - position, _MAX_BLOCK) or block_size % 2:
            raise DamagedImageError(
                f"base relocation block at RVA {position:#x} has size {block_size:#x}, "
                f"want an even number of 8 to {min(end - position, _MAX_BLOCK):#x}"
            )
        entries = image[position + 8 : position + block_size].cast("H").tolist()
        if page + 0x1000 + 8 <= len(image):
            # The usual page: whatever the offsets are, they stay inside the image.
            changed += _apply_page(image, quads, page, entries, delta)
        else:
            for entry in entries:
                width = _WIDTHS.get(entry >> 12, 0)
                address = page + (entry & 0xFFF)
                if address + width > len(image):
                    raise DamagedImageError(
                        f"base relocation of RVA {address:#x} lies outside the image of {len(image):#x} bytes"
                    )
                changed += _apply_page(image, quads, page, [entry], delta)
        position += block_size
    return changed


def _apply_page(image: memoryview, quads: memoryview, page: int, entries: list[int], delta: int) -> int:
    """Apply the entries of one block, all known to lie inside the image; returns how many were not padding."""
    changed = 0
    for entry in entries:
        kind = entry >> 12
        address = page + (entry & 0xFFF)
        if kind == DIR64:
            if address & 7:
                value = int.from_bytes(image[address : address + 8], "little")
                image[address : address + 8] = ((value + delta) & _MASK64).to_bytes(8, "little")
            else:
                index = address >> 3
                quads[index] = (quads[index] + delta) & _MASK64
        elif kind == HIGHLOW:
            value = int.from_bytes(image[address : address + 4], "little")
            image[address : address + 4] = ((value + delta) & 0xFFFFFFFF).to_bytes(4, "little")
        elif kind in {HIGH, LOW}:
            value = int.from_bytes(image[address : address + 2], "little")
            addend = delta >> 16 if kind == HIGH else delta
            image[address : address + 2] = ((value + addend) & 0xFFFF).to_bytes(2, "little")
        elif kind == ABSOLUTE:
            continue
        else:
            raise DamagedImageError(
                f"base relocation of RVA {address:#x} has type {kind}, want ABSOLUTE, HIGH, LOW, HIGHLOW or DIR64"
            )
        changed += 1
    return changed
