"""EFI_HII_STRING_PROTOCOL: strings of package lists by language and number."""

from typing import TYPE_CHECKING

from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi import guids
from uefi.hii.database import Database, DatabaseFullError, PackageList
from uefi.hii.packages import HiiError
from uefi.hii.strings import MAX_LANGUAGE, Font, StringPackage
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

MAX_STRING = 0x10000
"""CHAR16 characters of one string."""


class HiiString(Interface):
    """EFI_HII_STRING_PROTOCOL (UEFI 2.10, 34.3)."""

    NAME = "EFI_HII_STRING_PROTOCOL"
    GUID = guids.HII_STRING_PROTOCOL
    SIZE = 0x28

    def __init__(self, firmware: "Firmware", database: Database) -> None:
        super().__init__(firmware)
        self._database = database

    def _list(self, handle: int) -> PackageList:
        known = self._database.lists.get(handle)
        if known is None:
            raise EfiError(Status.NOT_FOUND)
        return known

    def _language(self, address: int) -> str:
        """A CHAR8 language code. EfiError(INVALID_PARAMETER) for NULL, none, and one of more than 1,024 bytes."""
        if not address:
            raise EfiError(Status.INVALID_PARAMETER)
        text = b""
        while b"\0" not in text and len(text) < MAX_LANGUAGE:
            try:
                text += self.firmware.memory.read(address + len(text), 16)
            except BadAddress:
                text += self.firmware.memory.read(address + len(text), 1)
        code, end, _ = text.partition(b"\0")
        if not end or not code:
            raise EfiError(Status.INVALID_PARAMETER)
        return code.decode("latin-1")

    def _text(self, address: int) -> str:
        text: str = self.firmware.memory.read_ucs2(address, MAX_STRING)
        return text

    def _font(self, address: int) -> Font | None:
        if not address:
            return None
        memory = self.firmware.memory
        return Font(memory.read_u32(address), memory.read_u16(address + 4), memory.read_ucs2(address + 6, 256))

    def _give(self, size_at: int, buffer: int, data: bytes) -> int:
        memory = self.firmware.memory
        room = memory.read_u64(size_at)
        memory.write_u64(size_at, len(data))
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        if not buffer:
            return Status.INVALID_PARAMETER
        memory.write(buffer, data)
        return Status.SUCCESS

    @function(
        0x00,
        "NewString(ptr PackageList, ptr StringId, ptr Language, ptr LanguageName, ptr String, ptr StringFontInfo)",
    )
    def new_string(self, cpu: Cpu, handle: int, string_id: int, language: int, *rest: int) -> int:
        """Add a string under a new identifier."""
        name, string, font = rest
        if not handle or not string_id or not string:
            return Status.INVALID_PARAMETER
        code, text, font_info = self._language(language), self._text(string), self._font(font)
        known = self._list(handle)
        try:
            self._database.grow(handle, 2 * len(text) + 32)
            made = known.new_string(code, text, font_info, self._text(name) if name else None)
        except HiiError:
            return Status.INVALID_PARAMETER
        except DatabaseFullError:
            return Status.OUT_OF_RESOURCES
        self.firmware.memory.write_u16(string_id, made)
        return Status.SUCCESS

    @function(
        0x08,
        "GetString(ptr Language, ptr PackageList, u16 StringId, ptr String, ptr StringSize, ptr StringFontInfo)",
    )
    def get_string(self, cpu: Cpu, language: int, handle: int, string_id: int, *rest: int) -> int:
        """A string with its NUL; `StringSize` in bytes."""
        string, string_size, font = rest
        if not handle or not string_id or not string_size:
            return Status.INVALID_PARAMETER
        package = self._package_with(self._list(handle), self._language(language), string_id)
        data = package.texts[string_id][0].encode("utf-16-le", "surrogatepass") + b"\0\0"
        status = self._give(string_size, string, data)
        if status == Status.SUCCESS and font:
            info = package.font_of(string_id)
            address = 0
            if info is not None:
                raw = info.to_bytes()
                address = self.firmware.pool(len(raw))
                self.firmware.memory.write(address, raw)
            self.firmware.memory.write_u64(font, address)
        return status

    def _package_with(self, known: PackageList, code: str, string_id: int) -> StringPackage:
        """The strings of a language, with this one among them.

        EfiError(INVALID_LANGUAGE) when only other languages have it, EfiError(NOT_FOUND) when none has.
        """
        package = known.language(code)
        if package is not None and string_id in package.texts:
            return package
        elsewhere = any(string_id in strings.texts for strings in known.strings)
        raise EfiError(Status.INVALID_LANGUAGE if package is None and elsewhere else Status.NOT_FOUND)

    @function(
        0x10, "SetString(ptr PackageList, u16 StringId, ptr Language, ptr String, ptr StringFontInfo)"
    )  # fmt: skip
    def set_string(self, cpu: Cpu, handle: int, string_id: int, language: int, *rest: int) -> int:
        """Replace a string."""
        string, font = rest
        if not handle or not string_id or not string:
            return Status.INVALID_PARAMETER
        text, font_info = self._text(string), self._font(font)
        package = self._list(handle).language(self._language(language))
        if package is None or string_id not in package.texts:
            return Status.NOT_FOUND
        try:
            self._database.grow(handle, 2 * len(text))
            package.put(string_id, text, font_info or package.font_of(string_id))
        except (HiiError, DatabaseFullError):
            return Status.OUT_OF_RESOURCES
        return Status.SUCCESS

    @function(0x18, "GetLanguages(ptr PackageList, ptr Languages, ptr LanguagesSize)")
    def get_languages(self, cpu: Cpu, handle: int, languages: int, size: int) -> int:
        """The primary languages, with semicolons between them."""
        if not handle or not size:
            return Status.INVALID_PARAMETER
        codes = dict.fromkeys(strings.languages[0] for strings in self._list(handle).strings)
        return self._give(size, languages, ";".join(codes).encode("latin-1") + b"\0")

    @function(
        0x20,
        "GetSecondaryLanguages(ptr PackageList, ptr PrimaryLanguage, ptr SecondaryLanguages, "
        "ptr SecondaryLanguagesSize)",
    )
    def get_secondary_languages(self, cpu: Cpu, handle: int, primary: int, languages: int, size: int) -> int:
        """The secondary languages of a primary one."""
        if not handle or not size:
            return Status.INVALID_PARAMETER
        package = self._list(handle).language(self._language(primary))
        if package is None:
            return Status.INVALID_LANGUAGE
        return self._give(size, languages, ";".join(package.languages[1:]).encode("latin-1") + b"\0")
