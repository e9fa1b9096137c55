"""The journal: one JSON file for each run in a folder, so that a run that was broken off can be finished or cleaned up.

A file is replaced whole (written beside, fsync, rename, fsync of the folder), so a kill at any moment leaves the old or the new
one. A run that is worked on is locked against other processes; reading needs no lock. Nothing in it is secret.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud.errors import JournalError
from cloud.labels import is_run
from cloud.order import Order
from cloud.resource import Resource

SCHEMA = "cvmboot.run/1"
STARTED, MADE, DONE, DELETED = "started", "made", "done", "deleted"
"""A step's states: its resource is about to be made; is known by its id; is ready; was deleted as no longer needed."""
OPEN, COMPLETE, DESTROYING = "open", "complete", "destroying"
"""A run's states: broken off or at work; all its steps are done; `destroy` has begun."""
_LARGEST = 4 << 20
_BEGINNING = "begin.lock"
"""Held for the moment in which a run is begun."""


@dataclass
class StepRecord:
    """What is known of one step. `attempt` counts from 1, and is part of the token that makes a request idempotent."""

    state: str
    attempt: int = 1
    resource: Resource | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        resource = self.resource.to_json() if self.resource else None
        return {"state": self.state, "attempt": self.attempt, "resource": resource, "facts": self.facts}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "StepRecord":
        """What to_json() gave. KeyError, TypeError or ValueError for anything else."""
        if plain["state"] not in (STARTED, MADE, DONE, DELETED) or not isinstance(plain["facts"], dict):
            raise ValueError("no step")
        resource = Resource.of(plain["resource"]) if plain["resource"] is not None else None
        return cls(plain["state"], int(plain["attempt"]), resource, plain["facts"])


@dataclass
class Record:
    """One run, as its file has it."""

    run: str
    order: Order
    created: int
    """Seconds since 1970 by this machine's clock."""
    nonce: str = ""
    """Hex digits that differ between journals: part of every token. One that was lost and begun anew must not use old tokens."""
    state: str = OPEN
    error: str = ""
    """The line with which the last try ended."""
    steps: dict[str, StepRecord] = field(default_factory=dict)
    """In the order in which they were begun."""

    @property
    def resources(self) -> list[Resource]:
        """What is known to have been made and not deleted, the last first: the order in which to delete."""
        kept = [step.resource for step in self.steps.values() if step.resource and step.state != DELETED]
        return kept[::-1]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "created": self.created,
            "nonce": self.nonce,
            "state": self.state,
            "error": self.error,
            "order": self.order.to_json(),
            "steps": {name: step.to_json() for name, step in self.steps.items()},
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Record":
        """What to_json() gave. KeyError, TypeError, ValueError or AttributeError for anything else."""
        steps = {str(name): StepRecord.of(step) for name, step in plain["steps"].items()}
        if not is_run(plain["run"]) or plain["state"] not in (OPEN, COMPLETE, DESTROYING):
            raise ValueError("no run")
        order = Order.of(plain["order"])
        created, nonce = int(plain["created"]), str(plain["nonce"])
        return cls(plain["run"], order, created, nonce, plain["state"], str(plain["error"]), steps)


class Journal:
    """The folder of runs. It is made when the first run is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def records(self) -> list[Record]:
        """All runs, the oldest first. JournalError for a file that cannot be read, or is none of ours."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".json"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failure(error) from None
        records = [record for name in names if (record := self.read(name.removesuffix(".json"))) is not None]
        return sorted(records, key=lambda record: (record.created, record.run))

    def read(self, run: str) -> Record | None:
        """One run; None if it is not there. JournalError."""
        path = self._path(run)
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from None
        try:
            plain = json.loads(data)
            if plain["schema"] != SCHEMA:
                raise JournalError(
                    f"of form {str(plain['schema'])[:40]!r}, wanted {SCHEMA!r}",
                    where=str(path),
                    next_step="use the version of cvmboot that wrote it, or name another folder with --state",
                )
            return Record.of(plain)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise JournalError(
                "is damaged",
                where=str(path),
                next_step="move it away: `cvmboot deploy destroy` still finds that run's resources by their labels",
            ) from None

    @contextmanager
    def begin(self, run: str, order: Order, created: int, seen: Collection[str] | None = None) -> Iterator["OpenRun"]:
        """A new run, written and locked. JournalError if it cannot be written: then nothing was made.

        `seen`: the runs that the caller knows of. Another one of the same name is of a process that was faster: JournalError.
        """
        with self._locked(run):
            with self._flock(self.folder / _BEGINNING, "the journal"):
                if seen is not None:
                    self._refuse_faster_one(order, seen)
                open_run = OpenRun(self, Record(run, order, created, secrets.token_hex(4)))
                open_run.save()
            yield open_run

    def _refuse_faster_one(self, order: Order, seen: Collection[str]) -> None:
        wanted = (order.provider, order.place, order.name)
        for record in self.records():
            found = (record.order.provider, record.order.place, record.order.name)
            if found == wanted and record.run not in seen:
                raise JournalError(
                    f"another process has just begun run {record.run} of the name {order.name}",
                    where=str(self.folder),
                    next_step="wait until it ends, then run the same command again",
                )

    @contextmanager
    def resume(self, run: str) -> Iterator["OpenRun"]:
        """A run that is there, locked. JournalError if another process works on it, or it is not there."""
        with self._locked(run):
            record = self.read(run)
            if record is None:
                raise JournalError(f"no run {run}", where=str(self.folder), next_step="see `cvmboot deploy status`")
            yield OpenRun(self, record)

    def _locked(self, run: str) -> AbstractContextManager[None]:
        return self._flock(self._path(run).with_suffix(".lock"), f"run {run}")

    @contextmanager
    def _flock(self, path: Path, what: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            while True:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Whoever forgets a run unlinks its lock: then ours is of a file that nobody else sees.
                    if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
                        break
                except BaseException:
                    os.close(handle)
                    raise
                os.close(handle)
        except BlockingIOError:
            raise JournalError(
                f"{what} is being worked on by another process",
                where=str(self.folder),
                next_step="wait until it ends, or end it first",
            ) from None
        except OSError as error:
            raise self._failure(error) from None
        try:
            yield
        finally:
            os.close(handle)

    def _path(self, run: str) -> Path:
        if not is_run(run):
            raise JournalError(f"{run[:40]!r} is no run", next_step="see `cvmboot deploy status`")
        return self.folder / f"{run}.json"

    def _failure(self, error: OSError) -> JournalError:
        return JournalError(
            error.strerror or str(error),
            where=str(error.filename or self.folder),
            next_step="the journal must be writable: make room, or name another folder with --state",
        )

    def _write(self, record: Record) -> None:
        path = self._path(record.run)
        draft = path.with_suffix(".draft")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record.to_json(), file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(handle)
            draft.replace(path)
            self._sync_folder()
        except OSError as error:
            raise self._failure(error) from None

    def _forget(self, run: str) -> None:
        path = self._path(run)
        try:
            for suffix in (".json", ".draft", ".lock"):
                path.with_suffix(suffix).unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise self._failure(error) from None

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class OpenRun:
    """A run that this process has locked. Every change is on the disk when its method returns; JournalError if it is not."""

    def __init__(self, journal: Journal, record: Record) -> None:
        self._journal = journal
        self.record = record

    def save(self) -> None:
        """Write the record."""
        self._journal._write(self.record)

    def step_started(self, name: str, attempt: int) -> None:
        """The next request makes this step's resource."""
        self.record.steps[name] = StepRecord(STARTED, attempt)
        self.save()

    def step_made(self, name: str, resource: Resource | None) -> None:
        """The step's resource is there, though it may not be ready."""
        step = self.record.steps[name]
        step.state, step.resource = MADE, resource
        self.save()

    def step_noted(self, name: str, facts: dict[str, Any]) -> None:
        """How far the step is."""
        self.record.steps[name].facts = facts
        self.save()

    def step_done(self, name: str, facts: dict[str, Any]) -> None:
        """The step's resource is ready."""
        step = self.record.steps[name]
        step.state, step.facts = DONE, facts
        self.save()

    def step_deleted(self, name: str) -> None:
        """The step's resource is no longer needed and gone."""
        self.record.steps[name].state = DELETED
        self.save()

    def ended(self, state: str, error: str = "") -> None:
        """The run's state, and the line with which this try ended."""
        self.record.state, self.record.error = state, error
        self.save()

    def forget(self) -> None:
        """Nothing of the run is left: its file goes."""
        self._journal._forget(self.record.run)
