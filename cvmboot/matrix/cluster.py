"""A matrix on a Dask cluster: cases and the files that they name go to the workers, results and kept files come back.

A worker has a case played by a process beside it, one for each of its threads, so that a machine which crashes or hangs costs its
case and not the worker. A file goes to a worker once, by its digest.
"""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from cvmboot.crew.chunk import OUR_ERROR, Chunk, Record, Reply, Settings
from cvmboot.crew.cluster import ClusterCrew
from cvmboot.crew.local import LocalCrew
from cvmboot.errors import CvmbootError
from cvmboot.matrix.case import GRACE
from cvmboot.matrix.contents import Contents, place
from cvmboot.matrix.worker import play

MOST_KEPT = 256 << 20
"""Bytes of a case's files that come back."""
_LEAVE_SECONDS = 5.0
_TICK = 1.0
_lock = threading.Lock()
_players: "dict[tuple[str, int], _Player]" = {}
"""On a worker: the process of each thread, by run and thread."""
_left: set[str] = set()
"""On a worker: runs that are over."""


def play_on_worker(settings: Settings, records: list[Record], *contents: bytes) -> Reply:
    """Runs on a worker: play one case; `contents` are those of its `files`, in the same order."""
    from distributed import get_worker

    (record,) = records
    worker: Any = get_worker()
    here = Path(worker.local_directory) / f"cvmboot-{settings['run']}"
    try:
        for (key, digest, name, is_folder), data in zip(record["files"], contents, strict=True):
            path = _placed(here, digest, name, is_folder, data)
            if key == "image":
                record["image"] = path
            else:
                record["fields"][key] = path
        with tempfile.TemporaryDirectory(prefix="kept-", dir=here) as kept:
            record["folder"] = Path(kept) if record["keep"] else None
            result = _played(settings["run"], record, here)
            if record["keep"]:
                result["files"] = _kept(Path(kept))
    except OSError as error:
        result = {"index": record["index"], "source": record["source"], "status": OUR_ERROR, "seconds": 0.0}
        result["reason"] = f"worker {worker.address}: {error.filename or here}: {error.strerror or error}"
    result["worker"] = worker.address
    return {"results": [result]}


def _placed(here: Path, digest: str, name: str, is_folder: bool, data: bytes) -> Path:
    """The path of a file on this worker; it is written when it is first wanted. Its name may mean something to a guest."""
    path = here / digest / name
    with _lock:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix="draft-", dir=here))
            place(data, is_folder, draft / name)
            (draft / name).rename(path)
            draft.rmdir()
    return path


class _Player:
    """The process beside one thread of a worker. All but `play` is called with _lock held."""

    def __init__(self, scratch: Path) -> None:
        self._crew = LocalCrew(1, {"scratch": str(scratch)}, play, largest=1, depth=1)
        self.busy = False

    def play(self, record: Record) -> dict[str, Any]:
        """Have a case played, however it ends."""
        chunk = Chunk([record], record["timeout"] + GRACE)
        self._crew.submit(chunk)
        while True:
            for _, reply in self._crew.results(_TICK):
                if reply is not None:
                    return dict(reply["results"][0])
                result: dict[str, Any] = {"index": record["index"], "source": record["source"], "status": OUR_ERROR}
                return result | {"reason": f"the process that ran this case {chunk.reason}", "seconds": 0.0}

    def end(self) -> None:
        """End the process; a `play` that waits for it then comes back, and whoever called it has to call this again."""
        if self.busy:
            self._crew.kill()
        else:
            self._crew.close()


def _played(run: str, record: Record, scratch: Path) -> dict[str, Any]:
    thread = threading.get_ident()
    with _lock:
        if run in _left:
            raise CvmbootError("this run is over")
        for other in [key for key in _players if key[0] != run and key[1] == thread]:
            _players.pop(other).end()  # of a run that ended without a word
        player = _players.get((run, thread)) or _Player(scratch)
        _players[run, thread] = player
        player.busy = True
    try:
        return player.play(record)
    finally:
        with _lock:
            player.busy = False
            if run in _left:
                player.end()


def _kept(folder: Path) -> dict[str, bytes]:
    files = {}
    left = MOST_KEPT
    for path in sorted(folder.iterdir()):
        left -= path.stat().st_size
        if left >= 0:
            files[path.name] = path.read_bytes()
    return files


def leave(run: str) -> None:
    """Runs on a worker: a run is over; what still runs of it is ended."""
    from distributed import get_worker

    with _lock:
        _left.add(run)
        for key in [key for key in _players if key[0] == run]:
            _players.pop(key).end()
    worker: Any = get_worker()
    shutil.rmtree(Path(worker.local_directory) / f"cvmboot-{run}", ignore_errors=True)


class PlayingCluster(ClusterCrew):
    """Plays cases on the cluster at `address`, a case for each thread of its workers."""

    largest = 1
    depth = 1

    def __init__(self, address: str, contents: Contents) -> None:
        self._contents = contents
        self._carried: dict[str, Any] = {}
        super().__init__(address, play_on_worker, {})

    def _prepared(self, chunk: Chunk) -> tuple[list[Record], list[Any]]:
        (record,) = chunk.records
        inputs = {} if record["image"] is None else {"image": record["image"]}
        inputs |= {key: value for key, value in record["fields"].items() if isinstance(value, Path)}
        files = []
        futures = []
        for key, path in inputs.items():
            digest = self._contents.digest(path)
            if digest not in self._carried:
                self._carried[digest] = self.carried(self._contents.data(path), digest)
            files.append((key, digest, path.name or "folder", path.is_dir()))
            futures.append(self._carried[digest])
        fields = {key: value for key, value in record["fields"].items() if key not in inputs}
        keep = record["folder"] is not None
        return [record | {"image": None, "fields": fields, "folder": None, "keep": keep, "files": files}], futures

    def _counted(self, chunk: Chunk, reply: Reply) -> Reply:
        return reply  # who deals says it

    def close(self) -> None:
        """End what still runs on the workers, too."""
        for _, future in self._chunks.values():
            future.cancel()
        if self._client.status == "running":
            telling = threading.Thread(target=self._tell_the_end, daemon=True)
            telling.start()
            telling.join(_LEAVE_SECONDS)
        super().close()

    def _tell_the_end(self) -> None:
        with contextlib.suppress(Exception):  # whatever keeps a worker from it: its cases end by their timeouts
            self._client.run(leave, self._run, on_error="ignore")
