"""Snapshots through the Python API and the command line, with tiny guests: clones go on alone, files keep and refuse."""

import io
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import guest_code
import pytest

from cvmboot import CvmbootError, UsageError, VirtualMachine
from cvmboot.cli import main
from cvmboot.snapshots.errors import SnapshotError
from cvmboot.snapshots.freezer import Freezer
from cvmboot.snapshots.snapshot import Snapshot

ECHO = guest_code.ECHO_COM1


def echoes(vm, text="hello"):
    vm.send(text)
    vm.expect_exact(text)


@pytest.mark.parametrize("options", [{}, {"clock": "virtual"}, {"cpus": 3}, {"snp": True}])
def test_clones_and_the_original_go_on_each_for_itself(options, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with VirtualMachine(ECHO, memory="64M", **options) as vm:
        echoes(vm, "before")
        with vm.snapshot() as frozen, frozen.clone() as first, frozen.clone() as second:
            echoes(first, "first")
            echoes(second, "second")
            echoes(vm, "original")
            first.sendcontrol("d")
            assert first.wait() == 0
            echoes(second, "still there")
        assert "before" not in second.recent_console()


def test_a_clone_of_a_clone(tmp_path):
    with VirtualMachine(ECHO, memory="64M") as vm:
        frozen = vm.snapshot(tmp_path / "one.snap")
    with frozen, frozen.clone() as first:
        echoes(first)
        with first.snapshot(tmp_path / "two.snap") as again:
            pass
    again = Snapshot.open(tmp_path / "two.snap")
    with again, again.clone() as second:
        echoes(second)
    assert again.facts["memory_in_file"] >= frozen.facts["memory_in_file"] - 65536


def test_input_that_waits_is_in_the_snapshot():
    loop = guest_code.application(b"\xeb\xfe")  # never reads
    with VirtualMachine(loop, memory="64M") as vm:
        vm.send("abc")
        machine = vm._machine
        with vm.snapshot() as frozen, frozen.clone() as clone:
            assert clone._console.waiting() == machine.console.waiting() == 3


def test_time_since_power_on_goes_on_and_the_time_of_day_is_the_hosts():
    with VirtualMachine(ECHO, memory="64M") as vm:
        echoes(vm)
        time.sleep(0.5)
        clock = vm._machine.assembly.computer.clock
        before = clock.now()
        with vm.snapshot() as frozen:
            after = clock.now()
            time.sleep(0.3)
            begun = time.perf_counter_ns()
            with frozen.clone() as clone:
                clock = clone._machine.assembly.computer.clock
                now, passed = clock.now(), time.perf_counter_ns() - begun
                assert before <= now <= after + passed, "time went on while the machine was frozen, or began anew"
                assert clock.tsc() >= now
                assert abs(clock.wall() - time.time_ns()) < 2_000_000_000


def test_a_restored_machine_resets_into_its_image(tmp_path):
    with VirtualMachine(guest_code.RESET_OR_RETURN, memory="64M") as vm:
        vm.expect("R")
        frozen = vm.snapshot(tmp_path / "reset.snap")
    with frozen, frozen.clone() as clone:
        clone.send("r")
        clone.expect("R")
        clone.send("r")
        clone.expect("R")
        clone.send("x")
        assert clone.wait() == 0


def test_a_machine_that_is_off_cannot_be_frozen():
    with VirtualMachine(ECHO, memory="64M") as vm:
        vm.sendcontrol("d")
        vm.wait()
        with pytest.raises(CvmbootError, match="off"):
            vm.snapshot()


def test_a_closed_snapshot_makes_no_clones():
    with VirtualMachine(ECHO, memory="64M") as vm:
        frozen = vm.snapshot()
    with frozen:
        clone = frozen.clone()
    with pytest.raises(SnapshotError, match="has been closed"):
        frozen.clone()
    with clone:
        echoes(clone)


def test_an_image_or_a_snapshot():
    with pytest.raises(TypeError, match="restore="):
        VirtualMachine()
    with pytest.raises(TypeError, match="restore="):
        VirtualMachine(ECHO, restore="x.snap")


def test_what_makes_the_machine_cannot_be_changed(tmp_path):
    with VirtualMachine(ECHO, memory="64M") as vm:
        frozen = vm.snapshot()
    with frozen:
        with pytest.raises(UsageError, match=r"--memory: .* in the snapshot"):
            frozen.clone(memory="1G")
        with pytest.raises(CvmbootError, match="no network device"):
            frozen.clone(net="none")
        with pytest.raises(SnapshotError, match="no SEV-SNP guest"):
            frozen.clone(platform=tmp_path)


def test_nothing_leaks():
    def used():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with VirtualMachine(ECHO, memory="64M") as vm:
        echoes(vm)
        with vm.snapshot() as frozen:
            for _ in range(3):
                with frozen.clone() as clone:
                    echoes(clone)
            before = used()
            for _ in range(10):
                with frozen.clone() as clone:
                    echoes(clone)
                with vm.snapshot(), pytest.raises(UsageError):
                    frozen.clone(cpus=2)
            assert used() <= before


# -- files


@pytest.fixture
def snap(tmp_path):
    path = tmp_path / "echo.snap"
    with VirtualMachine(ECHO, memory="64M") as vm:
        echoes(vm)
        vm.snapshot(path).close()
    return path


def test_a_file_is_sparse_private_and_whole(snap):
    facts = snap.stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_size > 64 << 20
    assert facts.st_blocks * 512 < 8 << 20
    assert list(snap.parent.glob(".*")) == []


def test_writing_over_a_file_keeps_clones_of_the_old_one(snap):
    with Snapshot.open(snap) as frozen, frozen.clone() as clone:
        with VirtualMachine(ECHO, memory="64M") as vm:
            vm.snapshot(snap).close()
        echoes(clone)
        with frozen.clone() as another:
            echoes(another)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with VirtualMachine(ECHO, memory="64M") as vm:
        with pytest.raises(SnapshotError, match="No such file"):
            vm.snapshot(tmp_path / "none" / "x.snap")
        with pytest.raises(SnapshotError, match="a folder"):
            vm.snapshot(tmp_path)
        echoes(vm)
    assert list(tmp_path.iterdir()) == []


def test_the_command_freezes_at_a_text_and_goes_on(cvmboot, image, tmp_path):
    path = tmp_path / "at.snap"
    made = cvmboot("snapshot", image(ECHO), "-o", path, "--memory", "64M", "--at", "ready", typed=b"get ready")
    assert (made.returncode, made.stdout) == (0, b"get ready"), made.stderr
    assert b"goes on from there" in made.stderr
    image(b"another program by now")
    ran = cvmboot("run", "--restore", path, "--timeout", "20", typed=b"on\x04")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"on", b"")
    ran = cvmboot("run", f"--restore={path}", "--timeout", "20", typed=b"again\x04")
    assert ran.stdout == b"again"


def test_several_texts_are_waited_for_one_after_the_other(cvmboot, image, tmp_path):
    path, typed = tmp_path / "at.snap", b"> menu> "
    made = cvmboot("snapshot", image(ECHO), "-o", path, "--memory", "64M", "--at", "menu", "--at", "> ", typed=typed)
    assert (made.returncode, made.stdout) == (0, typed), made.stderr
    assert cvmboot("run", "--restore", path, "--timeout", "20", typed=b"on\x04").stdout == b"on"
    late = cvmboot("snapshot", image(ECHO), "-o", path, "--timeout", "3", "--at", "menu", "--at", "> ", typed=b"> menu")
    assert late.returncode == 1 and b"--at '> '" in late.stderr


def test_a_guest_that_dies_before_it_is_frozen_says_why(cvmboot, image, tmp_path):
    ended = cvmboot("snapshot", image(guest_code.application(b"\x0f\x0b")), "-o", tmp_path / "x.snap", "--at", "never")
    assert ended.returncode == 1
    assert b"the guest crashed: invalid opcode" in ended.stderr
    assert ended.stderr.endswith(b"the guest ended before it printed 'never'\n")


def test_a_snapshot_behind_a_link_is_written_where_that_leads_to(cvmboot, image, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link.snap").symlink_to(tmp_path / "far" / "real.snap")
    for _ in range(2):
        made = cvmboot("snapshot", image(ECHO), "-o", tmp_path / "link.snap", "--memory", "64M", "--after", "0.1")
        assert made.returncode == 0, made.stderr
        assert (tmp_path / "link.snap").is_symlink() and (tmp_path / "far" / "real.snap").is_file()
    assert len(list((tmp_path / "far").iterdir())) == 1


@pytest.mark.parametrize("words", [(), ("platform",), ("attest",), ("image",), ("deploy",), ("snapshot",)])
def test_a_group_of_commands_shows_its_help_and_no_empty_complaint(cvmboot, words):
    ended = cvmboot(*words)
    assert b"Usage: cvmboot" in ended.stdout
    assert ended.stderr == b""
    assert ended.returncode == (2 if words else 0)


def test_the_command_freezes_after_a_time(cvmboot, image, tmp_path):
    path = tmp_path / "after.snap"
    made = cvmboot("snapshot", "take", image(ECHO), "-o", path, "--memory", "64M", "--after", "0.2")
    assert made.returncode == 0, made.stderr
    assert cvmboot("run", "--restore", path, typed=b"\x04").returncode == 0


def test_info(cvmboot, snap):
    words = cvmboot("snapshot", "info", snap).stdout.decode()
    assert "64.0 MiB" in words
    assert "memory" in words
    facts = json.loads(cvmboot("snapshot", "info", snap, "--json").stdout)
    assert (facts["memory"], facts["cpus"], facts["restorable"]) == (64 << 20, 1, True)
    assert facts["options"] == {"memory": 64 << 20}


def test_a_guest_that_ends_is_told_from_one_that_does_not_print(image, tmp_path, monkeypatch, capsys):
    """Its thread lives on for a moment after it has said so, as on a busy host."""
    told = Freezer._machine_ended

    def slowly(self: Freezer) -> None:
        told(self)
        time.sleep(0.3)

    monkeypatch.setattr(Freezer, "_machine_ended", slowly)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    words = ["snapshot", str(image(guest_code.returning(0))), "-o", str(tmp_path / "x.snap"), "--at", "never"]
    assert main(words) == 1
    assert capsys.readouterr().err == "cvmboot: the guest ended before it printed 'never'\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("snapshot", "IMAGE", "-o", "x.snap"), 2, "--at TEXT, or --after SECONDS"),
        (("snapshot", "IMAGE", "-o", "x.snap", "--at", "a", "--after", "1"), 2, "--at TEXT, or --after SECONDS"),
        (("snapshot", "IMAGE", "-o", "x.snap", "--at", "never", "--timeout", "0.3"), 1, "has not printed that"),
        (("snapshot", "DONE", "-o", "x.snap", "--at", "never"), 1, "the guest ended before it printed 'never'"),
        (("snapshot", "IMAGE", "-o", "x.snap", "--at", ""), 2, "is on every console"),
        (("snapshot", "IMAGE", "-o", "-", "--at", "a"), 2, "name a file"),
        (("snapshot", "IMAGE", "-o", "FIFO", "--at", "a"), 1, "no regular file"),
        (("snapshot", "IMAGE", "-o", "/dev/null", "--at", "a"), 1, "no regular file"),
        (("run", "SNAP"), 1, "cvmboot run --restore goes on from it"),
        (("snapshot", "none.efi", "-o", "x.snap", "--at", "a"), 1, "none.efi"),
        (("snapshot", "info", "IMAGE"), 1, "no snapshot of cvmboot"),
        (("run", "--restore", "none.snap"), 1, "No such file"),
        (("run", "--restore", "IMAGE"), 1, "no snapshot of cvmboot"),
        (("run", "IMAGE", "--restore", "SNAP"), 2, "the image is in the snapshot"),
        (("run", "--restore", "SNAP", "--memory", "1G"), 2, "--memory"),
        (("run", "--restore", "SNAP", "--vars", "v.bin"), 2, "--vars"),
        (("run", "--restore", "SNAP", "--net", "user"), 2, "no network device"),
        (("run",), 2, ""),
    ],
)
def test_mistakes_get_one_line(cvmboot, image, snap, tmp_path, words, status, said):
    done = tmp_path / "done.efi"
    done.write_bytes(guest_code.returning(0))
    names = {"IMAGE": image(ECHO), "SNAP": snap, "DONE": done, "x.snap": tmp_path / "x.snap", "FIFO": tmp_path / "fifo"}
    os.mkfifo(names["FIFO"])
    ended = cvmboot(*(names.get(word, word) for word in words))
    assert ended.returncode == status, ended.stderr
    assert said in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1 or words == ("run",)
    assert b"Traceback" not in ended.stderr
    assert not (tmp_path / "x.snap").exists()


# -- disks, variables, platforms


def test_a_disk_goes_on_with_what_was_written_and_wants_its_base_unchanged(guest, tmp_path):
    shell = guest("Shell.efi")
    esp = tmp_path / "esp"
    esp.mkdir()
    (esp / "old.txt").write_text("old")
    path = tmp_path / "disk.snap"
    with VirtualMachine(shell, esp=esp, memory="256M") as vm:
        vm.expect_exact("Shell> ")
        vm.sendline("fs0:")
        vm.expect_exact("FS0:\\> ")
        vm.sendline("mkdir made")
        vm.expect_exact("FS0:\\> ")
        vm.snapshot(path).close()
    frozen = Snapshot.open(path)
    with frozen:
        for _ in range(2):
            with frozen.clone() as clone:
                clone.sendline("mkdir twice")
                clone.expect_exact("FS0:\\> ")
                assert "exists" not in clone.before
                clone.sendline("ls")
                clone.expect_exact("FS0:\\> ")
                assert "made" in clone.before
                assert "twice" in clone.before
                clone.sendline("type old.txt")
                clone.expect("old\r?\n")
        assert sorted(esp.iterdir()) == [esp / "old.txt"]
        (esp / "new.txt").write_text("new")
        with pytest.raises(SnapshotError, match="changed since"):
            frozen.clone()


def test_a_machine_that_writes_to_the_hosts_files_is_not_frozen(image, tmp_path):
    esp = tmp_path / "esp"
    esp.mkdir()
    with VirtualMachine(image(ECHO), memory="64M", esp=esp, esp_write=True) as vm:
        with pytest.raises(SnapshotError, match="--esp-write"):
            vm.snapshot()
        echoes(vm)


def test_variables_are_in_the_snapshot_and_no_file_is_touched(image, tmp_path):
    kept = tmp_path / "vars.bin"
    with VirtualMachine(image(ECHO), memory="64M", vars=kept) as vm:
        store = vm._machine.assembly.firmware.variables
        names = list(store._variables)
        frozen = vm.snapshot()
    before = kept.read_bytes() if kept.exists() else None
    with frozen, frozen.clone() as clone:
        restored = clone._machine.assembly.firmware.variables
        assert list(restored._variables) == names
        assert restored._persist is None
        echoes(clone)
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_another_platform_is_refused(image, tmp_path, cvmboot):
    for name in ("one", "two"):
        assert cvmboot("platform", "new", tmp_path / name).returncode == 0
    with VirtualMachine(image(ECHO), memory="64M", snp=True, platform=tmp_path / "one") as vm:
        frozen = vm.snapshot()
    with frozen:
        with frozen.clone(platform=tmp_path / "one") as clone:
            echoes(clone)
        with pytest.raises(SnapshotError, match="another platform"):
            frozen.clone(platform=tmp_path / "two")
        (tmp_path / "one").rename(tmp_path / "gone")
        with pytest.raises(SnapshotError, match="--platform"):
            frozen.clone()
        with frozen.clone(platform=tmp_path / "gone") as clone:
            echoes(clone)


def test_the_file_says_who_can_read_it(snap):
    raw = snap.read_bytes()[:4096]
    assert raw.startswith(b"CVMSNAP\n")
    assert Path(json.loads(raw[48 : raw.index(b"\0", 48)])["name"]).name == "image.efi"
