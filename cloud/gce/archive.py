"""The tar.gz that Compute Engine imports, in an unnamed file: gone with the process, whatever ends it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from cloud.errors import CloudError, Unfit
from cloud.progress import Report
from cloud.source import Source
from images.errors import ImageError

SPAN = 1 << 20


class Archive:
    """Bytes that any thread may read."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.size = os.fstat(handle).st_size

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, a MiB at a time."""
        while start < end:
            data = os.pread(self._handle, min(SPAN, end - start), start)
            if not data:
                raise CloudError("the archive lost its end", next_step="run the same command again")
            yield data
            start += len(data)

    def crc32c(self, start: int, end: int) -> str:
        """As Cloud Storage writes it: base64 of the big-endian value."""
        from base64 import b64encode

        from google_crc32c import Checksum

        checksum = Checksum()
        for data in self.pieces(start, end):
            checksum.update(data)
        return b64encode(checksum.digest()).decode()


@contextmanager
def archive_of(source: Source, report: Report) -> Iterator[Archive]:
    """Compresses a disk. The same disk gives the same bytes, so that an upload that was broken off can go on.

    CloudError where there is no room; Unfit if the disk cannot be read, or was changed meanwhile.
    """
    from images.containers.gce_write import write_gce

    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(prefix="cvmboot-") as file:
            with report.transfer("compress", source.size) as bar:
                done = 0

                def progress(offset: int, total: int) -> None:
                    nonlocal done
                    bar.advance(offset - done)
                    done = offset

                write_gce(source.device, file, progress)
                bar.advance(source.size - done)
            file.flush()
            source.check()
            yield Archive(file.fileno())
    except OSError as error:
        raise CloudError(
            error.strerror or str(error), where=folder, next_step="make room there, or name another folder with TMPDIR"
        ) from None
    except ImageError as error:
        raise Unfit(str(error), next_step="leave the image alone while it is sent, then run this again") from None
