"""A deployment from order to running machine, with any provider: looked at, planned, carried out, the old one removed last."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloud.destroy import destroy_run, merge
from cloud.errors import CloudError, Conflict, Unfit
from cloud.journal import COMPLETE, OPEN, Journal, OpenRun, Record
from cloud.labels import Labels, new_run
from cloud.order import Order
from cloud.plan import BAD, Plan, plan_of
from cloud.progress import Report
from cloud.provider import Provider
from cloud.source import Source
from cloud.steps import carry_out


@dataclass(frozen=True)
class Deployment:
    """What deploy() needs beside the order."""

    provider: Provider
    source: Source
    journal: Journal
    report: Report
    version: str
    """This program's, for the labels."""
    show: Callable[[Plan], None]
    """Shows the plan."""


def deploy(deployment: Deployment, order: Order, *, dry_run: bool = False, replace: bool = False) -> Record | None:
    """Makes what is ordered, or what is missing of it; gives the run. None after a dry run: then nothing was made or written.

    An unfinished run of an equal order goes on, in whatever process or on whatever machine it began. Another run of the same
    name is a Conflict, or with `replace` is destroyed when the new one is ready.
    """
    provider, journal = deployment.provider, deployment.journal
    runs = merge(journal, provider, order.name)
    same = [run for run in runs if run.fingerprint == order.fingerprint and not run.destroying]
    others = [run.run for run in runs if run not in same[:1]]
    if others and not replace:
        raise Conflict(
            f"run {others[0]} has the name {order.name} too, with another image or other options",
            where=f"{order.provider} {order.place}",
            next_step=f"say --replace to put this one in its place, --name for another name, or "
            f"`cvmboot deploy destroy {others[0]}`",
        )
    run = same[0].run if same else new_run()
    record = journal.read(run)
    created = record.created if record else int(time.time())
    labels = Labels(run, order.name, order.fingerprint, created, order.product, deployment.version)
    steps = provider.steps(order, labels, deployment.source, deployment.report)
    checks = provider.preflight(order, labels)
    title = f"{order.name}: {f'run {run}' if same else 'a new run'} on {order.provider}, {order.place}"
    settings = {
        "image": f"{order.image.sha256} ({order.image.size} bytes, {order.image.boot})",
        **provider.settings(order),
    }
    if replace and others:
        settings["destroyed afterwards"] = ", ".join(others)
    deployment.show(plan_of(title, steps, record.steps if record else {}, checks, settings))
    if bad := next((check for check in checks if check.outcome == BAD), None):
        raise Unfit(f"{bad.what}: {bad.text}", next_step="nothing was made")
    if dry_run:
        return None
    with journal.resume(run) if record else journal.begin(run, order, created, [each.run for each in runs]) as open_run:
        with _noting_errors(open_run):
            carry_out(steps, open_run, provider.delete, deployment.report.say)
        open_run.ended(COMPLETE)
        finished = open_run.record
    for other in others:
        destroy_run(provider, journal, other, deployment.report.say)
    return finished


@contextmanager
def _noting_errors(run: OpenRun) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        run.ended(OPEN, str(error))
        raise
