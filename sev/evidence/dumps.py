"""Bytes written as text: hex in its many forms, base64, lists of numbers, dumps with offsets, escapes in quotes.

Everything here takes text and gives bytes, or None where the text is not of that form. Text is bytes whose code contains ASCII.
"""

import base64
import binascii
import re
from collections.abc import Iterator

_NOISE = rb"\s,;:{}\[\]()'\"\\"
_HEX_ONLY = re.compile(rb"(?:[0-9a-fA-FxX" + _NOISE + rb"-])*+\Z")
_PREFIX = re.compile(rb"0[xX]|\\[xX]")
_TOKEN = re.compile(rb"[0-9a-fA-F]+")
_DECIMAL_ONLY = re.compile(rb"[\s\[\](){},;0-9]*+\Z")
_BASE64_ONLY = re.compile(rb"[0-9A-Za-z+/_\-\s]++={0,2}+\s*+\Z")
# What stands before the offset is a log's prefix.
_DUMP_LINE = re.compile(
    rb"(?:^|[\s\]>:])(?:0x)?([0-9a-fA-F]{4,16})(?::[ \t]*|[ \t]+)((?:[0-9a-fA-F]{2,8}[ \t-]{1,3})*[0-9a-fA-F]{2,8})(?:[\s|].*)?$"
)
_OFFSET_ONLY = re.compile(rb"(?:0x)?([0-9a-fA-F]{4,16}):?\Z")
_LONGEST_LINE = 200
_MOST_LINES = 4096
_MOST_DUMPED = 1 << 20
# Possessive, and an open quote takes the rest of its line: no text makes this look twice at a byte.
_QUOTED = re.compile(rb"\"((?:[^\"\\\r\n]|\\.)*+)\"?|'((?:[^'\\\r\n]|\\.)*+)'?")
_LEAST_QUOTED = 200
_BARE_ESCAPES = re.compile(rb"(?:\\x[0-9a-fA-F]{2}){64,}")
_LEAST = 1184
_LEAST_DIGITS = 2 * _LEAST
_HEX_RUN = re.compile(rb"(?<![0-9a-fA-F])[0-9a-fA-F]{%d,}(?![0-9a-fA-F])" % _LEAST_DIGITS)
# Text of a program, cut into several literals: neighbours, or joined by "+".
_LITERALS = re.compile(rb"(?:\"[0-9A-Za-z+/=_-]++\"[\s\\]*+(?:\+\s*+)?+){2,}")
_BASE64_RUN = re.compile(rb"(?<![0-9A-Za-z+/_\-])[0-9A-Za-z+/_\-]{1100,}={0,2}")


def hexadecimal(text: bytes) -> bytes | None:
    """Text that is hex alone: with white space, 0x, \\x, commas, colons, braces; digits in pairs or longer even groups."""
    if not _HEX_ONLY.match(text):
        return None
    tokens = _TOKEN.findall(_PREFIX.sub(b" ", text))
    if not tokens:
        return None
    if _PREFIX.search(text) and all(len(token) <= 2 for token in tokens):
        tokens = [token.zfill(2) for token in tokens]
    try:
        return bytes.fromhex(b"".join(tokens).decode())
    except ValueError:
        return None


def decimal(text: bytes) -> bytes | None:
    """Text that is a list of numbers from 0 to 255, as Go's %v or an array prints it."""
    if not _DECIMAL_ONLY.match(text):
        return None
    numbers = re.findall(rb"[0-9]+", text)
    if len(numbers) < 16 or any(len(number) > 3 or int(number) > 255 for number in numbers):
        return None
    if all(len(number) == 2 for number in numbers) and b"," not in text:
        return None  # that is hex
    return bytes(map(int, numbers))


def base64_text(text: bytes) -> bytes | None:
    """Text that is base64 or base64url alone, in one line or many, with or without padding."""
    if not _BASE64_ONLY.match(text):
        return None
    joined = b"".join(text.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    if len(joined) % 4 == 1:
        return None
    try:
        return base64.b64decode(joined + b"=" * (-len(joined) % 4), validate=True)
    except binascii.Error:
        return None


def dump(text: bytes) -> bytes | None:
    """A dump with offsets: xxd, hexdump -C, od -t x1, Go's hex.Dump, the kernel's print_hex_dump, also among other lines.

    A line "*" repeats the line before it up to the next offset. Offsets may be hex, octal or decimal. The dump starts at 0.
    """
    lines: list[tuple[bytes, bytes]] = []
    for line in text.splitlines():
        bare = line.strip()
        if bare == b"*":
            lines.append((b"*", b""))
        elif len(line) <= _LONGEST_LINE and (found := _DUMP_LINE.search(line.rstrip())):
            lines.append((found[1], found[2]))
        elif lines and (last := _OFFSET_ONLY.match(bare)):
            lines.append((last[1], b""))
        if len(lines) > _MOST_LINES:
            return None
    if sum(bool(row) for _, row in lines) < 2:
        return None
    for base in (16, 8, 10):
        data = _from_offsets(lines, base)
        if data is not None:
            return data
    return None


def _from_offsets(lines: list[tuple[bytes, bytes]], base: int) -> bytes | None:
    """The bytes, if every line stands where the lines before it end."""
    data, row, repeat, width = bytearray(), b"", False, 0
    for number, (place, digits) in enumerate(lines):
        if place == b"*":
            repeat = True
            continue
        try:
            offset = int(place, base)
        except ValueError:
            return None
        if offset > _MOST_DUMPED:
            return None
        if repeat and row and offset > len(data) and (offset - len(data)) % len(row) == 0:
            data += row * ((offset - len(data)) // len(row))
        if offset != len(data):
            return bytes(data) if len(data) >= _LEAST and offset == 0 else None  # a second dump begins
        repeat = False
        if not width and number + 1 < len(lines) and lines[number + 1][0] != b"*":
            try:
                width = int(lines[number + 1][0], base) - offset
            except ValueError:
                return None
        shown = re.sub(rb"[^0-9a-fA-F]", b"", digits)[: 2 * (width or 16)]
        if len(shown) % 2:
            return None
        row = bytes.fromhex(shown.decode("ascii"))
        if 0 < width <= len(row):
            row = row[:width]
        data += row
    return bytes(data)


def quoted(text: bytes) -> Iterator[bytes]:
    """What quoted text with escapes stands for (C, Python, text format of protocol buffers), neighbours joined; and bare \\x.."""
    import warnings
    from codecs import escape_decode

    parts: list[bytes] = []
    end = -1
    for found in _QUOTED.finditer(text):
        inner: bytes = found[1] or found[2] or b""
        if len(inner) < _LEAST_QUOTED or b"\\" not in inner:
            continue
        if parts and text[end : found.start()].strip() not in (b"", b"\\"):
            yield b"".join(parts)
            parts = []
        try:
            with warnings.catch_warnings(action="ignore"):
                parts.append(escape_decode(inner)[0])
        except ValueError:
            parts = []
        end = found.end()
    if parts:
        yield b"".join(parts)
    for found in _BARE_ESCAPES.finditer(text):
        yield bytes.fromhex(found[0].replace(b"\\x", b"").decode())


def runs(text: bytes) -> Iterator[bytes]:
    """What long runs of hex or base64 among other text stand for, in one line or in lines of equal length."""
    for found in _HEX_RUN.finditer(text):
        yield bytes.fromhex(found[0][: len(found[0]) // 2 * 2].decode())
    for found in _BASE64_RUN.finditer(text):
        if not _HEX_RUN.fullmatch(found[0]) and (decoded := base64_text(found[0])) is not None:
            yield decoded
    for found in _LITERALS.finditer(text):
        literals = b"".join(found[0].split(b'"')[1::2])
        decoded = hexadecimal(literals) or base64_text(literals)
        if decoded is not None:
            yield decoded
    for block in _blocks(text):
        decoded = hexadecimal(block) or base64_text(block)
        if decoded is not None:
            yield decoded


def _blocks(text: bytes) -> Iterator[bytes]:
    """Stretches of lines of hex or base64 that have the same length, and the shorter one that ends each."""
    block: list[bytes] = []
    for line in [*text.splitlines(), b""]:
        bare = line.strip()
        fits = len(bare) >= 32 and (re.fullmatch(rb"[0-9A-Za-z+/_\-]+={0,2}", bare) is not None)
        if block and len(bare) == len(block[0]) and fits:
            block.append(bare)
            continue
        if len(block) >= 2:
            last = [bare] if len(bare) < len(block[0]) and re.fullmatch(rb"[0-9A-Za-z+/_\-]+={0,2}", bare) else []
            if last and sum(map(len, block)) * 3 // 4 >= 800:
                yield b"\n".join(block + last)
            yield b"\n".join(block)
        block = [bare] if fits else []
