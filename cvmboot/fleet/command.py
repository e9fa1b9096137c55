"""`cvmboot attest verify --batch`: from options to a crew, progress on a terminal, the summary, and the exit status."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.cli import complain
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.status import BROKEN_PIPE

if TYPE_CHECKING:
    from cvmboot.crew.chunk import Crew, Settings
    from cvmboot.fleet.batch import Batch
    from cvmboot.fleet.records import Source
    from sev.certificates import Certificate
    from sev.evidence import Evidence
    from sev.platform import Platform

_PANEL = "Many reports at once"
BATCH_HELP = """With --batch: one JSON line for each record; 0 if all were verified, otherwise the smallest status other than 0
that a record has (so 1 before 3 before 4 ...), 3 for a source without records, 130 for Ctrl-C, 141
if nobody reads the lines. See docs/batch.md.
"""
_MEANING = {
    0: "verified",
    1: "error of ours",
    3: "malformed",
    4: "signature or chain",
    5: "certificate missing or expired",
    6: "revoked",
    7: "policy",
}

BatchSource = Annotated[
    Path | None,
    typer.Option(
        "--batch",
        help="Verify all of this: a folder of evidence, JSON lines, or a table (CSV, TSV); - for standard input.",
        metavar="SOURCE",
        rich_help_panel=_PANEL,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the JSON lines here.", metavar="FILE", rich_help_panel=_PANEL),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with --output: skip what is finished and unchanged.", rich_help_panel=_PANEL),
]
Full = Annotated[bool, typer.Option("--full", help="Write each verdict whole.", rich_help_panel=_PANEL)]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", help="Processes; default one for each core.", min=1, max=1024, rich_help_panel=_PANEL),
]
Match = Annotated[
    str | None,
    typer.Option(
        "--match", help="Only files with such names, e.g. '*.bin'.", metavar="PATTERN", rich_help_panel=_PANEL
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Have a Dask cluster do it (pip install 'cvmboot\\[cluster]'). It sees the evidence, and is trusted.",
        metavar="tcp://HOST:PORT",
        rich_help_panel=_PANEL,
    ),
]


class BatchOptions:
    """What --batch was given, beside what it has in common with a single file."""

    def __init__(
        self,
        *,
        output: Path | None,
        resume: bool,
        full: bool,
        jobs: int | None,
        match: str | None,
        cluster: str | None,
    ) -> None:
        self.output = output
        self.resume = resume
        self.full = full
        self.jobs = jobs
        self.match = match
        self.cluster = cluster

    def refuse_alone(self) -> None:
        """UsageError if any was given without --batch."""
        for name, value in vars(self).items():
            if value:
                raise UsageError(f"--{name}: only with --batch")

    def check(self) -> None:
        """UsageError for a combination that makes no sense."""
        if self.resume and (self.output is None or str(self.output) == "-"):
            raise UsageError("--resume: name the file to go on with by --output")
        if self.cluster and self.jobs:
            raise UsageError("--jobs and --cluster: a cluster has as many processes as it has")


def verify_batch(
    path: Path,
    options: BatchOptions,
    *,
    values: dict[str, Any],
    at: datetime | None,
    certs: list[Path],
    platform: Path | None,
    trusted: "list[Certificate]",
    cache: Path | None,
    kds: str | None,
    offline: bool,
) -> int:
    """Judge all records of a source; gives the exit status. CvmbootError. KeyboardInterrupt, after the output was closed."""
    from cvmboot.attest_fetch import resolver
    from cvmboot.attest_input import add_collateral
    from cvmboot.crew.journal import Journal
    from cvmboot.fleet.batch import Batch
    from cvmboot.fleet.collector import Collector
    from cvmboot.fleet.records import Source
    from sev.attestation_policy import CRL_REQUIRED, Policy
    from sev.certificates import ARK
    from sev.evidence import Evidence

    options.check()
    at_hand = Evidence(b"")
    add_collateral(at_hand, certs)
    emulated = _platform(platform) if platform else None
    issued = emulated.authority().certificates if emulated else {}
    roots = [*trusted, *([issued[ARK]] if emulated else [])]
    at_hand.certificates += [certificate for kind, certificate in issued.items() if kind != ARK]
    moment = at or datetime.now(UTC)
    source = Source(path, options.match or "")
    settings = _settings(options, source, values, moment, at, at_hand, [root.der for root in roots])
    settings["ask"] = emulated is not None or not offline or bool(options.cluster)
    with resolver(cache, kds, offline, roots) as found:
        settings["cache"] = None if options.cluster or found.cache is None else str(found.cache.folder)
        want_crl = Policy.of(values).crl == CRL_REQUIRED
        collector = Collector(found, [*at_hand.certificates, *roots], at_hand.crls, moment, want_crl, emulated)
        journal = Journal(options.output, options.resume, settings["options"])
        complete = False
        batch = None
        began = time.monotonic()
        try:
            crew = _crew(options, settings, source)
            try:
                with _progress(source, options) as progress:
                    batch = Batch(iter(source), crew, collector, journal, settings, complain, progress)
                    batch.run()
                complete = True
            except BrokenPipeError:
                # What Python still holds back for standard output must not fail once more when the interpreter ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return BROKEN_PIPE
            finally:
                collector.close()
                crew.close()
        finally:
            journal.close(complete)
            if batch is not None and batch.finished:
                _sum_up(batch, time.monotonic() - began, complete, options)
    if not batch.finished:
        complain(f"{path}: no records in it")
        return 3
    return min((status for status in batch.tally if status), default=0)


def _settings(
    options: BatchOptions,
    source: "Source",
    values: dict[str, Any],
    moment: datetime,
    at: datetime | None,
    at_hand: "Evidence",
    roots: list[bytes],
) -> "Settings":
    from cvmboot.version import version

    certificates = [certificate.der for certificate in at_hand.certificates]
    crls = [crl.der for crl in at_hand.crls]
    # What a verdict depends on and a person chose. Not the time if it is now: then a resumed batch would never go on.
    # Not the certificates either: with more of them a verdict may become better, and --resume is not for that.
    chosen = {"policy": values, "at": at.isoformat() if at else "", "roots": sorted(map(_digest, roots))}
    return {
        "version": version(),
        "certificates": certificates,
        "crls": crls,
        "roots": roots,
        "at": moment.isoformat(),
        "policy": values,
        "folder": str(source.folder),
        "full": options.full,
        "options": _digest(json.dumps(chosen, sort_keys=True).encode())[:16],
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _platform(folder: Path) -> "Platform":
    from sev.errors import SevError
    from sev.platform import Platform

    try:
        return Platform.load(folder)
    except SevError as error:
        raise CvmbootError(str(error)) from None


def _crew(options: BatchOptions, settings: "Settings", source: "Source") -> "Crew":
    if options.cluster:
        from cvmboot.fleet.cluster import JudgingCluster

        return JudgingCluster(options.cluster, settings, source.folder)
    from cvmboot.crew.local import LocalCrew
    from cvmboot.fleet.worker import judge

    return LocalCrew(options.jobs or len(os.sched_getaffinity(0)), settings, judge)


@contextmanager
def _progress(source: "Source", options: BatchOptions) -> Iterator[Callable[["Batch"], None]]:
    """A bar on a terminal; nothing if the lines themselves go to one."""
    shown = sys.stderr.isatty() and not (sys.stdout.isatty() and options.output is None)
    if not shown:
        yield lambda batch: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        began = time.monotonic()

        def update(batch: "Batch") -> None:
            good, all_of_them = batch.tally[0], batch.finished
            rate = all_of_them / max(time.monotonic() - began, 0.001)
            text = f"{all_of_them} judged, {all_of_them - good} not verified, {rate:.0f}/s"
            # A folder in a folder is counted only when it is reached.
            bar.update(task, description=text, completed=source.done, total=source.size or None)

        yield update


def _sum_up(batch: "Batch", seconds: float, complete: bool, options: BatchOptions) -> None:
    counts = ", ".join(f"{batch.tally[status]} {_MEANING.get(status, status)}" for status in sorted(batch.tally))
    text = f"{batch.finished} records in {seconds:.1f} s: {counts or 'none'}"
    if batch.kept:
        text += f"; {batch.kept} of them finished before"
    if batch.repeated:
        text += f"; {batch.repeated} judged again after a process died"
    if not complete:
        goes_on = "; --resume goes on" if options.output else ""
        text = f"stopped after {text}{goes_on}"
    complain(text)
