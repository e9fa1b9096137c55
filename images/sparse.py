"""What of a disk is more than zeros: the pieces that an image file has to store, and an upload has to send."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from images.block import BlockDevice

GRAIN = 4096
"""Bytes: holes of a file are not smaller, and no smaller run of zeros is worth leaving out."""
_SPAN = 1 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes of the disk that are done, bytes of the disk)."""


@runtime_checkable
class Sparse(Protocol):
    """A BlockDevice that knows without reading where it may hold something else than zeros."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of such places, in their order, not overlapping."""


def extents(device: BlockDevice) -> Iterator[tuple[int, int]]:
    """(offset, size) of the places that may hold data; all of a device that does not know."""
    if isinstance(device, Sparse):
        yield from device.extents()
    elif device.size:
        yield 0, device.size


def spans(device: BlockDevice, unit: int = GRAIN, most: int = _SPAN) -> Iterator[tuple[int, int]]:
    """The extents widened to whole units of `unit` bytes, joined, then cut to at most `most` (a multiple of `unit`).

    Only the end of the device may cut the last unit short.
    """
    start = end = 0

    def cut(start: int, end: int) -> Iterator[tuple[int, int]]:
        for offset in range(start, min(end, device.size), most):
            yield offset, min(most, min(end, device.size) - offset)

    for offset, size in extents(device):
        low, high = offset // unit * unit, -(-(offset + size) // unit) * unit
        if low <= end:
            end = max(end, high)
            continue
        yield from cut(start, end)
        start, end = low, high
    yield from cut(start, end)


def nonzero_blocks(
    device: BlockDevice, block: int = GRAIN, progress: Progress | None = None
) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each block of `block` bytes that is not all zeros, in order; the last one may be short."""
    zeros = bytes(block)
    most = max(block, _SPAN // block * block)
    for offset, size in spans(device, block, most):
        data = device.read(offset, size)
        for start in range(0, size, block):
            piece = data[start : start + block]
            if piece != zeros[: len(piece)]:
                yield offset + start, piece
        if progress is not None:
            progress(offset + size, device.size)
    if progress is not None:
        progress(device.size, device.size)


def nonzero_runs(
    device: BlockDevice, unit: int = GRAIN, most: int = _SPAN, progress: Progress | None = None
) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of runs of units that are not all zeros: as nonzero_blocks(), neighbours joined up to `most`."""
    zeros = bytes(unit)
    for offset, size in spans(device, unit, most):
        data = device.read(offset, size)
        begin: int | None = None
        for start in range(0, size, unit):
            piece = data[start : start + unit]
            if piece == zeros[: len(piece)]:
                if begin is not None:
                    yield offset + begin, data[begin:start]
                    begin = None
            elif begin is None:
                begin = start
        if begin is not None:
            yield offset + begin, data[begin:] if begin else data
        if progress is not None:
            progress(offset + size, device.size)
    if progress is not None:
        progress(device.size, device.size)


def device_sha256(device: BlockDevice, progress: Progress | None = None) -> str:
    """SHA-256 over all bytes of a device, zeros too, in hexadecimal. Raises DeviceFailure."""
    state = hashlib.sha256()
    for offset in range(0, device.size, _SPAN):
        state.update(device.read(offset, min(_SPAN, device.size - offset)))
        if progress is not None:
            progress(offset, device.size)
    if progress is not None:
        progress(device.size, device.size)
    return state.hexdigest()
