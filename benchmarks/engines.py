"""The engines beside each other: long computations on KVM and as a program of the host, and the time to a guest's prompt.

    python -m benchmarks.engines [--runs N]

Processor time of whole processes, which other programs on the machine change little; by turns, in one run. What two processors of
a guest save is told by the clock on the wall alone: two processors of the host have to be free for that.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.compute import KERNELS, SAMPLES, guest_passes, native_passes, shared_passes
from benchmarks.figures import AT_MOST, TIMES_FASTER, Figure, Limit, table
from benchmarks.session import PROMPT, Session, Silent
from machine.engine.kvm_probe import probe
from machine.errors import EngineError

GUESTS = ("go-boot.efi", "tamago-sev-example.efi")
NATIVE_SHARE = 0.9
"""The least part of a native program's speed that a guest on KVM must have."""
BOTH = 1 / 0.75
"""How much faster a guest with two processors has to be than with one, at a computation that both share."""
PROMPT_SHARE = 1.1
"""The most that `auto` may need to a prompt beside Unicorn alone: it does the same until then."""


def _command(engine: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "cvmboot", "run", "--engine", engine, *words]


def computations(rounds: int) -> Iterator[Figure]:
    """Milliseconds of processor time of a pass on KVM; beside it the same C on the host."""
    image = str(SAMPLES / "built" / "compute.efi")
    ours: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    native: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kernel, (milliseconds, _) in native_passes(Path(folder)).items():
                native[kernel].append(milliseconds)
        for kernel, (milliseconds, _) in guest_passes(_command("kvm", image)).items():
            ours[kernel].append(milliseconds)
    for kernel, title in KERNELS.items():
        limit = Limit(TIMES_FASTER, NATIVE_SHARE) if kernel in ("sha256", "p256") else None
        reason = "" if native[kernel] else "no C compiler"
        yield Figure(f"{title}, on KVM", "ms", ours[kernel], limit, native[kernel], skipped=reason if limit else "")


def processors(rounds: int) -> Iterator[Figure]:
    """Milliseconds of a pass that all processors of a guest share, on KVM: two of them, and one beside it."""
    title = "P-256 (C), 8,000 multiplications, two processors on KVM; beside it one"
    if len(os.sched_getaffinity(0)) < 2:
        yield Figure(title, "ms", [], skipped="this machine has one processor")
        return
    image = str(SAMPLES / "built" / "compute.efi")
    times: dict[int, list[float]] = {1: [], 2: []}
    results = set()
    for _ in range(rounds):
        for cpus, found in times.items():
            seconds, result = shared_passes(
                _command("kvm", "--cpus", str(cpus), "--args", "shared p256", image), "p256"
            )
            found.append(seconds * 1000)
            results.add(result)
    if len(results) != 1:
        raise Silent(f"one processor and two found {', '.join(sorted(results))}")
    yield Figure(title, "ms", times[2], Limit(TIMES_FASTER, BOTH), times[1])


def _to_prompt(command: list[str]) -> float:
    with Session(command) as session:
        session.wait_for(PROMPT)
        return session.processor_seconds() * 1000


def prompts(folder: Path, runs: int) -> Iterator[Figure]:
    """Milliseconds of processor time from process start to prompt, on each engine."""
    for name in GUESTS:
        image = folder / name
        if not image.is_file():
            yield Figure(f"{name}, start to prompt", "ms", [], skipped=f"no {name} in CVMBOOT_GUESTS")
            continue
        samples: dict[str, list[float]] = {"unicorn": [], "kvm": [], "auto": []}
        for _ in range(runs):
            for engine, times in samples.items():
                times.append(_to_prompt(_command(engine, str(image))))
        yield Figure(f"{name}, start to prompt, unicorn", "ms", samples["unicorn"])
        # A prompt on KVM is to come no later than in Unicorn.
        yield Figure("  kvm", "ms", samples["kvm"], Limit(AT_MOST, median(samples["unicorn"])), samples["unicorn"])
        limit = Limit(AT_MOST, median(samples["unicorn"]) * PROMPT_SHARE)
        yield Figure("  auto", "ms", samples["auto"], limit, samples["unicorn"])


def figures(runs: int) -> Iterator[Figure]:
    """All of it, or why not."""
    try:
        found = probe()
    except EngineError as error:
        yield Figure("engines", "", [], skipped=str(error))
        return
    yield Figure("a turn of an empty loop in ring 3", "ns", [found.ring_3_ns])
    yield from computations(min(runs, 3))
    yield from processors(min(runs, 3))
    yield from prompts(Path(os.environ.get("CVMBOOT_GUESTS", ".")), runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    print(table(list(figures(parser.parse_args().runs))))
