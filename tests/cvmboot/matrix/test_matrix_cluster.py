"""`cvmboot matrix --cluster`: a real Dask scheduler with real workers, which get killed."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crew_processes import PATIENCE, Cluster, alive, children_of
from matrix_file import BUILT, SAMPLES, ran, results_in, words

from cvmboot.matrix.contents import Contents, place

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'cvmboot[cluster]'")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.close()


def _until(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.02)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _plays(pid: int) -> bool:
    """Whether a process has a case in work."""
    return any(entry.resolve().name == "console.log" for entry in Path(f"/proc/{pid}/fd").iterdir())


def _many(path: Path, count: int, seconds: float) -> Path:
    """A matrix of cases that take their time."""
    names = ", ".join(f'"{number}"' for number in range(count))
    path.write_text(f"""
        [axes]
        args = [{names}]
        [[case]]
        name = "slow"
        image = "{BUILT / "hello.efi"}"
        steps = [{{ expect = "All is well" }}, {{ wait = {seconds} }}]
        """)
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_example_on_workers_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    """Also on a worker below a nanny, which must not start processes by multiprocessing; files come and go as bytes."""
    cluster.worker_with_nanny()
    kept = tmp_path / "kept"
    done = ran(SAMPLES / "matrix.toml", "--cluster", cluster.address, "-o", kept, "--trace")
    assert done.returncode == 0, done.stdout + done.stderr
    results = results_in((kept / "results.jsonl").read_text())
    assert len(results) == 14 and all(result["worker"].startswith("tcp://127.0.0.1:") for result in results.values())
    assert b'You typed "a word"' in (kept / "talks" / "console.log").read_bytes()
    assert _lines(kept / "talks" / "trace.jsonl") > 10
    # A folder goes there, too, and what fails there looks as it does here.
    path = tmp_path / "folders.toml"
    (tmp_path / "twin.efi").write_bytes((BUILT / "hello.efi").read_bytes())
    path.write_text(f"""
        [defaults]
        esp = "{BUILT}"
        [[case]]
        name = "whole"
        image = "{BUILT / "everything.efi"}"
        args = "files"
        status = 0
        [[case]]
        name = "other"
        image = "{BUILT / "hello.efi"}"
        expect = "Good evening"
        [[case]]
        name = "twin"
        image = "twin.efi"
        expect = "All is well"
        """)
    done = ran(path, "--cluster", cluster.address, "--json")
    results = results_in(done.stdout)
    assert done.returncode == 3 and results["whole"]["status"] == results["twin"]["status"] == 0
    assert results["other"]["wanted"] == "Good evening" and "Goodbye" in results["other"]["console_end"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_worker_loses_no_case_and_repeats_none_silently(cluster: Cluster, tmp_path: Path) -> None:
    workers = [cluster.worker(), cluster.worker()]
    kept = tmp_path / "kept"
    path = _many(tmp_path / "slow.toml", 20, 0.5)
    command = words(path, "--cluster", cluster.address, "-o", kept)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: all(children_of(worker.pid) for worker in workers), process)
        _until(lambda: _lines(kept / "results.jsonl") >= 3, process)
        players = children_of(workers[0].pid)
        _until(lambda: _plays(players[0]), process)
        workers[0].send_signal(signal.SIGKILL)
        cluster.worker()
        shown, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    results = results_in((kept / "results.jsonl").read_text())
    assert {result["index"] for result in results.values()} == set(range(1, 21))
    again = [result for result in results.values() if "attempts" in result]
    assert again and {result["attempts"] for result in again} == {2}
    assert shown.count("(attempts: 2)") == len(again)
    assert len(said.splitlines()) == 1 and f"{len(again)} run again after a worker was lost" in said
    # What played for the worker ended with it.
    assert not alive(players)

    # Ctrl-C ends the machines on the workers, too: these would go on for a minute.
    many = _many(tmp_path / "minute.toml", 4, 50)
    with subprocess.Popen(words(many, "--cluster", cluster.address), stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: sum(len(children_of(worker.pid)) for worker in cluster.processes[1:]) >= 2, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "4 not run" in said
    end = time.monotonic() + PATIENCE
    while any(children_of(worker.pid) for worker in cluster.processes[1:]):
        assert time.monotonic() < end
        time.sleep(0.1)

    # A scheduler that dies ends the run in bounded time; what is finished is kept, and --resume goes on here.
    path = _many(path, 28, 0.5)
    with subprocess.Popen([*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: _lines(kept / "results.jsonl") >= 22, process)
        cluster.scheduler.kill()
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "Traceback" not in said and cluster.address in said.splitlines()[-1]
    assert any("--resume goes on" in line for line in said.splitlines()) and len(said.splitlines()) == 2
    done = ran(path, "-o", kept, "--resume")
    assert done.returncode == 0 and "of them finished before" in done.stderr
    assert len(results_in((kept / "results.jsonl").read_text())) == 28


@pytest.mark.slow
def test_a_worker_of_another_version_is_told(cluster: Cluster, tmp_path: Path) -> None:
    (cluster.folder / "older.py").write_text("import cvmboot.version\ncvmboot.version.version = lambda: '0.0.1'\n")
    cluster.worker("--preload", str(cluster.folder / "older.py"))
    done = ran(_many(tmp_path / "slow.toml", 2, 0.1), "--cluster", cluster.address)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"cvmboot: {cluster.address}: a worker has cvmboot 0.0.1; wanted ")


@pytest.mark.slow
def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    done = ran(
        _many(tmp_path / "slow.toml", 2, 0.1), "--cluster", "tcp://127.0.0.1:1", "--junit", tmp_path / "junit.xml"
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("cvmboot: tcp://127.0.0.1:1: no Dask scheduler answers: ")
    assert b'skipped="2"' in (tmp_path / "junit.xml").read_bytes()


def test_a_folder_is_carried_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "EFI" / "BOOT").mkdir(parents=True)
    (source / "EFI" / "BOOT" / "a.efi").write_bytes(b"one")
    (source / "b").write_bytes(b"two")
    (source / "link").symlink_to("b")
    contents = Contents()
    place(contents.data(source), True, tmp_path / "there")
    assert sorted(str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*")) == [
        *("EFI", "EFI/BOOT", "EFI/BOOT/a.efi", "b", "link")
    ]
    assert (tmp_path / "there" / "link").read_bytes() == b"two"
    assert Contents().digest(tmp_path / "there") == contents.digest(source)
    before = contents.digest(source)
    (source / "b").write_bytes(b"2wo")
    assert Contents().digest(source) != before
