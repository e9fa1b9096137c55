"""What the stand-in knows beside moto's own state, and the accidents that a test orders."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from moto.ec2.exceptions import EC2ClientError


@dataclass
class Request:
    """One request as it arrives: `operation` such as RunInstances, PutSnapshotBlock, PutObject."""

    service: str
    operation: str
    parameters: dict[str, str]


Accident = Callable[[Request], "Answer | None"]
"""Called before a request is carried out; an Answer is given in its place. May raise CutOff."""


@dataclass
class Answer:
    """An error of AWS's: `status`, `code` and `message`; `reason` for EBS. `date`: seconds that AWS's clock is off."""

    status: int
    code: str
    message: str = ""
    reason: str = ""
    skew: int = 0


class CutOff(Exception):
    """The connection breaks: no answer."""


@dataclass
class World:
    """One test's AWS."""

    lock: Any = field(default_factory=RLock)
    requests: list[Request] = field(default_factory=list)
    accidents: list[Accident] = field(default_factory=list)
    after: list[Callable[[Request], None]] = field(default_factory=list)
    """Called when a request was carried out, before it is answered."""
    tokens: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)
    """(operation, client token) to (parameters, result)."""
    looks: dict[str, int] = field(default_factory=dict)
    """How often something unfinished is still to be seen so."""
    slowness: int = 1
    """How many looks it takes until what AWS does by itself is done."""
    fresh_blindness: int = 0
    """How many requests of EBS direct about a new snapshot are answered with: it does not exist."""
    snp_regions: tuple[str, ...] = ("us-east-2", "eu-west-1")
    vcpu_quota: int = 64
    consoles: dict[str, str] = field(default_factory=dict)
    """All that an instance has written so far."""
    fail_import: str = ""
    """With what message an import fails."""
    fail_snapshots: bool = False
    without_snp: bool = False
    """Whether instances start without SEV-SNP though it was asked for: what must never happen, and must be noticed."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Import tasks by id."""

    def count(self, operation: str) -> int:
        """How many requests of an operation came."""
        return sum(request.operation == operation for request in self.requests)

    def once(self, operation: str, token: str, parameters: Any, make: Callable[[], Any], mismatch: str) -> Any:
        """The result of the first request with this token; `mismatch` is the error for other parameters."""
        with self.lock:
            if not token:
                return make()
            if (operation, token) in self.tokens:
                before, result = self.tokens[operation, token]
                if before != parameters:
                    raise EC2ClientError(mismatch, "Arguments on this idempotent request are inconsistent")
                return result
            result = make()
            self.tokens[operation, token] = (parameters, result)
            return result

    def still_working(self, what: str) -> bool:
        """Whether something is not done yet; each look brings it nearer."""
        with self.lock:
            left = self.looks.get(what, self.slowness)
            self.looks[what] = max(0, left - 1)
            return left > 0


WORLD = World()


def reset() -> World:
    """Everything as on the first day, in the same object."""
    fresh = World()
    for name in vars(fresh):
        if name != "lock":
            setattr(WORLD, name, getattr(fresh, name))
    return WORLD


def refuse(code: str, message: str) -> EC2ClientError:
    """An error of EC2's."""
    return EC2ClientError(code, message)
