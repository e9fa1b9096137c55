"""HII string packages: string information blocks to texts and back (UEFI 2.10, 33.3.6)."""

import struct

from uefi.hii.packages import PACKAGE_HEADER_SIZE, PACKAGE_STRINGS, HiiError, Package

_END, _DUPLICATE, _SKIP2, _SKIP1 = 0x00, 0x20, 0x21, 0x22
_EXT1, _EXT2, _EXT4 = 0x30, 0x31, 0x32
_FONT = 0x40
# Block type -> (8-bit text, a font follows, a count follows) for all blocks of strings.
_TEXT_BLOCKS = {
    0x10: (True, False, False),
    0x11: (True, True, False),
    0x12: (True, False, True),
    0x13: (True, True, True),
    0x14: (False, False, False),
    0x15: (False, True, False),
    0x16: (False, False, True),
    0x17: (False, True, True),
}
_UCS2, _UCS2_FONT = 0x14, 0x15

_HEADER = struct.Struct("<II32sH")
MAX_STRING_ID = 0xFFFF
MAX_LANGUAGE = 1024


class Font:
    """EFI_FONT_INFO: style bits, cell height in pixels, name."""

    __slots__ = ("name", "size", "style")

    def __init__(self, style: int, size: int, name: str) -> None:
        self.style = style
        self.size = size
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Font) and (self.style, self.size, self.name) == (other.style, other.size, other.name)

    def __hash__(self) -> int:
        return hash((self.style, self.size, self.name))

    def to_bytes(self) -> bytes:
        """The structure as it lies in memory, with the name's NUL."""
        return struct.pack("<IH", self.style, self.size) + _ucs2(self.name)


class StringPackage:
    """The strings of one language. Identifiers run from 1; some in between may have no string.

    `languages` is the primary language and the secondary ones, RFC 4646 codes; `language_name` the identifier of the
    string that names the language.
    """

    __slots__ = ("_original", "fonts", "language_name", "languages", "next_id", "texts", "window")

    def __init__(self, language: str, language_name: int = 1) -> None:
        self.languages = language.split(";")
        self.language_name = language_name
        self.window = bytes(32)
        self.texts: dict[int, tuple[str, int]] = {}
        self.fonts: dict[int, Font] = {}
        self.next_id = 1
        self._original: bytes | None = None

    def speaks(self, language: str) -> bool:
        """Whether this is the package of a primary language; upper and lower case are the same (RFC 4646, 2.1)."""
        return self.languages[0].lower() == language.lower()

    def put(self, string_id: int, text: str, font: Font | None = None) -> None:
        """Set a string. Raises HiiError for an identifier outside 1 to 65,535 and for a 256th font."""
        if not 1 <= string_id <= MAX_STRING_ID:
            raise HiiError(f"HII string identifier {string_id}, wanted 1 to 65535")
        self.texts[string_id] = (text, self._font_id(font))
        self.next_id = max(self.next_id, string_id + 1)
        self._original = None

    def font_of(self, string_id: int) -> Font | None:
        """The font that a string asks for, None for the system's."""
        return self.fonts.get(self.texts[string_id][1])

    def _font_id(self, font: Font | None) -> int:
        if font is None:
            return 0
        for number, known in self.fonts.items():
            if known == font:
                return number
        number = next((number for number in range(1, 256) if number not in self.fonts), 0)
        if not number:
            raise HiiError("HII string package has 255 fonts already")
        self.fonts[number] = font
        return number

    def to_package(self) -> Package:
        """The package: as it came while no string was changed, else of plain UCS-2 blocks."""
        if self._original is not None:
            return Package(PACKAGE_STRINGS, self._original)
        language = ";".join(self.languages).encode("latin-1", "replace") + b"\0"
        size = PACKAGE_HEADER_SIZE + _HEADER.size + len(language)
        blocks = [_HEADER.pack(size, size, self.window, self.language_name), language]
        for number, font in self.fonts.items():
            body = struct.pack("<BHI", number, font.size, font.style) + _ucs2(font.name)
            blocks.append(struct.pack("<BBH", _EXT2, _FONT, 4 + len(body)) + body)
        expected = 1
        for string_id, (text, font_id) in sorted(self.texts.items()):
            if string_id > expected:
                blocks.append(struct.pack("<BH", _SKIP2, string_id - expected))
            blocks.append(bytes((_UCS2_FONT, font_id)) if font_id else bytes((_UCS2,)))
            blocks.append(_ucs2(text))
            expected = string_id + 1
        if self.next_id > expected:
            blocks.append(struct.pack("<BH", _SKIP2, self.next_id - expected))
        return Package(PACKAGE_STRINGS, b"".join(blocks) + bytes((_END,)))

    @classmethod
    def parse(cls, package: Package) -> "StringPackage":
        """From a string package. Raises HiiError for blocks that are cut, unknown, or give too many identifiers."""
        body = package.body
        if len(body) < _HEADER.size:
            raise HiiError(f"HII string package of {len(body)} bytes, wanted {_HEADER.size} for its header")
        header_size, offset, window, name = _HEADER.unpack_from(body)
        end = body.find(b"\0", _HEADER.size, _HEADER.size + MAX_LANGUAGE)
        if end < 0:
            raise HiiError(f"HII string package names no language within {MAX_LANGUAGE} bytes")
        if offset < PACKAGE_HEADER_SIZE + end + 1 or offset - PACKAGE_HEADER_SIZE > len(body):
            raise HiiError(f"HII string package has its blocks at {offset}, wanted {header_size} to {len(body) + 4}")
        made = cls(body[_HEADER.size : end].decode("latin-1"), name)
        made.window = window
        _BlockReader(made, body, offset - PACKAGE_HEADER_SIZE).run()
        made._original = body
        return made


class _BlockReader:
    """One walk over string information blocks."""

    def __init__(self, package: StringPackage, data: bytes, at: int) -> None:
        self._package = package
        self._data = data
        self._at = at
        self._duplicates: list[tuple[int, int]] = []

    def run(self) -> None:
        """Fill the package's texts and fonts."""
        while (kind := self._number(1)) != _END:
            self._block(kind)
        texts = self._package.texts
        for string_id, original in self._duplicates:
            # A duplicate of a duplicate is resolved when it comes later; one of nothing stays without a string.
            if original in texts:
                texts[string_id] = texts[original]

    def _block(self, kind: int) -> None:
        if kind in _TEXT_BLOCKS:
            narrow, with_font, counted = _TEXT_BLOCKS[kind]
            font = self._number(1) if with_font else 0
            for _ in range(self._number(2) if counted else 1):
                text = self._narrow_text() if narrow else self._wide_text()
                self._package.texts[self._next(1)] = (text, font)
        elif kind == _DUPLICATE:
            self._duplicates.append((self._next(1), self._number(2)))
        elif kind in (_SKIP1, _SKIP2):
            self._next(self._number(1 if kind == _SKIP1 else 2))
        elif kind in (_EXT1, _EXT2, _EXT4):
            self._extension(kind)
        else:
            raise HiiError(f"HII string block of type {kind:#x} at offset {self._at - 1} is unknown")

    def _next(self, count: int) -> int:
        """Use up identifiers; the first of them."""
        first = self._package.next_id
        self._package.next_id += count
        if self._package.next_id > MAX_STRING_ID + 1:
            raise HiiError(f"HII string package has more than {MAX_STRING_ID} identifiers")
        return first

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), "little")

    def _bytes(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise HiiError(f"HII string package ends within a block, after {len(self._data)} bytes")
        self._at += size
        return data

    def _narrow_text(self) -> str:
        """SCSU text in its initial state: 8-bit characters; its window commands are taken for characters."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise HiiError(f"HII string at offset {self._at} has no end")
        text = self._data[self._at : end].decode("latin-1")
        self._at = end + 1
        return text

    def _wide_text(self) -> str:
        end = self._at
        while (end := self._data.find(b"\0\0", end)) >= 0 and (end - self._at) % 2:
            end += 1
        if end < 0:
            raise HiiError(f"HII string at offset {self._at} has no end")
        text = self._data[self._at : end].decode("utf-16-le", "surrogatepass")
        self._at = end + 2
        return text

    def _extension(self, kind: int) -> None:
        """A block that tells its own length; fonts are the only ones with a meaning here."""
        start = self._at - 1
        second = self._number(1)
        length = self._number({_EXT1: 1, _EXT2: 2, _EXT4: 4}[kind])
        left = length - (self._at - start)
        if left < 0:
            raise HiiError(f"HII string block at offset {start} says {length} bytes, less than its header")
        body = self._bytes(left)
        if kind == _EXT2 and second == _FONT and len(body) >= 7:
            number, size, style = struct.unpack_from("<BHI", body)
            name = body[7 : 7 + (len(body) - 7 & ~1)].decode("utf-16-le", "surrogatepass").partition("\0")[0]
            self._package.fonts[number] = Font(style, size, name)


def _ucs2(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass") + b"\0\0"
