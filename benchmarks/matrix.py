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
MATRIX_TIMES, PROCESSOR_SHARE, TABLE_PERCENT = 1.5, 0.85, 3
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
    titles = (
        f"{BOOTS} boots of go-boot by matrix (beside one by one)",
        "  the same, processor time of all processes",
        "  of that the table, processor time",
    )
    if image is None:
        yield from (Figure(title, "", [], skipped=reason) for title in titles)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "boots.toml"
        path.write_text(_CASES.format(image=image.resolve(), numbers=", ".join(f'"{n}"' for n in range(BOOTS))))
        command = cvmboot("matrix", str(path), "--jobs", str(JOBS))
        alone = [sys.executable, "-c", _ONE_BY_ONE, str(image), str(BOOTS)]
        piped: list[_Run] = []
        shown: list[_Run] = []
        one_by_one: list[_Run] = []
        for _ in range(TURNS):  # in turns, so that all meet the same weather
            piped.append(_Run(command))
            one_by_one.append(_Run(alone))
            shown.append(_Run(command, on_terminal=True))
        seconds, reference = [run.seconds for run in piped], [run.seconds for run in one_by_one]
        yield Figure(titles[0], "s", seconds, Limit(TIMES_FASTER, MATRIX_TIMES), reference)
        used, reference = [run.processor for run in piped], [run.processor for run in one_by_one]
        yield Figure(titles[1], "s", used, Limit(TIMES_FASTER, PROCESSOR_SHARE), reference)
        cost = [(drawn.own - plain.own) / drawn.seconds * 100 for drawn, plain in zip(shown, piped, strict=True)]
        yield Figure(titles[2], "%", cost, Limit(AT_MOST, TABLE_PERCENT))


class _Run:
    """A command from its start to its end: `seconds` of time, processor seconds of it and all that it started, and its `own`."""

    def __init__(self, command: list[str], on_terminal: bool = False) -> None:
        ours, theirs = pty.openpty() if on_terminal else os.pipe()
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL)
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:
            pass  # how a terminal ends
        os.close(ours)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        self.seconds = time.perf_counter() - begin
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        self.own = (int(fields[11]) + int(fields[12])) / _TICKS
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.processor = usage.ru_utime + usage.ru_stime
        if process.returncode:
            raise Silent(f"{command[0]} ended with status {process.returncode}")
