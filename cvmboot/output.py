"""The way of console bytes to standard output: blocking like a plain write, but interruptible."""

import os
import select
from collections.abc import Callable

_PIPE_BUFFER = 4096
"""Bytes that a descriptor which poll calls writable takes at once (PIPE_BUF)."""


class Output:
    """Writes to a descriptor whose reader may be slow, stopped or gone. `write` belongs to one thread.

    `broken` becomes True, and `on_broken` is called, when nobody reads any more; what comes later is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._abandon, self._abandoned = os.pipe()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._poll.register(self._abandon, select.POLLIN)
        self.broken = False
        self.on_broken: Callable[[], None] = lambda: None
        self.line_open = False
        """Whether the last byte written ended no line."""

    def write(self, data: bytes) -> None:
        """Write all of `data`, as fast as the reader takes it."""
        while data and not self.broken:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._abandon:
                    self.broken = True
                    return
            try:
                written = os.write(self._descriptor, data[:_PIPE_BUFFER])
            except BlockingIOError:
                continue
            except OSError:  # EPIPE; EIO of a terminal that is gone
                self.broken = True
                self.on_broken()
                return
            self.line_open = data[written - 1 : written] not in (b"\n", b"")
            data = data[written:]

    def abandon(self) -> None:
        """From any thread: end a write that waits for its reader, and drop what comes later."""
        os.write(self._abandoned, b"x")

    def close(self) -> None:
        """Close what was opened here, not the descriptor written to."""
        os.close(self._abandon)
        os.close(self._abandoned)
