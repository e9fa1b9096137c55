"""Console output between a machine's thread and whoever reads it in this process."""

import threading

LIMIT = 64 << 20
"""Bytes that nobody has read: from here on the guest waits, as for a terminal that was stopped."""


RECENT = 64 << 10
"""Bytes that are kept for messages, whether they were read or not."""


class ConsoleBuffer:
    """A queue of bytes with an end. `write` is the machine's side; all else belongs to the reader."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._data = bytearray()
        self._recent = bytearray()
        self._ended = False
        self._abandoned = False

    def write(self, data: bytes) -> None:
        """Add output; waits while LIMIT bytes are unread."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._data) < LIMIT or self._abandoned)
            if not self._abandoned:
                self._data += data
                self._recent += data
                if len(self._recent) > 2 * RECENT:
                    del self._recent[:-RECENT]
            self._changed.notify_all()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody will read any more."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def read(self, size: int, timeout: float | None) -> bytes | None:
        """Up to `size` bytes as soon as there are any; b"" at the end, None after `timeout` seconds without any."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._data or self._ended, timeout):
                return None
            data = bytes(self._data[:size])
            del self._data[:size]
            self._changed.notify_all()
            return data

    def recent(self) -> bytes:
        """The last bytes written, RECENT at least if there were so many."""
        with self._changed:
            return bytes(self._recent)

    def wait_for_end(self, timeout: float | None) -> bool:
        """Whether the end came within `timeout` seconds. Output is kept for reading."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout)
