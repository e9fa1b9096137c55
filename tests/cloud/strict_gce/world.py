"""What Google Cloud has: one project, its zones, machine types, quotas, images, instances, disks, operations, buckets."""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

PROJECT, NUMBER = "our-project", 123456789012
ZONE, REGION = "europe-west4-a", "europe-west4"
OLD_ZONE = "europe-west4-b"
"""A zone without Milan."""
MACHINE_TYPES = {
    "e2-small": (2, 2048, "X86_64"),
    "n1-standard-1": (1, 3840, "X86_64"),
    "n2d-standard-2": (2, 8192, "X86_64"),
    "n2d-standard-4": (4, 16384, "X86_64"),
    "c3d-standard-4": (4, 16384, "X86_64"),
    "t2a-standard-1": (1, 4096, "ARM64"),
}
SELF = "https://www.googleapis.com/compute/v1/projects"


@dataclass
class World:
    """All state, and how it behaves. Whoever touches it holds `lock`."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    clock_offset: float = 0
    """Seconds that Google's clock is ahead of this machine's."""
    quotas: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(limit, usage) by metric, where they differ from plenty."""
    looks_until_done: int = 2
    """How often an operation is asked for until it is done: first PENDING, then RUNNING."""
    operation_error: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By method ("compute.instances.insert"): the error with which the next operation ends."""
    forget_snp: bool = False
    """Give out plain machines in place of SEV-SNP ones, as a broken cloud might."""
    console: list[str] = field(default_factory=lambda: ["cvmboot sample\r\n", "hello\r\n", "> "])
    """What an instance writes, piece by piece, one for each time it is asked."""
    ends_after_console: bool = True
    console_starts: list[int] = field(default_factory=list)
    """From where the console was asked for."""
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By zone/name, as disks."""
    disks: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, tuple[str, str]] = field(default_factory=dict)
    """requestId: (the method and body, the operation's name)."""
    request_ids: dict[str, list[str]] = field(default_factory=dict)
    """What came, by method, in the order of arrival."""
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    objects: dict[tuple[str, str], "StoredObject"] = field(default_factory=dict)
    sessions: dict[str, "Session"] = field(default_factory=dict)
    foreign_buckets: set[str] = field(default_factory=set)
    """Names that other projects have."""
    bytes_received: int = 0
    calls: list[str] = field(default_factory=list)
    """Methods in the order of their arrival."""
    bodies: dict[str, list[Any]] = field(default_factory=dict)
    """What the inserts were sent, by method."""
    _next_id: int = 1000

    def now(self) -> float:
        """Google's clock."""
        return time.time() + self.clock_offset

    def stamp(self) -> str:
        """RFC 3339, with milliseconds."""
        return datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def new_id(self) -> int:
        """A number that nothing else has."""
        self._next_id += 1
        return 4_000_000_000_000_000_000 + self._next_id

    @property
    def left(self) -> list[str]:
        """Everything that there is, for tests that want nothing left."""
        return [
            *(f"image {name}" for name in self.images),
            *(f"instance {name}" for name in self.instances),
            *(f"disk {name}" for name in self.disks),
            *(f"bucket {name}" for name in self.buckets),
            *(f"object {bucket}/{name}" for bucket, name in self.objects),
        ]


@dataclass
class StoredObject:
    """An object of Cloud Storage."""

    data: bytes
    resource: dict[str, Any]


@dataclass
class Session:
    """A resumable upload under way."""

    bucket: str
    name: str
    resource: dict[str, Any]
    size: int | None
    generation_match: str | None
    data: bytearray = field(default_factory=bytearray)
    done: bool = False
