"""A crew on a Dask cluster: chunks go to a scheduler that the user named, as bytes and plain dicts, and replies come back.

Dask runs a task again by itself when its worker dies, and tells nobody. So we listen to the scheduler's events, which name the
tasks that a removed worker had: such a chunk is taken back, and its records are tried again one by one, and counted. Dask moves
objects by pickle: whoever runs the scheduler or a worker can run code here, which is why --cluster wants a trusted one.
"""

import asyncio
import itertools
import logging
import queue
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any

from cvmboot.crew.chunk import Chunk, Record, Reply, Settings
from cvmboot.crew.dealer import MOST_ATTEMPTS
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.version import version

CONNECT_SECONDS = 10.0
FIRST_WORKER_SECONDS = 30.0
LOST_SECONDS = 60.0
"""How long to go on without a worker."""
SCHEDULER_SECONDS = 10.0
"""How long to go on without a connection to the scheduler."""
FETCH_SECONDS = 30.0
CLOSE_SECONDS = 5.0
LOOK_SECONDS = 2.0
Work = Callable[..., Reply]


def version_there() -> str:
    """Runs on a worker: the version of cvmboot there."""
    return version()


def same(given: Any) -> Any:
    """Runs on a worker: what others there need is a task's result, so that Dask carries it once, and again if it gets lost."""
    return given


class ClusterCrew(ABC):
    """The workers of the Dask scheduler at `address`. CvmbootError if it cannot be used, within a bounded time.

    `work(settings, records, ...)` runs on a worker; `settings` say by `run` which run they are of. Of what a worker can begin,
    `depth` times as much is sent ahead.
    """

    largest = 256
    depth = 2

    def __init__(self, address: str, work: Work, settings: Settings) -> None:
        if not address.startswith("tcp://"):
            raise UsageError(f"--cluster {address[:80]}: wanted tcp://HOST:PORT")
        try:
            from distributed import Client
        except ImportError:
            raise CvmbootError("--cluster needs Dask: pip install 'cvmboot[cluster]'") from None
        # What distributed, tornado and asyncio would say in many lines, we say in one. This is a program of its own.
        logging.disable(logging.CRITICAL)
        self._address = address
        self._work = work
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._threads: dict[str, int] = {}
        self._given: dict[str, str] = {}
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
            self._settings = self.carried(settings | {"run": self._run}, "settings")
            self._threads = dict(self._client.nthreads())
        except BaseException:
            self.close()
            raise
        self._looked = self._seen = self._connected = time.monotonic()

    @property
    def has_room(self) -> bool:
        """Whether another chunk would be begun soon."""
        return len(self._chunks) < self.depth * max(sum(self._threads.values()), 1)

    @property
    def idle(self) -> bool:
        """Whether nothing is in work."""
        return not self._chunks and not self._at_once

    def carried(self, given: Any, name: str) -> Any:
        """A future of the same on any worker that needs it."""
        return self._client.submit(same, given, key=f"cvmboot-{name}-{self._run}", pure=False)

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk worked on."""
        records, more = self._prepared(chunk)
        if not records:
            return
        key = f"cvmboot-{self._run}-{next(self._numbers)}"
        worker = self._least_busy()
        self._given[key] = worker
        # By itself Dask would let whoever has the settings and files work, and the others wait.
        where: dict[str, Any] = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future = self._client.submit(
            self._work, self._settings, records, *more, key=key, pure=False, retries=0, **where
        )
        self._chunks[key] = chunk, future
        future.add_done_callback(lambda done: self._ready.put(done.key))

    def _least_busy(self) -> str:
        """The address of the worker that has the fewest chunks for each of its threads; "" if there is none."""
        counts = Counter(self._given[key] for key in self._chunks)
        return min(self._threads, key=lambda worker: counts[worker] / max(self._threads[worker], 1), default="")

    @abstractmethod
    def _prepared(self, chunk: Chunk) -> tuple[list[Record], list[Any]]:
        """The records as a worker elsewhere can take them, and what else `work` is given."""

    @abstractmethod
    def _counted(self, chunk: Chunk, reply: Reply) -> Reply:
        """The reply of a chunk that Dask ran again; its records' `attempts` say how often."""

    def at_once(self, chunk: Chunk, reply: Reply) -> None:
        """Give a reply that no worker is needed for."""
        self._at_once.append((chunk, reply))
        self.wake()

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

    def _take(self, key: str, results: list[tuple[Chunk, Reply | None]]) -> None:
        chunk, future = self._chunks[key]
        deaths = self._deaths[key]
        if future.status == "finished":
            try:
                reply = future.result(timeout=FETCH_SECONDS)
            except (TimeoutError, OSError):
                self._lose(key, deaths or 1, results)  # it died with the reply
                return
            del self._chunks[key], self._given[key]
            if deaths:
                for record in chunk.records:
                    record["attempts"] = record.get("attempts", 1) + deaths
                reply = self._counted(chunk, reply)
            results.append((chunk, reply))
        elif future.status == "error":
            error = future.exception(timeout=FETCH_SECONDS)
            if type(error).__name__ != "KilledWorker":
                raise CvmbootError(f"{self._address}: a worker cannot do its work: {_first_line(error)}")
            self._lose(key, max(deaths, MOST_ATTEMPTS), results)
        elif future.status in ("cancelled", "lost"):
            self._lose(key, max(deaths, 1), results)

    def _lose(self, key: str, deaths: int, results: list[tuple[Chunk, Reply | None]]) -> None:
        chunk, _ = self._chunks.pop(key)
        self._given.pop(key, None)
        chunk.losses += deaths
        chunk.reason = "was lost with its worker"
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
            versions = set(self._client.run(version_there).values())
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
            self._threads = dict(self._client.nthreads())
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


def _first_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
