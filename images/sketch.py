"""A device to format without having it: what is written is remembered where it was written, zeros are not."""

from images.block import check_range
from images.errors import DeviceFailure


class SketchDevice:
    """A BlockDevice of any size whose `written` bytes, by their offsets, are all that it costs."""

    read_only = False

    def __init__(self, size: int, block_size: int = 512) -> None:
        """Both in bytes."""
        self.size = size
        self.block_size = block_size
        self.written: dict[int, bytes] = {}

    def read(self, offset: int, count: int) -> bytes:
        """The start of what one write() wrote at `offset`. Raises DeviceFailure for anything else."""
        known = self.written.get(offset, b"")
        if len(known) < count:
            raise DeviceFailure(f"{count} bytes at {offset} were not written in one piece")
        return known[:count]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Keeps `data` unless it is all zeros. Raises DeviceFailure outside the device."""
        check_range(self, offset, len(data))
        raw = bytes(data)
        if raw != bytes(len(raw)):
            self.written[offset] = raw

    def flush(self) -> None:
        """Nothing to do."""
