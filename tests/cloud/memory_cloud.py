"""A cloud in memory for the tests of what both clouds share: strict about tokens, dies where it is told to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud.errors import CloudError
from cloud.labels import NAME, RUN, Labels
from cloud.order import Order
from cloud.plan import OK, Check
from cloud.progress import Report
from cloud.provider import Provider
from cloud.resource import Found, Resource
from cloud.source import Source
from cloud.steps import Made, Note, Step

PLACE = "here"


class Killed(BaseException):
    """The process dies at once: nothing may catch it."""


@dataclass
class Thing:
    """A resource as the memory cloud has it."""

    kind: str
    labels: dict[str, str]
    token: str
    ready: bool = False
    created: int = 1_000_000


@dataclass
class MemoryCloud:
    """All things by id. `strike` is called before and after each change: it may raise."""

    things: dict[str, Thing] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    strike: Callable[[], None] = lambda: None
    clock: int = 1_000_000
    labels_lag: bool = False
    """Whether listing by labels misses what is there: only tokens prevent a second one then."""

    def make(self, kind: str, labels: dict[str, str], token: str) -> str:
        """Make a thing, or answer with that of the same token; a token that was deleted is refused, as EC2 does."""
        self.strike()
        for name, thing in self.things.items():
            if thing.token == token:
                return name
        if f"dead {token}" in self.changes:
            raise CloudError("IdempotentInstanceTerminated")
        name = f"{kind}-{len(self.changes)}"
        self.things[name] = Thing(kind, labels, token, created=self.clock)
        self.changes.append(f"made {kind}")
        self.strike()
        return name

    def remove(self, name: str) -> None:
        """Delete a thing; nothing if it is gone."""
        self.strike()
        if thing := self.things.pop(name, None):
            self.changes += [f"deleted {thing.kind}", f"dead {thing.token}"]
        self.strike()

    def of_kind(self, kind: str) -> list[str]:
        """Ids."""
        return [name for name, thing in self.things.items() if thing.kind == kind]


class MemoryStep(Step):
    """Makes one thing of a kind, ready after finish()."""

    def __init__(self, kind: str, cloud: MemoryCloud, labels: Labels, until: str = "") -> None:
        self.name = kind
        self.until = until
        self._cloud, self._labels = cloud, labels

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"a {self.name}", "nothing"

    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        self._cloud.strike()
        if self._cloud.labels_lag:
            return None
        for name in self._cloud.of_kind(self.name):
            if self._cloud.things[name].labels[RUN] == self._labels.run:
                return Resource(self.name, name, PLACE)
        return None

    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        return Resource(self.name, self._cloud.make(self.name, self._labels.as_dict(), token), PLACE)

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        self._cloud.strike()
        self._cloud.things[resource.id].ready = True
        self._cloud.strike()
        return {"ready": "yes"}

    def exists(self, resource: Resource) -> bool:
        """Step.exists()."""
        return resource.id in self._cloud.things


class MemoryProvider(Provider):
    """upload (only until the image is there), snapshot, image, instance."""

    name = "memory"
    deletion_order: Sequence[str] = ("instance", "image", "snapshot", "upload")

    def __init__(self, cloud: MemoryCloud) -> None:
        self.cloud = cloud
        self.checks = [Check("machine type", OK, "fits")]

    @property
    def place(self) -> str:
        """Provider.place."""
        return PLACE

    def preflight(self, order: Order, labels: Labels) -> list[Check]:
        """Provider.preflight()."""
        return self.checks

    def settings(self, order: Order) -> dict[str, str]:
        """Provider.settings()."""
        return {"machine type": "small"}

    def steps(self, order: Order, labels: Labels, source: Source, report: Report) -> list[Step]:
        """Provider.steps()."""
        return [
            MemoryStep("upload", self.cloud, labels, until="image"),
            MemoryStep("snapshot", self.cloud, labels),
            MemoryStep("image", self.cloud, labels),
            MemoryStep("instance", self.cloud, labels),
        ]

    def discover(self, run: str = "", name: str = "") -> list[Found]:
        """Provider.discover()."""
        return [
            Found(
                Resource(thing.kind, key, PLACE),
                thing.labels,
                "ready" if thing.ready else "pending",
                thing.created,
                live=thing.kind == "instance",
            )
            for key, thing in self.cloud.things.items()
            if run in ("", thing.labels[RUN]) and name in ("", thing.labels[NAME])
        ]

    def delete(self, resource: Resource) -> None:
        """Provider.delete()."""
        kinds = {thing.kind for thing in self.cloud.things.values()}
        before = self.deletion_order[: self.deletion_order.index(resource.kind)]
        same = self.cloud.things.get(resource.id)
        for kind in before:
            if resource.kind != "upload" and kind in kinds and same:
                others = [t for t in self.cloud.things.values() if t.kind == kind and t.labels[RUN] == same.labels[RUN]]
                assert not others, f"{kind} still uses the {resource.kind}"
        self.cloud.remove(resource.id)

    def console(self, instance: Resource, follow: bool) -> Iterator[str]:
        """Provider.console()."""
        yield "hello\n"

    def now(self) -> int:
        """Provider.now()."""
        return self.cloud.clock
