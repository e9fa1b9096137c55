"""Block devices: a raw file, memory, a slice of another device, and a copy-on-write overlay that spares its base."""

import os
from collections.abc import Iterator
from errno import ENXIO
from typing import Any, Protocol

from images.cow import Budget, CowBytes
from images.errors import DeviceFailure, ImageError, VolumeFull, WriteProtected

DEFAULT_OVERLAY_LIMIT = 2 << 30


class BlockDevice(Protocol):
    """Bytes at offsets; any offset and length, though `block_size` is the unit that a guest is told."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def block_size(self) -> int:
        """Bytes of a logical block, 512 or 4096 for disks, 2048 for a CD."""

    @property
    def read_only(self) -> bool:
        """Whether write() refuses."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises DeviceFailure outside the device or when the host cannot read."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`. Raises DeviceFailure outside the device or when full, WriteProtected."""

    def flush(self) -> None:
        """Makes what was written lasting."""


class BlockSizedDevice(BlockDevice, Protocol):
    """A BlockDevice of which somebody else can say how large its blocks are."""

    block_size: int


def check_range(device: BlockDevice, offset: int, count: int) -> None:
    """Raises DeviceFailure unless `count` bytes from `offset` lie on `device`."""
    if offset < 0 or count < 0 or offset + count > device.size:
        raise DeviceFailure(f"{count} bytes at {offset} are outside the device of {device.size} bytes")


class FileDevice:
    """A raw image file or host block device, read in place; read-only unless asked otherwise."""

    def __init__(self, path: str | os.PathLike[str], *, block_size: int = 512, writable: bool = False) -> None:
        """Raises ImageError if the file cannot be opened."""
        self.path = os.fspath(path)
        self.block_size = block_size
        self.read_only = not writable
        self._handle = -1
        try:
            # O_NONBLOCK: opening a FIFO must not wait for its other end; it fails the size check below.
            self._handle = os.open(self.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
            self.size = os.lseek(self._handle, 0, os.SEEK_END)
            os.pread(self._handle, 1, 0)
        except OSError as error:
            self.close()
            raise ImageError(f"{self.path}: cannot be opened as a disk image: {error.strerror}") from error

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        check_range(self, offset, count)
        try:
            data = os.pread(self._handle, count, offset)
            while len(data) < count:
                more = os.pread(self._handle, count - len(data), offset + len(data))
                if not more:
                    raise DeviceFailure(f"{self.path}: ends at {offset + len(data)}, it had {self.size} bytes")
                data += more
        except OSError as error:
            raise DeviceFailure(f"{self.path}: {count} bytes at {offset}: {error.strerror}") from error
        return data

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of what is no hole in the file; all of it where the file system cannot tell."""
        offset = 0
        while offset < self.size:
            try:
                start = os.lseek(self._handle, offset, os.SEEK_DATA)
                end = min(os.lseek(self._handle, start, os.SEEK_HOLE), self.size)
            except OSError as error:
                if error.errno != ENXIO:  # ENXIO: nothing but a hole follows
                    yield offset, self.size - offset
                return
            if end <= start:
                return
            yield start, end - start
            offset = end

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """BlockDevice.write()."""
        if self.read_only:
            raise WriteProtected(f"{self.path}: opened read-only")
        view = memoryview(data)
        check_range(self, offset, len(view))
        try:
            while view:
                done = os.pwrite(self._handle, view, offset)
                view = view[done:]
                offset += done
        except OSError as error:
            raise DeviceFailure(f"{self.path}: {len(view)} bytes at {offset}: {error.strerror}") from error

    def flush(self) -> None:
        """BlockDevice.flush(): fsync."""
        if not self.read_only:
            try:
                os.fsync(self._handle)
            except OSError as error:
                raise DeviceFailure(f"{self.path}: flush: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file; the device is unusable afterwards."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        self.close()


class MemoryDevice:
    """A device whose bytes are in memory."""

    def __init__(self, content: bytes | bytearray | int, *, block_size: int = 512, read_only: bool = False) -> None:
        """`content`: its bytes (copied), or a number of zero bytes."""
        self.data = bytearray(content)
        self.size = len(self.data)
        self.block_size = block_size
        self.read_only = read_only

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        check_range(self, offset, count)
        return bytes(memoryview(self.data)[offset : offset + count])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """BlockDevice.write()."""
        if self.read_only:
            raise WriteProtected("the device is read-only")
        check_range(self, offset, len(data))
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Nothing to do."""


class SliceDevice:
    """Part of another device, such as a partition."""

    def __init__(self, base: BlockDevice, start: int, size: int, *, block_size: int | None = None) -> None:
        """`start` and `size` in bytes. Raises DeviceFailure if the slice is not within `base`."""
        check_range(base, start, size)
        self.base = base
        self.start = start
        self.size = size
        self.block_size = block_size or base.block_size

    @property
    def read_only(self) -> bool:
        """As the base."""
        return self.base.read_only

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        check_range(self, offset, count)
        return self.base.read(self.start + offset, count)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """BlockDevice.write()."""
        check_range(self, offset, len(data))
        self.base.write(self.start + offset, data)

    def flush(self) -> None:
        """BlockDevice.flush()."""
        self.base.flush()


class OverlayDevice:
    """Copy on write over another device: reads see the changes, the base never does."""

    read_only = False

    def __init__(self, base: BlockDevice, *, limit: int = DEFAULT_OVERLAY_LIMIT) -> None:
        """`limit`: bytes of memory that changes may take before write() raises DeviceFailure."""
        self.base = base
        self.size = base.size
        self.block_size = base.block_size
        self.budget = Budget(limit)
        self._content = CowBytes(base.read, base.size, self.budget)

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        check_range(self, offset, count)
        return self._content.read(offset, count)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """BlockDevice.write()."""
        check_range(self, offset, len(data))
        try:
            self._content.write(offset, data)
        except VolumeFull as error:
            raise DeviceFailure(f"the overlay is full: {error}") from error

    def flush(self) -> None:
        """Nothing to do: the changes live as long as the overlay."""

    def save(self) -> dict[str, Any]:
        """The changes as plain data."""
        return self._content.save()

    def load(self, state: dict[str, Any]) -> None:
        """Takes what save() returned, over the same base. Raises DeviceFailure if the base has another size."""
        if state["size"] != self.size:
            raise DeviceFailure(f"the saved overlay is of a device of {state['size']} bytes, this one has {self.size}")
        self._content.load(state)
