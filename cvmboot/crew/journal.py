"""The output of a run over many records: a line for each record, and on --resume what of it is finished and stays.

A run that was interrupted, however hard, leaves whole lines and perhaps a part of one. `--resume` drops that part and skips the
records whose lines are there, unless the record or the options changed since, or the line tells of an error of ours (status 1):
those are judged anew, and their old lines are taken out at the end, so that each record has one line.
"""

import contextlib
import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from cvmboot.crew.chunk import OUR_ERROR
from cvmboot.errors import CvmbootError

LONGEST_LINE = 4 << 20
_BEGIN = b'{"index":'
_UNSEEN, _KEPT, _REPLACED = 0, 1, 2


class Journal:
    """The output at `path`, or standard output for None. `resume` goes on with what is there; `options` is a digest of what all
    lines depend on, `what` the run's name in messages. `replace` begins anew where an earlier run wrote. CvmbootError."""

    def __init__(
        self, path: Path | None, resume: bool, options: str, what: str = "batch", replace: bool = False
    ) -> None:
        self._what = what
        self._path = path
        self._finished: _Finished | None = None
        self._start = 0
        try:
            if path is None or str(path) == "-":
                self._path = None
                self._file: BinaryIO = sys.stdout.buffer
            elif resume:
                self._file = path.open("r+b" if path.exists() else "x+b")
                self._lock()
                self._finished = _Finished(options)
                self._start = self._read_again(self._finished)
            elif replace and path.is_file():
                self._file = path.open("r+b")
                self._lock()
                self._replace()
            else:
                self._file = _new(path)
                self._lock()
        except OSError as error:
            raise CvmbootError(f"{path}: {error.strerror}") from None

    def finished(self, source: str) -> str:
        """The digest of a record whose line is there already; "" if there is none that may stay."""
        return self._finished.digest(source) if self._finished else ""

    def line(self, source: str) -> dict[str, Any]:
        """The line of a record for which `finished` gave a digest."""
        assert self._finished is not None
        end = self._file.tell()
        self._file.seek(self._finished.place(source))
        line = self._file.readline()
        self._file.seek(end)
        return dict(json.loads(line))

    def keep(self, source: str) -> int:
        """Leave a record's line as it is; its status."""
        assert self._finished is not None
        return self._finished.mark(source, _KEPT)

    def write(self, lines: bytes, sources: list[str]) -> None:
        """Write the lines of these records, so that they stay if we are killed. CvmbootError if the disk is full."""
        try:
            self._file.write(lines)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CvmbootError(f"{self._path or 'standard output'}: {error.strerror}") from None
        if self._finished is not None:
            for source in sources:
                self._finished.mark(source, _REPLACED)

    def close(self, complete: bool) -> None:
        """Close the output; take out lines that were replaced, and if all was read, those of records that are no more."""
        try:
            if self._finished is not None:
                if self._finished.any_gone(complete):
                    self._without_old_lines(complete)
                self._finished.close()
        except OSError as error:
            raise CvmbootError(f"{self._path}: {error.strerror}; old lines stay in it beside the new ones") from None
        finally:
            if self._path is not None:
                with contextlib.suppress(OSError):  # a disk that is full was told of when it was written to
                    self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CvmbootError(f"{self._path}: another {self._what} writes to it") from None
        except OSError:
            pass  # a device, or a file system without locks

    def _read_again(self, finished: "_Finished") -> int:
        """Take in the lines that are there; gives where the next one goes. CvmbootError for a file of somebody else's."""
        end = number = 0
        while True:
            line = self._file.readline(LONGEST_LINE + 1)
            if not line:
                break
            number += 1
            plain = _line(line)
            if plain is None:
                if line.endswith(b"\n") or not _is_part(line, number):
                    raise CvmbootError(
                        f"{self._path}, line {number}: not of a {self._what}'s output; name another file with --output"
                    )
                break  # a part of a line: the run was killed while it wrote
            finished.add(plain, end)
            end += len(line)
        finished.done()
        self._file.seek(end)
        self._file.truncate()
        return end

    def _replace(self) -> None:
        """Forget an earlier run. CvmbootError for a file of somebody else's."""
        earlier = _Finished("")
        self._read_again(earlier)
        earlier.close()
        self._file.seek(0)
        self._file.truncate()

    def _without_old_lines(self, complete: bool) -> None:
        """Write the file anew under another name, then put it in its place."""
        assert self._path is not None and self._finished is not None
        self._file.seek(0)
        at = 0
        descriptor, draft = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as new:
                for line in self._file:
                    old = at < self._start
                    plain = _line(line) if old else None
                    if plain is None or not self._finished.is_gone(plain["source"], at, complete):
                        new.write(line)
                    at += len(line)
            Path(draft).chmod(os.fstat(self._file.fileno()).st_mode & 0o777)
            Path(draft).replace(self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
            raise


def _new(path: Path) -> BinaryIO:
    """A new file; what is no regular file, a pipe for instance, is written to as it is."""
    try:
        return path.open("xb")
    except FileExistsError:
        if path.is_file() and path.stat().st_size:
            raise CvmbootError(f"{path}: exists; go on with it by --resume, or name another file") from None
        return path.open("wb")


def _is_part(line: bytes, number: int) -> bool:
    """Whether a line without an end is the beginning of one of ours, or the zeros that a machine leaves which lost its power."""
    return line[: len(_BEGIN)] == _BEGIN[: len(line)] or (number > 1 and not line.strip(b"\0"))


def _line(line: bytes) -> dict[str, Any] | None:
    """A line of ours, or None."""
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(plain, dict):
        return None
    texts = (plain.get("source"), plain.get("input"), plain.get("options"))
    if not all(isinstance(text, str) for text in texts) or not isinstance(plain.get("status"), int):
        return None
    return plain


class _Finished:
    """The records that have a line: in a temporary database, because there may be more of them than memory has room for."""

    def __init__(self, options: str) -> None:
        import sqlite3

        self._options = options
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("PRAGMA synchronous=OFF")
        self._base.execute(
            "CREATE TABLE line (source BLOB PRIMARY KEY, digest TEXT, status INTEGER, place INTEGER, seen INTEGER)"
            " WITHOUT ROWID"
        )
        self._base.execute("BEGIN")
        self._doubled = False

    def add(self, plain: dict[str, Any], place: int) -> None:
        """A line that is there, and where it begins. One that was written under other options, or of an error of ours,
        does not count."""
        counts = plain["options"] == self._options and plain["status"] != OUR_ERROR
        key = _key(plain["source"])
        self._doubled = self._doubled or self._row(key) is not None  # an earlier run replaced it, and was killed then
        row = key, plain["input"] if counts else "", plain["status"], place, _UNSEEN
        self._base.execute("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?)", row)

    def done(self) -> None:
        """All lines are there."""
        self._base.execute("COMMIT")

    def digest(self, source: str) -> str:
        """The digest of the record that a line is of; "" if there is none that counts."""
        row = self._row(_key(source))
        return str(row[0]) if row else ""

    def place(self, source: str) -> int:
        """Where the line of a record begins that has one."""
        row = self._row(_key(source))
        return int(row[2])

    def mark(self, source: str, seen: int) -> int:
        """Note what became of a record; its status."""
        key = _key(source)
        row = self._row(key)
        if row is None:
            return OUR_ERROR
        self._base.execute("UPDATE line SET seen = ? WHERE source = ?", (seen, key))
        return int(row[1])

    def is_gone(self, source: str, place: int, complete: bool) -> bool:
        """Whether the line that begins at `place` should go."""
        row = self._row(_key(source))
        if row is None:
            return False
        return row[2] != place or row[3] == _REPLACED or (complete and row[3] == _UNSEEN)

    def any_gone(self, complete: bool) -> bool:
        """Whether any line should go."""
        least = (_REPLACED, _UNSEEN if complete else _REPLACED)
        found = self._base.execute("SELECT 1 FROM line WHERE seen IN (?, ?) LIMIT 1", least).fetchone()
        return self._doubled or found is not None

    def close(self) -> None:
        """Forget all."""
        self._base.close()

    def _row(self, key: bytes) -> Any:
        return self._base.execute("SELECT digest, status, place, seen FROM line WHERE source = ?", (key,)).fetchone()


def _key(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")
