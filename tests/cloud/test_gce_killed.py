"""kill -9 at 20 moments of a deployment on Compute Engine, and the same command again: one image, one instance, no leftover.

The process that dies is a real one, of a fork server that has Google's clients imported already: that saves two seconds each.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strict_gce.server import Server

from cvmboot.cli import main

ROOT = Path(__file__).parents[2]
PATIENCE = 200
MOMENTS = [
    *((moment, what) for what in (
        "POST b",  # the bucket
        "upload session",
        "compose",
        "POST projects/our-project/global/images",
        "GET projects/our-project/global/operations",
        "DELETE b",  # a part of the archive
        "POST projects/our-project/zones/europe-west4-a/instances",
        "GET projects/our-project/zones/europe-west4-a/operations",
    ) for moment in ("before", "after")),
    *(("bytes", f"upload {piece}") for piece in (1, 12, 24, 36)),
]  # fmt: skip
Command = Callable[..., int]


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 MiB that do not compress: two parts."""
    path = tmp_path_factory.mktemp("killed") / "blob"
    path.write_bytes(os.urandom(9 << 20))
    return path


def _command(words: list[str], environment: dict[str, str]) -> None:
    """The command line, in a process that is to die."""
    os.environ.update(environment)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    raise SystemExit(main(words))


@pytest.fixture(scope="module")
def spawn() -> Any:
    """Makes processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["google.cloud.compute_v1", "google.cloud.storage", "cvmboot.cli", "images.compose"])
    return context.Process


@pytest.fixture
def here(state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same command line in this process: its exit status."""
    monkeypatch.chdir(ROOT)

    def run(*words: object) -> int:
        return main([*map(str, words), "--state", str(state)])

    return run


def kill_at(google: Server, spawn: Any, moment: str, what: str, words: list[str]) -> None:
    """Runs the command and kills it in the middle of the request."""
    reached, running, dead = threading.Event(), threading.Event(), threading.Event()
    word, _, count = what.partition(" ") if moment == "bytes" else (what, "", "1")
    left, lock = [int(count)], threading.Lock()

    def strike(now: str, request: str) -> None:
        with lock:
            if now != moment or reached.is_set() or not (request.startswith(word) or request.endswith(word)):
                return
            left[0] -= 1
            if left[0]:
                return
            reached.set()
            running.wait(60)
            os.kill(process.pid, signal.SIGKILL)
            dead.wait(60)  # one thread alone may join: of two, one reads the exit status and the other nothing

    google.strike = strike
    environment = {name: value for name, value in os.environ.items() if name.startswith(("GOOGLE_", "CLOUDSDK_"))}
    process = spawn(target=_command, args=(words, environment))
    process.start()
    running.set()
    process.join(PATIENCE)
    dead.set()
    google.strike = lambda moment, what: None
    assert reached.is_set(), f"{moment} {what} never came"
    assert process.exitcode == -signal.SIGKILL


def words_for(blob: Path, state: Path, *more: str) -> list[str]:
    application = ROOT / "samples" / "built" / "hello.efi"
    return [
        "deploy", "gce", str(application), "--zone", "europe-west4-a", "--add", f"{blob}:EFI/blob", "--quiet", *more,
        "--state", str(state),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("moment", "what"), MOMENTS)
def test_killed_and_run_again_there_is_one_of_each(
    google: Server, spawn: Any, here: Command, state: Path, blob: Path, moment: str, what: str
) -> None:
    google.world.looks_until_done = 1
    words = words_for(blob, state, "--snp")
    kill_at(google, spawn, moment, what, words)
    world = google.world
    assert main(words) == 0
    assert [left.split()[0] for left in world.left] == ["image", "instance", "disk"], world.left
    made = [operation for operation in world.operations.values() if operation["operationType"] == "insert"]
    assert len(made) == 2, "something was made twice"
    assert len(list(state.glob("*.json"))) == 1
    assert here("deploy", "destroy", "--all") == 0
    assert world.left == [] and not list(state.glob("*.json"))


@pytest.mark.slow
def test_what_had_arrived_is_not_sent_again(google: Server, spawn: Any, state: Path, blob: Path) -> None:
    """Parts that were whole when the process died are found by the next one, without anything secret in the journal."""
    words = words_for(blob, state, "--image-only")
    kill_at(google, spawn, "before", "compose", words)
    before = google.world.bytes_received
    assert before > 9 << 20
    assert main(words) == 0
    assert google.world.bytes_received == before


@pytest.mark.slow
def test_a_lost_journal_is_no_loss(
    google: Server, spawn: Any, here: Command, state: Path, blob: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a killed process made is found by its labels, finished, and destroyed."""
    words = words_for(blob, state)
    kill_at(google, spawn, "after", "POST projects/our-project/zones/europe-west4-a/instances", words)
    for file in state.iterdir():
        file.unlink()
    capsys.readouterr()
    assert here("deploy", "status", "--gce", "our-project/europe-west4-a") == 0
    assert "not in the journal" in capsys.readouterr().out
    assert main(words) == 0
    assert [left.split()[0] for left in google.world.left] == ["image", "instance", "disk"]
    assert here("deploy", "destroy", "hello") == 0 and google.world.left == []
