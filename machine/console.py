"""The host's end of the machine's console: input that waits until the guest takes it, output that is collected.

One queue of input serves the serial port and whatever else reads keys; whoever reads first gets the byte, so nothing is
lost and nothing is typed twice. `feed` may be called from any thread, everything else belongs to the engine thread.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from machine.callbacks import nothing

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
        self._looks = 0
        self.gate: Callable[[], int | None] | None = None
        """Gives the next byte of input to a guest that looked twice in a row and printed nothing between; may block.

        With a gate nothing is fed, so that what the guest sees does not depend on when input came. None: there is none.
        """
        self.on_taken: Callable[[], None] = nothing
        """Called when the guest takes a byte: it has something to do."""

    def feed(self, data: bytes) -> None:
        """Queue input. The machine's `interrupt` is to be called by whoever feeds a running machine."""
        self._input.extend(data)

    def save(self) -> dict[str, Any]:
        """Plain data: input that the guest has not taken yet. Output is to be flushed before."""
        return {"input": bytes(self._input), "looks": self._looks}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave, before anything that was fed already."""
        self._input.extendleft(reversed(state["input"]))
        self._looks = state["looks"]

    def pending(self) -> bool:
        """Whether there is input. A look of the guest's, as far as the gate is concerned."""
        return bool(self._input) or (self.gate is not None and self._look())

    def _look(self) -> bool:
        self._looks += 1
        return self._looks > 1 and self.ask()

    def ask(self) -> bool:
        """Have the gate give a byte; False if there is none."""
        self._looks = 0
        self.flush()
        byte = self.gate() if self.gate is not None else None
        if byte is None:
            return False
        self._input.append(byte)
        return True

    def waiting(self) -> int:
        """Bytes of input that the guest has not taken."""
        return len(self._input)

    def read_byte(self) -> int | None:
        """Take the next byte of input."""
        if not self.pending():
            return None
        self.on_taken()
        return self._input.popleft()

    def write(self, data: bytes) -> None:
        """Output of the guest."""
        self._looks = 0
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
