"""Changes bytes the way parsers break: flips, cuts, repeats, spliced pieces, lengths at their limits, swapped words of text."""

import random
import re
from collections.abc import Callable, Sequence

_INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 63,
    (1 << 64) - 1,
)
_WORD = re.compile(rb"[A-Za-z0-9_.+/=-]+")
_SNIPPETS = (
    *(b"\0", b"\xff" * 4, b"\r\n", b"\xef\xbb\xbf", b'"', b"{", b"[", b"]" * 40, b"[" * 40, b"-1", b"1e999", b"null"),
    *(b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\xff", b"\x03\x01\x00", b"\xa0\x03\x02\x01\x02", b"\x00\x00"),
    *(b"%s%n", "é".encode(), b"\xed\xa0\x80", b"9" * 30, b"-----BEGIN CERTIFICATE-----", b"1979-05-27T07:32:00Z"),
)


class Mutator:
    """Makes changed copies of seeds; the same `seed` gives the same copies in the same order."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._seeds = seeds
        self._dice = random.Random(seed)
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            *(self._flip, self._flip, self._set, self._number, self._number, self._cut, self._remove),
            *(self._repeat, self._insert, self._splice, self._swap_words, self._longer_length),
        )

    def next(self) -> bytes:
        """A copy of a seed with one to six changes; small numbers of changes are likelier."""
        return self.change(self._dice.choice(self._seeds))

    def change(self, original: bytes) -> bytes:
        """A changed copy of any bytes."""
        data = bytearray(original)
        for _ in range(1 + min(self._dice.getrandbits(3), self._dice.getrandbits(3)) % 6):
            self._dice.choice(self._ways)(data)
        return bytes(data)

    def _place(self, data: bytearray) -> int:
        """A place in the data: anywhere, or near its beginning or end, where headers and tables are."""
        size = max(len(data), 1)
        way = self._dice.getrandbits(2)
        reach = min(size, 64) if way == 0 else min(size, 1024) if way == 1 else size
        at = self._dice.randrange(reach)
        return size - 1 - at if self._dice.getrandbits(1) else at

    def _length(self) -> int:
        return 1 << self._dice.randrange(10)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] ^= 1 << self._dice.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] = self._dice.randrange(256)

    def _number(self, data: bytearray) -> None:
        """An integer of 1 to 8 bytes at its limits, of either byte order, often where integers are aligned."""
        width = 1 << self._dice.randrange(4)
        at = self._place(data)
        at -= at % width if self._dice.getrandbits(1) else 0
        value = self._dice.choice(_INTERESTING) & ((1 << 8 * width) - 1)
        data[at : at + width] = value.to_bytes(width, "little" if self._dice.getrandbits(1) else "big")

    def _longer_length(self, data: bytearray) -> None:
        """A length of DER in a form that only BER allows: a byte more than it takes, or none at all and zeros at the end."""
        at = data.find(b"\x82", self._place(data) if self._dice.getrandbits(1) else 0)
        if at <= 0:
            return
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if self._dice.getrandbits(1):
            data[at : at + 1] = b"\x83\0"
        elif end <= len(data):
            data[end:end] = bytes(2)
            data[at : at + 3] = b"\x80"

    def _cut(self, data: bytearray) -> None:
        if self._dice.getrandbits(1):
            del data[self._place(data) :]

    def _remove(self, data: bytearray) -> None:
        at = self._place(data)
        del data[at : at + self._length()]

    def _repeat(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = data[at : at + self._length()]

    def _insert(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._dice.choice(_SNIPPETS)

    def _splice(self, data: bytearray) -> None:
        other = self._dice.choice(self._seeds)
        start = self._dice.randrange(max(len(other), 1))
        piece = other[start : start + self._length()]
        at = self._place(data)
        data[at : at + (len(piece) if self._dice.getrandbits(1) else 0)] = piece

    def _swap_words(self, data: bytearray) -> None:
        if len(data) > 1 << 16:
            return
        words = list(_WORD.finditer(data))[:200]
        if len(words) >= 2:
            one, two = sorted(self._dice.sample(words, 2), key=lambda word: word.start())
            middle = data[one.end() : two.start()]
            data[one.start() : two.end()] = bytes(two[0]) + middle + bytes(one[0])
