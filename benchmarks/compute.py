"""Long computations in a guest: samples/built/compute.efi under cvmboot and under QEMU, and the same C as a program of the host.

All three print a line for each pass, and the same results; the time of a pass is the processor's, so that other programs on
the machine count little.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import qemu
from benchmarks.figures import TIMES_FASTER, Figure, Limit
from benchmarks.session import Session, Silent

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
KERNELS = {
    "sha256": "SHA-256 (C), a pass of 10 MiB",
    "p256": "P-256 (C), a pass of 400 multiplications",
    "sort": "heap sort (C), a pass of 655,360 integers",
    "nbody": "five bodies in doubles (C), 250,000 steps",
}
LEAST = {"sha256": 0.3}
"""The least part of QEMU's speed that the Unicorn engine must have."""
PASSES = 6
COMPILERS = ("clang-14", "clang", "gcc", "cc")


def guest_passes(command: list[str], kernels: tuple[str, ...] = tuple(KERNELS)) -> dict[str, tuple[float, str]]:
    """For each kernel, in the order in which it runs: milliseconds of processor time of a pass, the first one not counted, and
    the result. `command` boots compute.efi. Silent if a pass takes over five minutes, or two give different results."""
    found = {}
    with Session(command) as session:
        for kernel in kernels:
            session.wait_for(f"{kernel} 0 of {PASSES}".encode(), 300)
            results = {_pass(session, kernel, 1)}
            before = session.processor_seconds()
            results |= {_pass(session, kernel, number) for number in range(2, PASSES + 1)}
            spent = session.processor_seconds() - before
            if len(results) != 1:
                raise Silent(
                    f"{kernel} found {', '.join(sorted(results))}: a machine that computes right finds one result"
                )
            found[kernel] = spent / (PASSES - 1) * 1000, results.pop()
    return found


def shared_passes(command: list[str], kernel: str, passes: int = 3) -> tuple[float, str]:
    """`command` boots compute.efi, whose load options are "shared" and a kernel's name: seconds of a pass on all its
    processors, by the clock on the wall, the first one not counted, and the result. Silent if a pass takes over five minutes."""
    with Session(command) as session:
        session.wait_for(f"{kernel} 0 of {PASSES}".encode(), 300)
        results = {_pass(session, kernel, 1)}
        begin = session.seconds
        results |= {_pass(session, kernel, number) for number in range(2, passes + 1)}
        spent = session.seconds - begin
    if len(results) != 1:
        raise Silent(f"{kernel} found {', '.join(sorted(results))} on several processors")
    return spent / (passes - 1), results.pop()


def _pass(session: Session, kernel: str, number: int) -> str:
    session.wait_for(f"{kernel} {number} ".encode(), 300)
    return session.read(16).decode("ascii", "replace")


def native_passes(folder: Path) -> dict[str, tuple[float, str]]:
    """The same without a machine, built into `folder`; empty without a compiler."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        return {}
    program = folder / "compute"
    sources = sorted(str(path) for path in (SAMPLES / "compute").glob("*.c") if path.name != "main.c")
    subprocess.run([compiler, "-std=c11", "-O2", "-o", str(program), *sources], check=True)
    found = {}
    for kernel in KERNELS:
        process = subprocess.Popen([program, kernel], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout as lines:
            result = lines.read().split()[-1]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        found[kernel] = (usage.ru_utime + usage.ru_stime) / PASSES * 1000, result
    return found


def figures(cvmboot: Callable[..., list[str]], rounds: int) -> Iterator[Figure]:
    """Milliseconds of processor time of a pass; ours and QEMU's by turns, `rounds` times."""
    image = SAMPLES / "built" / "compute.efi"
    ours: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    theirs: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    results: dict[str, set[str]] = {kernel: set() for kernel in KERNELS}
    no_qemu = qemu.missing()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            machines = [(ours, cvmboot("run", "--engine", "unicorn", str(image)))]
            if not no_qemu:
                machines.append((theirs, qemu.prepare(Path(folder), image)))
            for samples, command in machines:
                for kernel, (milliseconds, result) in guest_passes(command).items():
                    samples[kernel].append(milliseconds)
                    results[kernel].add(result)
    with tempfile.TemporaryDirectory() as folder:
        native = native_passes(Path(folder))
    for kernel, title in KERNELS.items():
        if kernel in native:
            results[kernel].add(native[kernel][1])
        if len(results[kernel]) != 1:
            raise Silent(f"{kernel}: the machines disagree: {', '.join(sorted(results[kernel]))}")
        limit = Limit(TIMES_FASTER, LEAST[kernel]) if kernel in LEAST else None
        yield Figure(title, "ms", ours[kernel], limit, theirs[kernel], skipped=no_qemu if limit else "")
        if kernel in native:
            yield Figure("  the same C on the host", "ms", [native[kernel][0]])
