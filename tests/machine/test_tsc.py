"""The guest's ways to move its time-stamp counter, by machine code on each engine."""

from collections.abc import Iterator
from functools import partial

import pytest

from machine.boards.pc import PcBoard
from machine.clock import NANOSECONDS
from machine.console import HostConsole
from tests.engines import ENGINES

from .bare import CODE, DONE, Bare

ADJUST = "b93b000000"  # mov ecx,0x3b
COUNTER = "b910000000"  # mov ecx,0x10
READ = "0f32 48c1e220 4809d0"  # rdmsr; rax = edx:eax
WRITE = "4889c2 48c1ea20 0f30"  # edx:eax = rax; wrmsr
RDTSC = "0f31 48c1e220 4809d0"
RESULTS = 0x500_0000
FAR = 1 << 44
"""Ticks: two hours, longer than a test lasts."""


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


def load(value: int) -> str:
    """movabs rax, value."""
    return "48b8" + (value & (1 << 64) - 1).to_bytes(8, "little").hex()


def results(bare: Bare, *steps: str) -> list[int]:
    """RAX after each piece of code, run one behind the other."""
    bare.computer.memory.write(RESULTS, bytes(8 * len(steps)))
    stored = [step + "48a3" + (RESULTS + 8 * n).to_bytes(8, "little").hex() for n, step in enumerate(steps)]
    assert bare.run("".join(stored) + DONE) == "done"
    return [bare.computer.memory.u64(RESULTS + 8 * n) for n in range(len(steps))]


def test_the_counter_can_be_put_forward_and_back_by_its_adjustment(bare: Bare) -> None:
    forward, back = load(FAR) + ADJUST + WRITE, load(0) + ADJUST + WRITE
    told, before, ahead, register, adjustment, again = results(
        bare, ADJUST + READ, RDTSC, forward + RDTSC, COUNTER + READ, ADJUST + READ, back + RDTSC
    )
    assert told == 0
    assert before <= ahead - FAR <= register - FAR <= again < FAR
    assert adjustment == FAR


def test_the_adjustment_follows_what_is_written_to_the_counter(bare: Bare) -> None:
    ahead, adjustment, again, less = results(
        bare, load(FAR) + COUNTER + WRITE + RDTSC, ADJUST + READ, load(0) + COUNTER + WRITE + RDTSC, ADJUST + READ
    )
    assert FAR <= ahead < 2 * FAR
    assert 0 < adjustment <= FAR
    assert again < FAR
    assert less >= 1 << 63, "below zero, as 64 bits in two's complement"


def test_the_deadline_timer_counts_as_the_guest_does(bare: Bare) -> None:
    PcBoard(bare.computer, HostConsole(lambda data: None), bare.computer.finish)
    handler = CODE + 0x10_0000
    bare.computer.memory.write(handler, bytes.fromhex(DONE))
    bare.gate(0x40, handler)
    at = (0xFEE0_0320).to_bytes(8, "little").hex()
    mode = "b840000400 a3" + at  # LVT timer: TSC-deadline, vector 0x40
    enable = "b8ff010000 a3" + (0xFEE0_00F0).to_bytes(8, "little").hex()
    arm = load(FAR) + "b9e0060000" + WRITE
    bare.computer.clock.call_at(20 * NANOSECONDS, partial(bare.computer.finish, "never"))
    # The deadline is hours away, until the counter is put ahead of it.
    assert bare.run(enable + mode + arm + load(2 * FAR) + ADJUST + WRITE + "fb ebfe") == "done"


def test_each_processor_has_a_counter_of_its_own() -> None:
    machine = Bare(cpus=2)
    try:
        word = RESULTS + 0x100
        # The other one adds 1 to its adjustment and stores it: mov [word],rax; hlt.
        store = "48ffc0 48a3" + word.to_bytes(8, "little").hex() + "f4"
        machine.start(1, ADJUST + READ + store, CODE + 0x10_0000)
        wait = "48bb" + word.to_bytes(8, "little").hex() + "f390 833b00 74f9"  # pause; until it is there
        assert results(machine, load(FAR) + ADJUST + WRITE + RDTSC, wait)[0] >= FAR
        assert machine.computer.memory.u64(word) == 1
    finally:
        machine.close()
