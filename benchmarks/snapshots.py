"""Snapshots and many machines: how long a clone takes to its prompt, and what 50 idle machines cost in memory and processor.

`python -m benchmarks.snapshots IMAGE clones|booted COUNT` is the process that `figures` measures: so many machines at their
prompt in one process, until its standard input ends.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import AT_MOST, Figure, Limit
from benchmarks.session import PROMPT, Session
from cvmboot import VirtualMachine

MACHINES = 50
RESTORE_MILLISECONDS, IDLE_MIB, IDLE_PERCENT = 50, 4096, 10
SETTLE_SECONDS, MEASURE_SECONDS = 20.0, 15.0
_TEXT = PROMPT.decode()
_TICKS = os.sysconf("SC_CLK_TCK")

Command = Callable[..., list[str]]


def figures(command: Command, runs: int, image: Path | None, reason: str) -> Iterator[Figure]:
    """Restoring beside booting, and idle machines of three kinds."""
    titles = ("go-boot, restored to a working prompt", f"{MACHINES} idle machines")
    if image is None:
        yield from (Figure(title, "", [], skipped=reason) for title in titles)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.snap"
        with VirtualMachine(image) as vm:
            vm.expect_exact(_TEXT)
            begin = time.perf_counter()
            vm.snapshot(path).close()
            frozen = (time.perf_counter() - begin) * 1000
        clones, boots = _in_process(runs, path, image)
        limit = Limit(AT_MOST, RESTORE_MILLISECONDS)
        yield Figure("go-boot, restored to a working prompt; reference: booted", "ms", clones, limit, boots)
        whole = [_whole_process(command("run", "--restore", str(path)), typed=b"\r") for _ in range(runs)]
        cold = [_whole_process(command("run", str(image)), typed=b"") for _ in range(runs)]
        yield Figure("  the same, whole process", "ms", whole, None, cold)
        nothing = [_whole_python() for _ in range(runs)]
        yield Figure("  of that Python itself, starting and ending", "ms", nothing)
        yield Figure("  freezing it into a file", "ms", [frozen])
        for kind, name in (("clones", "clones"), ("booted", "booted one by one")):
            yield from _idle(f"{MACHINES} idle machines, {name}, one process", [_many(image, kind)])
        yield from _idle(
            f"{MACHINES} idle machines, a process each (run --restore)",
            [_at_prompt(Session(command("run", "--restore", str(path)))) for _ in range(MACHINES)],
        )


def _in_process(runs: int, path: Path, image: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of clones and of boots to a prompt that answers Enter, in turns; the first, which import, do not count."""
    clones, boots = [], []
    for _ in range(runs + 1):
        for samples, source in ((clones, {"restore": path}), (boots, {"image": image})):
            begin = time.perf_counter()
            with VirtualMachine(**source) as vm:  # type: ignore[arg-type]
                if "image" in source:
                    vm.expect_exact(_TEXT)
                vm.send("\r")
                vm.expect_exact(_TEXT)
                samples.append((time.perf_counter() - begin) * 1000)
    return clones[1:], boots[1:]


def _whole_process(command: list[str], typed: bytes) -> float:
    with Session(command) as session:
        if typed:
            session.type(typed)
        session.wait_for(PROMPT)
        return session.seconds * 1000


def _whole_python() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - begin) * 1000


def _at_prompt(session: Session) -> Session:
    session.type(b"\r")
    session.wait_for(PROMPT)
    return session


def _many(image: Path, kind: str) -> Session:
    session = Session([sys.executable, "-m", "benchmarks.snapshots", str(image), kind, str(MACHINES)])
    session.wait_for(b"ready", timeout=600)
    return session


def _idle(title: str, sessions: list[Session]) -> Iterator[Figure]:
    """What processes with idle machines take while nobody looks at them."""
    with ExitStack() as stack:
        for session in sessions:
            stack.enter_context(session)
        time.sleep(SETTLE_SECONDS)
        before, begin = sum(session.processor_seconds() for session in sessions), time.perf_counter()
        time.sleep(MEASURE_SECONDS)
        spent = sum(session.processor_seconds() for session in sessions) - before
        percent = spent / (time.perf_counter() - begin) * 100
        mib = sum(_proportional(session.pid) for session in sessions)
        yield Figure(title, "MiB", [mib], Limit(AT_MOST, IDLE_MIB))
        yield Figure("  and all together, of one processor", "%", [percent], Limit(AT_MOST, IDLE_PERCENT))


def _proportional(pid: int) -> float:
    """MiB of a process: pages that several share are divided among them (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main(image: str, kind: str, count: int) -> None:
    """Have so many machines at their prompt until standard input ends."""
    with ExitStack() as stack:
        if kind == "clones":
            with VirtualMachine(image) as vm:
                vm.expect_exact(_TEXT)
                frozen = stack.enter_context(vm.snapshot())
        machines = []
        for _ in range(count):
            vm = stack.enter_context(frozen.clone() if kind == "clones" else VirtualMachine(image))
            if kind == "clones":
                vm.send("\r")
            vm.expect_exact(_TEXT, timeout=120)
            machines.append(vm)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        from benchmarks.__main__ import cvmboot
        from benchmarks.figures import table

        _guest = Path(os.environ.get("CVMBOOT_GUESTS", "")) / "go-boot.efi"
        if not _guest.is_file():
            sys.exit(f"benchmarks.snapshots: no {_guest}; CVMBOOT_GUESTS names the folder of real guests")
        print(table(list(figures(cvmboot, 9, _guest, ""))))
        print(f"load average {os.getloadavg()[0]:.1f}")
