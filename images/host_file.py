"""A file of the host, read where and when its bytes are asked for; how long it is was settled before."""

import os
import stat

from images.errors import DeviceFailure

# Opened for each read: no limit of descriptors. O_NONBLOCK: it may have become a FIFO meanwhile.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class HostFile:
    """`size` bytes of the file at `path`, whatever happens to it."""

    __slots__ = ("path", "size")

    def __init__(self, path: str, size: int) -> None:
        """`path` without symbolic links; nothing is opened yet."""
        self.path = path
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes, zeros past the file's end (it became shorter, or `count` passes `size`).

        Raises DeviceFailure if it vanished, cannot be read, or is no regular file any more.
        """
        wanted = max(0, min(count, self.size - offset))
        if not wanted:
            return bytes(count)
        try:
            handle = os.open(self.path, _FLAGS)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise DeviceFailure(f"{self.path}: is no longer a regular file")
                data = os.pread(handle, wanted, offset)
                while len(data) < wanted and (more := os.pread(handle, wanted - len(data), offset + len(data))):
                    data += more
            finally:
                os.close(handle)
        except OSError as error:
            raise DeviceFailure(f"{self.path}: cannot be read: {error.strerror}") from error
        return data if len(data) == count else data + bytes(count - len(data))
