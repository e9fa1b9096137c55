"""Deals the cases of a matrix to a crew, and keeps what comes back: lines of results, and the folder of each case."""

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvmboot.crew.chunk import OUR_ERROR, Chunk, Crew, Record, Reply
from cvmboot.crew.dealer import Dealer
from cvmboot.crew.journal import Journal
from cvmboot.errors import CvmbootError
from cvmboot.matrix.case import GRACE, Case
from cvmboot.matrix.contents import Contents
from cvmboot.version import version

Result = dict[str, Any]
RESULTS = "results.jsonl"
_LONGEST_NAME = 200
"""Bytes; file systems take 255."""


def options_digest() -> str:
    """What all results depend on: the version of cvmboot."""
    return hashlib.sha256(version().encode()).hexdigest()[:16]


class Folders:
    """The folder of each case under `root`, by its name; none without a root."""

    def __init__(self, root: Path | None, cases: list[Case]) -> None:
        self._by_name: dict[str, Path] = {}
        if root is None:
            return
        taken: set[str] = set()
        for case in cases:
            plain = "".join(c if c.isalnum() or c in " ._=+,-" else "-" for c in case.name)
            plain = plain.encode()[:_LONGEST_NAME].decode(errors="ignore")
            folder = plain if plain.lower() not in taken and plain != RESULTS else f"{plain}~{case.index}"
            taken.add(folder.lower())
            self._by_name[case.name] = root / folder

    def of(self, name: str) -> Path | None:
        """The folder of the case of this name."""
        return self._by_name.get(name)


class Matrix(Dealer):
    """One run over `cases`. `results` has each finished case's by its name, `kept` the names of those that an earlier run
    finished, `running` what each case in work waits for, with since when."""

    def __init__(
        self,
        cases: list[Case],
        crew: Crew,
        *,
        most_attempts: int,
        folders: Folders,
        contents: Contents,
        journal: Journal | None = None,
        with_trace: bool = False,
        fail_fast: bool = False,
        show: Callable[[Result], None] = lambda result: None,
        progress: Callable[["Matrix"], None] = lambda matrix: None,
    ) -> None:
        super().__init__(crew)
        self.most_attempts = most_attempts
        self.cases = cases
        self.results: dict[str, Result] = {}
        self.kept: set[str] = set()
        self.running: dict[str, tuple[float, str]] = {}
        self._left = deque(cases)
        self._by_name = {case.name: case for case in cases}
        self._folders = folders
        self._contents = contents
        self._journal = journal
        self._with_trace = with_trace
        self._fail_fast = fail_fast
        self._show = show
        self._progress = progress

    @property
    def tally(self) -> Counter[int]:
        """How many cases are finished, by status."""
        return Counter(result["status"] for result in self.results.values())

    def news(self, chunk: Chunk, text: str) -> None:
        """A case tells what it waits for."""
        name = chunk.records[0]["source"]
        if name in self.running:
            self.running[name] = self.running[name][0], text

    def _next(self) -> Chunk | None:
        while self._left or self._again:
            if self._again:
                record = self._again.popleft()
            else:
                case = self._left.popleft()
                if self._is_kept(case):
                    continue
                record = case.record(self._folders.of(case.name), self._with_trace)
            self.running[record["source"]] = time.monotonic(), "in work"
            return Chunk([record], record["timeout"] + GRACE)
        return None

    def _is_kept(self, case: Case) -> bool:
        if self._journal is None or not (done := self._journal.finished(case.name)):
            return False
        if done != case.digest(self._contents):
            return False
        result = self._journal.line(case.name)
        self._journal.keep(case.name)
        self.kept.add(case.name)
        self.results[case.name] = result
        self._show(result)
        self._stop_if_wanted(result)
        return True

    def _expects_more(self) -> bool:
        return bool(self._left)

    def _between(self) -> None:
        self._progress(self)

    def _finished(self, chunk: Chunk, reply: Reply) -> None:
        for record, result in zip(chunk.records, reply["results"], strict=True):
            if record.get("attempts", 1) > 1:
                result["attempts"] = record["attempts"]
            self._save(record, result.pop("files", {}))
            self._done(record, result)

    def _given_up(self, record: Record, chunk: Chunk) -> None:
        began = self.running.get(record["source"], (time.monotonic(), ""))[0]
        reason = f"the process that ran this case {chunk.reason}"
        if record["attempts"] > 1:
            reason += f"; the last of {record['attempts']} attempts"
        result = {"index": record["index"], "source": record["source"], "status": OUR_ERROR, "reason": reason}
        result["seconds"] = round(time.monotonic() - began, 3)
        if record["attempts"] > 1:
            result["attempts"] = record["attempts"]
        if (folder := record["folder"]) is not None:
            result |= _console_end(folder)
        self._done(record, result)

    def _save(self, record: Record, files: dict[str, bytes]) -> None:
        """Files that came from elsewhere."""
        folder = record["folder"]
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                (folder / Path(name).name).write_bytes(data)
        except OSError as error:
            raise CvmbootError(f"{error.filename or folder}: {error.strerror}") from None

    def _done(self, record: Record, result: Result) -> None:
        name = record["source"]
        case = self._by_name[name]
        self.running.pop(name, None)
        whole: Result = {"index": case.index, "source": name, "image": None if case.image is None else str(case.image)}
        whole |= result
        whole["settings"] = case.options()
        if record["folder"] is not None:
            whole["folder"] = str(record["folder"])
        whole |= {"input": case.digest(self._contents) if self._journal else "", "options": options_digest()}
        self.results[name] = whole
        if self._journal is not None:
            line = json.dumps(whole, separators=(",", ":")).encode() + b"\n"
            self._journal.write(line, [name])
        self._show(whole)
        self._stop_if_wanted(whole)

    def _stop_if_wanted(self, result: Result) -> None:
        if self._fail_fast and result["status"]:
            self.stopped = True


def _console_end(folder: Path) -> Result:
    """What a case whose process died had printed by then, as far as it was written."""
    from cvmboot.matrix.play import CONSOLE_LOG

    try:
        return {"console_end": (folder / CONSOLE_LOG).read_bytes()[-4000:].decode("utf-8", "replace")}
    except OSError:
        return {}
