"""Break- and watchpoints of an engine: where the guest stands then, and that each instruction is carried out once."""

from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.cpu import Stop, Watch
from tests.engines import ENGINES
from tests.machine.bare import CODE, DONE, Bare

DATA = 0x500_0000
AT_DATA = DATA.to_bytes(4, "little").hex()


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


def _load(bare: Bare, code: str) -> None:
    bare.computer.memory.write(CODE, bytes.fromhex(code + DONE))
    bare.cpu.set(reg.RIP, CODE)


def test_a_breakpoint_stops_before_its_instruction_until_it_is_passed(bare: Bare) -> None:
    _load(bare, "b801000000 ffc0 ffc0 ffc0")  # mov eax, 1; inc eax; inc eax; inc eax
    bare.cpu.set_breakpoints(frozenset([CODE + 7]))
    for _ in range(2):  # who does not say that it may be passed meets it again
        assert bare.to_stop() is Stop.BREAKPOINT
        assert (bare.cpu.get(reg.RIP), bare.cpu.get(reg.RAX)) == (CODE + 7, 2)
    bare.cpu.pass_breakpoint()
    assert bare.computer.run() == "done"
    assert bare.cpu.get(reg.RAX) & 0xFFFF == 4


def test_a_breakpoint_in_code_that_ran_before_and_one_that_was_taken_away(bare: Bare) -> None:
    _load(bare, "31c0 ffc0 ffc0")
    assert bare.computer.run() == "done"
    bare.cpu.set(reg.RIP, CODE)
    bare.cpu.set_breakpoints(frozenset([CODE + 4]))
    assert bare.to_stop() is Stop.BREAKPOINT
    bare.cpu.set_breakpoints(frozenset())
    bare.computer._end = None
    assert bare.computer.run() == "done"


def test_a_breakpoint_at_a_trapped_instruction_comes_before_the_trap(bare: Bare) -> None:
    bare.computer.read_tsc = lambda cpu: 0x77  # type: ignore[method-assign]
    _load(bare, "b805000000 0f31")
    bare.cpu.set_breakpoints(frozenset([CODE + 5]))
    assert bare.to_stop() is Stop.BREAKPOINT
    assert bare.cpu.get(reg.RAX) == 5
    bare.cpu.pass_breakpoint()
    assert bare.computer.run() == "done"
    assert bare.cpu.get(reg.RAX) & 0xFF == 0x77


@pytest.mark.parametrize(
    ("code", "length", "value"),
    [
        (f"c70425{AT_DATA}07000000", 11, 7),  # mov dword [DATA], 7
        (f"ff0425{AT_DATA}", 7, 6),  # inc dword [DATA]
        (f"010425{AT_DATA}", 7, 105),  # add [DATA], eax
        (f"870425{AT_DATA}", 7, 100),  # xchg [DATA], eax
        (f"f00fc10425{AT_DATA}", 9, 105),  # lock xadd [DATA], eax
    ],
)
def test_a_watchpoint_stops_behind_its_instruction_which_is_carried_out_once(
    bare: Bare, code: str, length: int, value: int
) -> None:
    memory = bare.computer.memory
    memory.set_u32(DATA, 5)
    _load(bare, code + "90")
    bare.cpu.set(reg.RAX, 100)
    bare.cpu.set_watches((Watch(DATA + 1, 1, reads=False, writes=True),))
    assert bare.to_stop() is Stop.WATCHPOINT
    assert bare.cpu.get(reg.RIP) == CODE + length
    assert memory.u32(DATA) == value
    assert bare.cpu.touched()[1] == DATA + 1
    bare.cpu.set_watches(())
    assert bare.computer.run() == "done"
    assert memory.u32(DATA) == value


def test_reads_are_watched_only_if_asked_for(bare: Bare) -> None:
    _load(bare, f"8b0425{AT_DATA} 8b0425{AT_DATA}")
    bare.cpu.set_watches((Watch(DATA, 4, reads=False, writes=True),))
    assert bare.computer.run() == "done"
    bare.cpu.set(reg.RIP, CODE)
    bare.cpu.set_watches((Watch(DATA, 4, reads=True, writes=False),))
    assert bare.to_stop() is Stop.WATCHPOINT
    assert bare.cpu.get(reg.RIP) == CODE + 7
