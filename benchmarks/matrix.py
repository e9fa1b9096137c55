"""What `cvmboot matrix` is worth: 40 boots on two cores beside the same one after another, and what its table costs."""

import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import AT_MOST, TIMES_FASTER, Figure, Limit
from benchmarks.session import Silent

BOOTS, JOBS, TURNS = 40, 2, 3
MATRIX_TIMES, TABLE_PERCENT = 1.5, 3
_TICKS = os.sysconf("SC_CLK_TCK")
_ONE_BY_ONE = """
import sys
from cvmboot import VirtualMachine
for _ in range(int(sys.argv[2])):
    with VirtualMachine(sys.argv[1]) as vm:
        vm.expect("> ")
        vm.sendline("info")
        vm.expect("Frequency.*> ")
"""
_CASES = """
[axes]
args = [{numbers}]
[[case]]
image = '{image}'
steps = [{{ expect = "> ", send = "info" }}, {{ expect = "Frequency" }}, {{ expect = "> " }}]
"""


def figures(cvmboot: Callable[..., list[str]], image: Path | None, reason: str) -> Iterator[Figure]:
    """All figures; `cvmboot` makes a command line of words."""
    titles = (f"{BOOTS} boots of go-boot by matrix (beside one by one)", "  of that the table, processor time")
    if image is None:
        yield from (Figure(title, "", [], skipped=reason) for title in titles)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boots.toml"
        path.write_text(_CASES.format(image=image.resolve(), numbers=", ".join(f'"{n}"' for n in range(BOOTS))))
        command = cvmboot("matrix", str(path), "--jobs", str(JOBS))
        alone = [sys.executable, "-c", _ONE_BY_ONE, str(image), str(BOOTS)]
        piped: list[tuple[float, float]] = []
        shown: list[tuple[float, float]] = []
        one_by_one: list[float] = []
        for _ in range(TURNS):  # in turns, so that all meet the same weather
            piped.append(_run(command))
            one_by_one.append(_run(alone)[0])
            shown.append(_run(command, on_terminal=True))
        seconds = [one[0] for one in piped]
        yield Figure(titles[0], "s", seconds, Limit(TIMES_FASTER, MATRIX_TIMES), one_by_one)
        cost = [(drawn[1] - plain[1]) / drawn[0] * 100 for drawn, plain in zip(shown, piped, strict=True)]
        yield Figure(titles[1], "%", cost, Limit(AT_MOST, TABLE_PERCENT))


def _run(command: list[str], on_terminal: bool = False) -> tuple[float, float]:
    """Seconds, and processor seconds of the process alone, without those that it started."""
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:
            pass  # how a terminal ends
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = time.perf_counter() - begin
    os.close(ours)
    if process.returncode:
        raise Silent(f"{command[0]} ended with status {process.returncode}")
    return seconds, (int(fields[11]) + int(fields[12])) / _TICKS
