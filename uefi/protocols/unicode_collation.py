"""EFI_UNICODE_COLLATION_PROTOCOL: comparing, matching and folding strings, and 8.3 names for FAT."""

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import Status

MAX_STRING = 0x10000
"""CHAR16 characters looked at in one string."""

_FAT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\\._^$~!#%&-{}()@`'")


def fold_upper(text: str) -> str:
    """Upper case, character by character: one whose upper case is several characters stays."""
    folded = text.upper()
    if len(folded) == len(text):
        return folded
    return "".join(character if len(character.upper()) > 1 else character.upper() for character in text)


def fold_lower(text: str) -> str:
    """Lower case, character by character, as fold_upper."""
    folded = text.lower()
    if len(folded) == len(text):
        return folded
    return "".join(character if len(character.lower()) > 1 else character.lower() for character in text)


def matches(text: str, pattern: str) -> bool:
    """Whether the whole text fits the pattern, whatever the case (MetaiMatch, 21.1).

    "*" stands for any characters, "?" for one, "[abc]" and "[a-z]" for one of a set; a "[" that is never closed fits
    nothing. Takes no more steps than the lengths' product, so that no pattern hangs.
    """
    text = fold_upper(text)
    tokens = _pattern_tokens(fold_upper(pattern))
    if tokens is None:
        return False
    at = token = 0
    star, retry = -1, 0
    while at < len(text):
        if token < len(tokens) and tokens[token] == "*":
            star, retry = token, at
            token += 1
        elif token < len(tokens) and _fits(text[at], tokens[token]):
            at += 1
            token += 1
        elif star >= 0:
            # The last "*" takes one character more; earlier ones need not be tried again.
            retry += 1
            at, token = retry, star + 1
        else:
            return False
    return all(rest == "*" for rest in tokens[token:])


def _pattern_tokens(pattern: str) -> list[str] | None:
    """The pattern's single characters and its sets with their brackets; None for a set without end."""
    tokens = []
    at = 0
    while at < len(pattern):
        end = at
        if pattern[at] == "[":
            end = pattern.find("]", at)
            if end < 0:
                return None
        tokens.append(pattern[at : end + 1])
        at = end + 1
    return tokens


def _fits(character: str, token: str) -> bool:
    if len(token) == 1:
        return token in ("?", character)
    members = token[1:-1]
    at = 0
    while at < len(members):
        if at + 2 < len(members) and members[at + 1] == "-":
            if members[at] <= character <= members[at + 2]:
                return True
            at += 3
        else:
            if members[at] == character:
                return True
            at += 1
    return False


def to_fat(text: str, size: int) -> tuple[bytes, bool]:
    """At most `size` characters of an 8.3 name, and whether "_" had to stand for some (StrToFat, 21.1).

    Periods and blanks are left out.
    """
    name = bytearray()
    replaced = False
    for character in text:
        if len(name) == size:
            break
        if character in ". ":
            continue
        upper = character.upper()
        if upper in _FAT_CHARACTERS:
            name += upper.encode("ascii")
        else:
            name += b"_"
            replaced = True
    return bytes(name), replaced


class UnicodeCollation(Interface):
    """EFI_UNICODE_COLLATION_PROTOCOL with RFC 4646 language codes (UEFI 2.10, 21.1)."""

    NAME = "EFI_UNICODE_COLLATION_PROTOCOL"
    GUID = guids.UNICODE_COLLATION2_PROTOCOL
    SIZE = 0x38
    LANGUAGES = b"en\0"

    def fill(self) -> None:
        """SupportedLanguages."""
        languages = self.firmware.pool(len(self.LANGUAGES))
        self.firmware.memory.write(languages, self.LANGUAGES)
        self.put_u64(0x30, languages)

    def _text(self, address: int) -> str:
        text: str = self.firmware.memory.read_ucs2(address, MAX_STRING)
        return text

    @function(0x00, "StriColl(ptr Str1, ptr Str2)")
    def stri_coll(self, cpu: Cpu, first: int, second: int) -> int:
        """-1, 0 or 1 as the first string sorts before, with or after the second, whatever the case."""
        left, right = fold_upper(self._text(first)), fold_upper(self._text(second))
        return (left > right) - (left < right) & 0xFFFF_FFFF_FFFF_FFFF

    @function(0x08, "MetaiMatch(ptr String, ptr Pattern)")
    def metai_match(self, cpu: Cpu, string: int, pattern: int) -> int:
        """TRUE when the string fits the pattern."""
        return int(matches(self._text(string), self._text(pattern)))

    @function(0x10, "StrLwr(ptr Str)")
    def str_lwr(self, cpu: Cpu, string: int) -> int:
        """Lower case, in place."""
        text = fold_lower(self._text(string))
        self.firmware.memory.write(string, text.encode("utf-16-le", "surrogatepass"))
        return Status.SUCCESS

    @function(0x18, "StrUpr(ptr Str)")
    def str_upr(self, cpu: Cpu, string: int) -> int:
        """Upper case, in place."""
        text = fold_upper(self._text(string))
        self.firmware.memory.write(string, text.encode("utf-16-le", "surrogatepass"))
        return Status.SUCCESS

    @function(0x20, "FatToStr(u64 FatSize, ptr Fat, ptr String)")
    def fat_to_str(self, cpu: Cpu, size: int, fat: int, string: int) -> int:
        """An 8-bit name up to its NUL or `size` characters as a CHAR16 string."""
        name = self.firmware.memory.read(fat, min(size, MAX_STRING)).partition(b"\0")[0]
        self.firmware.memory.write_ucs2(string, name.decode("latin-1"))
        return Status.SUCCESS

    @function(0x28, "StrToFat(ptr String, u64 FatSize, ptr Fat)")
    def str_to_fat(self, cpu: Cpu, string: int, size: int, fat: int) -> int:
        """An 8.3 name without NUL; TRUE when some character had no place in it."""
        name, replaced = to_fat(self._text(string), min(size, MAX_STRING))
        self.firmware.memory.write(fat, name)
        return int(replaced)


class UnicodeCollation1(UnicodeCollation):
    """The same under its first GUID, with ISO 639-2 language codes, for programs older than UEFI 2.1."""

    GUID = guids.UNICODE_COLLATION_PROTOCOL
    LANGUAGES = b"eng\0"
