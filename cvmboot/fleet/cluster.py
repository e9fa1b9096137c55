"""A batch on a Dask cluster: evidence goes to the workers as bytes and plain dicts, and lines come back."""

import json
import threading
from pathlib import Path
from typing import Any

from cvmboot.crew.chunk import Chunk, Record, Reply, Settings
from cvmboot.crew.cluster import ClusterCrew
from cvmboot.fleet.errors import BadRecord
from cvmboot.fleet.judge import Judge
from cvmboot.fleet.loading import Shelves, load
from cvmboot.fleet.records import BAD, BESIDE

_here = threading.local()


def judge_chunk(settings: Settings, records: list[Record]) -> Reply:
    """Runs on a worker: judge records. Each thread has a judge of its own, for the settings in use."""
    if getattr(_here, "run", None) != settings["run"]:
        _here.judge, _here.run = Judge(settings), settings["run"]
    judge: Judge = _here.judge
    return judge.judge_all(records)


class JudgingCluster(ClusterCrew):
    """Judges on the cluster at `address`. Files, of which records name some relative to `folder`, are read here."""

    def __init__(self, address: str, settings: Settings, folder: Path) -> None:
        self._folder = folder
        self._shelves = Shelves(BESIDE)
        super().__init__(address, judge_chunk, settings | {"folder": "", "cache": None})

    def _prepared(self, chunk: Chunk) -> tuple[list[Record], list[Any]]:
        records: list[Record] = []
        same: list[Record] = []
        for record in chunk.records:
            loaded = self._loaded(record)
            is_same = loaded["kind"] != BAD and record.get("done") == loaded["data"]["input"]
            (same if is_same else records).append(loaded)
        if same:
            reply = {"lines": b"", "statuses": [], "same": [r["index"] for r in same], "needs": [], "notes": []}
            self.at_once(Chunk(same), reply)
        chunk.records = records
        return records, []

    def _loaded(self, record: Record) -> Record:
        try:
            return record | {"kind": "loaded", "data": load(record, self._folder, self._shelves)}
        except BadRecord as error:
            named = {} if error.named is None else {"id": error.named}
            return record | {"kind": BAD, "data": str(error), "status": error.status} | named

    def _counted(self, chunk: Chunk, reply: Reply) -> Reply:
        lines = []
        attempts = {record["index"]: record["attempts"] for record in chunk.records}
        for line in reply["lines"].splitlines():
            plain = json.loads(line)
            plain["attempts"] = attempts[plain["index"]]
            lines.append(json.dumps(plain, separators=(",", ":")).encode() + b"\n")
        for needs in reply["needs"]:
            needs["record"]["attempts"] = attempts[needs["record"]["index"]]
        return reply | {"lines": b"".join(lines)}
