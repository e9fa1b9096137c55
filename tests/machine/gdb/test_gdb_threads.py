"""GDB sees each CPU of a machine as a thread: which one stopped, stepping one of them, holding the others."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from machine import registers as reg
from machine.boards.board import Board
from machine.console import HostConsole
from machine.gdb.server import GdbServer
from machine.gdb.stub import GdbStub
from tests.machine.bare import CODE, Bare
from tests.machine.test_smp import OTHER, WORD, at

COUNT = at(WORD) + "ff03 ebfc"
"""inc dword [rbx]; jmp back to it: both at an offset of 10 bytes."""
OTHER_COUNT = at(WORD + 8) + "ff03 ebfc"
LOOP = 10


class Debugged:
    """Three CPUs, two of which count; a stub is told what to do, its answers are kept."""

    def __init__(self) -> None:
        self.bare = Bare(cpus=3)
        Board(self.bare.computer, HostConsole(lambda data: None))
        self.bare.start(1, OTHER_COUNT, OTHER)
        self.bare.computer.memory.write(CODE, bytes.fromhex(COUNT))
        self.bare.cpu.set(reg.RIP, CODE)
        self.answers: list[bytes] = []
        self._heard = threading.Condition()
        self.stub = GdbStub(self._hear)
        self.stub.connected()
        self._thread: threading.Thread | None = None

    def _hear(self, data: bytes) -> None:
        with self._heard:
            self.answers.append(data)
            self._heard.notify()

    def start(self, stub: Any = None) -> None:
        (stub or self.stub).attach(self.bare.computer)
        self._thread = threading.Thread(target=self.bare.computer.run, daemon=True)
        self._thread.start()

    def ask(self, packet: bytes) -> bytes:
        before = len(self.answers)
        self.bare.computer.post(lambda: self.stub.handle(packet))
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.answers) > before, 20), packet
            return self.answers[before]

    def tell(self, packet: bytes) -> None:
        self.bare.computer.post(lambda: self.stub.handle(packet))

    def word(self, address: int) -> int:
        return self.bare.computer.memory.u32(address)

    def close(self) -> None:
        self.bare.computer.finish("closed")
        self.bare.computer.finish("closed")
        if self._thread is not None:
            self._thread.join(20)
        self.bare.close()


@pytest.fixture
def debugged() -> Iterator[Debugged]:
    machine = Debugged()
    yield machine
    machine.close()


def test_threads_are_cpus(debugged: Debugged) -> None:
    debugged.start()
    assert debugged.ask(b"qfThreadInfo") == b"m1,2,3"
    assert debugged.ask(b"qsThreadInfo") == b"l"
    assert debugged.ask(b"qC") == b"QC1"
    assert bytes.fromhex(debugged.ask(b"qThreadExtraInfo,3").decode()) == b"CPU 2, waiting"
    assert debugged.ask(b"T3") == b"OK" and debugged.ask(b"T4") == b"E16" and debugged.ask(b"T0") == b"E16"
    rip = f"{OTHER:x}"
    assert debugged.ask(b"Hg2") == b"OK"
    assert int.from_bytes(bytes.fromhex(debugged.ask(b"p10").decode()), "little") == int(rip, 16)
    assert debugged.ask(b"Hg1") == b"OK"
    assert int.from_bytes(bytes.fromhex(debugged.ask(b"p10").decode()), "little") == CODE
    assert debugged.ask(b"Hg9") == b"E16" and debugged.ask(b"vCont;s:9") == b"E16"


def test_a_breakpoint_names_the_cpu_that_came_to_it(debugged: Debugged) -> None:
    debugged.start()
    assert debugged.ask(b"Z0,%x,1" % (OTHER + LOOP)) == b"OK"
    assert debugged.ask(b"vCont;c") == b"T05hwbreak:;thread:2;"
    assert debugged.ask(b"qC") == b"QC2"
    assert debugged.word(WORD + 8) == 0
    assert debugged.ask(b"vCont;c") == b"T05hwbreak:;thread:2;"
    assert debugged.word(WORD + 8) == 1
    assert debugged.ask(b"z0,%x,1" % (OTHER + LOOP)) == b"OK"


def test_one_cpu_is_stepped_while_the_others_stand(debugged: Debugged) -> None:
    debugged.start()
    for wanted in (OTHER + LOOP, OTHER + LOOP + 2, OTHER + LOOP):
        assert debugged.ask(b"vCont;s:2") == b"T05thread:2;"
        assert int.from_bytes(bytes.fromhex(debugged.ask(b"p10").decode()), "little") == wanted
    assert (debugged.word(WORD), debugged.word(WORD + 8)) == (0, 1)


def test_one_cpu_is_stepped_while_the_others_run(debugged: Debugged) -> None:
    debugged.start()
    for _ in range(7):
        assert debugged.ask(b"vCont;s:2;c") == b"T05thread:2;"
    assert debugged.word(WORD + 8) == 3
    assert debugged.word(WORD) > 100


def test_one_cpu_runs_while_the_others_stand(debugged: Debugged) -> None:
    debugged.start()
    debugged.tell(b"vCont;c:1")
    while debugged.word(WORD) < 1000:
        pass
    assert debugged.ask(b"\x03") == b"T02thread:1;"
    assert debugged.word(WORD + 8) == 0


def test_an_interrupt_is_of_the_cpu_that_alone_ran(debugged: Debugged) -> None:
    debugged.start()
    debugged.tell(b"vCont;c:2")
    while debugged.word(WORD + 8) < 1000:
        pass
    assert debugged.ask(b"\x03") == b"T02thread:2;"
    assert debugged.word(WORD) == 0


def test_a_watchpoint_names_the_cpu_that_wrote(debugged: Debugged) -> None:
    debugged.start()
    assert debugged.ask(b"Z2,%x,4" % (WORD + 8)) == b"OK"
    assert debugged.ask(b"vCont;c") == b"T05watch:%x;thread:2;" % (WORD + 8)
    assert debugged.word(WORD + 8) == 1


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed (Debian package gdb)")
def test_debians_gdb_lists_and_switches_threads(debugged: Debugged) -> None:
    server = GdbServer(0, debugged.bare.computer.post, lambda: debugged.bare.computer.finish("killed"), {})
    debugged.start(server.stub)
    commands = (
        *("set architecture i386:x86-64", f"target remote 127.0.0.1:{server.port}", "info threads"),
        *("thread 2", "stepi", "p/x $rip", f"hbreak *{CODE + LOOP:#x}", "continue", "thread", "p/x $rip"),
        *("set scheduler-locking on", "thread 2", "stepi", "p/x $rip", "info threads", "kill"),
    )
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(["gdb", "-nx", "-batch", *words], check=False, capture_output=True, text=True, timeout=60)
    server.close()
    text = done.stdout
    assert re.search(r"1 +Thread 1 \(CPU 0, running\) +0x0*3000000", text), text + done.stderr
    assert re.search(r"2 +Thread 2 \(CPU 1, running\)", text) and re.search(r"3 +Thread 3 \(CPU 2, waiting\)", text)
    assert f"$1 = {OTHER + LOOP:#x}" in text, text
    assert "Current thread is 1 (Thread 1)" in text and f"$2 = {CODE + LOOP:#x}" in text
    assert re.search(rf"\$3 = {OTHER:#x}|\$3 = {OTHER + LOOP:#x}|\$3 = {OTHER + LOOP + 2:#x}", text)
