"""Files that are no snapshots, damaged ones, and made-up ones: one line, no code of theirs, no hang."""

import hashlib
import json
import os
import random
import struct
import time
from pathlib import Path

import guest_code
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmboot import CvmbootError, VirtualMachine
from cvmboot.snapshots import file as snapshot_file
from cvmboot.snapshots.errors import SnapshotError
from cvmboot.snapshots.layout import Layout
from cvmboot.snapshots.snapshot import Snapshot
from cvmboot.snapshots.sums import Sums

HEADER = struct.Struct("<8sII32s")


@pytest.fixture(scope="module")
def snap(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("snap") / "echo.snap"
    with VirtualMachine(guest_code.ECHO_COM1, memory="64M") as vm:
        vm.send("x")
        vm.expect("x")
        vm.snapshot(path).close()
    return path


class Parts:
    """A snapshot file taken apart, to be put together wrongly."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        _, self.form, length, _ = HEADER.unpack_from(self.raw)
        self.facts = json.loads(self.raw[48 : 48 + length])
        at, size = self.facts["state"]
        self.state = self.raw[at : at + size]
        (length,) = struct.unpack_from("<Q", self.state)
        self.graph = json.loads(self.state[8 : 8 + length])
        self.blobs = self.state[8 + length :]
        at, size = self.facts["ram"]
        ram = self.raw[at : at + size]
        pages = ((at, ram[at : at + 4096]) for at in range(0, len(ram), 4096))
        self.ram = [(at, page) for at, page in pages if page != bytes(4096)]

    def write(self, path: Path, *, facts=None, graph=None, blobs=None) -> Path:
        """With a digest that fits, as whoever makes a snapshot up would have it."""
        facts = dict(facts or self.facts)
        text = json.dumps(graph if graph is not None else self.graph).encode()
        state = struct.pack("<Q", len(text)) + text + (blobs if blobs is not None else self.blobs)
        image = self.raw[self.facts["image"][0] :][: self.facts["image"][1]]
        if facts["state"] == self.facts["state"]:
            at = 8192
            facts["state"] = [at, len(state)]
            at = -(-(at + len(state)) // 4096) * 4096
            facts["image"] = [at, len(image)]
            facts["ram"] = [at + 4096, facts["ram"][1]]
            facts["sums"] = [sum(facts["ram"]), 0]
        sums = Sums()
        sums.add(facts["image"][0], image)
        for at, page in self.ram:
            sums.add(facts["ram"][0] + at, page)
        facts["sums"] = [facts["sums"][0], len(sums.packed())]
        raw = json.dumps(facts).encode()
        digest = hashlib.sha256(raw + state + sums.packed()).digest()
        path.unlink(missing_ok=True)
        with path.open("wb") as out:
            out.write(HEADER.pack(b"CVMSNAP\n", snapshot_file.FORMAT, len(raw), digest) + raw)
            out.seek(facts["state"][0])
            out.write(state)
            out.seek(facts["image"][0])
            out.write(image)
            for at, page in self.ram:
                out.seek(facts["ram"][0] + at)
                out.write(page)
            out.seek(facts["sums"][0])
            out.write(sums.packed())
        return path


@pytest.fixture(scope="module")
def parts(snap) -> Parts:
    return Parts(snap)


def test_a_file_put_together_again_is_restored(parts, tmp_path):
    with VirtualMachine(restore=parts.write(tmp_path / "same.snap")) as vm:
        vm.send("hello")
        vm.expect_exact("hello")


@pytest.mark.parametrize("size", [0, 1, 47, 48, 500, 5000, 100_000, -4096, -1])
def test_a_truncated_file_is_refused(snap, tmp_path, size):
    raw = snap.read_bytes()
    cut = tmp_path / "cut.snap"
    cut.write_bytes(raw[:size])
    with pytest.raises(SnapshotError, match=r"cut\.snap: (no snapshot|damaged)"):
        VirtualMachine(restore=cut)


@pytest.mark.parametrize("more", [b"\0", bytes(4096), b"x"])
def test_a_file_with_more_at_its_end_is_refused(snap, tmp_path, more):
    grown = tmp_path / "grown.snap"
    grown.write_bytes(snap.read_bytes() + more)
    with pytest.raises(SnapshotError, match=r"grown\.snap: damaged: it has \d+ bytes and should have \d+"):
        Snapshot.open(grown)


class Flipped:
    """A copy of a snapshot's file, without holes, in which one byte at a time is another."""

    def __init__(self, parts: Parts, path: Path) -> None:
        self.path = path
        path.write_bytes(parts.raw)
        self._file = path.open("r+b", buffering=0)
        ram_at = parts.facts["ram"][0]
        ends = [0, 48, *parts.facts["state"], *parts.facts["image"], ram_at, parts.facts["sums"][0], len(parts.raw)]
        borders = [at for end in ends for at in (end - 1, end) if 0 <= at < len(parts.raw)]
        in_use = [ram_at + at for at, _ in parts.ram]
        self.places = st.one_of(
            st.integers(0, len(parts.raw) - 1),
            st.sampled_from(borders),
            st.integers(0, ram_at - 1),
            st.builds(int.__add__, st.sampled_from(in_use), st.integers(0, 4095)),
            st.integers(parts.facts["sums"][0], len(parts.raw) - 1),
        )

    def change(self, at: int, mask: int) -> None:
        """Done twice, all is as it was."""
        byte = os.pread(self._file.fileno(), 1, at)[0]
        os.pwrite(self._file.fileno(), bytes([byte ^ mask]), at)


@pytest.fixture(scope="module")
def flipped(parts, tmp_path_factory) -> Flipped:
    return Flipped(parts, tmp_path_factory.mktemp("flipped") / "flipped.snap")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), mask=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed(flipped, data, mask):
    at = data.draw(flipped.places)
    flipped.change(at, mask)
    try:
        with pytest.raises(SnapshotError) as caught:
            Snapshot.open(flipped.path)
    finally:
        flipped.change(at, mask)
    assert "\n" not in str(caught.value)
    assert str(flipped.path) in str(caught.value)


def test_a_copy_without_holes_is_restored(flipped):
    with VirtualMachine(restore=flipped.path) as vm:
        vm.send("hello")
        vm.expect_exact("hello")


def test_no_guest_runs_from_damaged_ram(parts, flipped, cvmboot):
    at = parts.facts["ram"][0] + parts.ram[-1][0] + 7
    flipped.change(at, 1)
    try:
        ended = cvmboot("run", "--restore", flipped.path, "--timeout", "5", typed=b"hello")
    finally:
        flipped.change(at, 1)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.count(b"\n") == 1
    assert b"flipped.snap: damaged: its bytes from " in ended.stderr


def test_another_version_is_said_in_one_line(parts, tmp_path, cvmboot):
    other = {**parts.facts["layout"], "digest": "00" * 32}
    path = parts.write(tmp_path / "old.snap", facts={**parts.facts, "layout": other, "version": "0.0.9"})
    ended = cvmboot("run", "--restore", path)
    assert ended.returncode == 1
    assert ended.stderr.count(b"\n") == 1
    assert b"another version of cvmboot (0.0.9)" in ended.stderr
    info = cvmboot("snapshot", "info", path)
    assert info.returncode == 0
    assert b"another version" in info.stdout


def test_a_change_of_any_class_in_it_makes_another_layout(monkeypatch, tmp_path):
    ours = Layout.of(["machine.clock:RealClock", "uefi.events:Events"])
    assert ours.is_ours
    monkeypatch.setattr("cvmboot.snapshots.layout._ROOT", tmp_path)
    assert not ours.is_ours
    assert not Layout([*ours.modules, "os"], ours.digest).is_ours


def test_another_format_is_refused(snap, tmp_path):
    raw = bytearray(snap.read_bytes()[:200_000])
    raw[8] = 9
    path = tmp_path / "new.snap"
    path.write_bytes(raw)
    with pytest.raises(SnapshotError, match="in format 9"):
        Snapshot.open(path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    with pytest.raises(SnapshotError):
        Snapshot.open(path)


MADE_UP = {
    "a class that is not listed": ("classes", lambda names: ["os:_wrap_close", *names[1:]]),
    "a module of the host's": ("classes", lambda names: ["subprocess:Popen", *names[1:]]),
    "a class of ours that opens files": ("classes", lambda names: ["images.block:FileDevice", *names[1:]]),
    "a function that is not listed": ("objects", lambda found: [["function", "os:system"], *found[1:]]),
    "a method that is none": ("objects", lambda found: [["method", [1], "__init__"], *found[1:]]),
    "a method of the host's objects": ("objects", lambda found: [*found, ["given", "memory"]]),
    "something that is not given": ("objects", lambda found: [["given", "passwd"], *found[1:]]),
    "a kind of entry that is not known": ("objects", lambda found: [["reduce", "os:system", "id"], *found[1:]]),
    "an object made of a later one": ("objects", lambda found: [["tuple", [0]], *found[1:]]),
    "bytes beyond the end": ("objects", lambda found: [["bytes", 0, 1 << 40], *found[1:]]),
    "an attribute that is none": ("shapes", lambda shapes: [[*shapes[0][:-1], "__class__"], *shapes[1:]]),
    "a class number that is none": ("shapes", lambda shapes: [[99999, *shapes[0][1:]], *shapes[1:]]),
    "nothing at all": ("root", lambda root: None),
}


@pytest.mark.parametrize("what", [name for name in MADE_UP if name != "a method of the host's objects"])
def test_made_up_state_is_refused(parts, tmp_path, what, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    key, change = MADE_UP[what]
    path = parts.write(tmp_path / "made.snap", graph={**parts.graph, key: change(parts.graph[key])})
    with pytest.raises(SnapshotError) as caught:
        VirtualMachine(restore=path).close()
    assert "\n" not in str(caught.value)


def is_a(parts: Parts, entry: list, name: str) -> bool:
    """Whether an entry of the graph is an object of the class `name`."""
    graph = parts.graph
    return entry[0] == "object" and graph["classes"][graph["shapes"][entry[1]][0]] == name


def test_a_volume_in_memory_cannot_be_led_to_the_hosts_files(parts, tmp_path):
    """The one listed class that would read and write files if its attributes said so."""
    names = parts.graph["classes"]
    node = names.index("images.folder_node:FolderNode")
    shapes = [[*shape[:-1], "host"] if shape[0] == node else shape for shape in parts.graph["shapes"]]
    path = parts.write(tmp_path / "host.snap", graph={**parts.graph, "shapes": shapes})
    with pytest.raises(SnapshotError, match="no machine can be made"):
        VirtualMachine(restore=path)
    clock = next(n for n, entry in enumerate(parts.graph["objects"]) if is_a(parts, entry, "machine.clock:RealClock"))
    at = next(shape for shape in parts.graph["shapes"] if shape[0] == node).index("folder") + 1
    objects = [
        [*entry[:at], [clock], *entry[at + 1 :]] if is_a(parts, entry, "images.folder_node:FolderNode") else entry
        for entry in parts.graph["objects"]
    ]
    path = parts.write(tmp_path / "clock.snap", graph={**parts.graph, "objects": objects})
    with pytest.raises(SnapshotError, match="belongs to a volume in memory"):
        VirtualMachine(restore=path)
    folder = names.index("images.memory_folder:MemoryFolder")
    (number,) = [n for n, shape in enumerate(parts.graph["shapes"]) if shape[0] == folder]
    write_through = parts.graph["shapes"][number].index("write_through") - 1
    objects = [
        [*entry[: 2 + write_through], True, *entry[3 + write_through :]] if entry[:2] == ["object", number] else entry
        for entry in parts.graph["objects"]
    ]
    path = parts.write(tmp_path / "through.snap", graph={**parts.graph, "objects": objects})
    with VirtualMachine(restore=path) as vm:
        assert vm._machine.assembly.platform.volumes[0].file_system.write_through is False


@pytest.mark.parametrize("what", ["state", "image", "ram", "sums"])
@pytest.mark.parametrize("place", [[0, 4096], [4097, 4096], [-4096, 4096], [1 << 62, 4096], [4096, 1 << 62], "x", [1]])
def test_impossible_places_are_refused(parts, tmp_path, what, place):
    facts = {**parts.facts, what: place}
    raw = json.dumps(facts).encode()
    path = tmp_path / "places.snap"
    path.write_bytes(HEADER.pack(b"CVMSNAP\n", snapshot_file.FORMAT, len(raw), bytes(32)) + raw + bytes(100_000))
    with pytest.raises(SnapshotError, match="damaged"):
        Snapshot.open(path)


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"no_such": 1}},
        {"options": {"esp": {}}},
        {"options": {"host_data": {"hex": "xyz"}}},
        {"options": [1]},
        {"cpus": 0},
        {"cpus": 1 << 40},
        {"bases": [{}]},
        {"bases": [{"path": "/nonexistent", "kind": "file", "mark": "1 2"}]},
        {"bases": [{"path": "/", "kind": "folder", "mark": ""}]},
        {"bases": "x"},
        {"bases": [{"path": "/dev/zero", "kind": "file", "mark": "0 0"}]},
        {"platform": {"folder": "/nonexistent", "fingerprint": "0"}},
        {"platform": {}},
        {"platform": 3},
        {"unikernel": True},
        {"name": None},
        {"layout": {"modules": ["../../etc/passwd"], "digest": ""}},
        {"created": "x"},
    ],
)
def test_made_up_facts_are_refused_or_do_no_harm(parts, tmp_path, change):
    path = parts.write(tmp_path / "facts.snap", facts={**parts.facts, **change})
    try:
        with VirtualMachine(restore=path, timeout=10) as vm:
            vm.send("\x04")
            assert vm.wait() == 0
    except SnapshotError as error:
        assert str(error).isprintable()


def test_made_up_names_do_not_write_on_the_terminal(parts, tmp_path, cvmboot):
    evil = {"version": "\x1b]0;x\x07", "name": "\x1b[31m" * 3, "layout": {"modules": ["\x1b"], "digest": ""}}
    path = parts.write(tmp_path / "evil.snap", facts={**parts.facts, **evil})
    for ended in (cvmboot("run", "--restore", path), cvmboot("snapshot", "info", path)):
        assert b"another version" in ended.stdout + ended.stderr
        assert b"\x1b" not in ended.stdout + ended.stderr


def mutated(graph, chance: random.Random):
    """The graph with a few values changed at random: numbers, references, names, kinds of entries."""
    objects = [list(entry) for entry in graph["objects"]]
    for _ in range(chance.choice((1, 1, 2, 5))):
        entry = chance.choice(objects)
        at = chance.randrange(1, len(entry)) if len(entry) > 1 else 0
        values = (
            0,
            -1,
            1 << 63,
            1 << 200,
            None,
            "",
            "x" * 1000,
            0.5,
            True,
            [chance.randrange(len(objects))],
            [-1],
            [{}],
        )
        entry[at] = chance.choice(values)
    return {**graph, "objects": objects}


@pytest.mark.parametrize("seed", range(24))
def test_a_machine_with_state_changed_at_random_ends_in_time(parts, tmp_path, seed):
    path = parts.write(tmp_path / "random.snap", graph=mutated(parts.graph, random.Random(seed)))
    begun = time.monotonic()
    try:
        with VirtualMachine(restore=path, timeout=1) as vm:
            vm.send("y\x04")
            vm.wait(1)
    except CvmbootError as error:
        assert "\n" not in str(error)
    except Exception as error:  # what the command line says in one line: "internal error"
        assert not isinstance(error, MemoryError), error
    assert time.monotonic() - begun < 30


def test_no_hole_of_ram_is_written(snap):
    with Snapshot.open(snap) as frozen:
        assert frozen.facts["memory_in_file"] < 8 << 20
