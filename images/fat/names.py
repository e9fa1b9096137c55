"""Long and short file names of FAT directories (FAT specification 1.03, "Long Directory Entries")."""

from collections.abc import Container
from struct import pack

from images.errors import InvalidName
from images.tree import clean_name

SLOT = 32
LONG_NAME = 0x0F  # attributes of a slot that holds part of a long name
LAST_LONG = 0x40
_UNITS = 13  # UTF-16 units in one slot
_MOST_SLOTS = 20
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10  # DIR_NTRes: the short name is meant in lower case
_SHORT_EXTRA = frozenset("$%'-_@~`!(){}^#&")
_MOST_TAILS = 999_999
_UNPRINTABLE = dict.fromkeys((*range(0x20), *map(ord, '"*/:<>?\\|')), "_")


def checksum(short: bytes) -> int:
    """The sum over the 11 bytes of a short name that ties long name slots to it (ChkSum() of the specification)."""
    total = 0
    for byte in short:
        total = ((total >> 1) | (total & 1) << 7) + byte & 0xFF
    return total


def decode_short(short: bytes, case: int = 0) -> str:
    """The 11 bytes of DIR_Name as text; `case` is DIR_NTRes. Characters that no name may have become underscores."""
    if short[0] == 0x05:
        short = b"\xe5" + short[1:]
    base = short[:8].decode("cp437").rstrip(" ")
    extension = short[8:11].decode("cp437").rstrip(" ")
    if case & _LOWER_BASE:
        base = base.lower()
    if case & _LOWER_EXTENSION:
        extension = extension.lower()
    return (f"{base}.{extension}" if extension else base).translate(_UNPRINTABLE)


def decode_long(slots: list[bytes], short: bytes) -> str | None:
    """The name in the long name `slots` (in their order on disk) before the entry `short`; None if they do not fit."""
    count = len(slots)
    if not 0 < count <= _MOST_SLOTS or slots[0][0] != LAST_LONG | count:
        return None
    wanted = checksum(short)
    units = bytearray()
    for number, slot in zip(range(1, count + 1), reversed(slots), strict=True):
        if slot[0] & ~LAST_LONG != number or slot[13] != wanted or slot[12] or slot[26:28] != b"\0\0":
            return None
        units += slot[1:11] + slot[14:26] + slot[28:32]
    name = units.decode("utf-16-le", "surrogatepass").partition("\0")[0]
    try:
        return name if clean_name(name) == name else None
    except InvalidName:
        return None


def encode_long(name: str, short: bytes) -> bytes:
    """The long name slots for `name`, in their order on disk, 32 bytes each."""
    units = name.encode("utf-16-le", "surrogatepass")
    if len(units) % (_UNITS * 2):
        units += b"\0\0"
        units += b"\xff" * (-len(units) % (_UNITS * 2))
    count = len(units) // (_UNITS * 2)
    tie = checksum(short)
    slots = []
    for number in range(count, 0, -1):
        part = units[(number - 1) * _UNITS * 2 : number * _UNITS * 2]
        order = number | (LAST_LONG if number == count else 0)
        slots.append(pack("<B10sBBB12sH4s", order, part[:10], LONG_NAME, 0, tie, part[10:22], 0, part[22:]))
    return b"".join(slots)


def make_short(name: str, taken: Container[bytes], hints: dict[bytes, int]) -> tuple[bytes, bool]:
    """(the 11 bytes of a short name for `name`, whether a long name is needed too).

    `taken` are the directory's short names; `hints` remembers, for each stem, the last number given, so that many
    alike names stay quick. "The Basis-Name Generation Algorithm" and "The Numeric-Tail Generation Algorithm".
    """
    stem, dot, extension = name.strip(" ").lstrip(".").rpartition(".")
    if not dot:
        stem, extension = extension, ""
    lossy = len(name) != len(stem) + len(dot) + len(extension)
    base, base_lossy = _oem(stem)
    tail, tail_lossy = _oem(extension)
    lossy |= base_lossy or tail_lossy or not base or bool(dot and not tail)
    fits = not lossy and len(base) <= 8 and len(tail) <= 3
    last = tail[:3].ljust(3).encode("ascii")
    short = base[:8].ljust(8).encode("ascii") + last
    if fits and short not in taken:
        return short, name != decode_short(short)
    base = base or "_"
    for number in range(hints.get(short, 0) + 1, _MOST_TAILS + 1):
        mark = f"~{number}"
        candidate = (base[: 8 - len(mark)] + mark).ljust(8).encode("ascii") + last
        if candidate not in taken:
            hints[short] = number
            return candidate, True
    raise InvalidName(f"{name[:40]}: the directory has {_MOST_TAILS} names like it already")


def decode_label(raw: bytes) -> str:
    """The 11 bytes of a volume label as text."""
    return raw.decode("cp437").rstrip(" \0").translate(_UNPRINTABLE)


def label_bytes(label: str) -> bytes:
    """A volume label as 11 bytes. Raises InvalidName for more characters, or ones that a label may not have."""
    text = label.upper().rstrip(" ")
    if len(text) > 11 or any(not _is_short(char) and char != " " for char in text):
        raise InvalidName(f"{label[:40]!r}: a volume label has at most 11 characters, letters, digits and some signs")
    return text.ljust(11).encode("ascii")


def _is_short(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char in _SHORT_EXTRA)


def _oem(part: str) -> tuple[str, bool]:
    """`part` in the characters of a short name, and whether something was lost."""
    kept = part.replace(" ", "").replace(".", "")
    text = "".join(char.upper() if _is_short(char) else "_" for char in kept)
    return text, text != part.upper()
