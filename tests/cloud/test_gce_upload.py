"""The upload: goes on after breaks in the middle and after a kill, sends nothing twice that has arrived, keeps its secrets."""

import io
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gce_run import Runner
from strict_gce.errors import Refused
from strict_gce.server import Cut, Server
from strict_gce.signin import TOKEN_PREFIX
from strict_gce.storage import crc32c

from cloud.errors import CloudError, Failed, Unreachable
from cloud.gce.archive import archive_of
from cloud.gce.upload import LEAST_PART, MOST_PARTS, _parts
from cloud.progress import Report
from cloud.source import Source

PIECE = 256 << 10


@pytest.fixture(scope="module")
def big_source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A disk whose archive has three parts: 20 MiB that do not compress."""
    from random import Random

    from cvmboot.deploy_image import source_of

    blob = tmp_path_factory.mktemp("big") / "blob"
    blob.write_bytes(Random(1).randbytes(20 << 20))
    return source_of(Path(__file__).parents[2] / "samples" / "built" / "hello.efi", add=[f"{blob}:EFI/blob.bin"])


@pytest.fixture
def big(gce: Runner, big_source: Source) -> Runner:
    gce.source = big_source
    return gce


class Proxy:
    """Hands bytes on, and breaks the connection once so many have gone up, as often as it is told."""

    def __init__(self, target: str, cuts: int, after: int) -> None:
        self._target, self.cuts, self._after = int(target.rpartition(":")[2]), cuts, after
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._server.accept()
                target = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._up, args=(client, target), daemon=True).start()
                threading.Thread(target=self._down, args=(target, client), daemon=True).start()
        except OSError:
            return

    def _up(self, client: socket.socket, target: socket.socket) -> None:
        gone = 0
        try:
            while data := client.recv(1 << 16):
                gone += len(data)
                with self._lock:
                    if gone > self._after and self.cuts:
                        self.cuts -= 1
                        break
                target.sendall(data)
        except OSError:
            pass
        for end in (client, target):
            end.close()

    @staticmethod
    def _down(target: socket.socket, client: socket.socket) -> None:
        try:
            while data := target.recv(1 << 16):
                client.sendall(data)
        except OSError:
            pass
        client.close()

    def close(self) -> None:
        """No more connections."""
        self._server.close()


def archive_bytes(source: Source) -> bytes:
    with archive_of(source, Report(io.StringIO(), quiet=True)) as archive:
        return b"".join(archive.pieces(0, archive.size))


def kept(runner: Runner) -> list[bytes]:
    """The archives that images were made of, filled as they are."""
    found: list[bytes] = []
    before = runner.google.strike

    def strike(moment: str, what: str) -> None:
        if moment == "before" and what == "POST projects/our-project/global/images":
            found.extend(one.data for one in runner.google.world.objects.values())
        before(moment, what)

    runner.google.strike = strike
    return found


def every(count: int, error: Callable[[], Exception], most: int = 10**9) -> Callable[[str, str], None]:
    """A strike at every so many pieces of an upload."""
    pieces, lock = [0, 0], threading.Lock()

    def strike(moment: str, what: str) -> None:
        if moment != "bytes":
            return
        with lock:
            pieces[0] += 1
            due = pieces[0] % count == 0 and pieces[1] < most
            pieces[1] += due
        if due:
            raise error()

    return strike


def test_parts_cover_the_archive(big: Runner) -> None:
    whole = archive_bytes(big.source)
    assert len(whole) > 2 * LEAST_PART
    found = kept(big)
    run = big.deploy(big.order(image_only=True))
    assert found == [whole]
    assert run is not None and run.steps["upload"].facts["crc32c"] == crc32c(whole)
    assert big.google.world.bytes_received == len(whole)
    assert big.google.world.calls.count("storage.objects.compose") == 1 and not big.google.world.objects
    assert "upload: " in big.told.getvalue() and "MiB/s" in big.told.getvalue()


@pytest.mark.parametrize("size", [0, 1, LEAST_PART, LEAST_PART + 1, 255 << 20, 256 << 20, (256 << 20) + 1, 1 << 40])
def test_no_archive_has_more_parts_than_can_be_composed(size: int) -> None:
    parts = list(_parts(size))
    assert parts[0][0] == 0 and parts[-1][1] == size and 1 <= len(parts) <= MOST_PARTS
    assert all(before[1] == after[0] for before, after in pairwise(parts))


def test_cuts_in_the_middle_are_gone_on_from(big: Runner) -> None:
    """Every 13 pieces of 256 KiB the connection breaks: what has arrived is not sent again."""
    whole = archive_bytes(big.source)
    big.google.strike = every(13, Cut)
    found = kept(big)
    big.deploy(big.order(image_only=True))
    assert found == [whole]
    assert big.google.world.bytes_received == len(whole)
    assert "upload broken off after" in big.told.getvalue()


def test_connections_that_break_on_the_way_there(big: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server never sees why: the bytes end in the middle of a request."""
    whole = archive_bytes(big.source)
    proxy = Proxy(big.google.address, cuts=3, after=3_000_000)
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", proxy.address)
    found = kept(big)
    big.deploy(big.order(image_only=True))
    proxy.close()
    assert found == [whole] and proxy.cuts == 0
    # What was on its way when a connection broke comes twice; from the start it would be 18 MB more.
    assert len(whole) <= big.google.world.bytes_received < len(whole) + 9_000_000
    assert "upload broken off after" in big.told.getvalue()


def test_a_busy_storage_is_gone_on_from(big: Runner) -> None:
    whole = archive_bytes(big.source)
    big.google.strike = every(20, lambda: Refused(503, "backendError", "Backend Error"))
    found = kept(big)
    big.deploy(big.order(image_only=True))
    assert found == [whole] and big.google.world.bytes_received == len(whole)


def test_a_lost_answer_of_the_last_piece(gce: Runner) -> None:
    left = [1]

    def strike(moment: str, what: str) -> None:
        if (moment, what) == ("after", "upload") and left[0]:
            left[0] -= 1
            raise Cut

    gce.google.strike = strike
    gce.deploy(gce.order(image_only=True))
    assert gce.google.world.calls.count("storage.objects.insert") == 1


def test_a_session_that_is_lost_is_begun_again(gce: Runner) -> None:
    left = [1]

    def strike(moment: str, what: str) -> None:
        if (moment, what) == ("before", "upload") and left[0]:
            left[0] -= 1
            gce.google.world.sessions.clear()

    gce.google.strike = strike
    gce.deploy(gce.order(image_only=True))
    assert gce.google.world.calls.count("storage.objects.insert") == 2
    assert "Google lost the upload session" in gce.told.getvalue()


def test_bytes_that_change_on_the_way_are_not_taken(gce: Runner) -> None:
    def spoil(moment: str, what: str) -> None:
        if moment == "bytes":
            for session in gce.google.world.sessions.values():
                session.data[-1] ^= 1

    gce.google.strike = spoil
    with pytest.raises(CloudError, match="CRC32C") as caught:
        gce.deploy(gce.order(image_only=True))
    assert "\n" not in str(caught.value) and not gce.google.world.images and not gce.google.world.objects
    gce.google.strike = lambda moment, what: None
    assert gce.deploy(gce.order(image_only=True)) is not None


def test_a_storage_that_spoils_what_it_composes_is_found_out(big: Runner) -> None:
    def spoil(moment: str, what: str) -> None:
        if moment == "before" and what.endswith("compose"):
            for (_, name), one in big.google.world.objects.items():
                if name.endswith("part-01"):
                    one.data = one.data[:-1] + b"?"

    big.google.strike = spoil
    with pytest.raises(Failed, match=r"bytes of CRC32C .* arrived, wanted .*: it is sent anew"):
        big.deploy(big.order(image_only=True))
    assert not big.google.world.images
    big.google.strike = lambda moment, what: None
    assert big.deploy(big.order(image_only=True)) is not None


def test_a_network_that_stays_cut_ends_in_one_line_and_later_goes_on(
    big: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    whole = archive_bytes(big.source)

    def cut(moment: str, what: str) -> None:
        if what == "upload" and big.google.world.objects:  # the smallest part is there
            raise Cut

    big.google.strike = cut
    with pytest.raises(
        Unreachable, match=r"the upload broke off again and again; .*what has arrived is kept"
    ) as caught:
        big.deploy(big.order(image_only=True))
    assert "\n" not in str(caught.value)
    there = sum(len(one.data) for one in big.google.world.objects.values())
    assert 0 < there < len(whole)
    before = big.google.world.bytes_received
    big.google.strike = lambda moment, what: None
    found = kept(big)
    big.deploy(big.order(image_only=True))
    assert found == [whole] and big.google.world.bytes_received - before == len(whole) - there


def test_no_secret_is_told_written_or_raised(big: Runner, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """The address of an upload session lets whoever has it write the object; tokens do more."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    errors = []
    for strike in (every(9, Cut), every(1, Cut), every(3, lambda: Refused(500, "x", "upload_id=secret")), None):
        big.google.strike = strike or (lambda moment, what: None)
        try:
            big.deploy(big.order(image_only=True))
        except CloudError as error:
            errors.append(error)
            assert error.__cause__ is None
    sessions = list(big.google.world.sessions)
    assert sessions
    seen = big.written() + "".join(map(str, errors)) + "".join(capfd.readouterr())
    secret = big.google.sign_in._tokens
    assert not [word for word in (*sessions, *secret, "PRIVATE KEY", TOKEN_PREFIX) if word in seen]


def test_ctrl_c_ends_an_upload_at_once(google: Server, state: Path, tmp_path: Path) -> None:
    """Its threads too: parts can be gigabytes."""
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(20 << 20))
    started, running, over = threading.Event(), threading.Event(), threading.Event()

    def stall(moment: str, what: str) -> None:
        if moment == "bytes":
            running.wait(60)
            if not started.is_set():
                started.set()
                process.send_signal(signal.SIGINT)
            over.wait(0.5)  # each piece of 80 takes so long until the process has ended

    google.strike = stall
    words = ["deploy", "gce", "samples/built/hello.efi", "--zone", "europe-west4-a", "--add", f"{blob}:b", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cvmboot", *words, "--state", str(state)], cwd=Path(__file__).parents[2]
    )
    running.set()
    try:
        assert process.wait(100) == 130
    finally:
        over.set()
        process.kill()
    assert started.is_set() and google.world.bytes_received < 20 << 20


def test_a_full_disk_gives_no_half_archive(gce: Runner, tmp_path: Path, state: Path, big_source: Source) -> None:
    """uplosi drops the error of closing its archive: a full disk gives it a truncated one."""
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(3 << 20))
    ended = subprocess.run(
        [
            sys.executable, "-m", "cvmboot", "deploy", "gce", "samples/built/hello.efi", "--zone", "europe-west4-a",
            "--add", f"{blob}:blob", "--state", str(state),
        ],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "File too large" in last and "make room there, or name another folder with TMPDIR" in last
    assert [what.split()[0] for what in gce.google.world.left] == ["bucket"] and not gce.google.world.sessions


def test_an_image_that_changes_while_it_is_sent_is_not_used(gce: Runner, tmp_path: Path) -> None:
    from cvmboot.deploy_image import source_of

    added = tmp_path / "settings"
    added.write_bytes(b"one")
    gce.source = source_of(Path(__file__).parents[2] / "samples" / "built" / "hello.efi", add=[f"{added}:settings"])
    added.write_bytes(b"two")
    with pytest.raises(CloudError, match=r"settings"):
        gce.deploy(gce.order(image_only=True))
    assert not gce.google.world.images and not gce.google.world.objects
