"""--engine: what it goes with, what a user is told, and that nothing but speed tells the engines apart."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import guest_code
import pytest

from cvmboot import VirtualMachine
from machine import registers as reg
from machine.bus import Bus
from machine.clock import RealClock, VirtualClock
from machine.cpu import Cpu, Stop
from machine.engine import kvm_cpu
from machine.engine.leaving import ManyExits
from machine.engine.moving import MovableCpu, MovingEngine
from tests.engines import needs_kvm
from tests.machine.bare import DONE, Bare

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Find = Callable[[str], Path]


def test_an_engine_that_is_none(cvmboot: Run, sample: Find) -> None:
    done = cvmboot("run", sample("hello"), "--engine", "vmware")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"--engine" in done.stderr


def _facts(vm: VirtualMachine) -> tuple[str, type]:
    """The engine that runs it, and what kind of clock it has."""
    found: list[tuple[str, type]] = []
    vm._machine.call(lambda assembly: found.append((assembly.computer.engine.name, type(assembly.computer.clock))))
    _wait_until(lambda: bool(found))
    return found[0]


@needs_kvm
def test_kvm_runs_without_virtual_time_and_says_so_once(
    cvmboot: Run, image: Callable[[bytes], Path], tmp_path: Path
) -> None:
    guest = image(guest_code.RESET_OR_RETURN)
    done = cvmboot("run", "--engine", "kvm", "--clock", "virtual", guest, typed=b"rrx")
    assert (done.returncode, done.stdout) == (0, b"RRR")
    assert done.stderr.count(b"\n") == 1
    assert b"--engine kvm runs without --clock virtual" in done.stderr
    with VirtualMachine(guest, engine="kvm", clock="virtual") as vm:
        vm.expect_exact("R")
        assert _facts(vm) == ("kvm", RealClock)
        assert [line.partition(",")[0] for line in vm.warnings] == ["--engine kvm runs without --clock virtual"]
        frozen = vm.snapshot(tmp_path / "it.snap")
    with frozen, frozen.clone(engine="kvm") as vm:
        assert _facts(vm) == ("kvm", RealClock)
        assert vm.warnings == []


def test_a_machine_with_virtual_time_keeps_it_when_restored(image: Callable[[bytes], Path]) -> None:
    with VirtualMachine(image(guest_code.ECHO_COM1), clock="virtual") as vm:
        vm.send("x")
        vm.expect_exact("x")
        frozen = vm.snapshot()
    with frozen, frozen.clone(engine="kvm") as vm:
        assert _facts(vm) == ("unicorn", VirtualClock)
        assert len(vm.warnings) == 1 and "--engine kvm has no effect" in vm.warnings[0]


@pytest.mark.parametrize("engine", ["kvm", "kvm-ring0"])
def test_a_debugger_is_worth_more_than_kvm(image: Callable[[bytes], Path], engine: str) -> None:
    with VirtualMachine(image(guest_code.ECHO_COM1), engine=engine, clock="virtual", gdb=0) as vm:
        assert vm.gdb_port
        assert "--gdb needs break- and watchpoints" in vm.warnings[0] and f"--engine {engine} has" in vm.warnings[0]
        assert [line for line in vm.warnings[1:] if "GDB" not in line] == []
        assert (vm._options.engine, vm._options.clock) == ("unicorn", "virtual")


def test_the_environment_is_read_for_auto_only(cvmboot: Run, sample: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMBOOT_ENGINE", "vmware")
    done = cvmboot("run", sample("hello"))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"CVMBOOT_ENGINE=vmware" in done.stderr
    assert cvmboot("run", "--engine", "unicorn", sample("hello")).returncode == 0


def _trace(cvmboot: Run, image: Path, engine: str, file: Path) -> tuple[bytes, list[dict[str, object]]]:
    done = cvmboot("run", "--engine", engine, "--trace", file, image)
    assert done.stderr == b""
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        event.pop("time")
        event.pop("duration", None)
    return done.stdout, events


@needs_kvm
@pytest.mark.parametrize("name", ["launcher", "child", "driver"])
def test_console_and_trace_are_the_same_on_both(cvmboot: Run, sample: Find, tmp_path: Path, name: str) -> None:
    unicorn = _trace(cvmboot, sample(name), "unicorn", tmp_path / "unicorn.jsonl")
    kvm = _trace(cvmboot, sample(name), "kvm", tmp_path / "kvm.jsonl")
    assert unicorn[1]
    assert kvm == unicorn


@needs_kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_guest_that_computes_on_kvm_ends_with_its_process(
    command: list[str], image: Callable[[bytes], Path], number: signal.Signals
) -> None:
    with subprocess.Popen(
        [*command, "run", "--engine", "kvm", image(guest_code.LOOP)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _wait_until(lambda: _holds_vm(process.pid))
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert errors == b""


def _holds_vm(process: int) -> bool:
    """Whether a process has a virtual machine with a processor in it."""
    try:
        return any("kvm-vcpu" in str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_kvm
def test_auto_goes_to_kvm_in_the_middle_of_a_computation(sample: Find) -> None:
    with VirtualMachine(sample("compute"), engine="auto", args="sha256 long") as vm:
        results = []
        for _ in range(2):
            vm.expect(r"sha256 [12] ([0-9a-f]{16})", timeout=60)
            results.append(vm.match.group(1))
        places: list[str] = []
        vm._machine.call(lambda assembly: places.append(assembly.computer.engine.name))
        _wait_until(lambda: bool(places))
    assert results[0] == results[1]
    assert places == ["kvm"]


@needs_kvm
def test_auto_comes_back_when_the_guest_traps_often() -> None:
    machine = Bare(engine="auto")
    try:
        engine = machine.computer.engine
        assert isinstance(engine, MovingEngine)
        places = []
        engine.on_move = places.append
        # mov rcx,4e9; 1: dec rcx; jnz 1b; mov ecx,60000; mov dx,0x500; 2: out dx,al; dec ecx; jnz 2b
        code = "48b900286bee00000000 48ffc9 75fb b960ea0000 66ba0005 ee ffc9 75fb"
        assert machine.run(code + DONE) == "done"
        assert places[:2] == ["kvm", "unicorn"]
        assert sum(1 for out in machine.outs if out[0] == 0) == 60_000
    finally:
        machine.close()


@needs_kvm
@pytest.mark.slow
def test_a_guest_may_be_moved_at_any_moment(sample: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The self-test of the firmware passes as it does in Unicorn while it goes from one engine to the other again and again."""
    chance = random.Random(7)
    moves = []

    def restless(since: float, spent: float) -> float:
        if chance.random() < 0.3:
            raise ManyExits
        return since

    def run(self: MovingEngine, cpu: Cpu, stepping: bool) -> Stop:
        self._not_before = 0
        if self.name == "unicorn" and chance.random() < 0.5:
            self._go = True
            moves.append(cpu.get(reg.RIP))
        return steady(self, cpu, stepping)

    def write(self: Bus, cpu: Cpu, port: int, size: int, value: int) -> None:
        plain(self, cpu, port, size, value)
        if not value % 11 and isinstance(cpu, MovableCpu):
            cpu._engine.kick()

    steady, plain = MovingEngine._run, Bus.port_write
    monkeypatch.setattr(kvm_cpu, "LOOK_AT_RATE", 7)
    monkeypatch.setattr(kvm_cpu, "look_at_rate", restless)
    monkeypatch.setattr(MovingEngine, "_run", run)
    monkeypatch.setattr(Bus, "port_write", write)
    folder = tmp_path / "esp"
    folder.mkdir()
    for name in ("child", "driver"):
        (folder / f"{name}.efi").write_bytes(sample(name).read_bytes())
    with VirtualMachine(sample("everything"), engine="auto", esp=folder) as vm:
        vm.expect(r"passed ([0-9]+) failed 0\b", timeout=110)
        assert int(vm.match.group(1)) > 900
    assert len(moves) > 20
    assert len(set(moves)) > 10
