"""What there is of our runs, in the journal and in the cloud, and how it goes: status, destroy, gc."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cloud.errors import JournalError
from cloud.journal import DESTROYING, Journal, Record
from cloud.labels import FINGERPRINT, NAME, PRODUCT, PRODUCT_IMAGE, RUN
from cloud.provider import Provider
from cloud.resource import Found, Resource


@dataclass
class Run:
    """One run: its record in the journal (None if that is lost) and what the cloud has of it (empty if it is gone)."""

    run: str
    record: Record | None = None
    found: list[Found] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The deployment's name."""
        return self.record.order.name if self.record else self.found[0].labels[NAME]

    @property
    def fingerprint(self) -> str:
        """Of its order."""
        return self.record.order.fingerprint if self.record else self.found[0].labels.get(FINGERPRINT, "")

    @property
    def destroying(self) -> bool:
        """Whether a `destroy` of it was broken off."""
        return self.record is not None and self.record.state == DESTROYING

    @property
    def live(self) -> bool:
        """Whether it has an instance that runs, or is kept."""
        return any(found.live for found in self.found)

    @property
    def wanted(self) -> bool:
        """Whether it has what it was made for: an instance, or, if that was all, an image."""
        return self.live or any(
            found.resource.kind == "image" and found.labels.get(PRODUCT) == PRODUCT_IMAGE for found in self.found
        )


def merge(journal: Journal, provider: Provider, name: str = "", run: str = "") -> list[Run]:
    """The runs of one provider and place, the oldest first, of one name or run if it is given: journal and cloud together."""
    runs: dict[str, Run] = {}
    for record in journal.records():
        order = record.order
        here = (order.provider, order.place) == (provider.name, provider.place)
        if here and name in ("", order.name) and run in ("", record.run):
            runs[record.run] = Run(record.run, record)
    for found in provider.discover(run=run, name=name):
        runs.setdefault(found.labels[RUN], Run(found.labels[RUN])).found.append(found)
    return list(runs.values())


def destroy_run(provider: Provider, journal: Journal, run: str, tell: Callable[[str], None]) -> list[Resource]:
    """Deletes all of one run, in an order in which it can go, then its file in the journal. Gives what was deleted.

    What the labels find is deleted, and what the journal names beside. Broken off, it can be called again.
    """
    if journal.read(run) is None:
        return _delete_all(provider, [found.resource for found in provider.discover(run=run)], tell)
    with journal.resume(run) as open_run:
        open_run.ended(DESTROYING, open_run.record.error)
        known = open_run.record.resources
        labelled = [found.resource for found in provider.discover(run=run)]
        deleted = _delete_all(provider, dict.fromkeys([*labelled, *known]), tell)
        open_run.forget()
    return deleted


def _delete_all(provider: Provider, resources: Iterable[Resource], tell: Callable[[str], None]) -> list[Resource]:
    order = {kind: place for place, kind in enumerate(provider.deletion_order)}
    deleted = sorted(resources, key=lambda resource: order.get(resource.kind, len(order)))
    for resource in deleted:
        tell(f"delete {resource}")
        provider.delete(resource)
    return deleted


def leftovers(provider: Provider, journal: Journal, older_than: int) -> list[Run]:
    """Runs without what they were made for, of which nothing is younger than `older_than` seconds by the cloud's clock.

    A run that a process works on right now is none, however long that takes.
    """
    now = provider.now()
    return [
        run
        for run in merge(journal, provider)
        if run.found
        and not run.wanted
        and all(now - found.created >= older_than for found in run.found)
        and not _is_worked_on(journal, run)
    ]


def _is_worked_on(journal: Journal, run: Run) -> bool:
    if run.record is None:
        return False
    try:
        with journal.resume(run.run):
            return False
    except JournalError:
        return True
