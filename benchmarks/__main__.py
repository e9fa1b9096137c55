"""Measures, prints the table, and writes JSON on request."""

import argparse
import compileall
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from benchmarks import attest, calls, cloud, cloud_gce, compute, images, matrix, qemu, snapshots, snp
from benchmarks.figures import AT_MOST, TIMES_FASTER, Figure, Limit, table
from benchmarks.session import PROMPT, Session, Silent

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cloud", "cvmboot", "images", "loader", "machine", "sev", "uefi")
KEYS = 20
IDLE_SECONDS = 3.0
BOOT_SECONDS, HELP_SECONDS, LSPCI_SECONDS = 0.28, 0.25, 0.5
REPORT_MILLISECONDS, SNP_SHARE, STRICT_SHARE = 5, 1.5, 2.0
PEAK_MIB, CALL_MICROSECONDS, IDLE_PERCENT, KEY_MILLISECONDS = 120, 10, 3, 10


def cvmboot(*words: str) -> list[str]:
    """The command line as a user has it."""
    script = Path(sys.executable).with_name("cvmboot")
    return [str(script), *words] if script.exists() else [sys.executable, "-m", "cvmboot", *words]


class Benchmarks:
    """One run of everything: `runs` boots of ours for each figure, `references` of QEMU."""

    def __init__(self, guests: Path | None, runs: int, references: int) -> None:
        self._guests = guests
        self._runs = runs
        self._references = references
        self._no_qemu = qemu.missing() or ("not wanted" if not references else "")

    def all(self) -> Iterator[Figure]:
        """Each figure as it becomes known."""
        yield from self._boot("go-boot", 12)
        yield from self._boot("tamago-sev-example", 6)
        yield from self._help()
        yield from self._calls()
        yield from self._snp()
        yield from attest.figures(cvmboot, self._runs)
        yield from self._at_the_prompt()
        yield from compute.figures(cvmboot, min(max(self._references, 1), 3))
        yield from snapshots.figures(cvmboot, self._runs, *self._image("go-boot"))
        yield from matrix.figures(cvmboot, *self._image("go-boot"))
        yield from images.figures(self._runs, *self._image("go-boot"))
        yield from cloud.figures(self._runs, *self._image("go-boot"))
        yield from cloud_gce.figures(self._runs)

    def _image(self, name: str) -> tuple[Path | None, str]:
        """A guest's file, or None and why there is none."""
        if self._guests is None:
            return None, "CVMBOOT_GUESTS names no folder"
        image = self._guests / f"{name}.efi"
        return (image, "") if image.exists() else (None, f"no {name}.efi in CVMBOOT_GUESTS")

    def _reference(self, image: Path) -> list[float]:
        """Seconds to the prompt under QEMU; the first boot, which writes OVMF's variables, does not count."""
        if self._no_qemu:
            return []
        with tempfile.TemporaryDirectory() as folder:
            command = qemu.prepare(Path(folder), image)
            return [_seconds_to_prompt(command)[0] for _ in range(self._references + 1)][1:]

    def _boot(self, name: str, times: float) -> Iterator[Figure]:
        title = f"{name}, process start to prompt"
        image, reason = self._image(name)
        if image is None:
            yield Figure(title, "s", [], skipped=reason)
            return
        ours = [_seconds_to_prompt(cvmboot("run", str(image))) for _ in range(self._runs)]
        seconds = [one[0] for one in ours]
        reference = self._reference(image)
        yield Figure(title, "s", seconds, Limit(TIMES_FASTER, times), reference, skipped=self._no_qemu)
        if name == "go-boot":
            yield Figure("  the same, whole process", "s", seconds, Limit(AT_MOST, BOOT_SECONDS))
            yield Figure("  peak memory, 2 GiB of guest RAM", "MiB", [one[1] for one in ours], Limit(AT_MOST, PEAK_MIB))

    def _help(self) -> Iterator[Figure]:
        def once() -> float:
            begin = time.perf_counter()
            subprocess.run(cvmboot("--help"), stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - begin

        yield Figure("cvmboot --help", "s", _repeat(once, self._runs), Limit(AT_MOST, HELP_SECONDS))

    def _calls(self) -> Iterator[Figure]:
        limit = Limit(AT_MOST, CALL_MICROSECONDS)
        yield Figure("OutputString of one character", "us", _repeat(calls.output_string, 5), limit)
        yield Figure("  of that the engine (an OUT to nobody)", "us", _repeat(calls.engine_alone, 5))

    def _snp(self) -> Iterator[Figure]:
        trips = [snp.round_trip() for _ in range(5)]
        whole, signature = [trip[0] for trip in trips], [trip[1] for trip in trips]
        yield Figure("SEV-SNP report, VMGEXIT to answer", "ms", whole, Limit(AT_MOST, REPORT_MILLISECONDS))
        yield Figure("  of that the P-384 signature", "ms", signature, reference=whole)
        image, reason = self._image("tamago-sev-example")
        if image is None:
            yield Figure("tamago-sev-example with --snp", "s", [], skipped=reason)
            return
        plain = median(_repeat(lambda: _seconds_to_prompt(cvmboot("run", str(image)))[0], self._runs))
        for words, share in (((), SNP_SHARE), (("--snp-check", "strict"), STRICT_SHARE)):
            ours = _repeat(lambda w=words: _seconds_to_prompt(cvmboot("run", "--snp", *w, str(image)))[0], self._runs)  # type: ignore[misc]
            name = " ".join(("tamago-sev-example with --snp", *words))
            yield Figure(name, "s", ours, Limit(AT_MOST, plain * share), [plain])

    def _at_the_prompt(self) -> Iterator[Figure]:
        titles = ("lspci over 256 buses", "processor at the prompt", "a key's echo, slowest of 20")
        image, reason = self._image("go-boot")
        if image is None:
            yield from (Figure(title, "", [], skipped=reason) for title in titles)
            return
        with Session(cvmboot("run", str(image))) as session:
            session.wait_for(PROMPT)
            yield Figure(titles[0], "s", [_lspci(session) for _ in range(5)], Limit(AT_MOST, LSPCI_SECONDS))
            session.drain(0.5)
            before = session.processor_seconds()
            time.sleep(IDLE_SECONDS)
            percent = (session.processor_seconds() - before) / IDLE_SECONDS * 100
            yield Figure(titles[1], "%", [percent], Limit(AT_MOST, IDLE_PERCENT))
            keys = [_key(session) for _ in range(KEYS)]
            yield Figure(titles[2], "ms", keys, Limit(AT_MOST, KEY_MILLISECONDS), worst=True)


def _repeat(measure: Callable[[], float], times: int) -> list[float]:
    return [measure() for _ in range(times)]


def _seconds_to_prompt(command: list[str]) -> tuple[float, float]:
    """Seconds, and MiB at most."""
    with Session(command) as session:
        session.wait_for(PROMPT)
        seconds = session.seconds
    return seconds, session.peak


def _lspci(session: Session) -> float:
    session.type(b"lspci\r")
    return session.wait_for(PROMPT)


def _key(session: Session) -> float:
    """Milliseconds from a typed letter to its echo, at a prompt that has been idle for a while."""
    time.sleep(0.1)
    session.type(b"x")
    return session.wait_for(b"x") * 1000


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} processors"


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def main() -> int:
    """Run from the command line; 1 with --strict and a limit missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="boots of cvmboot for each figure (default 9)")
    parser.add_argument(
        "--references", type=int, default=3, help="boots of QEMU for each figure, 0 for none (default 3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample as JSON, too")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if a limit is missed")
    options = parser.parse_args()
    for package in PACKAGES:  # as `make` does when it sets up: importing from source takes four times as long
        compileall.compile_dir(ROOT / package, quiet=2)
    folder = os.environ.get("CVMBOOT_GUESTS")
    conditions = {
        "processor": _processor(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "reference": qemu.missing() or qemu.version(),
        "load before": _load(),
    }
    benchmarks = Benchmarks(Path(folder) if folder else None, max(options.runs, 1), max(options.references, 0))
    figures: list[Figure] = []
    try:
        for figure in benchmarks.all():
            figures.append(figure)
            print(f"measured: {figure.name.strip()}", file=sys.stderr)
    except Silent as problem:
        print(f"benchmarks: {problem}", file=sys.stderr)
        return 1
    conditions["load after"] = _load()
    for name, text in conditions.items():
        print(f"{name}: {text}")
    print(table(figures))
    if options.json is not None:
        data = {"conditions": conditions, "figures": [figure.as_json() for figure in figures]}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return int(options.strict and any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
