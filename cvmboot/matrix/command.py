"""`cvmboot matrix`: from options to a crew, what is shown meanwhile, what is written, and the exit status."""

import fnmatch
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cvmboot.cli import complain
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.status import BROKEN_PIPE, SIGNALED

if TYPE_CHECKING:
    from cvmboot.crew.chunk import Chunk, Crew
    from cvmboot.crew.journal import Journal
    from cvmboot.matrix.case import Case
    from cvmboot.matrix.contents import Contents
    from cvmboot.matrix.run import Folders, Matrix
    from cvmboot.matrix.table import Lines

MATRIX_HELP = """Boot many machines at once, and hold each against what it should show.

FILE is TOML: images, run options and scripts of expect and send, multiplied by axes (docs/matrix.md).

Exit status: 0 all cases are as expected; 1 an error of ours, or a case that could not be run to its end; 2 wrong usage, or a
mistake in FILE; 3 a case is not as expected; 130 Ctrl-C; 141 nobody reads the output. If 1 and 3 are both true, it is 1.
"""
MATRIX_EXAMPLES = """Examples:

\b
  cvmboot matrix boots.toml
  cvmboot matrix boots.toml --list
  cvmboot matrix boots.toml --only 'info/*' --fail-fast
  cvmboot matrix boots.toml --junit junit.xml --output results
  cvmboot matrix boots.toml --output results --resume
  cvmboot matrix boots.toml --cluster tcp://10.0.0.1:8786

\b
A file of two images, each as SEV-SNP guest and without:

\b
  [axes]
  image = ["go-boot.efi", "mine.efi"]
  snp = [false, true]

\b
  [[case]]
  steps = [{ expect = "> ", send = "info" }, { expect = "RAM .*MiB" }]
"""


def matrix(
    file: Annotated[Path | None, typer.Argument(help="The matrix (TOML).", metavar="FILE", show_default=False)] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only cases with such names, e.g. 'info/*'; may be repeated.", metavar="PATTERN"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Machines at once; default one for each core.", min=1, max=1024)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Keep results and the console of each case in this folder.", metavar="DIR"),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="With --output: keep a trace of each case, too.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the results as JUnit XML.", metavar="FILE")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line for each case on standard output, as soon as it is finished.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output: skip cases that are finished and unchanged.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="End at the first case that is not as expected.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Have a Dask cluster do it (pip install 'cvmboot\\[cluster]'). It gets the images, and is trusted.",
            metavar="tcp://HOST:PORT",
        ),
    ] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="Show the cases, and run none.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Write the JSON Schema of FILE, and run nothing.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of internal errors.")] = False,
) -> None:
    if schema:
        from cvmboot.matrix.schema import schema as made

        typer.echo(json.dumps(made(), indent=2))
        return
    if file is None:
        raise UsageError("no FILE; see cvmboot matrix --help")
    _check(output, trace, resume, jobs, cluster)
    cases = _cases(file, only or [])
    if list_cases:
        _list(cases, as_json)
        return
    run = _Run(file, cases, jobs, output, trace, junit, as_json, resume, fail_fast, cluster, not only)
    with _signals():
        raise typer.Exit(run.run())


def _check(output: Path | None, trace: bool, resume: bool, jobs: int | None, cluster: str | None) -> None:
    if resume and output is None:
        raise UsageError("--resume: name the folder to go on with by --output")
    if trace and output is None:
        raise UsageError("--trace: name the folder to keep traces in by --output")
    if jobs and cluster:
        raise UsageError("--jobs and --cluster: a cluster has as many processes as it has")


def _cases(file: Path, only: list[str]) -> "list[Case]":
    from cvmboot.matrix.expansion import expand
    from cvmboot.matrix.reading import MatrixFile

    cases = expand(MatrixFile(file))
    chosen = [case for case in cases if not only or any(fnmatch.fnmatchcase(case.name, pattern) for pattern in only)]
    if not chosen:
        raise UsageError(f"--only {' '.join(only)}: no such case in {file}; cvmboot matrix {file} --list shows them")
    return chosen


def _list(cases: "list[Case]", as_json: bool) -> None:
    for case in cases:
        if as_json:
            told = {
                "index": case.index,
                "case": case.name,
                "image": None if case.image is None else str(case.image),
                "timeout": case.timeout,
            }
            typer.echo(json.dumps({**told, "settings": case.options()}, separators=(",", ":")))
        else:
            typer.echo(case.name)


class _Ended(BaseException):
    """A signal that ends us."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: nothing is left running, and the terminal is as it was."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise _Ended(number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, end)
    try:
        yield
    except _Ended as ended:
        raise typer.Exit(SIGNALED + ended.number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """One run of the command."""

    def __init__(
        self,
        file: Path,
        cases: "list[Case]",
        jobs: int | None,
        output: Path | None,
        trace: bool,
        junit: Path | None,
        as_json: bool,
        resume: bool,
        fail_fast: bool,
        cluster: str | None,
        all_cases: bool,
    ) -> None:
        self._all = all_cases
        self._file = file
        self._cases = cases
        self._jobs = min(jobs or len(os.sched_getaffinity(0)), len(cases))
        self._output = output
        self._trace = trace
        self._junit = junit
        self._as_json = as_json
        self._resume = resume
        self._fail_fast = fail_fast
        self._cluster = cluster
        self._matrix: Matrix | None = None
        self._began = time.monotonic()
        self._when = datetime.now(UTC)

    def run(self) -> int:
        """Run the cases; gives the exit status. CvmbootError. KeyboardInterrupt, after results so far were written."""
        from cvmboot.matrix.contents import Contents
        from cvmboot.matrix.run import Folders

        if self._junit is not None and not self._junit.parent.is_dir():
            raise CvmbootError(f"--junit {self._junit}: there is no folder {self._junit.parent}")
        contents = Contents()
        journal = self._journal()
        complete = False
        try:
            self._run(Folders(self._output, self._cases), contents, journal)
            complete = self._matrix is not None and not self._matrix.stopped
        except BrokenPipeError:
            # What Python still holds back for standard output must not fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return BROKEN_PIPE
        finally:
            if journal is not None:
                # Lines of cases that are no more go, those of cases that --only did not choose stay.
                journal.close(complete and self._all)
            self._conclude(complete)
        assert self._matrix is not None
        return min((status for status in self._matrix.tally if status), default=0)

    def _journal(self) -> "Journal | None":
        from cvmboot.crew.journal import Journal
        from cvmboot.matrix.run import RESULTS, options_digest

        if self._output is None:
            return None
        try:
            self._output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CvmbootError(f"--output {self._output}: {error.strerror}") from None
        return Journal(self._output / RESULTS, self._resume, options_digest(), "matrix", replace=True)

    def _run(self, folders: "Folders", contents: "Contents", journal: "Journal | None") -> None:
        with tempfile.TemporaryDirectory(prefix="cvmboot-matrix-", ignore_cleanup_errors=True) as scratch:
            self._deal(*self._crew(contents, scratch), folders, contents, journal)

    def _deal(
        self, crew: "Crew", most_attempts: int, folders: "Folders", contents: "Contents", journal: "Journal | None"
    ) -> None:
        from cvmboot.matrix.run import Matrix

        try:
            with self._shown() as shown:
                self._matrix = Matrix(
                    self._cases,
                    crew,
                    most_attempts=most_attempts,
                    folders=folders,
                    contents=contents,
                    journal=journal,
                    with_trace=self._trace,
                    fail_fast=self._fail_fast,
                    show=shown.show,
                    progress=shown.progress,
                )
                self._matrix.run()
        finally:
            crew.close()

    def _crew(self, contents: "Contents", scratch: str) -> "tuple[Crew, int]":
        """Who runs the cases, and how often each may be tried."""
        if self._cluster:
            from cvmboot.crew.dealer import MOST_ATTEMPTS
            from cvmboot.matrix.cluster import PlayingCluster

            return PlayingCluster(self._cluster, contents), MOST_ATTEMPTS
        from cvmboot.crew.local import LocalCrew
        from cvmboot.matrix.worker import play

        # A process of this machine dies of what it runs: to run that again would hide it.
        return LocalCrew(self._jobs, {"scratch": scratch}, play, largest=1, depth=1, news=self._news), 1

    def _news(self, chunk: "Chunk", text: str) -> None:
        if self._matrix is not None:
            self._matrix.news(chunk, text)

    def _shown(self) -> "Lines":
        from cvmboot.matrix.table import JsonLines, Lines, Table

        if self._as_json:
            return JsonLines(_write)
        return Table() if sys.stdout.isatty() else Lines(_write)

    def _conclude(self, complete: bool) -> None:
        """Write JUnit's file and the summary, of whatever is finished."""
        seconds = time.monotonic() - self._began
        results = self._matrix.results if self._matrix is not None else {}
        if self._junit is not None:
            from cvmboot.matrix.junit import junit, write

            names = [case.name for case in self._cases]
            write(self._junit, junit(self._file.stem, names, results, self._when, seconds))
        if self._matrix is None:
            return
        from cvmboot.matrix.report import summary

        tally = self._matrix.tally
        repeated = sum(result.get("attempts", 1) > 1 for result in results.values())
        text = summary(tally, len(self._cases) - tally.total(), len(self._matrix.kept), repeated, seconds)
        if not complete:
            text = f"stopped after {text}" + ("; --resume goes on" if self._output is not None else "")
        complain(text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
