"""UEFI decompression: Huffman-coded LZ77 in blocks (UEFI 2.10, chapter 19)."""

from collections.abc import Sequence

HEADER_SIZE = 8
"""Compressed and original size, 32 bits each."""

# Alphabets (19.2.3): literals and match lengths, match positions, and the code lengths of the first.
_CHARACTERS = 510
_POSITIONS = 15
_LENGTH_CODES = 19
_CHARACTER_BITS = 9
_POSITION_BITS = 4
_LENGTH_CODE_BITS = 5
_LENGTH_CODE_GAP = 3

_LONGEST_CODE = 16
# Symbol 256 stands for a match of three bytes.
_MATCH_BASE = 256 - 3


class CompressionError(ValueError):
    """Compressed data that no compressor following chapter 19 makes; the message says what is wrong."""


def sizes(header: bytes) -> tuple[int, int]:
    """(compressed, original) size in bytes, from the header. Raises CompressionError for fewer than 8 bytes."""
    if len(header) < HEADER_SIZE:
        raise CompressionError(f"compressed data has {len(header)} bytes, wanted {HEADER_SIZE} for its header")
    return int.from_bytes(header[:4], "little"), int.from_bytes(header[4:8], "little")


def decompress(data: bytes, limit: int) -> bytes:
    """The original bytes. Raises CompressionError for damaged data and for an original of more than `limit` bytes."""
    compressed, original = sizes(data)
    if compressed > len(data) - HEADER_SIZE:
        raise CompressionError(
            f"header promises {compressed} compressed bytes, {len(data) - HEADER_SIZE} are there"
        )  # fmt: skip
    if original > limit:
        raise CompressionError(f"original has {original} bytes, the limit is {limit}")
    return _Decoder(data[HEADER_SIZE : HEADER_SIZE + compressed]).run(original)


class _Code:
    """A complete prefix code as a table over the next `bits` bits; an entry is symbol << 5 | length."""

    __slots__ = ("bits", "table")

    def __init__(self, lengths: Sequence[int]) -> None:
        """From the code length of each symbol, 0 for unused ones. Raises CompressionError unless every bit string
        is a code word or starts with one."""
        longest = max(lengths)
        if longest > _LONGEST_CODE:
            raise CompressionError(f"code word of {longest} bits, at most 16 are allowed")
        self.bits = longest
        size = 1 << longest
        table: list[int] = []
        for length in range(1, longest + 1):
            repeat = size >> length
            for symbol, wanted in enumerate(lengths):
                if wanted == length:
                    table += [symbol << 5 | length] * repeat
            if len(table) > size:
                raise CompressionError("code lengths give more code words than there are")
        if len(table) != size:
            raise CompressionError("code lengths leave bit strings without meaning")
        self.table = table

    @classmethod
    def single(cls, symbol: int) -> "_Code":
        """The code of one symbol that takes no bits."""
        code = cls.__new__(cls)
        code.bits = 0
        code.table = [symbol << 5]
        return code


class _Decoder:
    """One run over a bit stream, most significant bits first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._bits = 0
        self._count = 0

    def _need(self, count: int) -> None:
        """At least `count` bits in the buffer; zeros follow the data's end, as looking ahead wants."""
        while self._count < count:
            piece = self._data[self._at : self._at + 8]
            self._at += 8
            self._bits = self._bits << 64 | int.from_bytes(piece.ljust(8, b"\0"), "big")
            self._count += 64

    def _peek(self, count: int) -> int:
        self._need(count)
        return self._bits >> self._count - count

    def _drop(self, count: int) -> None:
        self._count -= count
        self._bits &= (1 << self._count) - 1
        if self._at * 8 - self._count > len(self._data) * 8:
            raise CompressionError(f"compressed data ends too early, after {len(self._data)} bytes")

    def _take(self, count: int) -> int:
        if not count:
            return 0
        value = self._peek(count)
        self._drop(count)
        return value

    def _symbol(self, code: _Code) -> int:
        entry = code.table[self._peek(code.bits) if code.bits else 0]
        self._drop(entry & 31)
        return entry >> 5

    def run(self, original: int) -> bytes:
        """Decode blocks until `original` bytes are there."""
        out = bytearray()
        left = 0
        characters = positions = _Code.single(0)
        while len(out) < original:
            if not left:
                left = self._take(16)
                if not left:
                    raise CompressionError("block of no symbols")
                lengths = self._code_lengths(_LENGTH_CODES, _LENGTH_CODE_BITS, _LENGTH_CODE_GAP)
                characters = self._character_code(lengths)
                positions = self._code_lengths(_POSITIONS, _POSITION_BITS, -1)
            left -= 1
            symbol = self._symbol(characters)
            if symbol < 256:
                out.append(symbol)
            else:
                self._copy(out, self._position(positions), min(symbol - _MATCH_BASE, original - len(out)))
        return bytes(out)

    def _position(self, code: _Code) -> int:
        """How far back a match starts, 0 for the last byte."""
        bits = self._symbol(code)
        return bits if bits < 2 else (1 << bits - 1) + self._take(bits - 1)

    @staticmethod
    def _copy(out: bytearray, position: int, length: int) -> None:
        start = len(out) - position - 1
        if start < 0:
            raise CompressionError(f"match starts {position + 1} bytes back, only {len(out)} are there")
        while length > 0:
            piece = out[start : start + length]
            out += piece
            length -= len(piece)

    def _code_lengths(self, symbols: int, bits: int, gap: int) -> _Code:
        """A code given by plain lengths; after symbol `gap` - 1, two bits tell how many symbols have none."""
        count = self._take(bits)
        if not count:
            return _Code.single(self._checked(self._take(bits), symbols))
        self._checked(count - 1, symbols)
        lengths: list[int] = []
        while len(lengths) < count:
            length = self._take(3)
            if length == 7:
                while self._take(1):
                    length += 1
                    if length > _LONGEST_CODE:
                        raise CompressionError("code word of more than 16 bits")
            lengths.append(length)
            if len(lengths) == gap:
                lengths += [0] * self._take(2)
        if not any(lengths):
            raise CompressionError("code without symbols")
        return _Code(lengths)

    def _character_code(self, code: _Code) -> _Code:
        """The code of literals and matches, its lengths coded themselves; 0 to 2 are runs of unused symbols."""
        count = self._take(_CHARACTER_BITS)
        if not count:
            return _Code.single(self._checked(self._take(_CHARACTER_BITS), _CHARACTERS))
        self._checked(count - 1, _CHARACTERS)
        lengths: list[int] = []
        while len(lengths) < count:
            symbol = self._symbol(code)
            if symbol == 0:
                lengths.append(0)
            elif symbol == 1:
                lengths += [0] * (self._take(4) + 3)
            elif symbol == 2:
                lengths += [0] * (self._take(9) + 20)
            else:
                lengths.append(symbol - 2)
        if len(lengths) > _CHARACTERS or not any(lengths):
            raise CompressionError(f"code of {len(lengths)} symbols, wanted up to {_CHARACTERS} with some in use")
        return _Code(lengths)

    @staticmethod
    def _checked(symbol: int, symbols: int) -> int:
        if symbol >= symbols:
            raise CompressionError(f"symbol {symbol} in an alphabet of {symbols}")
        return symbol
