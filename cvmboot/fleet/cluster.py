"""A crew on a Dask cluster: chunks go to a scheduler that the user named, as bytes and plain dicts, and replies come back.

Dask runs a task again by itself when its worker dies, and tells nobody. So we listen to the scheduler's events, which name the
tasks that a removed worker had: such a chunk is taken back, and its records are tried again one by one, and counted. Dask moves
objects by pickle: whoever runs the scheduler or a worker can run code here, which is why --cluster wants a trusted one.
"""

import asyncio
import itertools
import json
import logging
import queue
import threading
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.fleet.batch import MOST_ATTEMPTS
from cvmboot.fleet.crew import DEPTH, Chunk
from cvmboot.fleet.errors import BadRecord
from cvmboot.fleet.judge import Judge, Reply, Settings
from cvmboot.fleet.loading import Shelves, load
from cvmboot.fleet.records import BAD, BESIDE
from cvmboot.version import version

if TYPE_CHECKING:
    from pathlib import Path

CONNECT_SECONDS = 10.0
FIRST_WORKER_SECONDS = 30.0
LOST_SECONDS = 60.0
"""How long to go on without a worker."""
SCHEDULER_SECONDS = 10.0
"""How long to go on without a connection to the scheduler."""
FETCH_SECONDS = 30.0
CLOSE_SECONDS = 5.0
LOOK_SECONDS = 2.0
_here = threading.local()


def judge_chunk(settings: Settings, records: list[dict[str, Any]]) -> Reply:
    """Runs on a worker: judge records. Each thread has a judge of its own, for the settings in use."""
    if getattr(_here, "run", None) != settings["run"]:
        _here.judge, _here.run = Judge(settings), settings["run"]
    judge: Judge = _here.judge
    return judge.judge_all(records)


def judge_version() -> str:
    """Runs on a worker: the version of cvmboot there."""
    return version()


def _same(settings: Settings) -> Settings:
    return settings


class ClusterCrew:
    """The workers of the Dask scheduler at `address`. CvmbootError if it cannot be used, within a bounded time."""

    largest = 256

    def __init__(self, address: str, settings: Settings, folder: "Path") -> None:
        if not address.startswith("tcp://"):
            raise UsageError(f"--cluster {address[:80]}: wanted tcp://HOST:PORT")
        try:
            from distributed import Client
        except ImportError:
            raise CvmbootError("--cluster needs Dask: pip install 'cvmboot[cluster]'") from None
        # What distributed, tornado and asyncio would say in many lines, we say in one. This is a program of its own.
        logging.disable(logging.CRITICAL)
        self._address = address
        self._folder = folder
        self._shelves = Shelves(BESIDE)
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._threads: int = 0
        self._chunks: dict[str, tuple[Chunk, Any]] = {}
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._deaths: Counter[str] = Counter()
        self._at_once: list[tuple[Chunk, Reply | None]] = []
        make_client: Any = Client
        try:
            # Client waits for ever for a server that takes the connection and says nothing.
            asyncio.run(asyncio.wait_for(_greet(address), CONNECT_SECONDS))
            self._client = make_client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="cvmboot")
        except (OSError, ValueError) as error:
            what = _first_line(error) if str(error) else f"nothing within {CONNECT_SECONDS:.0f} s"
            raise CvmbootError(f"{address}: no Dask scheduler answers: {what}") from None
        try:
            self._client.subscribe_topic("all", self._event)
            self._check_workers()
            settings = settings | {"run": self._run, "folder": "", "cache": None}
            key = f"cvmboot-settings-{self._run}"
            self._settings = self._client.submit(_same, settings, key=key, pure=False)
            self._threads = sum(self._client.nthreads().values())
        except BaseException:
            self.close()
            raise
        self._looked = self._seen = self._connected = time.monotonic()

    @property
    def has_room(self) -> bool:
        """Whether another chunk would be begun soon."""
        return len(self._chunks) < DEPTH * max(self._threads, 1)

    @property
    def idle(self) -> bool:
        """Whether nothing is in work."""
        return not self._chunks and not self._at_once

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk judged. Files are read here: the workers may be on other machines."""
        records: list[dict[str, Any]] = []
        same: list[dict[str, Any]] = []
        for record in chunk.records:
            loaded = self._loaded(record)
            is_same = loaded["kind"] != BAD and record.get("done") == loaded["data"]["input"]
            (same if is_same else records).append(loaded)
        if same:
            reply = {"lines": b"", "statuses": [], "same": [r["index"] for r in same], "needs": [], "notes": []}
            self._at_once.append((Chunk(same), reply))
            self.wake()
        if not records:
            return
        chunk.records = records
        key = f"cvmboot-{self._run}-{next(self._numbers)}"
        future = self._client.submit(judge_chunk, self._settings, records, key=key, pure=False, retries=0)
        self._chunks[key] = chunk, future
        future.add_done_callback(lambda done: self._ready.put(done.key))

    def results(self, timeout: float) -> list[tuple[Chunk, Reply | None]]:
        """Replies that came, after waiting for one; None for a chunk that was lost with its worker. CvmbootError."""
        try:
            keys = {self._ready.get(timeout=timeout)}
        except queue.Empty:
            keys = set()
        while not self._ready.empty():
            keys.add(self._ready.get())
        results, self._at_once = self._at_once, []
        for key in keys & self._chunks.keys():
            self._take(key, results)
        for key in list(self._deaths.keys() & self._chunks.keys()):
            chunk, future = self._chunks[key]
            if len(chunk.records) > 1 or chunk.records[0].get("attempts", 1) + self._deaths[key] > MOST_ATTEMPTS:
                future.cancel()
                self._lose(key, self._deaths[key], results)
        self._look()
        return results

    def wake(self) -> None:
        """From any thread: end the waiting."""
        self._ready.put("")

    def close(self) -> None:
        """Take back what is not done, and leave the cluster as it was."""
        for _, future in self._chunks.values():
            future.cancel()
        self._chunks.clear()
        self._client.close(timeout=CLOSE_SECONDS)

    def _loaded(self, record: dict[str, Any]) -> dict[str, Any]:
        try:
            return record | {"kind": "loaded", "data": load(record, self._folder, self._shelves)}
        except BadRecord as error:
            named = {} if error.named is None else {"id": error.named}
            return record | {"kind": BAD, "data": str(error), "status": error.status} | named

    def _take(self, key: str, results: list[tuple[Chunk, Reply | None]]) -> None:
        chunk, future = self._chunks[key]
        deaths = self._deaths[key]
        if future.status == "finished":
            try:
                reply = future.result(timeout=FETCH_SECONDS)
            except (TimeoutError, OSError):
                self._lose(key, deaths or 1, results)  # it died with the reply
                return
            del self._chunks[key]
            results.append((chunk, _counted(chunk, reply, deaths) if deaths else reply))
        elif future.status == "error":
            error = future.exception(timeout=FETCH_SECONDS)
            if type(error).__name__ != "KilledWorker":
                raise CvmbootError(f"{self._address}: a worker cannot judge: {_first_line(error)}")
            self._lose(key, max(deaths, MOST_ATTEMPTS), results)
        elif future.status in ("cancelled", "lost"):
            self._lose(key, max(deaths, 1), results)

    def _lose(self, key: str, deaths: int, results: list[tuple[Chunk, Reply | None]]) -> None:
        chunk, _ = self._chunks.pop(key)
        chunk.losses += deaths
        results.append((chunk, None))

    def _event(self, event: tuple[float, Any]) -> None:
        """In the client's thread, before the client learns of what the scheduler does next."""
        _, message = event
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            for name in ("processing-tasks", "lost-computed-tasks"):
                for key in message.get(name, ()):
                    self._deaths[str(key)] += 1
            self.wake()

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
            versions = set(self._client.run(judge_version).values())
        except TimeoutError:
            raise CvmbootError(f"{self._address}: no worker within {FIRST_WORKER_SECONDS:.0f} s") from None
        except Exception as error:  # whatever happens there: no module, another Python
            raise CvmbootError(
                f"{self._address}: a worker cannot run cvmboot: {_first_line(error)}; install cvmboot {version()} there"
            ) from None
        if others := versions - {version()}:
            raise CvmbootError(f"{self._address}: a worker has cvmboot {min(others)}; wanted {version()}, as here")

    def _look(self) -> None:
        """Whether there is still a cluster. CvmbootError."""
        now = time.monotonic()
        if self._client.status == "running":
            self._connected = now
        elif now - self._connected > SCHEDULER_SECONDS:
            raise CvmbootError(f"{self._address}: the connection to the scheduler is lost")
        if now - self._looked < LOOK_SECONDS or self._client.status != "running":
            return
        try:
            self._threads = sum(self._client.nthreads().values())
        except OSError:
            return  # the next look finds the connection lost
        self._looked = now
        if self._threads:
            self._seen = now
        elif now - self._seen > LOST_SECONDS:
            raise CvmbootError(f"{self._address}: no worker is left since {LOST_SECONDS:.0f} s")


async def _greet(address: str) -> None:
    """Ask a scheduler who it is. OSError, also for a server of another kind."""
    from distributed import comm as comms

    module: Any = comms
    comm = await module.connect(address, timeout=CONNECT_SECONDS)
    try:
        await comm.write({"op": "identity", "reply": True})
        answer = await comm.read()
    finally:
        comm.abort()
    if not isinstance(answer, dict) or answer.get("type") != "Scheduler":
        raise OSError("what answers is no scheduler")


def _counted(chunk: Chunk, reply: Reply, deaths: int) -> Reply:
    """A reply of a chunk that Dask ran again, with that said in each line."""
    lines = []
    for record in chunk.records:
        record["attempts"] = record.get("attempts", 1) + deaths
    attempts = {record["index"]: record["attempts"] for record in chunk.records}
    for line in reply["lines"].splitlines():
        plain = json.loads(line)
        plain["attempts"] = attempts[plain["index"]]
        lines.append(json.dumps(plain, separators=(",", ":")).encode() + b"\n")
    for needs in reply["needs"]:
        needs["record"]["attempts"] = attempts[needs["record"]["index"]]
    return reply | {"lines": b"".join(lines)}


def _first_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
