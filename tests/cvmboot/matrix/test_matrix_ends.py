"""Matrices that are interrupted or killed, and cases whose process is: nothing is lost, nothing is left, terminals stay sane."""

import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pexpect  # type: ignore[import-untyped]
import pytest
from crew_processes import alive, children_of
from matrix_file import BUILT, PATIENCE, ran, results_in, words

LOOPS = """
[defaults]
timeout = 500
[[case]]
name = "loops"
image = "{built}/faults.efi"
args = "loop"
[[case]]
name = "one"
image = "{built}/hello.efi"
[[case]]
name = "two"
image = "{built}/hello.efi"
"""


@pytest.fixture
def loops(tmp_path: Path) -> Path:
    """A matrix of which one case takes long."""
    path = tmp_path / "boots.toml"
    path.write_text(LOOPS.format(built=BUILT))
    return path


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _writes_to(pid: int, path: Path) -> bool:
    try:
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _in_work(kept: Path) -> bool:
    log = kept / "loops" / "console.log"
    return log.exists() and b"looping for ever" in log.read_bytes()


def test_a_process_that_is_killed_costs_its_case_only(loops: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with subprocess.Popen(words(loops, "--jobs", 2, "-o", kept), stdout=subprocess.PIPE, text=True) as process:
        _until(lambda: _in_work(kept))
        (victim,) = [p for p in children_of(process.pid) if _writes_to(p, kept / "loops" / "console.log")]
        os.kill(victim, signal.SIGKILL)
        shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, shown
    results = results_in((kept / "results.jsonl").read_text())
    assert {name: result["status"] for name, result in results.items()} == {"loops": 1, "one": 0, "two": 0}
    reason = "the process that ran this case was killed by SIGKILL (out of memory?)"
    assert results["loops"]["reason"] == reason and "attempts" not in results["loops"]
    assert "looping for ever" in results["loops"]["console_end"] and reason in shown
    # Such a case is run again by --resume, and no other.
    loops.write_text(
        loops.read_text().replace('args = "loop"', 'args = "loop"\noutcome = "timeout"').replace("500", "1")
    )
    done = ran(loops, "-o", kept, "--resume", "--only", "loops")
    assert done.returncode == 0 and len(results_in((kept / "results.jsonl").read_text())) == 3


@pytest.mark.slow
def test_a_process_that_hangs_is_killed(loops: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    loops.write_text(loops.read_text().replace("500", "2"))
    with subprocess.Popen(words(loops, "--jobs", 2, "-o", kept), stdout=subprocess.DEVNULL) as process:
        _until(lambda: _in_work(kept))
        (victim,) = [p for p in children_of(process.pid) if _writes_to(p, kept / "loops" / "console.log")]
        os.kill(victim, signal.SIGSTOP)
        assert process.wait(PATIENCE) == 1
    results = results_in((kept / "results.jsonl").read_text())
    assert "was killed after 17 s, because it did not end by itself" in results["loops"]["reason"]
    assert results["one"]["status"] == results["two"]["status"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_at_once_and_keeps_results(loops: Path, tmp_path: Path, number: signal.Signals) -> None:
    kept, junit = tmp_path / "kept", tmp_path / "junit.xml"
    (scratch := tmp_path / "scratch").mkdir()
    command, where = words(loops, "--jobs", 2, "-o", kept, "--junit", junit), os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=where) as process:
        _until(lambda: _in_work(kept) and (kept / "results.jsonl").read_text().count("\n") == 2)
        children = children_of(process.pid)
        assert children
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert len(said.splitlines()) == 1 and "stopped after 2 cases" in said and "1 not run; --resume goes on" in said
    assert not alive(children) and not list(scratch.iterdir())
    suite = ElementTree.parse(junit).getroot()
    assert (suite.attrib["tests"], suite[0].attrib["skipped"]) == ("3", "1")


def test_killed_itself_it_leaves_no_process(loops: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with subprocess.Popen(words(loops, "--jobs", 2, "-o", kept), stdout=subprocess.DEVNULL) as process:
        _until(lambda: _in_work(kept))
        children = children_of(process.pid)
        assert children
        process.kill()
    _until(lambda: not alive(children))


def test_nobody_reads(loops: Path) -> None:
    with subprocess.Popen(
        words(loops, "--jobs", 2, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()


def test_the_table_on_a_terminal_and_ctrl_c(loops: Path) -> None:
    command, *arguments = words(loops, "--jobs", 2)
    terminal = pexpect.spawn(command, arguments, timeout=PATIENCE, dimensions=(24, 100), encoding="utf-8")
    before = termios.tcgetattr(terminal.child_fd)
    terminal.expect(r"two")
    terminal.expect(r"loops +[0-9.]+ s  waits for the machine's end")
    terminal.expect(r"2 of 3: 2 as expected")
    children = children_of(terminal.pid)
    terminal.send("\x03")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 130
    assert termios.tcgetattr(terminal.child_fd) == before
    assert "\x1b[?25h" in terminal.before and "stopped after 2 cases" in terminal.before
    # Behind the last table nothing of it stays.
    assert not re.search(r"loops +[0-9.]+ s", terminal.before.rpartition("\x1b[?25h")[2])
    assert children and not alive(children)
