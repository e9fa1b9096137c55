"""`--cluster`: a real Dask scheduler with real workers on this machine, one of which is killed in the middle."""

import queue
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crew_processes import Cluster
from fleet_batch import PATIENCE, lines_in

from cvmboot.crew.chunk import OUR_ERROR, Chunk

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'cvmboot[cluster]'")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    started = Cluster(folder)
    yield started
    started.close()


def _command(source: object, *more: object) -> list[str]:
    return [sys.executable, "-m", "cvmboot", "attest", "verify", "--batch", *map(str, (source, *more))]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_worker_loses_no_record_and_repeats_none_silently(
    cluster: Cluster, roots: tuple[str, ...], many: Callable[[Path, int], Path], signed: Any, tmp_path: Path
) -> None:
    workers = [cluster.worker(), cluster.worker()]
    source, output = many(tmp_path / "in.jsonl", 4000), tmp_path / "out.jsonl"
    (tmp_path / "here.bin").write_bytes(signed(1))
    with source.open("a") as file:
        file.write('{"id": "file", "path": "here.bin"}\n{"id": "absent", "path": "absent.bin"}\n')
    command = _command(source, *roots, "--offline", "--cluster", cluster.address, "-o", output)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + PATIENCE
        while not output.exists() or output.read_bytes().count(b"\n") < 300:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        workers[0].send_signal(signal.SIGKILL)
        cluster.worker()
        _, said = process.communicate(timeout=200)
    assert process.returncode == 1, said
    lines = lines_in(output.read_text())
    assert {line["index"] for line in lines.values()} == set(range(1, 4003))
    assert Counter(line["status"] for line in lines.values()) == {0: 3601, 4: 400, 1: 1}
    assert lines["file"]["status"] == 0 and "No such file" in lines["absent"]["reason"]
    again = [line for line in lines.values() if "attempts" in line]
    assert again and f"{len(again)} judged again" in said
    assert "Traceback" not in said and len(said.splitlines()) == 1
    # What is finished is not sent again, and a scheduler that dies ends the batch in bounded time.
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "4001 of them finished before" in done.stderr
    many(source, 60_000)
    with subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + PATIENCE
        while output.read_bytes().count(b"\n") < 4500:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        cluster.scheduler.kill()
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert cluster.address in said.splitlines()[-1]


@pytest.mark.slow
def test_a_scheduler_that_cannot_be_had(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"00"\n')
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        for address in (f"tcp://127.0.0.1:{silent.getsockname()[1]}", "tcp://127.0.0.1:1"):
            done = subprocess.run(
                _command(source, "--offline", "--cluster", address),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 1
            assert done.stderr.startswith(f"cvmboot: {address}: no Dask scheduler answers: ")
            assert len(done.stderr.splitlines()) == 1


def test_without_dask_the_message_says_what_to_install(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"00"\n')
    program = (
        "import sys; sys.modules['distributed'] = None; from cvmboot.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = _command(source, "--offline", "--cluster", "tcp://127.0.0.1:1")[3:]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "cvmboot: --cluster needs Dask: pip install 'cvmboot[cluster]'\n"


def test_a_record_that_keeps_killing_workers_is_taken_back() -> None:
    """Dask would run it again, on one worker after the other; we take it back after the first, and count."""
    from cvmboot.fleet.batch import Batch
    from cvmboot.fleet.cluster import JudgingCluster

    crew: Any = JudgingCluster.__new__(JudgingCluster)
    crew._chunks, crew._given, crew._deaths, crew._at_once = {}, {}, Counter(), []
    crew._ready = queue.SimpleQueue()
    crew._look = lambda: None
    records = [{"index": number, "source": f"line {number}", "kind": "json", "data": b""} for number in (1, 2)]
    cancelled: list[str] = []
    for key, chunk in (("many", Chunk(records)), ("alone", Chunk([dict(records[0])]))):
        crew._chunks[key] = chunk, SimpleNamespace(status="pending", cancel=lambda key=key: cancelled.append(key))
    crew._event((0.0, {"action": "remove-worker", "processing-tasks": ["many", "alone"], "lost-computed-tasks": []}))
    (lost,) = crew.results(0.1)
    assert cancelled == ["many"] and lost[1] is None and lost[0].losses == 1
    assert crew.results(0.01) == []
    for _ in range(2):
        crew._event((0.0, {"action": "remove-worker", "processing-tasks": ["alone"], "lost-computed-tasks": []}))
    (given_up,) = crew.results(0.1)
    assert cancelled == ["many", "alone"] and given_up[0].losses == 3

    written: list[bytes] = []
    journal: Any = SimpleNamespace(write=lambda lines, sources: written.append(lines))
    idle: Any = SimpleNamespace(wake=lambda: None)
    batch = Batch(iter(()), idle, SimpleNamespace(wake=None), journal, {"options": ""})  # type: ignore[arg-type]
    batch._lost(given_up[0])
    assert batch.tally == {OUR_ERROR: 1} and b'"attempts":3' in written[0] and b"died, 3 times" in written[0]
