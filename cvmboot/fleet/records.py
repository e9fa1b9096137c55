"""Where a batch's records come from: the files of a folder, the lines of a JSON lines file, or the rows of a table.

A record is a plain dict, so that it can go to another process or machine: `index` counts from 1, `source` says where it stands
("line 3", "row 3", a path in the folder), `kind` is PATH, JSON, ROW, or BAD for what cannot even be handed on, and `data` is the
path, the line's bytes, the row's cells by column, or the reason. Nothing is held but one record.
"""

import csv
import fnmatch
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cvmboot.attest_input import AUXBLOB, CERTIFICATE_SUFFIXES, OUTBLOB
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.fleet.loading import COLUMNS

LONGEST_LINE = 8 << 20
MOST_LINES_IN_A_ROW = 1000
PATH, JSON, ROW, BAD = "path", "json", "row", "bad"
Record = dict[str, Any]
_BOM = b"\xef\xbb\xbf"
BESIDE = CERTIFICATE_SUFFIXES - {".bundle"}
"""Suffixes of files that are certificates for the reports beside them; a bundle holds a report of its own."""


class Source:
    """A batch's records, to be gone through once; UsageError for a file that is no source. `size` is how much there is, `done`
    how much was read: bytes of a file, files of a folder; 0 where nobody knows. `folder` is what paths in records are relative
    to."""

    def __init__(self, path: Path, match: str = "") -> None:
        """CvmbootError if there is nothing at `path` ("-" is standard input); `match` is a pattern for names in a folder."""
        self.size = self.done = 0
        self.is_folder = path.is_dir()
        self._path = path
        self._match = match
        self._file: BinaryIO | None = None
        if self.is_folder:
            self.folder = path
            self._records = self._files()
            return
        if match:
            raise UsageError(f"--match is for a folder, and {path} is none")
        try:
            self._file = sys.stdin.buffer if str(path) == "-" else path.open("rb")
            if self._file.seekable():
                self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise CvmbootError(f"{path}: {error.strerror}") from None
        self.folder = Path() if str(path) == "-" else path.parent
        self._records = self._of_file()

    def __iter__(self) -> Iterator[Record]:
        for index, (source, kind, data) in enumerate(self._records, 1):
            yield {"index": index, "source": source, "kind": kind, "data": data}

    def _of_file(self) -> Iterator[tuple[str, str, Any]]:
        """The records of a file, of which the first line is read. UsageError if it is of no kind, or a table without evidence."""
        lines = self._lines()
        first = next((line for line in lines if line[1] is None or line[1].strip()), None)
        if first is None:
            return iter(())
        delimiter = _delimiter(self._path, first[1])
        if not delimiter:
            return self._json([first], lines)
        return self._rows(_columns(self._path, first[1] or b"", delimiter), lines, delimiter)

    def _files(self) -> Iterator[tuple[str, str, Any]]:
        """Each file of the folder and of those in it, by name; not what is hidden, nor certificates, nor linked folders."""
        folders = [self._path]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
            except OSError as error:
                yield str(folder.relative_to(self._path)), BAD, f"{folder}: {error.strerror}"
                continue
            folders += [folder / name for name, is_folder in reversed(found) if is_folder and not name.startswith(".")]
            names = [name for name, is_folder in found if not is_folder and self._wanted(name)]
            if OUTBLOB in names:  # the rest of a configfs-tsm entry is no evidence
                names = [OUTBLOB]
            self.size += len(names)
            for name in names:
                self.done += 1
                path = folder / name
                yield os.fsencode(path.relative_to(self._path)).decode("utf-8", "backslashreplace"), PATH, str(path)

    def _wanted(self, name: str) -> bool:
        if name.startswith(".") or name == AUXBLOB or Path(name).suffix.lower() in BESIDE:
            return False
        return not self._match or fnmatch.fnmatchcase(name, self._match)

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """(number from 1, bytes without the line's end) of each line; None for one that is too long."""
        assert self._file is not None
        number = 0
        while True:
            line = self._file.readline(LONGEST_LINE + 1)
            if not line:
                return
            number += 1
            self.done += len(line)
            if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = self._file.readline(LONGEST_LINE)
                    self.done += len(line)
                yield number, None
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            yield number, line.rstrip(b"\r\n")

    def _json(
        self, first: list[tuple[int, bytes | None]], rest: Iterator[tuple[int, bytes | None]]
    ) -> Iterator[tuple[str, str, Any]]:
        for lines in (first, rest):
            for number, line in lines:
                if line is None:
                    yield f"line {number}", BAD, _TOO_LONG
                elif line.strip():
                    yield f"line {number}", JSON, line

    def _rows(
        self, columns: list[str], lines: Iterator[tuple[int, bytes | None]], delimiter: str
    ) -> Iterator[tuple[str, str, Any]]:
        waiting: list[tuple[int, bytes | None]] = []
        while True:
            if waiting:
                number, line = waiting.pop(0)
            else:
                following = next(lines, None)
                if following is None:
                    return
                number, line = following
            where = f"row {number}"
            if line is None:
                yield where, BAD, _TOO_LONG
                continue
            if not line.strip():
                continue
            if delimiter == "," and line.count(b'"') % 2:
                line = _joined(line, lines, waiting)
            if line is None:
                yield where, BAD, "a cell begins with a quotation mark, and none ends it"
                continue
            yield (where, *_row(line, columns, delimiter))


_TOO_LONG = f"a line of more than {LONGEST_LINE} bytes"


def _joined(
    line: bytes, lines: Iterator[tuple[int, bytes | None]], waiting: list[tuple[int, bytes | None]]
) -> bytes | None:
    """A row whose quoted cell goes over several lines (RFC 4180, 2.6). None if it does not end; then the lines behind it
    are rows of their own, so that one stray quotation mark costs one row."""
    taken: list[tuple[int, bytes | None]] = []
    parts = [line]
    size = len(line)
    while size <= LONGEST_LINE and len(taken) < MOST_LINES_IN_A_ROW:
        following = waiting.pop(0) if waiting else next(lines, None)
        if following is None:
            break
        taken.append(following)
        if following[1] is None:
            break
        parts.append(following[1])
        size += len(following[1])
        if following[1].count(b'"') % 2:
            return b"\n".join(parts)
    waiting[:0] = taken
    return None


def _row(line: bytes, columns: list[str], delimiter: str) -> tuple[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return BAD, f"byte {line[error.start]:#04x} at {error.start} is no UTF-8"
    cells = _cells(text, delimiter)
    if cells is None or len(cells) > len(columns):
        return BAD, f"{'no' if cells is None else len(cells)} cells; the table has {len(columns)} columns"
    return ROW, {column: cell for column, cell in zip(columns, cells, strict=False) if cell.strip()}


def _cells(text: str, delimiter: str) -> list[str] | None:
    if delimiter == "\t":
        return text.split("\t")
    csv.field_size_limit(LONGEST_LINE)
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _delimiter(path: Path, first: bytes | None) -> str:
    """What separates a table's columns; "" for JSON lines. By the name's suffix, or else by the first line."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "," if suffix == ".csv" else "\t"
    if suffix in (".jsonl", ".ndjson", ".json") or first is None or first.lstrip()[:1] in (b"{", b'"'):
        return ""
    words = {word.strip().strip(b'"').lower() for word in first.replace(b"\t", b",").split(b",")}
    if words & {column.encode() for column in COLUMNS}:
        return "\t" if b"\t" in first else ","
    raise UsageError(f"{path}: neither JSON lines nor a table with a head of columns ({', '.join(COLUMNS[:6])}, ...)")


def _columns(path: Path, header: bytes, delimiter: str) -> list[str]:
    text = header.decode("utf-8", "replace")
    columns = [cell.strip().lower().replace("-", "_") for cell in _cells(text, delimiter) or []]
    for column in columns:
        if column not in COLUMNS and not column.startswith("x_"):
            raise UsageError(
                f"{path}: no such column {column[:40]!r}; wanted {', '.join(COLUMNS)}, or x_... for what is not looked at"
            )
        if columns.count(column) > 1:
            raise UsageError(f"{path}: column {column[:40]!r} stands there twice")
    if not {"evidence", "report", "path"} & set(columns):
        raise UsageError(f"{path}: no column holds the evidence; wanted one of evidence, report, path")
    return columns
