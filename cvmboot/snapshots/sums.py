"""What tells that a snapshot's file is as it was written: CRC-32C of each run of bytes in it, and zeros between them.

A CRC finds damage, not intent: who may write the file can write the sums too. CRC-32C is what processors have an instruction for,
so that a guest's hundreds of MiB take about as long as reading them.
"""

import os
import struct
from collections.abc import Iterator

import google_crc32c

from machine.private_pages import data_in_file

_ENTRY = struct.Struct("<QII")
_SPAN = 1 << 20
"""Bytes of a run at most, which is also what is read at once."""
_ZEROS = bytes(_SPAN)

Run = tuple[int, int, int]
"""(offset in the file, size, CRC-32C), all in bytes but the last."""


class Damaged(Exception):
    """The file is not what was written: the message says what of it."""


class Sums:
    """The runs of a file, in order of their offsets."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """`data` lies at `offset`, behind all that was added before."""
        for at in range(0, len(data), _SPAN):
            piece = bytes(data[at : at + _SPAN])
            self.runs.append((offset + at, len(piece), google_crc32c.value(piece)))

    def packed(self) -> bytes:
        """16 bytes a run: offset (u64), size (u32), CRC-32C (u32), little-endian."""
        return b"".join(_ENTRY.pack(*run) for run in self.runs)

    @classmethod
    def unpacked(cls, raw: bytes, start: int, end: int) -> "Sums":
        """What `packed` gave. Damaged unless the runs lie in order between the offsets `start` and `end`."""
        if len(raw) % _ENTRY.size:
            raise Damaged("its sums make no sense")
        sums = cls()
        sums.runs = list(_ENTRY.iter_unpack(raw))
        for offset, size, _ in sums.runs:
            if offset < start or not 0 < size <= _SPAN:
                raise Damaged("its sums make no sense")
            start = offset + size
        if start > end:
            raise Damaged("its sums make no sense")
        return sums

    def check(self, descriptor: int, start: int, end: int) -> None:
        """Read the file from `start` to `end`: Damaged unless the runs are as they were, and all else is zeros. OSError."""
        for offset, size, crc in self.runs:
            if google_crc32c.value(os.pread(descriptor, size, offset)) != crc:
                raise Damaged(f"its bytes from {offset:#x} to {offset + size:#x} are not what was written")
        for offset, size in self._between(descriptor, start, end):
            for at in range(offset, offset + size, _SPAN):
                length = min(_SPAN, offset + size - at)
                if os.pread(descriptor, length, at) != _ZEROS[:length]:
                    raise Damaged(f"its bytes from {at:#x} to {at + length:#x} should be zeros")

    def _between(self, descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(offset, size) of what is neither a run nor a hole of the file."""
        runs = iter(self.runs)
        run_start, run_size, _ = next(runs, (end, 0, 0))
        for offset, size in data_in_file(descriptor, start, end - start):
            at, stop = start + offset, start + offset + size
            while at < stop:
                if run_start + run_size <= at and run_start < end:
                    run_start, run_size, _ = next(runs, (end, 0, 0))
                elif run_start > at:
                    yield at, min(run_start, stop) - at
                    at = run_start
                else:
                    at = run_start + run_size
