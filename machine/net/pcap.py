"""Writes the frames of a network device into a capture file that Wireshark reads (classic pcap, nanoseconds)."""

import struct
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from machine.net.backend import Backend, NetworkError

_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINK_ETHERNET = 1
_SNAPSHOT_LENGTH = 262_144
_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


class Capture:
    """A capture file. Every record is written at once, so that the file of a killed run loads."""

    def __init__(self, path: Path) -> None:
        """Start a file anew. NetworkError if it cannot be written."""
        try:
            self._file = FileIO(str(path), "w")
            self._file.write(_HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPSHOT_LENGTH, _LINK_ETHERNET))
        except OSError as error:
            raise NetworkError(
                f"cannot write {path}: {error.strerror or error}; name a file that can be written"
            ) from None

    def write(self, nanoseconds: int, frame: bytes) -> None:
        """Add a frame that was seen at `nanoseconds` since 1970 UTC. A full disk loses it."""
        seconds, rest = divmod(nanoseconds, 1_000_000_000)
        with suppress(OSError, ValueError):
            self._file.write(_RECORD.pack(seconds & 0xFFFFFFFF, rest, len(frame), len(frame)) + frame)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CapturedBackend(Backend):
    """A back end whose frames are captured both ways; `wall()` is in nanoseconds since 1970 UTC."""

    def __init__(self, inner: Backend, capture: Capture, wall: Callable[[], int]) -> None:
        super().__init__()
        self._inner = inner
        self._capture = capture
        self._wall = wall
        self.link = inner.link
        inner.on_receive = self._received
        inner.on_link = self.set_link

    def send(self, frame: bytes) -> None:
        """Capture and pass on."""
        self._capture.write(self._wall(), frame)
        self._inner.send(frame)

    def _received(self, frame: bytes) -> None:
        self._capture.write(self._wall(), frame)
        self.on_receive(frame)

    def close(self) -> None:
        """Close what is behind it; the capture file is the owner's."""
        self._inner.close()

    def save(self) -> dict[str, Any]:
        """The inner back end's."""
        return self._inner.save()

    def load(self, state: dict[str, Any]) -> None:
        """The inner back end's."""
        self._inner.load(state)
