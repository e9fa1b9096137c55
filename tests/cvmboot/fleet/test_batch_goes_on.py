"""Batches that are interrupted, killed, resumed; judges that die; records that kill them; memory that stays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crew_processes import children_of
from fleet_batch import PATIENCE, Run, lines_in

from cvmboot.crew.dealer import MOST_ATTEMPTS
from cvmboot.crew.journal import Journal
from cvmboot.crew.life import READY
from cvmboot.crew.local import LocalCrew
from cvmboot.errors import CvmbootError
from cvmboot.fleet.batch import Batch
from cvmboot.fleet.collector import Collector
from cvmboot.fleet.records import Source
from sev.collateral.resolver import Resolver
from sev.kds import KdsServer
from sev.platform import Platform

Words = Callable[..., list[str]]
Many = Callable[[Path, int], Path]


def _until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.01)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_c_leaves_a_file_that_resume_goes_on_with(
    words: Words, batch: Run, roots: tuple[str, ...], many: Many, tmp_path: Path
) -> None:
    source, output = many(tmp_path / "in.jsonl", 3000), tmp_path / "out.jsonl"
    with subprocess.Popen(words(source, *roots, "-o", output), stderr=subprocess.PIPE, text=True) as process:
        _until(lambda: _lines(output) > 20, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert "stopped after" in said and "--resume goes on" in said and "Traceback" not in said
    finished = _lines(output)
    assert 20 < finished < 3000
    with output.open("a") as file:
        file.write('{"index":77,"id":"half a li')
    # Without --resume nothing that is there is lost.
    refused = batch(source, *roots, "-o", output)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    done = batch(source, *roots, "-o", output, "--resume")
    assert done.returncode == 4, done.stderr
    assert f"{finished} of them finished before" in done.stderr
    lines = lines_in(output.read_text())
    assert len(lines) == 3000
    assert Counter(line["status"] for line in lines.values()) == {0: 2700, 4: 300}
    before = output.read_bytes()
    assert "3000 of them finished before" in batch(source, *roots, "-o", output, "--resume").stderr
    assert output.read_bytes() == before


def test_resume_judges_anew_what_changed(batch: Run, roots: tuple[str, ...], many: Many, tmp_path: Path) -> None:
    source, output = many(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl"
    assert batch(source, *roots, "-o", output).returncode == 4
    records = source.read_text().splitlines()
    records[2] = json.dumps({"id": "absent", "path": "absent.bin"})
    records[5] = json.dumps({"id": "new", **{k: v for k, v in json.loads(records[9]).items() if k != "id"}})
    source.write_text("\n".join(records[:28]) + "\n")
    done = batch(source, *roots, "-o", output, "--resume")
    assert done.returncode == 1
    assert "28 records" in done.stderr and "26 of them finished before" in done.stderr
    lines = lines_in(output.read_text())
    assert len(lines) == 28 and "host-2" not in lines and "host-28" not in lines
    assert lines["absent"]["status"] == 1 and lines["new"]["status"] == 4
    # An error of ours is tried again, and so is everything under another policy.
    (tmp_path / "absent.bin").write_text(json.loads(records[0])["evidence"])
    done = batch(source, *roots, "-o", output, "--resume")
    assert "27 of them finished before" in done.stderr
    assert lines_in(output.read_text())["absent"]["status"] == 0
    done = batch(source, *roots, "-o", output, "--resume", "--vmpl", "1")
    assert "finished before" not in done.stderr
    assert {line["status"] for line in lines_in(output.read_text()).values()} == {4, 7}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["absent.bin", "in.jsonl", "out.jsonl"]


def test_resume_leaves_a_file_of_somebody_else_alone(batch: Run, many: Many, tmp_path: Path) -> None:
    source = many(tmp_path / "in.jsonl", 2)
    for contents in ('{"precious": 1}\n{"precious": 2}\n', "precious", '{"index":1}\n', "\0" * 100):
        output = tmp_path / "mine"
        output.write_text(contents)
        done = batch(source, "-o", output, "--resume")
        assert done.returncode == 1 and "not of a batch's output" in done.stderr
        assert output.read_text() == contents


def test_a_killed_judge_loses_no_record_and_repeats_none_silently(
    words: Words, roots: tuple[str, ...], many: Many, tmp_path: Path
) -> None:
    source, output = many(tmp_path / "in.jsonl", 3000), tmp_path / "out.jsonl"
    with subprocess.Popen(words(source, *roots, "-o", output), stderr=subprocess.PIPE, text=True) as process:
        for least in (20, 300):
            _until(lambda least=least: _lines(output) > least, process)  # type: ignore[misc]
            victims = children_of(process.pid)
            assert len(victims) == 2
            os.kill(victims[0], signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 4, said
    lines = lines_in(output.read_text())
    assert Counter(line["status"] for line in lines.values()) == {0: 2700, 4: 300}
    assert {line["index"] for line in lines.values()} == set(range(1, 3001))
    again = [line for line in lines.values() if "attempts" in line]
    assert again and {line["attempts"] for line in again} == {2}
    assert f"{len(again)} judged again" in said


def deadly(connection: Any, settings: dict[str, Any]) -> None:
    """A judge that dies of one record."""
    connection.send(READY)
    while True:
        try:
            records = connection.recv()
        except EOFError:
            return
        if any(b"deadly" in record["data"] for record in records):
            os.kill(os.getpid(), signal.SIGKILL)
        lines = [json.dumps({"id": record["index"], "attempts": record.get("attempts")}) for record in records]
        connection.send(
            {
                "lines": "".join(line + "\n" for line in lines).encode(),
                "statuses": [(record["index"], 0) for record in records],
                "same": [],
                "needs": [],
                "notes": [],
            }
        )


def stillborn(connection: Any, settings: dict[str, Any]) -> None:
    """A judge that never begins."""
    os._exit(7)


def _batch(source: Source, output: Path, life: Any) -> Batch:
    crew = LocalCrew(2, {}, life)
    collector = Collector(Resolver(None, None), [], [], None, False)  # type: ignore[arg-type]
    journal = Journal(output, False, "")
    try:
        batch = Batch(iter(source), crew, collector, journal, {"options": ""})
        batch.run()
    finally:
        crew.close()
        journal.close(True)
    return batch


def test_a_record_that_kills_its_judge_is_given_up(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join('"deadly"\n' if number == 50 else f'"{number}"\n' for number in range(1, 101)))
    batch = _batch(Source(source), tmp_path / "out", deadly)
    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert sorted(str(line["id"]) for line in lines) == sorted([*map(str, {*range(1, 101)} - {50}), "line 50"])
    (victim,) = [line for line in lines if line["id"] == "line 50"]
    assert victim["status"] == 1 and victim["attempts"] == MOST_ATTEMPTS
    assert f"died, {MOST_ATTEMPTS} times" in victim["reason"]
    # Only those that were in one chunk with it were judged again.
    assert 0 < sum(line["attempts"] == 2 for line in lines) < 64
    assert batch.tally == {0: 99, 1: 1}


def test_judges_that_never_begin_end_the_batch(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"1"\n' * 10)
    with pytest.raises(CvmbootError, match="end before they begin"):
        _batch(Source(source), tmp_path / "out", stillborn)


@pytest.fixture
def kds(turin: Platform) -> Iterator[tuple[KdsServer, list[str]]]:
    """The platform's KDS, and what it was asked for."""
    server, asked = KdsServer(turin), []
    answer = server.service.answer
    server.service.answer = lambda target: asked.append(target) or answer(target)  # type: ignore[method-assign, func-returns-value]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server, asked
    server.shutdown()
    server.server_close()


def test_kds_is_asked_once_for_each_thing(
    kds: tuple[KdsServer, list[str]], roots: tuple[str, ...], many: Many, tmp_path: Path
) -> None:
    """By one process, though two judge; also where the cache cannot be written to."""
    server, asked = kds
    source = many(tmp_path / "in.jsonl", 200)
    no_folder = tmp_path / "a-file"
    no_folder.write_text("")
    command = [sys.executable, "-m", "cvmboot", "attest", "verify", "--batch", str(source), "--jobs", "2", *roots[:2]]
    for cache in (tmp_path / "kept", no_folder):
        asked.clear()
        done = subprocess.run(
            [*command, "--kds", server.url, "--cache", str(cache)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        statuses = Counter(line["status"] for line in lines_in(done.stdout).values())
        assert statuses == {0: 180, 4: 20}
        assert sorted(target.rpartition("/")[2].partition("?")[0] for target in asked) == sorted(
            [server.service.platform.settings.hwid.hex(), "cert_chain", "crl"]
        )
    asked.clear()
    done = subprocess.run(
        [*command, "--offline", "--cache", str(tmp_path / "empty")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not asked and {line["status"] for line in lines_in(done.stdout).values()} == {5}


def test_a_platform_that_is_named(batch: Run, turin: Platform, many: Many, tmp_path: Path) -> None:
    done = batch(many(tmp_path / "in.jsonl", 20), "--platform", turin.folder)
    assert done.returncode == 4, done.stderr
    assert Counter(line["status"] for line in lines_in(done.stdout).values()) == {0: 18, 4: 2}
    assert {line["emulated"] for line in lines_in(done.stdout).values()} == {True}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_number_of_records(words: Words, tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 200_000):
        source = tmp_path / "in.jsonl"
        source.write_bytes(b'"00"\n' * count)
        output = tmp_path / f"out-{count}"
        with subprocess.Popen(words(source, "-o", output), stderr=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 3 and _lines(output) == count
        peaks.append(usage.ru_maxrss)
    assert peaks[1] < peaks[0] + 20_000  # KiB
