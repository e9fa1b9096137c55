"""A program that boots a guest and has the guest's console on its standard input and output: timed from its start on."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

PROMPT = b"\x1b[31m> "
"""The prompt of TamaGo's example shells, colour and all: no firmware prints that."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Silent(Exception):
    """The guest did not print what was waited for."""


class Session:
    """One run. `seconds` counts from just before the process was made."""

    def __init__(self, command: list[str]) -> None:
        self._start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        self._seen = b""
        self.peak = 0.0
        """MiB of resident memory at most, guest RAM that was touched included; known at the end."""

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.peak = usage.ru_maxrss / 1024
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def wait_for(self, text: bytes, timeout: float = 60) -> float:
        """Read until `text` was printed; the seconds that it took from this call on. Silent if it does not come."""
        begin = time.perf_counter()
        while text not in self._seen:
            self._seen = self._seen[-len(text) :]
            self._more(repr(text), begin + timeout - time.perf_counter(), timeout)
        self._seen = self._seen.partition(text)[2]
        return time.perf_counter() - begin

    def read(self, size: int, timeout: float = 60) -> bytes:
        """The next `size` bytes behind what was waited for. Silent if they do not come."""
        begin = time.perf_counter()
        while len(self._seen) < size:
            self._more(f"{size} bytes", begin + timeout - time.perf_counter(), timeout)
        data, self._seen = self._seen[:size], self._seen[size:]
        return data

    def _more(self, what: str, left: float, timeout: float) -> None:
        if left <= 0 or not select.select([self._output], [], [], left)[0]:
            raise Silent(f"no {what} within {timeout:g} s")
        data = os.read(self._output, 65536)
        if not data:
            raise Silent(f"it ended before {what}")
        self._seen += data

    def drain(self, quiet: float) -> None:
        """Drop what is printed until nothing comes for `quiet` seconds."""
        self._seen = b""
        while select.select([self._output], [], [], quiet)[0]:
            if not os.read(self._output, 65536):
                raise Silent("it ended")

    def type(self, data: bytes) -> None:
        """Type on the console; what was printed before is not waited for any more."""
        self._seen = b""
        os.write(self._input, data)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def processor_seconds(self) -> float:
        """Processor time of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
