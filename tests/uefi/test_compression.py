"""UEFI decompression: streams of another program's compressor, of a small one here, and damaged ones."""

import base64
import contextlib
import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi.compression import CompressionError, decompress, sizes

PLAIN = b"The quick brown fox jumps over the lazy dog. " * 8 + bytes(300) + bytes(range(256))
# PLAIN as the EFI 1.1 compressor of the uefi-firmware package packs it.
PACKED = base64.b64decode(
    "cAEAAJQDAAABL2C3FrK/1IUBUAAvVQAwAAVVVVADAAbbbbbNt/bbYAVVVVVVVQAAAAAAAAAAAAJJJJJKqqq6FLl3VgcgAJBx4wBY0QFPYBJcJ9KAGh"
    "PwCJomVMACfBhcBn+3EhEA/gFhDgwNzZ/9m63H+bs23hucHO93x0dnh6fH+/4HBQEFCQ0RFRkdISUpLTOEDh8Ti8ZNTk9QUVJTVFUMrK6wsrS2uLq8"
    "vsDCxMbIy8fkcnlcvmc3nc/odHpMzO0NLU1tja3B29wcXJzdHV2d3h5ehAkULGDRw8gReyRMoEVLFzBk0+Pr8/wEDBQcJ0+p1et1+x2e12+53e93/B"
    "4fF4/J5fN5/RCw0PERMVFxkbHR8hIyUnKSstLzEzNTc5Oz0/QUNFR0lLTU9RU1VXWVtdX2FjZWdpa21vcXN1d3l7fX+Bg4WHiYuNj5GTlZeZm52foa"
    "Pp0vVp+vU9mr7db3a/v2Phs/Ha+W38/p9ft9/x+f1+/4AA=="
)


class Bits:
    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, count: int) -> None:
        if count:
            self.text += format(value, f"0{count}b")

    def to_bytes(self) -> bytes:
        padded = self.text + "0" * (-len(self.text) % 8)
        return int("1" + padded, 2).to_bytes(len(padded) // 8 + 1, "big")[1:] if padded else b""


def code_lengths(counts: Counter[int], symbols: int) -> list[int]:
    """Huffman's code lengths; counts are flattened until no code word passes 16 bits."""
    while True:
        heap = [(count, symbol, [symbol]) for symbol, count in counts.items()]
        lengths = [0] * symbols
        heapq.heapify(heap)
        while len(heap) > 1:
            first, second = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in first[2] + second[2]:
                lengths[symbol] += 1
            heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), first[2] + second[2]))
        if max(lengths) <= 16:
            return lengths
        counts = Counter({symbol: count // 2 + 1 for symbol, count in counts.items()})


def code_words(lengths: list[int]) -> dict[int, tuple[int, int]]:
    words, word, last = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - last
        words[symbol] = (word, length)
        word, last = word + 1, length
    return words


def put_lengths(out: Bits, counts: Counter[int], symbols: int, width: int, gap: int) -> dict[int, tuple[int, int]]:
    """Write a code as plain lengths; a single symbol takes no bits."""
    if len(counts) < 2:
        symbol = next(iter(counts), 0)
        out.put(0, width)
        out.put(symbol, width)
        return {symbol: (0, 0)}
    lengths = code_lengths(counts, symbols)
    count = max(symbol for symbol, length in enumerate(lengths) if length) + 1
    out.put(count, width)
    at = 0
    while at < count:
        if lengths[at] < 7:
            out.put(lengths[at], 3)
        else:
            out.put((1 << lengths[at] - 4) - 1, lengths[at] - 4)
            out.put(0, 1)
        at += 1
        if at == gap:
            skip = 0
            while skip < 3 and at + skip < count and not lengths[at + skip]:
                skip += 1
            out.put(skip, 2)
            at += skip
    return code_words(lengths)


def put_characters(out: Bits, counts: Counter[int]) -> dict[int, tuple[int, int]]:
    if len(counts) < 2:
        put_lengths(out, Counter(), 19, 5, 3)
        symbol = next(iter(counts))
        out.put(0, 9)
        out.put(symbol, 9)
        return {symbol: (0, 0)}
    lengths = code_lengths(counts, 510)
    while not lengths[-1]:
        lengths.pop()
    tokens: list[tuple[int, int, int]] = []
    at = 0
    while at < len(lengths):
        run = 0
        while at + run < len(lengths) and not lengths[at + run]:
            run += 1
        if run >= 20:
            run = min(run, 531)
            tokens.append((2, run - 20, 9))
        elif run >= 3:
            run = min(run, 18)
            tokens.append((1, run - 3, 4))
        elif run:
            run = 1
            tokens.append((0, 0, 0))
        else:
            tokens.append((lengths[at] + 2, 0, 0))
            run = 1
        at += run
    words = put_lengths(out, Counter(symbol for symbol, _, _ in tokens), 19, 5, 3)
    out.put(len(lengths), 9)
    for symbol, extra, width in tokens:
        out.put(*words[symbol])
        out.put(extra, width)
    return code_words(lengths)


def compress(data: bytes, block: int = 1000) -> bytes:
    """A slow compressor for the tests: greedy matches of a short history."""
    symbols: list[tuple[int, int | None]] = []
    at = 0
    while at < len(data):
        best, where = 0, 0
        for start in range(max(0, at - 300), at):
            length = 0
            while length < 256 and at + length < len(data) and data[start + length] == data[at + length]:
                length += 1
            if length > best:
                best, where = length, at - start - 1
        if best >= 3:
            symbols.append((best + 253, where))
            at += best
        else:
            symbols.append((data[at], None))
            at += 1
    out = Bits()
    for first in range(0, len(symbols), block):
        part = symbols[first : first + block]
        out.put(len(part), 16)
        characters = put_characters(out, Counter(symbol for symbol, _ in part))
        positions = put_lengths(out, Counter(where.bit_length() for _, where in part if where is not None), 15, 4, -1)
        for symbol, where in part:
            out.put(*characters[symbol])
            if where is not None:
                out.put(*positions[where.bit_length()])
                if where > 1:
                    out.put(where - (1 << where.bit_length() - 1), where.bit_length() - 1)
    body = out.to_bytes()
    return len(body).to_bytes(4, "little") + len(data).to_bytes(4, "little") + body


def test_another_programs_compressor() -> None:
    assert sizes(PACKED) == (len(PACKED) - 8, len(PLAIN))
    assert decompress(PACKED, len(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    "data", [b"", b"a", b"aaaa", b"a" * 5000, b"abc" * 100, bytes(range(256)) * 8, b"ab" * 40 + bytes(999)]
)
def test_simple_streams(data: bytes) -> None:
    assert decompress(compress(data), len(data)) == data


@given(st.one_of(st.binary(max_size=600), st.text("ab", max_size=600).map(str.encode)), st.integers(1, 200))
def test_what_was_compressed_comes_back(data: bytes, block: int) -> None:
    assert decompress(compress(data, block), len(data)) == data


@given(st.integers(0, len(PACKED) * 8 - 1), st.integers(8, len(PACKED)))
def test_damaged_streams_end_in_data_or_an_error(flip: int, cut: int) -> None:
    damaged = bytearray(PACKED)
    damaged[flip // 8] ^= 1 << flip % 8
    for stream in (bytes(damaged), bytes(damaged[:cut])):
        try:
            result = decompress(stream, 4096)
        except CompressionError:
            continue
        assert len(result) == sizes(stream)[1]


@given(st.binary(max_size=80))
def test_any_bytes_decompress_or_are_refused(data: bytes) -> None:
    header = len(data).to_bytes(4, "little") + (20000).to_bytes(4, "little")
    with contextlib.suppress(CompressionError):
        assert len(decompress(header + data, 20000)) == 20000
    with contextlib.suppress(CompressionError):
        decompress(data, 4096)


@pytest.mark.parametrize(
    ("data", "limit", "message"),
    [
        (b"", 0, "wanted 8"),
        (PACKED[:-1], 10000, "promises"),
        (PACKED, 100, "limit is 100"),
        (b"\0\0\0\0\x01\0\0\0", 10, "ends too early"),
        (b"\x04\0\0\0\x01\0\0\0\0\0\0\0", 10, "no symbols"),
    ],
)
def test_refusals(data: bytes, limit: int, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        decompress(data, limit)
