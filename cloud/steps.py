"""A run as a list of steps, each of which can be broken off anywhere and taken up again without making anything twice.

A step finds or creates one resource. The journal is written before the request and after its answer; a request that was sent by a
process that died is found again by its labels, and sent again with the same token.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cloud.errors import Gone
from cloud.journal import DELETED, DONE, MADE, STARTED, OpenRun, Record, StepRecord
from cloud.resource import Resource

Made = Mapping[str, StepRecord]
"""The steps that are done, by name: `made["image"].resource`, `made["instance"].facts`."""


Note = Callable[[dict[str, Any]], None]
"""Records facts of a step that is not done yet. Writes the journal: not to be called many times a second."""


class Step(ABC):
    """One step of a run. A provider's steps are made for one run: they know its labels and options."""

    name: str = ""
    """Unique in a run, at most 32 letters, digits and hyphens: part of the token."""
    until: str = ""
    """The step after which this one's resource is deleted again; "" if it stays."""

    @abstractmethod
    def describe(self) -> tuple[str, str]:
        """(what is made, what it costs or "") for the plan: ("snapshot of 1 GiB", "its stored blocks, per month")."""

    @abstractmethod
    def find(self, made: Made) -> Resource | None:
        """The resource if an earlier try has made it, by labels or its unique name. Owned by us: never someone else's."""

    @abstractmethod
    def create(self, made: Made, token: str) -> Resource | None:
        """Sends the request that makes it, with its labels in the same request; does not wait. None if nothing is left behind.

        `token` is the same when this is tried again, so that a cloud that takes client tokens answers with the same resource.
        """

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Brings it to readiness: uploads, waits, checks. May be called again after any part of it. Gives facts to record.

        `note(facts)` records facts on the way, such as how far an upload is; they are in `made[self.name].facts` when this
        is called again. Raises Gone if the resource is not there any more: it is then made anew.
        """
        return {}

    def exists(self, resource: Resource) -> bool | None:
        """Whether a resource that a journal names is there and of use. Asked once, when a run is taken up again.

        None: the cloud does not know it, because it is gone, or not known everywhere yet. One that was ready is then made
        anew; for one that was not, finish() waits, and raises Gone if it never appears.
        """
        return True


def token_of(record: Record, step: str, attempt: int) -> str:
    """The client token of a request: at most 64 characters, the same in each try of the same attempt.

    A journal that was lost and begun anew has another nonce: EC2 refuses the token of a thing that was deleted since.
    """
    return f"cvmboot-{record.run}-{record.nonce}-{step}-{attempt}"


_MOST_REMADE = 3
"""How often a resource that vanishes while it is waited for is made anew in one go."""


def carry_out(
    steps: Sequence[Step],
    run: OpenRun,
    delete: Callable[[Resource], None],
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Does what is not done yet, in order. CloudError leaves a journal from which the same call goes on.

    `delete` is the provider's; it deletes what a step needed only for a while.
    """
    records = run.record.steps
    for step in reversed(steps):
        if not _is_done(records, step.until):  # else it may have been deleted, and is not needed
            _look_again(step, run)
    for step in steps:
        if not (_is_done(records, step.name) or _is_done(records, step.until)):
            tell(step.describe()[0])
            _carry_out_one(step, run)
        for earlier in steps:
            record = records.get(earlier.name)
            if earlier.until == step.name and record and record.state != DELETED:
                if record.resource is not None:
                    delete(record.resource)
                run.step_deleted(earlier.name)


def _is_done(records: Made, name: str) -> bool:
    return name in records and records[name].state == DONE


def _look_again(step: Step, run: OpenRun) -> None:
    """A resource that someone deleted between two tries is not done, whatever the journal says."""
    record = run.record.steps.get(step.name)
    if record and record.resource and record.state in (MADE, DONE):
        there = step.exists(record.resource)
        if there is False or (there is None and record.state == DONE):
            run.step_started(step.name, record.attempt + 1)


def _carry_out_one(step: Step, run: OpenRun) -> None:
    records = run.record.steps
    for remade in range(_MOST_REMADE):
        record = records.get(step.name)
        if record is None or record.state == DELETED:
            run.step_started(step.name, record.attempt + 1 if record else 1)
            record = records[step.name]
        if record.state == STARTED:
            resource = step.find(records) or step.create(records, token_of(run.record, step.name, record.attempt))
            run.step_made(step.name, resource)
        try:
            run.step_done(
                step.name, step.finish(records[step.name].resource, records, partial(run.step_noted, step.name))
            )
            return
        except Gone:
            if remade + 1 == _MOST_REMADE:
                raise
            run.step_started(step.name, records[step.name].attempt + 1)
