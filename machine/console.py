"""The host's end of the machine's console: input that waits until the guest takes it, output that is collected.

One queue of input serves the serial port and whatever else reads keys; whoever reads first gets the byte, so nothing is
lost and nothing is typed twice. `feed` may be called from any thread, everything else belongs to the engine thread.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic

_CHUNK = 4096
_DELAY = 0.01
"""Seconds that output may wait for more: one write to the host for a burst of characters."""


class HostConsole:
    """Input queue and output buffer. `sink` gets output, in pieces, at the latest when the guest asks for input."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._input: deque[int] = deque()
        self._output = bytearray()
        self._since = 0.0
        self.on_input: Callable[[], None] = lambda: None

    def feed(self, data: bytes) -> None:
        """Queue input. The machine's `interrupt` is to be called by whoever feeds a running machine."""
        self._input.extend(data)

    def pending(self) -> bool:
        """Whether there is input."""
        return bool(self._input)

    def waiting(self) -> int:
        """Bytes of input that the guest has not taken."""
        return len(self._input)

    def read_byte(self) -> int | None:
        """Take the next byte of input."""
        try:
            return self._input.popleft()
        except IndexError:
            return None

    def write(self, data: bytes) -> None:
        """Output of the guest."""
        output = self._output
        if not output:
            self._since = monotonic()
        output += data
        if len(output) >= _CHUNK or data[-1:] == b"\n" or monotonic() - self._since > _DELAY:
            self.flush()

    @property
    def dirty(self) -> bool:
        """Whether output waits to be flushed."""
        return bool(self._output)

    def flush(self) -> None:
        """Hand collected output to the sink."""
        if self._output:
            data = bytes(self._output)
            self._output.clear()
            self._sink(data)
