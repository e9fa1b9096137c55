"""Records that are worked on together, and what a crew that does so must offer."""

from typing import Any, Protocol

PATIENCE = 180.0
"""Seconds for a chunk; a process that takes longer is ended."""
OUR_ERROR = 1
"""Status of a record that could not be worked on, which is not the record's fault."""
Record = dict[str, Any]
Reply = dict[str, Any]
Settings = dict[str, Any]


class Chunk:
    """`records` are plain dicts with at least `index` and `source`. `losses` counts how often who had them died meanwhile, and
    `reason` says of what. `patience` is in seconds."""

    __slots__ = ("losses", "patience", "reason", "records")

    def __init__(self, records: list[Record], patience: float = PATIENCE) -> None:
        self.records = records
        self.losses = 0
        self.reason = ""
        self.patience = patience


class Crew(Protocol):
    """Works on chunks. `largest` is how many records a chunk should have at most."""

    largest: int

    @property
    def has_room(self) -> bool:
        """Whether another chunk would be begun soon."""

    @property
    def idle(self) -> bool:
        """Whether nothing is in work."""

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk worked on."""

    def results(self, timeout: float) -> list[tuple[Chunk, Reply | None]]:
        """Replies that came, after waiting for one; None for a chunk that was lost with who had it. CvmbootError."""

    def wake(self) -> None:
        """From any thread: end the waiting."""

    def close(self) -> None:
        """End all work."""
