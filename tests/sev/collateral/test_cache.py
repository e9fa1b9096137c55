"""The cache: found by line, HWID and TCB, whole under kill -9 and two writers, and wary of damage."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK, Certificate
from sev.collateral.cache import VERSION_FOLDER, Cache
from sev.collateral.errors import CacheError, KdsBusy
from sev.collateral.pieces import LeafKey
from sev.platform import Platform
from sev.product import GENOA, MILAN
from sev.revocation import Crl
from sev.tcb import Tcb


@pytest.fixture
def warnings() -> list[str]:
    """What the cache said."""
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache", warnings.append)


def _leaf(platform: Platform, kind: str = VCEK, **spl: int) -> Certificate:
    return platform.leaf(kind.lower(), Tcb.of(platform.settings.line, **spl).raw if spl else b"")


def _files(cache: Cache) -> list[Path]:
    return sorted(p for p in cache.folder.rglob("*") if p.is_file() and p.name != "lock")


def test_what_is_put_is_found_by_its_key(cache: Cache, warnings: list[str], platforms: dict[str, Platform]) -> None:
    long_ago = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for platform in platforms.values():
        line = platform.settings.line
        leaf, other, vlek = _leaf(platform), _leaf(platform, microcode=7), _leaf(platform, VLEK)
        issued = platform.authority().certificates
        crl = Crl.decode(platform.crl())
        items: list[Certificate | Crl] = [leaf, other, vlek, *issued.values(), crl]
        for item in items * 2:
            cache.put(item, long_ago)
        for each in (leaf, other, vlek):
            (piece,) = cache.leaves(LeafKey.of_certificate(each))
            assert piece.item.der == each.der
            assert piece.fetched == long_ago
        for kind in (ARK, ASK, ASVK):
            assert [piece.item.der for piece in cache.authorities(line, kind)] == [issued[kind].der]
        assert [piece.item.der for piece in cache.crls(line)] == [crl.der]
        nobody = LeafKey(VCEK, line, bytes(line.hwid_size), leaf.spl)
        assert cache.leaves(nobody) == []
    assert len(list(cache.entries())) == 7 * len(platforms)
    assert not warnings


def test_two_valid_leaves_for_one_key(cache: Cache, warnings: list[str], milan: Platform) -> None:
    leaf, again = _leaf(milan), _leaf(Platform.load(milan.folder))
    assert again.der != leaf.der
    assert LeafKey.of_certificate(again) == LeafKey.of_certificate(leaf)
    cache.put(leaf, datetime(2026, 1, 1, tzinfo=UTC))
    cache.put(again, datetime(2026, 2, 1, tzinfo=UTC))
    assert [piece.item.der for piece in cache.leaves(LeafKey.of_certificate(leaf))] == [again.der, leaf.der]
    assert not warnings


def test_an_empty_or_missing_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "nowhere")
    assert not cache.authorities(MILAN, ARK) and not cache.crls(GENOA) and not list(cache.entries())
    assert cache.clean() == cache.clean(everything=True) == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path, milan: Platform) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CacheError, match="Not a directory; name another"):
        Cache(tmp_path / "file").put(_leaf(milan))
    with Cache(tmp_path / "file").alone(1) as waited:
        assert not waited
    assert Cache(tmp_path / "file").crls(MILAN) == []


def test_damage_is_told_and_left_out(cache: Cache, warnings: list[str], milan: Platform, turin: Platform) -> None:
    leaf = _leaf(milan)
    key = LeafKey.of_certificate(leaf)
    path = cache.put(leaf)
    good = path.read_bytes()
    for damaged in (b"", good[:-1], good[:100], good + b"x", bytes([good[0] ^ 1]) + good[1:], bytes(1 << 20)):
        path.write_bytes(damaged)
        assert cache.leaves(key) == []
        assert len(warnings) == 1
        assert "damaged" in warnings[0] and "\n" not in warnings[0]
        warnings.clear()
    # Putting it again repairs it.
    assert cache.put(leaf) == path
    assert len(cache.leaves(key)) == 1
    # A right file in a wrong place, a link, a FIFO, and names that are not ours.
    other = _leaf(turin)
    moved = path.with_name(f"{other.sha256}.der")
    moved.write_bytes(other.der)
    os.mkfifo(path.with_name("0" * 64 + ".der"))
    path.with_name("1" * 64 + ".der").symlink_to(tmp := cache.folder / "x")
    tmp.write_bytes(good)
    path.with_name("README").write_text("not ours")
    assert [piece.item.der for piece in cache.leaves(key)] == [good]
    assert sorted(line.split(": ")[-1].split(";")[0] for line in warnings) == sorted(
        [
            "not a regular file",
            f"SHA-256 {leaf.sha256[:16]}... of its {len(good)} bytes is not its name",
            "it lies in the wrong folder",
        ]
    )
    assert sum(entry.piece is None for entry in cache.entries()) == 3
    assert cache.clean() == 3
    assert tmp.exists() and path.exists() and path.with_name("README").exists()


def test_clean_by_age_and_all(cache: Cache, milan: Platform, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old, new = _leaf(milan, microcode=1), _leaf(milan, microcode=2)
    cache.put(old, now - timedelta(days=40))
    kept = cache.put(new, now - timedelta(days=3))
    draft = kept.with_name(".draft-abc")
    draft.write_bytes(b"half")
    bystander = cache.folder / "notes.txt"
    bystander.write_text("mine")
    assert cache.clean() == 0
    os.utime(draft, (time.time() - 3600,) * 2)
    assert cache.clean() == 1
    assert cache.clean(timedelta(days=30)) == 1
    assert [entry.path for entry in cache.entries()] == [kept]
    assert cache.clean(everything=True) == 1
    assert bystander.exists()
    assert not (cache.folder / VERSION_FOLDER).exists() or not _files(cache)[1:]


# The writer dies by its own hand in the middle: with half of the bytes written, and with all, before the file has its name.
_WRITER = """
import os, signal, sys
from pathlib import Path
from sev.certificates import Certificate
from sev.collateral import cache as module
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "half":
    real = os.fdopen
    class Half:
        def __init__(self, *a): self.file = real(*a)
        def __enter__(self): return self
        def __exit__(self, *a): self.file.close()
        def write(self, data): self.file.write(data[:len(data) // 2]); self.file.flush(); die()
    module.os.fdopen = lambda fd, mode="r": Half(fd, mode) if "w" in mode else real(fd, mode)
else:
    Path.replace = Path.rename = os.replace = os.rename = die
module.Cache(Path(sys.argv[1])).put(Certificate.decode(Path(sys.argv[2]).read_bytes()))
"""


def test_a_writer_killed_in_the_middle(cache: Cache, warnings: list[str], milan: Platform, tmp_path: Path) -> None:
    leaf = _leaf(milan)
    key = LeafKey.of_certificate(leaf)
    (tmp_path / "leaf.der").write_bytes(leaf.der)
    for there, when in ((False, "half"), (False, "whole"), (True, "half"), (True, "whole")):
        words = [sys.executable, "-c", _WRITER, str(cache.folder), str(tmp_path / "leaf.der"), when]
        assert subprocess.run(words, check=False, timeout=30).returncode == -signal.SIGKILL
        assert [piece.item.der for piece in cache.leaves(key)] == [leaf.der] * there
        if when == "whole":
            cache.put(leaf)
        assert [piece.item.der for piece in cache.leaves(key)] == [leaf.der] * (there or when == "whole")
    assert not warnings
    assert cache.clean() == 0  # fresh drafts may be another process's
    assert len([path for path in _files(cache) if path.name.startswith(".draft-")]) == 4
    assert cache.clean(everything=True) == 5


_ENDLESS = """
import itertools, sys
from pathlib import Path
from sev.certificates import Certificate
from sev.revocation import Crl
from sev.collateral.cache import Cache
cache = Cache(Path(sys.argv[1]), lambda text: sys.exit(text))
files = [Path(name).read_bytes() for name in sys.argv[2:]]
items = [Certificate.decode(data) for data in files]
print("ready", flush=True)
for number in itertools.count():
    cache.put(items[number % len(items)])
    sum(1 for _ in cache.entries())
"""


def test_two_processes_at_once_and_kill_9_at_any_time(
    cache: Cache, warnings: list[str], milan: Platform, tmp_path: Path
) -> None:
    """Each process reads while the other writes; what they warn of ends them with another status than the kill."""
    items = [_leaf(milan, microcode=level) for level in range(4)]
    names = []
    for number, item in enumerate(items):
        path = tmp_path / f"{number}.der"
        path.write_bytes(item.der)
        names.append(str(path))
    dice = random.Random(7)
    for _ in range(4):
        words = [sys.executable, "-c", _ENDLESS, str(cache.folder), *names]
        writers = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(0.1 + dice.random() / 5)
        for writer in writers:
            writer.kill()
        for writer in writers:
            assert writer.wait(timeout=30) == -signal.SIGKILL
            assert writer.stdout is not None
            writer.stdout.close()
        assert {e.piece.item.der for e in cache.entries() if e.piece} == {item.der for item in items}
    assert not warnings


_CLEANER = """
import sys
from pathlib import Path
from sev.collateral.cache import Cache
print("ready", flush=True)
while True:
    Cache(Path(sys.argv[1])).clean(everything=True)
"""


def test_putting_while_another_process_cleans(cache: Cache, warnings: list[str], milan: Platform) -> None:
    items = [_leaf(milan, microcode=level) for level in range(4)]
    words = [sys.executable, "-c", _CLEANER, str(cache.folder)]
    cleaner = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert cleaner.stdout is not None and cleaner.stdout.readline() == b"ready\n"
        for number in range(200):
            cache.put(items[number % 4])
            list(cache.entries())
        assert cleaner.poll() is None
    finally:
        cleaner.kill()
        cleaner.communicate()
    assert not warnings


_HOLDER = """
import sys, time
from pathlib import Path
from sev.collateral.cache import Cache
with Cache(Path(sys.argv[1])).alone(5):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_one_process_asks_at_a_time(cache: Cache, warnings: list[str]) -> None:
    with cache.alone(1) as waited:
        assert not waited
    words = [sys.executable, "-c", _HOLDER, str(cache.folder)]
    with subprocess.Popen([*words, "0.4"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with cache.alone(10) as waited:
            assert waited
    with subprocess.Popen([*words, "20"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(KdsBusy, match="other processes have been asking KDS for"), cache.alone(0.3):
            pytest.fail("two ask at once")
        assert not warnings
        with pytest.raises(KdsBusy), cache.alone(2.5):
            pytest.fail("two ask at once")
        assert warnings == ["waiting for another process that asks KDS"]
        holder.kill()
    # A killed holder leaves no lock behind.
    with cache.alone(1) as waited:
        assert not waited


def test_who_waits_is_patient_with_each_holder(cache: Cache) -> None:
    """Six hold the lock for 0.3 s each: the last one waits longer than for one holder, but no holder too long."""
    order: list[int] = []
    start = threading.Barrier(6)

    def ask(number: int) -> None:
        start.wait()
        with cache.alone(1.0):
            order.append(number)
            time.sleep(0.3)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == list(range(6))


def test_real_leaves_side_by_side(real_pairs: list[Path], cache: Cache, warnings: list[str]) -> None:
    leaves = [Certificate.decode((pair / "vek.der").read_bytes()) for pair in real_pairs]
    for leaf in leaves:
        cache.put(leaf)
    for leaf in leaves:
        assert leaf.der in [piece.item.der for piece in cache.leaves(LeafKey.of_certificate(leaf))]
    assert len(list(cache.entries())) == len({leaf.der for leaf in leaves})
    assert not warnings
