"""Deals records out in chunks, takes what comes back, and has what got lost done again.

A record is in one place at a time: not dealt yet, in a chunk with the crew, or finished. A chunk that is lost with who had it is
taken apart and each record tried alone, so that one which kills takes no other with it; after `most_attempts` it is given up.
"""

from abc import ABC, abstractmethod
from collections import deque

from cvmboot.crew.chunk import Chunk, Crew, Record, Reply

MOST_ATTEMPTS = 3
_TICK = 0.2


class Dealer(ABC):
    """One run. `_again` holds the records that have to be dealt once more; `stopped` ends the run at once."""

    most_attempts = MOST_ATTEMPTS
    stopped = False

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._again: deque[Record] = deque()

    def run(self) -> None:
        """Have all records done. CvmbootError if that becomes impossible; what was finished stays."""
        while not self.stopped:
            self._deal()
            if not self._again and not self._expects_more() and self._crew.idle:
                return
            for chunk, reply in self._crew.results(_TICK):
                if self.stopped:
                    return
                if reply is None:
                    self._lost(chunk)
                else:
                    self._finished(chunk, reply)
            self._between()

    def _deal(self) -> None:
        while self._crew.has_room and not self.stopped:
            chunk = self._next()
            if chunk is None:
                return
            self._crew.submit(chunk)

    def _lost(self, chunk: Chunk) -> None:
        alone = len(chunk.records) == 1
        for record in chunk.records:
            record["attempts"] = record.get("attempts", 1) + chunk.losses
            if not alone or record["attempts"] <= self.most_attempts:
                self._again.append(record)
                continue
            record["attempts"] -= 1
            self._given_up(record, chunk)

    @abstractmethod
    def _next(self) -> Chunk | None:
        """The next chunk, None if there is none now."""

    @abstractmethod
    def _expects_more(self) -> bool:
        """Whether records may come that neither the crew nor `_again` has."""

    @abstractmethod
    def _finished(self, chunk: Chunk, reply: Reply) -> None:
        """Take a reply."""

    @abstractmethod
    def _given_up(self, record: Record, chunk: Chunk) -> None:
        """Finish a record that was lost too often, the last time in `chunk`."""

    @abstractmethod
    def _between(self) -> None:
        """Whatever else there is to do, several times a second."""
