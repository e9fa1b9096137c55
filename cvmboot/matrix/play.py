"""Plays one case in this process: boots its machine, follows its script on the console, and says what came of it."""

import difflib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pexpect.exceptions import EOF, TIMEOUT  # type: ignore[import-untyped]

from cvmboot.crew.chunk import OUR_ERROR, Record
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.status import ERROR, SUCCESS, TIMED_OUT
from cvmboot.virtual_machine import VirtualMachine
from uefi.status import status_name

FAILED = 3
"""Status of a case that did not do what it should."""
CONSOLE_LOG = "console.log"
MOST_CONSOLE = 64 << 20
"""Bytes of console output; a guest that prints more has failed."""
_WINDOW = 1 << 18
"""Characters in which a pattern is looked for: what a guest prints without end must not be gone through again and again."""
_END_SHOWN = 4000
"""Characters of the console's end in a result."""
_LINES_COMPARED, _LINE_COMPARED, _LEAST_ALIKE = 200, 200, 3
"""How many lines of the console, how many characters of each, and how many in a row have to be the same."""
_META = re.compile(r"\\[a-zA-Z0-9]|\\(?=\W)|[\^$.*+?()\[\]{}|]")
"""What of a regular expression does not stand for itself."""
_WAIT_FOR_OFF = 10.0
Result = dict[str, Any]


class _Differs(Exception):
    """The machine did not do what the case says. `told` goes into the result."""

    def __init__(self, reason: str, **told: Any) -> None:
        super().__init__(reason)
        self.told = told


class _Watched(VirtualMachine):
    """A machine whose console goes into a log, byte by byte, and whose lines end in LF for whoever looks for patterns.

    `image` is a path, or None where `fields` name a snapshot.
    """

    def __init__(self, image: Any, log: BinaryIO, fields: dict[str, Any]) -> None:
        self._console_log = log
        self._printed = 0
        self._held = ""
        super().__init__(image, timeout=None, searchwindowsize=_WINDOW, **fields)

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = super()._read(size, deadline)
        self._console_log.write(data)
        self._printed += len(data)
        if self._printed > MOST_CONSOLE:
            raise _Differs(f"the guest printed more than {MOST_CONSOLE >> 20} MiB")
        return data

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        try:
            text: str = self._held + super().read_nonblocking(size, timeout)
        except EOF:
            held, self._held = self._held, ""
            if held:
                return held
            raise
        self._held = "\r" if text.endswith("\r") else ""
        return text.removesuffix(self._held).replace("\r\n", "\n")

    def log_the_rest(self) -> None:
        """What nobody waited for belongs into the log, too."""
        while data := self._channel.read(1 << 20, 0):
            self._console_log.write(data)


class Play:
    """One case: `record` is what `Case.record` made, `scratch` a folder for what need not last. `news` is told what the case
    waits for."""

    def __init__(self, record: Record, scratch: Path, news: Callable[[str], None]) -> None:
        self._record = record
        self._scratch = scratch
        self._news = news
        self._never = [re.compile(pattern, re.MULTILINE) for pattern in record["never"]]
        self._deadline = 0.0

    def run(self) -> Result:
        """The result: `status` (0, FAILED, OUR_ERROR), `reason`, how long it took, and how the machine ended."""
        began = time.monotonic()
        self._deadline = began + self._record["timeout"]
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch) as scratch:
                folder = self._record["folder"]
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                with (folder or Path(scratch)).joinpath(CONSOLE_LOG).open("wb", buffering=0) as log:
                    result = self._played(log, self._fields(Path(scratch), folder))
        except OSError as error:
            result = {"status": OUR_ERROR, "reason": f"{error.filename or CONSOLE_LOG}: {error.strerror or error}"}
        return {
            "index": self._record["index"],
            "source": self._record["source"],
            **result,
            "seconds": round(time.monotonic() - began, 3),
        }

    def _fields(self, scratch: Path, folder: Path | None) -> dict[str, Any]:
        fields = dict(self._record["fields"])
        if (variables := fields.get("vars")) is not None:  # the guest writes to them, and so may other cases
            fields["vars"] = scratch / f"vars{variables.suffix}"
            shutil.copyfile(variables, fields["vars"])
        if folder is not None:
            fields |= {field: folder / name for field, name in self._record["outputs"].items()}
        return fields

    def _played(self, log: BinaryIO, fields: dict[str, Any]) -> Result:
        self._news("boots")
        try:
            machine = _Watched(self._record["image"], log, fields)
        except UsageError as error:
            return {"status": OUR_ERROR, "reason": str(error)}
        except CvmbootError as error:
            return self._refused(str(error))
        except Exception as error:
            return _broken(error)
        result: Result = {"status": SUCCESS, "reason": ""}
        try:
            self._follow(machine)
            self._end(machine)
        except _Differs as difference:
            result = {"status": FAILED, "reason": str(difference), **difference.told}
        except Exception as error:
            result = _broken(error)
        finally:
            self._news("switches off")
            machine.close()
            machine.log_the_rest()
        if machine.exitstatus is not None:
            result["exit_status"] = machine.exitstatus
            result["outcome"] = machine.outcome.kind if machine.outcome is not None else ""
        if machine.warnings:
            result["warnings"] = machine.warnings
        if result["status"]:
            result["console_end"] = machine.recent_console()[-_END_SHOWN:]
            if machine.report:
                result["crash"] = machine.report
        return result

    def _refused(self, reason: str) -> Result:
        """No machine came of it, which may be what the case is about."""
        ended = {"exit_status": ERROR, "outcome": "refused"}
        if self._record["status"] in (None, ERROR) and self._record["outcome"] == "refused":
            return {"status": SUCCESS, "reason": "", **ended}
        if self._record["status"] == ERROR and self._record["outcome"] is None:
            return {"status": SUCCESS, "reason": "", **ended}
        return {"status": OUR_ERROR, "reason": reason, **ended}

    # -- the script

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def _follow(self, machine: _Watched) -> None:
        steps = self._record["steps"]
        for number, step in enumerate(steps, 1):
            where = f"step {number} of {len(steps)}"
            if "expect" in step:
                pattern = re.compile(step["expect"], re.MULTILINE)
                self._expect(machine, where, step["expect"], pattern, step.get("timeout"))
            elif "exact" in step:
                self._expect(machine, where, step["exact"], re.compile(re.escape(step["exact"])), step.get("timeout"))
            if "send" in step:
                machine.sendline(step["send"])
            elif "type" in step:
                machine.send(step["type"])
            elif "control" in step:
                machine.sendcontrol(step["control"])
            elif "wait" in step:
                self._news(f"{where}: waits")
                self._watch(machine, [TIMEOUT, EOF], min(step["wait"], self._left()))

    def _watch(self, machine: _Watched, patterns: list[Any], timeout: float) -> int:
        """Wait for one of the patterns, or for one that must never come."""
        found = int(machine.expect([*patterns, *self._never], timeout=timeout))
        if found >= len(patterns):
            never = self._never[found - len(patterns)].pattern
            line = (machine.before.rpartition("\n")[2] + machine.after).strip()
            raise _Differs(f"the console shows what it never should: {never}", nearest=line[:200])
        return found

    def _expect(
        self, machine: _Watched, where: str, wanted: str, pattern: "re.Pattern[str]", timeout: float | None
    ) -> None:
        self._news(f"{where}: {wanted}")
        limit = self._left() if timeout is None else min(timeout, self._left())
        found = self._watch(machine, [pattern, EOF, TIMEOUT], limit)
        if found == 0:
            return
        told = {"step": where, "wanted": wanted, "nearest": _nearest(wanted, machine.before)}
        if found == 1:
            raise _Differs(f"{where}: the machine {_ending(machine)} before its console showed this", **told)
        if timeout is None or timeout > limit:
            raise _Differs(
                f"{where}: not on the console when the case's {self._record['timeout']:g} s were over", **told
            )
        raise _Differs(f"{where}: not on the console within {timeout:g} s", **told)

    def _end(self, machine: _Watched) -> None:
        """Wait for the end that the case names; without one, a script's end is the case's."""
        status, outcome = self._record["status"], self._record["outcome"]
        if status is None and outcome is None:
            if self._record["steps"]:
                self._watch(machine, [TIMEOUT, EOF], 0)  # what has come already
                return
            status = SUCCESS
        self._news("waits for the machine's end")
        wanted = " and ".join(
            text
            for text in (f"status {status}" if status is not None else "", f"outcome {outcome}" if outcome else "")
            if text
        )
        if self._watch(machine, [EOF, TIMEOUT], self._left()) == 1:
            if status in (None, TIMED_OUT) and outcome in (None, "timeout"):
                return
            raise _Differs(f"still ran after {self._record['timeout']:g} s", wanted=wanted)
        machine.wait(_WAIT_FOR_OFF)
        kind = machine.outcome.kind if machine.outcome is not None else ""
        if (status is not None and machine.exitstatus != status) or (outcome is not None and kind != outcome):
            reason = f"the machine {_ending(machine)}, which is status {machine.exitstatus}"
            raise _Differs(reason, wanted=wanted)


def _broken(error: Exception) -> Result:
    """Something of ours, or of the engine's: the other cases go on."""
    name = "" if isinstance(error, CvmbootError) else f"internal error: {type(error).__name__}: "
    return {"status": OUR_ERROR, "reason": f"{name}{error}"}


def _ending(machine: _Watched) -> str:
    """How it ended, in words."""
    outcome = machine.outcome
    if outcome is None:
        return "ended"
    if outcome.kind == "returned":
        return f"returned {status_name(outcome.status)}"
    words = {"crashed": "crashed", "shutdown": "shut down", "reset": "reset", "stopped": "was stopped"}
    return words.get(outcome.kind, outcome.kind)


def _nearest(wanted: str, seen: str) -> str:
    """The line of the console that is most like what was wanted; "" if none is."""
    plain = _META.sub(" ", wanted).strip()
    best, nearest = max(_LEAST_ALIKE, len(plain) // 2), ""
    for line in seen.splitlines()[-_LINES_COMPARED:]:
        shown = line.strip()[:_LINE_COMPARED]
        alike = difflib.SequenceMatcher(None, plain[:_LINE_COMPARED], shown, autojunk=False)
        size = sum(block.size for block in alike.get_matching_blocks() if block.size >= _LEAST_ALIKE)
        if size >= best:  # of several, the last
            best, nearest = size, shown
    return nearest
