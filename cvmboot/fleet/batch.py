"""Deals a batch's records out, writes what comes back, and looks for certificates that are missing.

A record is in one place at a time: not read yet, in a chunk with the crew, waiting for certificates, or written.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cvmboot.crew.chunk import OUR_ERROR, Chunk, Crew, Record, Reply, Settings
from cvmboot.crew.dealer import Dealer
from cvmboot.crew.journal import Journal
from cvmboot.fleet.collector import Collector
from cvmboot.fleet.judge import failure_line

SMALLEST_CHUNK = 4
MOST_BYTES = 1 << 20
"""About how much evidence goes into one chunk."""
_MOST_NOTES = 100


class Batch(Dealer):
    """One run over `records`. `tally` counts finished records by status, `kept` those of them that an earlier run finished,
    `repeated` those that were judged more than once."""

    def __init__(
        self,
        records: Iterator[Record],
        crew: Crew,
        collector: Collector,
        journal: Journal,
        settings: Settings,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[["Batch"], None] = lambda batch: None,
    ) -> None:
        self.tally: Counter[int] = Counter()
        self.kept = self.repeated = 0
        super().__init__(crew)
        self._records = records
        self._collector = collector
        self._journal = journal
        self._settings = settings
        self._say = say
        self._progress = progress
        self._sent = 0
        self._all_read = False
        self._said: set[str] = set()
        collector.wake = crew.wake

    @property
    def finished(self) -> int:
        """How many records are finished."""
        return self.tally.total()

    def _next(self) -> Chunk | None:
        """The next chunk; a record that was lost goes alone."""
        if self._again:
            if self._again[0].get("attempts", 1) > 1:
                return Chunk([self._again.popleft()])
            answered: list[Record] = []
            while self._again and self._again[0].get("attempts", 1) == 1 and len(answered) < self._crew.largest:
                answered.append(self._again.popleft())
            return Chunk(answered)
        if self._all_read or self._collector.full:
            return None
        # Small chunks first, so that a short batch keeps everybody busy.
        most = min(self._crew.largest, SMALLEST_CHUNK + self._sent // 4)
        records: list[Record] = []
        size = 0
        while len(records) < most and size < MOST_BYTES:
            record = next(self._records, None)
            if record is None:
                self._all_read = True
                break
            if done := self._journal.finished(record["source"]):
                record["done"] = done
            records.append(record)
            size += _size(record)
        self._sent += len(records)
        return Chunk(records) if records else None

    def _finished(self, chunk: Chunk, reply: Reply) -> None:
        by_index = {record["index"]: record for record in chunk.records}
        sources = [by_index[index]["source"] for index, _ in reply["statuses"]]
        if reply["lines"]:
            self._journal.write(reply["lines"], sources)
        for index, status in reply["statuses"]:
            self.tally[status] += 1
            self.repeated += by_index[index].get("attempts", 1) > 1
        for index in reply["same"]:
            self.tally[self._journal.keep(by_index[index]["source"])] += 1
            self.kept += 1
        for needs in reply["needs"]:
            self._collector.ask(needs)
        for note in reply["notes"]:
            if note not in self._said and len(self._said) < _MOST_NOTES:
                self._said.add(note)
                self._say(note)

    def _expects_more(self) -> bool:
        return not self._all_read or bool(self._collector.open)

    def _between(self) -> None:
        self._again.extend(self._collector.answers())
        self._progress(self)

    def _given_up(self, record: Record, chunk: Chunk) -> None:
        reason = f"internal error: whoever judged this record died, {record['attempts']} times"
        self._journal.write(failure_line(record, OUR_ERROR, reason, self._settings), [record["source"]])
        self.tally[OUR_ERROR] += 1
        self.repeated += 1


def _size(record: dict[str, Any]) -> int:
    data = record["data"]
    return sum(map(len, data.values())) if isinstance(data, dict) else len(data)
