"""A machine as an object: boot an image and talk to its console as with pexpect.spawn."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pexpect.exceptions import EOF, TIMEOUT  # type: ignore[import-untyped]
from pexpect.spawnbase import SpawnBase  # type: ignore[import-untyped]

from cvmboot import status
from cvmboot.arguments import OPTIONS
from cvmboot.console_buffer import ConsoleBuffer
from cvmboot.errors import CvmbootError
from cvmboot.options import RunOptions
from cvmboot.power import PoweredMachine
from machine.console import HostConsole
from uefi.firmware import Outcome

if TYPE_CHECKING:
    from cvmboot.snapshots.file import Progress
    from cvmboot.snapshots.snapshot import Snapshot

_CONVERTERS = {option.field: option.convert for option in OPTIONS if option.convert is not None}
_INPUT_AHEAD = 1 << 16
_SHOWN = 2000
"""Characters of console output in messages."""


class VirtualMachine(SpawnBase):  # type: ignore[misc]  # pexpect has no type information
    """A machine that has been switched on and runs on a thread of its own.

        with VirtualMachine("go-boot.efi", memory="1G") as vm:
            vm.expect("> ")
            vm.sendline("info")

    `expect`, `expect_exact`, `before`, `after`, `match`, `read`, `readline`, `logfile` and so on are pexpect's own,
    with pexpect.EOF once the machine has ended, and pexpect.TIMEOUT. What is sent is typed on the console, LF as CR.

    `image` is a path, or the bytes of an EFI application. In its place `restore` may be a Snapshot, or the path of one: the
    machine goes on where that was taken. Keyword arguments are the fields of RunOptions, values either as there or as text in
    the command line's form; `trace` may also be True, which collects the events in `trace`.
    `timeout` is pexpect's: seconds that an expect waits (None for ever). `encoding=None` gives bytes instead of text.

    Raises CvmbootError if the machine cannot be built, or the image or the snapshot is refused.
    """

    def __init__(
        self,
        image: "str | Path | bytes | None" = None,
        *,
        restore: "Snapshot | str | Path | None" = None,
        timeout: float | None = 30,
        maxread: int = 65536,
        searchwindowsize: int | None = None,
        logfile: Any = None,
        encoding: str | None = "utf-8",
        codec_errors: str = "replace",
        trace: bool | str | Path | None = None,
        **options: Any,
    ) -> None:
        self._machine: PoweredMachine | None = None
        if (image is None) == (restore is None):
            raise TypeError("VirtualMachine takes an image to boot, or restore=, a snapshot to go on from")
        super().__init__(timeout, maxread, searchwindowsize, logfile, encoding, codec_errors)
        self.linesep = self.string_type() + (b"\r" if encoding is None else "\r")
        self.delayafterread = None
        self.name = "image.efi" if isinstance(image, bytes) else str(image)
        self.trace: list[dict[str, Any]] = []
        """Events as `cvmboot.trace` describes them, with trace=True."""
        self.warnings: list[str] = []
        """What `cvmboot run` would have warned of on standard error."""
        fields = {name: _converted(name, value) for name, value in options.items()}
        if trace and trace is not True:
            fields["trace"] = Path(trace)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._channel = ConsoleBuffer()
        self._console = HostConsole(self._channel.write)
        snapshot = self._opened(restore)
        try:
            self._switch_on(image, fields, snapshot, collect=trace is True)
        except BaseException:
            self.close()
            raise
        finally:
            if snapshot is not None and snapshot is not restore:
                snapshot.close()

    @staticmethod
    def _opened(restore: "Snapshot | str | Path | None") -> "Snapshot | None":
        if restore is None:
            return None
        from cvmboot.snapshots.snapshot import Snapshot

        return restore if isinstance(restore, Snapshot) else Snapshot.open(restore)

    def _switch_on(
        self, image: "str | Path | bytes | None", fields: dict[str, Any], snapshot: "Snapshot | None", *, collect: bool
    ) -> None:
        if snapshot is not None:
            self._options = snapshot.options(fields)
            self.name = snapshot.file.facts.name
            path = Path(self.name)
        else:
            self._options = RunOptions(**fields)
            path = Path(str(image))
        if isinstance(image, bytes):
            self._folder = tempfile.TemporaryDirectory(prefix="cvmboot-")
            path = Path(self._folder.name) / "image.efi"
            path.write_bytes(image)
        file = snapshot.file if snapshot is not None else None
        machine = PoweredMachine(path, self._options, self._console, self.warnings.append, self._channel.end, file)
        if collect:
            machine.trace(self.trace.append)
        machine.start()
        self._machine = machine
        self.closed = self.terminated = False
        machine.wait_until_on()
        if machine.error is not None:
            raise machine.error

    # -- the machine

    def snapshot(self, path: "str | Path | None" = None, progress: "Progress | None" = None) -> "Snapshot":
        """Freeze the machine as it is now; it goes on. The Snapshot makes clones, and is kept in memory, or in a file if named.

        `progress(done, total)` is called while memory is written, in bytes. SnapshotError if the machine cannot be frozen or
        the file not be written, CvmbootError if it is off.
        """
        from cvmboot.snapshots.snapshot import take

        if self._machine is None:
            raise CvmbootError("the machine is off")
        return take(self._machine, None if path is None else Path(path), progress)

    @property
    def outcome(self) -> Outcome | None:
        """How the machine ended; None while it runs. See `uefi.firmware.Outcome`."""
        return self._machine.outcome if self._machine is not None else None

    @property
    def gdb_port(self) -> int | None:
        """The port on 127.0.0.1 on which GDB is waited for, with gdb=0 or gdb=PORT."""
        return self._machine.gdb_port if self._machine is not None else None

    @property
    def report(self) -> list[str]:
        """The lines of the crash report, if the guest crashed."""
        return self._machine.report if self._machine is not None else []

    def recent_console(self) -> str:
        """The last 64 KiB and more of what the machine printed, whether it was read or not."""
        return self._channel.recent().decode(self.encoding or "utf-8", "replace")

    def isalive(self) -> bool:
        """Whether the machine is on."""
        return self._machine is not None and not self._channel.wait_for_end(0)

    def wait(self, timeout: float | None = -1) -> int:
        """Wait until the machine ends by itself; gives the exit status that `cvmboot run` would have.

        pexpect.TIMEOUT after `timeout` seconds (-1: those of the constructor, None: for ever).
        """
        limit = self.timeout if timeout == -1 else timeout
        if not self._channel.wait_for_end(limit):
            raise TIMEOUT(f"the machine still runs after {limit:g} s\n{self}")
        self._settle()
        assert self.exitstatus is not None
        return int(self.exitstatus)

    def _settle(self) -> None:
        """The machine has ended: note its exit status, or raise what went wrong on our side."""
        machine = self._machine
        assert machine is not None
        machine.join()
        self.terminated = True
        if machine.error is not None:
            raise machine.error
        if machine.outcome is not None:
            self.exitstatus = self.status = status.of_outcome(machine.outcome, machine.violated)

    def close(self, force: bool = True) -> None:
        """Switch the machine off and free all that it has. What it had printed can still be read."""
        machine = self._machine
        if machine is not None and not self.closed:
            ended = self._channel.wait_for_end(0)
            machine.stop(Outcome("stopped"))
            self._channel.abandon()
            machine.join()
            if ended and machine.outcome is not None:
                self.exitstatus = self.status = status.of_outcome(machine.outcome, machine.violated)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self.closed = self.terminated = True

    def terminate(self, force: bool = False) -> bool:
        """Switch the machine off."""
        self.close()
        return True

    def __del__(self) -> None:
        if self._machine is not None and not self.closed:
            self._machine.stop(Outcome("stopped"))
            self._channel.abandon()

    def screenshot(self, path: str | Path) -> None:
        """Save what the framebuffer shows now as a PNG file. CvmbootError if the machine is off."""
        from threading import Event

        from uefi.graphics.screenshot import save_png

        done = Event()
        failures: list[Exception] = []

        def save(assembly: Any) -> None:
            try:
                if not hasattr(assembly, "screen"):
                    raise CvmbootError("a unikernel without UEFI has no screen")
                save_png(assembly.screen, Path(path))
            except (OSError, CvmbootError) as error:
                failures.append(error)
            done.set()

        assert self._machine is not None
        self._machine.call(save)
        while not done.wait(0.05):
            if not self.isalive():
                raise CvmbootError("the machine has ended; take the screenshot before, or use screenshot= for the end")
        if failures:
            raise failures[0]

    # -- pexpect's side

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> Any:
        """Up to `size` characters as soon as there are any. pexpect.EOF at the end, pexpect.TIMEOUT after `timeout`."""
        if self._machine is None:
            raise ValueError("the machine was never switched on")
        limit = self.timeout if timeout == -1 else timeout
        deadline = None if limit is None else time.monotonic() + limit
        text = self.string_type()
        while not text:
            data = self._read(size, deadline)
            text = self._decoder.decode(data, final=not data)
            if not data and not text:
                self.flag_eof = True
                self._settle()
                raise EOF(self._end_of_machine())
        self._log(text, "read")
        return text

    def _read(self, size: int, deadline: float | None) -> bytes:
        """What comes next, having the machine flush what it holds back."""
        assert self._machine is not None
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            data = self._channel.read(size, 0.05 if left is None else min(left, 0.05))
            if data is not None:
                return data
            if left == 0:
                raise TIMEOUT("Timeout exceeded.")
            self._machine.flush()

    def send(self, s: str | bytes) -> int:
        """Type `s`; LF becomes CR. Gives the number of bytes."""
        text = self._coerce_send_string(s)
        self._log(text, "send")
        data = self._encoder.encode(text, final=False)
        self._feed(data.replace(b"\r\n", b"\r").replace(b"\n", b"\r"))
        return len(data)

    def _feed(self, data: bytes) -> None:
        """Hand input over as the guest takes it."""
        assert self._machine is not None
        self._machine.feed(data)

    def sendline(self, s: str | bytes = "") -> int:
        """Type `s` and Enter."""
        return self.send(self._coerce_send_string(s) + self.linesep)

    def write(self, s: str | bytes) -> None:
        """`send` without a result."""
        self.send(s)

    def writelines(self, sequence: Any) -> None:
        """`write` for each of them."""
        for s in sequence:
            self.write(s)

    def sendcontrol(self, char: str) -> int:
        """Type a control key: sendcontrol("c") is Ctrl-C."""
        self._feed(bytes((ord(char.upper()) ^ 0x40,)))
        return 1

    def sendintr(self) -> None:
        """Type Ctrl-C."""
        self.sendcontrol("c")

    def sendeof(self) -> None:
        """Type Ctrl-D."""
        self.sendcontrol("d")

    def _end_of_machine(self) -> str:
        if self.report:
            return f"{self.report[0]}; see VirtualMachine.report"
        outcome = self.outcome
        return f"the machine has ended: {outcome.kind if outcome is not None else 'no outcome'}"

    def __str__(self) -> str:
        state = "on" if self.isalive() else repr(self.outcome)
        return f"VirtualMachine({self.name!r}): {state}\nconsole: {self.recent_console()[-_SHOWN:]!r}"


def _converted(name: str, value: Any) -> Any:
    """A RunOptions value from the command line's text for it."""
    converter = _CONVERTERS.get(name)
    return converter(value) if converter is not None and isinstance(value, str) else value
