"""NMIs: while one is handled the next one waits for IRET (AMD64 APM volume 2, 8.1.3), on both engines."""

import platform
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.boards.pc import Board
from machine.console import HostConsole
from machine.engine import unicorn_insides
from machine.engine.unicorn import UnicornEngine
from machine.engine.unicorn_cpu import UnicornCpu
from tests.engines import ENGINES
from tests.machine.bare import CODE, DONE, Bare

HANDLER, BREAKPOINT = CODE + 0x800, CODE + 0xA00
NMI_TO_SELF = "b800440000 a30003e0fe00000000"
"""mov eax, 0x4400; mov [ICR low], eax: to the APIC with ID 0."""
ENTER = "49ffc4 49ffc5 4d39ee 4d0f4cf5"
"""inc r12 (NMIs so far); inc r13 (handlers in progress); cmp r14, r13; cmovl r14, r13 (the most of them)"""
LEAVE = "49ffcd 48cf"
"""dec r13; iretq"""
LINGER = "b900001000 ffc9 75fc"
"""mov ecx, 0x100000; 1: dec ecx; jnz 1b"""


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    Board(machine.computer, HostConsole(lambda data: None))
    yield machine
    machine.close()


def _unless_first(code: str) -> str:
    """cmp r12, 1; jne past the code."""
    return f"4983fc01 75{len(bytes.fromhex(code)):02x}" + code


def _send_until(count: int) -> str:
    """One more NMI to itself, and a loop until there have been so many: cmp r12, count; jb back."""
    return NMI_TO_SELF + f"4983fc{count:02x} 72fa"


CLEAR = "4531e4 4531ed 4531f6"
"""xor r12d, r12d; xor r13d, r13d; xor r14d, r14d"""


def test_nmis_that_arrive_meanwhile_wait_for_iret_and_become_one(bare: Bare) -> None:
    first = _unless_first(NMI_TO_SELF + LINGER + NMI_TO_SELF + LINGER)
    bare.computer.memory.write(HANDLER, bytes.fromhex(ENTER + first + LEAVE))
    bare.gate(2, HANDLER)
    assert bare.run(CLEAR + _send_until(2) + LINGER + _send_until(3) + DONE) == "done"
    assert [bare.cpu.get(register) for register in (reg.R12, reg.R13, reg.R14)] == [3, 0, 1]
    assert bare.cpu.nmi_masked is False


def test_any_iret_lets_the_next_one_in(bare: Bare) -> None:
    """Also that of an exception in the handler: the processor does not know which it was."""
    first = _unless_first(NMI_TO_SELF + "cc" + LINGER)
    bare.computer.memory.write(HANDLER, bytes.fromhex(ENTER + first + LEAVE))
    bare.computer.memory.write(BREAKPOINT, bytes.fromhex("48cf"))
    bare.gate(2, HANDLER)
    bare.gate(3, BREAKPOINT)
    assert bare.run(CLEAR + _send_until(2) + LINGER + DONE) == "done"
    assert [bare.cpu.get(register) for register in (reg.R12, reg.R13, reg.R14)] == [2, 0, 2]


def test_hlt_in_a_handler_is_not_ended_by_the_next_one(bare: Bare) -> None:
    bare.computer.memory.write(HANDLER, bytes.fromhex(ENTER + _unless_first(NMI_TO_SELF) + "f4" + DONE))
    bare.gate(2, HANDLER)
    clock = bare.computer.clock
    clock.call_at(clock.now() + 100_000_000, lambda: bare.computer.finish("still there"))
    assert bare.run(CLEAR + _send_until(2) + DONE) == "still there"
    assert bare.cpu.get(reg.R12) == 1
    state = bare.cpu.freeze()
    assert state["nmi_masked"] is True
    other = Bare()
    try:
        other.cpu.thaw(state)
        assert other.cpu.nmi_masked is True
    finally:
        other.close()


def test_where_unicorn_does_not_show_its_flags_nmis_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicorn_insides, "flags_of", lambda _library, _handle: None)
    machine = Bare()
    try:
        Board(machine.computer, HostConsole(lambda data: None))
        first = _unless_first(NMI_TO_SELF + LINGER)
        machine.computer.memory.write(HANDLER, bytes.fromhex(ENTER + first + LEAVE))
        machine.gate(2, HANDLER)
        assert machine.run(CLEAR + _send_until(2) + DONE) == "done"
        assert machine.cpu.get(reg.R12) == 2
    finally:
        machine.close()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="they are found in machine code of x86-64")
def test_this_library_shows_its_flags() -> None:
    machine = Bare()
    try:
        engine = machine.computer.engine
        assert isinstance(engine, UnicornEngine)
        for cpu in engine.cpus:
            assert isinstance(cpu, UnicornCpu)
            assert cpu._flags is not None
    finally:
        machine.close()
