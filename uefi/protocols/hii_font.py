"""EFI_HII_FONT_PROTOCOL without fonts: this machine's text leaves through the text console."""

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import Status


class HiiFont(Interface):
    """EFI_HII_FONT_PROTOCOL (UEFI 2.10, 34.1). There is no glyph to draw: what draws is EFI_UNSUPPORTED."""

    NAME = "EFI_HII_FONT_PROTOCOL"
    GUID = guids.HII_FONT_PROTOCOL
    SIZE = 0x20

    @function(
        0x00,
        "StringToImage(u32 Flags, ptr String, ptr StringInfo, ptr Blt, u64 BltX, u64 BltY, ptr RowInfoArray, "
        "ptr RowInfoArraySize, ptr ColumnInfoArray)",
    )
    def string_to_image(self, cpu: Cpu, flags: int, string: int, *rest: int) -> int:
        """Draw a string."""
        return Status.UNSUPPORTED if string and rest[1] else Status.INVALID_PARAMETER

    @function(
        0x08,
        "StringIdToImage(u32 Flags, ptr PackageList, u16 StringId, ptr Language, ptr StringInfo, ptr Blt, u64 BltX, "
        "u64 BltY, ptr RowInfoArray, ptr RowInfoArraySize, ptr ColumnInfoArray)",
    )
    def string_id_to_image(self, cpu: Cpu, flags: int, handle: int, string_id: int, *rest: int) -> int:
        """Draw a string of a package list."""
        return Status.UNSUPPORTED if handle and string_id and rest[2] else Status.INVALID_PARAMETER

    @function(0x10, "GetGlyph(u16 Char, ptr StringInfo, ptr Blt, ptr Baseline)")
    def get_glyph(self, cpu: Cpu, character: int, info: int, blt: int, baseline: int) -> int:
        """The picture of a character."""
        return Status.UNSUPPORTED if blt else Status.INVALID_PARAMETER

    @function(0x18, "GetFontInfo(ptr FontHandle, ptr StringInfoIn, ptr FontInfo, ptr String)")
    def get_font_info(self, cpu: Cpu, font_handle: int, wanted: int, found: int, string: int) -> int:
        """The font that a request would get: there is none."""
        return Status.NOT_FOUND if found else Status.INVALID_PARAMETER
