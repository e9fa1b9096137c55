"""The one disk in a tar archive: where its pieces lie on the disk (POSIX ustar, pax; GNU tar manual, "Basic Tar Format")."""

from array import array
from typing import Protocol

from images.errors import ContainerError, UnsupportedFormat

BLOCK = 512
MOST_SIZE = 64 << 40
_HEADER_PIECES, _EXTENSION_PIECES = 4, 21
_MOST_PIECES = 1 << 22
_MOST_EXTRA = 1 << 20  # bytes of a long name or a pax header
_REGULAR = b"0\07"
_DIRECTORY = b"5"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_SPARSE = b"S"


class Stream(Protocol):
    """What the archive is read from, front to end."""

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, fewer only at the end."""

    def exactly(self, count: int, what: str) -> bytes:
        """`count` bytes. Raises ContainerError if there are fewer."""


class Member:
    """The archive's first regular file; the stream stands at its data.

    `pieces`: offset and size of each run of data, one after the other; `size` of the whole file in bytes; `form` is
    "old GNU", "GNU", "ustar" or "pax"; `sparse` whether it is stored with holes.
    """

    def __init__(self, name: str, size: int, form: str, pieces: "array[int]", sparse: bool) -> None:
        self.name = name
        self.size = size
        self.form = form
        self.pieces = pieces
        self.sparse = sparse

    @property
    def stored(self) -> int:
        """Bytes of data in the archive."""
        return sum(self.pieces[1::2])


def first_member(stream: Stream) -> Member:
    """Reads up to the data of the first regular file.

    Raises ContainerError for a damaged archive and one without a file, UnsupportedFormat for a sparse file in pax form.
    """
    name = ""
    given_size: int | None = None
    form = ""
    for _ in range(64):
        header = stream.exactly(BLOCK, "a tar header")
        if header == bytes(BLOCK):
            raise ContainerError("tar: there is no file in the archive")
        _check_sum(header)
        kind = header[156:157]
        size = read_number(header[124:136], "size")
        if kind in {_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK}:
            if size > _MOST_EXTRA:
                raise ContainerError(f"tar: a header of {size} bytes, wanted at most {_MOST_EXTRA}")
            extra = stream.exactly(-(-size // BLOCK) * BLOCK, "a tar header")[:size]
            if kind == _LONG_NAME:
                name = extra.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == _PAX:
                form = "pax"
                settings = _pax(extra)
                name = settings.get("path", name)
                given_size = int(settings["size"]) if settings.get("size", "").isdecimal() else given_size
                if any(key.startswith("GNU.sparse.") for key in settings):
                    raise UnsupportedFormat("tar: a sparse file in pax form; make it with tar --format=oldgnu -Sczf")
        elif kind == _DIRECTORY:
            name = ""
        elif kind == _SPARSE:
            return _sparse(stream, header, name or _name(header), size)
        elif kind in {bytes((one,)) for one in _REGULAR}:
            size = size if given_size is None else given_size
            _check_size(size)
            shape = form or ("GNU" if header[257:265] == b"ustar  \0" else "ustar")
            return Member(name or _name(header), size, shape, array("Q", (0, size)), False)
        else:
            raise ContainerError(f"tar: a member of type {kind!r}, wanted a regular file")
    raise ContainerError("tar: no file among the first 64 headers")


def read_number(field: bytes, what: str) -> int:
    """A number of a header: octal digits, or base 256 with the top bit set. Raises ContainerError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if field[0] > 0x80 or not all(char in b"01234567" for char in text):
        raise ContainerError(f"tar: {what} is {field!r}, wanted an octal number")
    return int(text, 8) if text else 0


def _sparse(stream: Stream, header: bytes, name: str, stored: int) -> Member:
    size = read_number(header[483:495], "realsize")
    _check_size(size)
    pieces = array("Q")
    block, start, count, more = header, 386, _HEADER_PIECES, header[482]
    total = end = 0
    while True:
        for index in range(count):
            field = block[start + 24 * index : start + 24 * index + 24]
            if not field[0] and not field[12]:
                break
            offset, length = read_number(field[:12], "sparse offset"), read_number(field[12:], "sparse size")
            if offset < end or offset + length > size:
                raise ContainerError(
                    f"tar: a piece of {length} bytes at {offset} overlaps another or the disk's end at {size}"
                )
            end = offset + length
            total += length
            if length:
                pieces.extend((offset, length))
        if not more:
            break
        if len(pieces) > 2 * _MOST_PIECES:
            raise ContainerError(f"tar: more than {_MOST_PIECES} pieces")
        block, start, count = stream.exactly(BLOCK, "the map of a sparse file"), 0, _EXTENSION_PIECES
        more = block[504]
        if more and not any(block[:504]):
            raise ContainerError("tar: an empty block in the map of a sparse file")
    if total != stored:
        raise ContainerError(f"tar: the pieces have {total} bytes, the header says {stored}")
    return Member(name, size, "old GNU", pieces, True)


def _check_sum(header: bytes) -> None:
    found = sum(header) - sum(header[148:156]) + 8 * 0x20
    try:
        given = read_number(header[148:156], "checksum")
    except ContainerError:
        given = -1
    if given != found:
        raise ContainerError(
            "no tar archive, or a damaged one: a header's checksum is wrong; wanted Google's tar.gz with disk.raw in it"
        )


def _check_size(size: int) -> None:
    if size > MOST_SIZE:
        raise ContainerError(f"tar: a disk of {size} bytes, wanted at most {MOST_SIZE}")


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "replace")


def _pax(data: bytes) -> dict[str, str]:
    """Records of the form "length key=value\\n" (POSIX, pax Extended Header); what comes after a bad one is dropped."""
    settings = {}
    while data:
        digits = data[:20].partition(b" ")[0]
        if not digits.isdigit() or not len(digits) + 3 <= int(digits) <= len(data):
            break
        record, data = data[len(digits) + 1 : int(digits) - 1], data[int(digits) :]
        key, _, value = record.partition(b"=")
        settings[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return settings
