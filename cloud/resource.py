"""A thing in a cloud: what a step makes, a journal remembers, and `destroy` deletes."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Resource:
    """`kind` is the provider's word ("snapshot", "image", "instance", ...), `id` the cloud's, `place` a region or zone."""

    kind: str
    id: str
    place: str

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, "id": self.id, "place": self.place}

    @classmethod
    def of(cls, plain: Any) -> "Resource":
        """What to_json() gave. ValueError for anything else."""
        if not isinstance(plain, dict) or not all(isinstance(plain.get(key), str) for key in ("kind", "id", "place")):
            raise ValueError("no resource")
        return cls(plain["kind"], plain["id"], plain["place"])

    def __str__(self) -> str:
        return f"{self.kind} {self.id} ({self.place})"


@dataclass(frozen=True)
class Found:
    """A resource with our labels, as a cloud lists it now."""

    resource: Resource
    labels: dict[str, str]
    state: str
    """In the cloud's word: "running", "pending", "available", ..."""
    created: int
    """Seconds since 1970, by the cloud's clock."""
    live: bool = False
    """An instance that runs, starts, or is stopped and kept: its run is no leftover."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a person wants to see: addresses, machine type, whether SEV-SNP is on, sizes. Plain data."""
