"""Trace files: JSON lines, and the Trace Event Format that Perfetto and chrome://tracing load."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.trace import Event

_BUFFERED = 1 << 16
"""Characters that wait for being written. The file always ends behind a whole event, even if we are killed."""


class TraceFile:
    """A trace on its way into a file. `write` is a sink of `cvmboot.trace.Tracer`.

    The name decides: .jsonl gives one object a line; .json an array of trace events, whose closing bracket is missing
    when the run was killed, as that format allows.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """UsageError for another ending of the name, CvmbootError if the file cannot be made."""
        if path.suffix not in (".json", ".jsonl"):
            raise UsageError(f"--trace {path}: the name must end in .jsonl (one object a line) or .json (for Perfetto)")
        self._path = path
        self._warn = warn
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CvmbootError(f"--trace {path}: {error.strerror}; name a file that can be written") from None
        self._array = path.suffix == ".json"
        self._encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        self._parts: list[str] = []
        self._size = 0
        self._failed = False
        self._boot = 0
        self._separator = "[\n" if self._array else ""

    def write(self, event: Event) -> None:
        """Add one event."""
        if self._array:
            event = self._trace_event(event)
        text = self._separator + self._encode(event)
        if self._array:
            self._separator = ",\n"
        else:
            text += "\n"
        self._parts.append(text)
        self._size += len(text)
        if self._size > _BUFFERED:
            self.flush()

    @property
    def dirty(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._parts)

    def flush(self) -> None:
        """Write what waits. A disk that is full ends the trace with a warning, not the run."""
        data = memoryview("".join(self._parts).encode())
        self._parts.clear()
        self._size = 0
        try:
            while data and not self._failed:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._failed = True
            self._warn(f"--trace {self._path}: {error.strerror}; the trace ends here")

    def close(self) -> None:
        """Write the end."""
        if self._array:
            self._parts.append("\n]\n" if self._separator.startswith(",") else "[]\n")
        self.flush()
        os.close(self._file)

    def _trace_event(self, event: Event) -> dict[str, Any]:
        """Trace Event Format: one process a boot, microseconds, X for calls, B and E for what encloses others."""
        kind, name = event["event"], event["name"]
        if kind == "power on":
            self._boot += 1
            return {"ph": "M", "name": "process_name", "pid": self._boot, "tid": 1, "args": {"name": name}}
        known = ("arguments", "cpu", "duration", "event", "name", "time")
        arguments = {**event.get("arguments", {}), **{key: value for key, value in event.items() if key not in known}}
        phase = {"call": "X", "begin": "B", "end": "E"}[kind]
        made: dict[str, Any] = {"ph": phase, "name": name, "cat": name.partition(".")[0], "ts": event["time"] / 1000}
        if kind == "call":
            made["dur"] = event["duration"] / 1000
        return {**made, "pid": self._boot, "tid": 1 + event.get("cpu", 0), "args": arguments}
