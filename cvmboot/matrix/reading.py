"""Reads a matrix file: TOML, each key checked, each mistake in one line that names file, line, table and key."""

import tomllib
from pathlib import Path
from typing import Any

from cvmboot.errors import UsageError
from cvmboot.matrix.keys import AXIS_KEYS, RUN_OPTIONS, SCRIPT, Plain, checked, key_of, some
from cvmboot.matrix.lines import Lines
from cvmboot.matrix.mistake import Mistake, shown

LARGEST = 4 << 20
_TABLES = frozenset({"defaults", "axes", "case", "include", "exclude"})
_CASE_KEYS = frozenset({*SCRIPT, *RUN_OPTIONS})
_ENDS = ("status", "outcome")


class Entry:
    """A table of the file: where it stands, and its checked settings. `axes` are a case's own, `case` the pattern for names of
    cases that an include or exclude is for."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.settings: Plain = {}
        self.axes: dict[str, list[Any]] = {}
        self.case = ""


class MatrixFile:
    """What a file says. UsageError for one that cannot be read or has a mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.defaults = Entry("[defaults]")
        self.axes: dict[str, list[Any]] = {}
        text, tables = _parsed(path)
        counts = {name: len(table) if isinstance(table, list) else 1 for name, table in tables.items()}
        self._lines = Lines(text, counts)
        try:
            for written in tables:
                key_of(written, _TABLES)
        except Mistake as mistake:
            wanted = ", ".join(("[defaults]", "[axes]", "[[case]]", "[[include]]", "[[exclude]]"))
            raise self.wrong(f"[{mistake.key[:60]}]", f"{mistake}; wanted {wanted}") from None
        self._read(self.defaults, self._table("[defaults]", tables.get("defaults", {})), _CASE_KEYS - {"name"})
        self.axes = self._axes("[axes]", tables.get("axes", {}))
        self.cases = [self._case(*entry) for entry in self._entries("case", tables)]
        self.includes = [self._combination(*entry, _CASE_KEYS - {"name"}) for entry in self._entries("include", tables)]
        self.excludes = [self._combination(*entry, AXIS_KEYS) for entry in self._entries("exclude", tables)]

    def wrong(self, where: str, what: str) -> UsageError:
        """The error for a mistake somewhere in this file."""
        line = self._lines.of(where)
        place = f"{self.path}:{line}" if line is not None else f"{self.path}"
        return UsageError(f"{place}: {where}: {what}")

    def _table(self, where: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(where, f"{shown(value)}; wanted a table")
        return value

    def _entries(self, name: str, tables: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        found = tables.get(name, [])
        if not isinstance(found, list):
            raise self.wrong(f"[{name}]", f"{shown(found)}; wanted [[{name}]], in two brackets, as often as you like")
        return [(f"[[{name}]] {n}", self._table(f"[[{name}]] {n}", value)) for n, value in enumerate(found, 1)]

    def _case(self, where: str, table: dict[str, Any]) -> Entry:
        name = table.get("name")
        entry = Entry(f"{where} {shown(name)}" if isinstance(name, str) else where)
        self._read(entry, {key: value for key, value in table.items() if key != "axes"}, _CASE_KEYS)
        entry.axes = self._axes(f"{entry.where}, axes", table.get("axes", {}))
        if both := next((key for key in entry.axes if key in entry.settings), None):
            raise self.wrong(entry.where, f"{both} stands in the case and in its axes")
        return entry

    def _combination(self, where: str, table: dict[str, Any], known: frozenset[str]) -> Entry:
        entry = Entry(where)
        case = table.get("case", "")
        if not isinstance(case, str):
            raise self.wrong(f"{where}, case", f"{shown(case)}; wanted a pattern for names of cases")
        entry.case = case
        self._read(entry, {key: value for key, value in table.items() if key != "case"}, known)
        if not table:
            raise self.wrong(where, "an empty table")
        if isinstance(entry.settings.get("image"), list):
            raise self.wrong(f"{where}, image", "a list; wanted one image")
        return entry

    def _read(self, entry: Entry, table: dict[str, Any], known: frozenset[str]) -> None:
        written_as: dict[str, str] = {}
        for written, value in table.items():
            try:
                key = key_of(written, known)
                plain = checked(key, value)
            except Mistake as mistake:
                raise self.wrong(f"{entry.where}, {written[:60]}", str(mistake)) from None
            if key == "expect":
                key, plain = "steps", [{"expect": pattern} for pattern in plain]
            if key in written_as:
                raise self.wrong(entry.where, f"{written_as[key]} and {written} say the same; leave one out")
            written_as[key] = written
            entry.settings[key] = plain

    def _axes(self, where: str, value: Any) -> dict[str, list[Any]]:
        axes: dict[str, list[Any]] = {}
        for written, values in self._table(where, value).items():
            try:
                key = key_of(written, AXIS_KEYS)
                if not isinstance(values, list):
                    raise Mistake(f"{shown(values)}; wanted a list of values")
                plain = [checked(key, one) for one in some(values)]
                if key == "image" and any(isinstance(one, list) for one in plain):
                    raise Mistake("a list in the list")
                if twice := next((one for n, one in enumerate(plain) if one in plain[:n]), None):
                    raise Mistake(f"{shown(twice)} stands there twice")
            except Mistake as mistake:
                raise self.wrong(f"{where}, {written[:60]}", str(mistake)) from None
            if key in axes:
                raise self.wrong(where, f"{key} stands there twice")
            axes[key] = plain
        return axes


def merged(*settings: Plain) -> Plain:
    """Settings of which later ones come before earlier ones; who says how a case ends says all of it."""
    whole: Plain = {}
    for each in settings:
        if any(end in each for end in _ENDS):
            whole = {key: value for key, value in whole.items() if key not in _ENDS}
        whole |= each
    return whole


def _parsed(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{str(path)!r}: no name of a file") from None
    if len(data) > LARGEST:
        raise UsageError(f"{path}: more than {LARGEST} bytes; wanted a matrix file (TOML)")
    try:
        text = data.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {data[error.start]:#04x} at {error.start} is no UTF-8; wanted TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: no TOML: {str(error)[:200]}") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply") from None
    except ValueError as error:  # a number of too many digits
        raise UsageError(f"{path}: no TOML: {str(error)[:200]}") from None
