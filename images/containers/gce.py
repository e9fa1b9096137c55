"""The disk in a GCE image (tar.gz) or a plain tar archive: unpacked into a temporary file with holes, and read there."""

import os
import tempfile
from collections.abc import Iterator

from images.block import BlockDevice, FileDevice
from images.containers.gunzip import GunzipStream
from images.containers.tar import BLOCK, Member, Stream, first_member
from images.errors import ContainerError, ImageError
from images.sparse import GRAIN, Progress

MOST_STORED = 1 << 40
_SHARE = 0.75  # of the free room for temporary files that one image may take
_SPAN = 1 << 20
_MOST_TAIL = 64 << 20


class _PlainStream:
    """A tar archive that is not compressed, as a stream."""

    def __init__(self, file: BlockDevice) -> None:
        self._file = file
        self._position = 0

    def read(self, count: int) -> bytes:
        count = min(count, self._file.size - self._position)
        data = self._file.read(self._position, count)
        self._position += count
        return data

    def exactly(self, count: int, what: str) -> bytes:
        data = self.read(count)
        if len(data) < count:
            raise ContainerError(f"the archive ends in {what}: {len(data)} bytes of {count} are there; it was cut off")
        return data


class ScratchDevice(FileDevice):
    """A temporary file of `size` bytes without a name, all hole at first; it is gone when it is closed."""

    def __init__(self, size: int) -> None:
        """Raises ImageError where the folder for temporary files cannot hold it."""
        self.block_size = 512
        self.read_only = False
        self.size = size
        self.path = tempfile.gettempdir()
        self._handle = -1
        try:
            with tempfile.TemporaryFile() as file:
                self._handle = os.dup(file.fileno())
            os.ftruncate(self._handle, size)
            facts = os.fstatvfs(self._handle)
        except OSError as error:
            self.close()
            raise ImageError(
                f"{self.path}: no temporary file of {size} bytes there: {error.strerror}; name another folder with TMPDIR"
            ) from None
        self._room = int(facts.f_bavail * facts.f_frsize * _SHARE)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """BlockDevice.write(). Raises ImageError rather than fill the file system, which may be memory."""
        self._room -= len(data)
        if self._room < 0:
            raise ImageError(f"{self.path}: not enough room to unpack the image; name another folder with TMPDIR")
        super().write(offset, data)


class TarDevice:
    """The disk that is the first file of a tar archive: a read-only BlockDevice. `member` says what it was there."""

    read_only = True
    block_size = 512

    def __init__(self, file: BlockDevice, *, compressed: bool, progress: Progress | None = None) -> None:
        """Unpacks the disk, zeros left out. Raises ContainerError, UnsupportedFormat, ImageError (no room for it)."""
        stream: Stream = GunzipStream(file) if compressed else _PlainStream(file)
        self.compressed = compressed
        self.member: Member = first_member(stream)
        if self.member.stored > MOST_STORED:
            raise ContainerError(f"tar: {self.member.stored} bytes of data, at most {MOST_STORED} are unpacked")
        self.size = self.member.size
        self._scratch = ScratchDevice(self.size)
        try:
            self._unpack(stream, progress)
            self.others = self._count_others(stream)
        except BaseException:
            self._scratch.close()
            raise
        self._scratch.read_only = True

    def read(self, offset: int, count: int) -> bytes:
        """BlockDevice.read()."""
        return self._scratch.read(offset, count)

    def extents(self) -> Iterator[tuple[int, int]]:
        """images.sparse.Sparse."""
        return self._scratch.extents()

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Refused: WriteProtected."""
        self._scratch.write(offset, data)

    def flush(self) -> None:
        """Nothing to do."""

    def _unpack(self, stream: Stream, progress: Progress | None) -> None:
        pieces = self.member.pieces
        zeros = bytes(_SPAN)
        for index in range(0, len(pieces), 2):
            offset, left = pieces[index], pieces[index + 1]
            while left:
                # Pieces end at multiples of a span, so that holes stay whole blocks of the file system.
                data = stream.exactly(min(left, _SPAN - offset % _SPAN), "the disk")
                if data != zeros[: len(data)]:
                    self._put(offset, data)
                offset, left = offset + len(data), left - len(data)
                if progress is not None:
                    progress(offset, self.size)
        stream.exactly(-self.member.stored % BLOCK, "the disk's padding")

    def _put(self, offset: int, data: bytes) -> None:
        zeros = bytes(GRAIN)
        begin = 0
        for start in range(0, len(data), GRAIN):
            if data[start : start + GRAIN] == zeros:
                if begin < start:
                    self._scratch.write(offset + begin, data[begin:start])
                begin = start + GRAIN
        if begin < len(data):
            self._scratch.write(offset + begin, data[begin:])

    def _count_others(self, stream: Stream) -> int:
        """How many more members follow, 1 for one or more; the rest of the file is read for its checksum."""
        header = stream.read(BLOCK)
        others = int(any(header))
        left = _MOST_TAIL
        while left > 0 and (data := stream.read(_SPAN)):
            left -= len(data)
        return others
