"""A CPU that is written down and put together anew goes on as if nothing had happened, in every ring and mode."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from machine import registers as reg
from machine.cpu_state import SEGMENTS
from machine.errors import EngineError
from tests.machine.bare import CODE, DATA, DONE, GDT, KERNEL, STACK, TABLES, Bare

PAUSE = "66ba0005 ee eb00"
"""mov dx, 0x500; out dx, al; jmp +0: where the first run ends."""
RESULT = 0x600_0000
USER, USER_CODE, USER_DATA = CODE + 0x1000, 0x1B, 0x23


class Pair:
    """A machine that runs up to PAUSE, and one that goes on from there."""

    def __init__(self) -> None:
        self.first = Bare()
        self.second: Bare | None = None
        self.state: dict[str, Any] = {}

    def run(self, code: str, spoil: Callable[[Bare], None] = lambda machine: None) -> Bare:
        """Run `code`; behind PAUSE in the second machine, whose memory `spoil` may change while no CPU is there."""
        first = self.first
        first.on_out = lambda offset, _value: first.computer.finish("paused") if offset == 0 else None
        assert first.run(code) == "paused"
        self.state = first.cpu.freeze()
        again = first.cpu.freeze()
        assert again == self.state, "writing a CPU down changes it"
        self.second = second = Bare()
        second.computer.memory.write(0, first.computer.memory.read(0, first.computer.memory.size))
        spoil(second)
        second.cpu.thaw(self.state)
        assert second.computer.run() == "done"
        return second

    def close(self) -> None:
        self.first.close()
        if self.second is not None:
            self.second.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def open_to_users(machine: Bare) -> None:
    ram = machine.computer.memory
    for table in range(TABLES, TABLES + 3 * 4096, 8):
        entry = ram.u64(table)
        if entry & 1:
            ram.set_u64(table, entry | 4)


def test_general_x87_and_vector_registers_go_on(pair: Pair) -> None:
    # r15 = RESULT; rbx = 0x1122334455667788; movq xmm11, rbx; fninit; fldpi; fld1; fldl2e; stc; then the pause;
    # setc r14b and stores behind it
    code = (
        "49c7c7" + RESULT.to_bytes(4, "little").hex() + "48bb8877665544332211 664c0f6edb dbe3 d9eb d9e8 d9ea f9"
        "66ba0005 ee eb00"
        "410f92c6 49891f 664d0fd65f08 41dd5f10 41dd5f18 41dd5f20 458877 28"
    )
    second = pair.run(code.replace(" ", "") + DONE)
    ram = second.computer.memory
    assert ram.u64(RESULT) == ram.u64(RESULT + 8) == 0x1122_3344_5566_7788
    assert struct.unpack("<3d", ram.read(RESULT + 0x10, 24)) == pytest.approx(
        (1.4426950408889634, 1.0, 3.14159265358979)
    )
    assert ram.u8(RESULT + 0x28) == 1, "the carry flag is lost"


def test_a_program_in_ring_3_stays_there(pair: Pair) -> None:
    first = pair.first
    open_to_users(first)
    frame = STACK - 0x100
    first.computer.memory.write(frame, struct.pack("<5Q", USER, USER_CODE, 0x3202, STACK - 0x200, USER_DATA))
    first.cpu.set(reg.RSP, frame)
    # mov ax, 0x23; mov ds, ax; pause; mov r12d, cs; mov r13d, ss; mov r14d, ds; pushfq; pop r10
    first.computer.memory.write(USER, bytes.fromhex("66b82300 8ed8" + PAUSE + "418ccc 418cd5 418cde 9c 415a" + DONE))

    def spoil(machine: Bare) -> None:
        # The guest may have thrown its descriptors away: what is loaded counts.
        machine.computer.memory.fill(GDT, 4096)

    second = pair.run("48cf", spoil)
    cpu = second.cpu
    assert [cpu.get(r) & 0xFFFF for r in (reg.R12, reg.R13, reg.R14)] == [USER_CODE, USER_DATA, USER_DATA]
    assert cpu.get(reg.R10) & 0x3202 == 0x3202
    assert cpu.get(reg.RSP) == STACK - 0x200
    assert cpu.table("gdtr")[0] == GDT


def test_ring_3_is_not_merely_a_selector(pair: Pair) -> None:
    first = pair.first
    open_to_users(first)
    slot = TABLES + 8192 + 8 * (0x700_0000 >> 21)
    first.computer.memory.set_u64(slot, first.computer.memory.u64(slot) & ~4)
    frame = STACK - 0x100
    first.computer.memory.write(frame, struct.pack("<5Q", USER, USER_CODE, 0x3202, STACK - 0x200, USER_DATA))
    first.cpu.set(reg.RSP, frame)
    read_of_the_kernels = "48a1" + (0x700_0000).to_bytes(8, "little").hex()
    first.computer.memory.write(USER, bytes.fromhex(PAUSE + read_of_the_kernels + DONE))
    first.on_out = lambda _offset, _value: first.computer.finish("paused")
    assert first.run("48cf") == "paused"
    pair.second = second = Bare()
    second.computer.memory.write(0, first.computer.memory.read(0, first.computer.memory.size))
    second.cpu.thaw(first.cpu.freeze())
    second.catch_faults()
    assert second.computer.run() == "fault"
    assert (second.faults[0].vector, second.faults[0].error_code) == (14, 5)


def test_bases_msrs_debug_registers_and_xcr0(pair: Pair) -> None:
    cpu = pair.first.cpu
    cpu.write_msr(0xC000_0100, 0x1234_5000)
    cpu.write_msr(0xC000_0101, RESULT)
    cpu.write_msr(0xC000_0102, 0x7777_0000)
    cpu.write_msr(0xC000_0082, 0xFFFF_FFFF_8000_0000)
    cpu.set(reg.CR4, cpu.get(reg.CR4) | 1 << 18)
    # xsetbv(3); mov rax, 0x12340; mov dr1, rax; pause; xgetbv; mov gs:[0], eax; mov rax, dr1; mov gs:[8], rax; swapgs
    code = (
        "31c9 31d2 b803000000 0f01d1 48c7c040230100 0f23c8"
        + PAUSE
        + "31c9 0f01d0 6548890425 00000000 0f21c8 6548890425 08000000 0f01f8"
    )
    second = pair.run(code + DONE)
    ram = second.computer.memory
    assert ram.u64(RESULT) == 3
    assert ram.u64(RESULT + 8) == 0x12340
    assert second.cpu.read_msr(0xC000_0100) == 0x1234_5000
    assert second.cpu.read_msr(0xC000_0101) == 0x7777_0000
    assert second.cpu.read_msr(0xC000_0082) == 0xFFFF_FFFF_8000_0000


def test_segments_are_written_with_their_hidden_parts(pair: Pair) -> None:
    pair.run(PAUSE + DONE)
    segments = dict(zip(SEGMENTS, pair.state["segments"], strict=True))
    assert segments["cs"] == (KERNEL, 0, 0xFFFF_FFFF, 0xA09B)
    assert segments["ds"] == (DATA, 0, 0xFFFF_FFFF, 0xC093)


@pytest.mark.parametrize("selector", [0x3F0, 0x7F8, 0xE008, 0xFFE8])
def test_selectors_may_be_anywhere_in_the_descriptor_table(pair: Pair, selector: int) -> None:
    """Xen's are from 0xe000 on."""
    pair.run(PAUSE + "418ccc 418cd5" + DONE)
    code, data = (selector, 0, 0xFFFF_FFFF, 0xA09B), (selector - 8, 0, 0xFFFF_FFFF, 0xC093)
    third = Bare()
    try:
        third.computer.memory.write(0, pair.first.computer.memory.read(0, third.computer.memory.size))
        third.cpu.thaw({**pair.state, "segments": [data, code, *[data] * 4]})
        assert third.computer.run() == "done"
        assert [third.cpu.get(r) & 0xFFFF for r in (reg.R12, reg.R13)] == [selector, selector - 8]
    finally:
        third.close()


def test_32_bit_protected_mode_goes_on(pair: Pair) -> None:
    from machine.boot import pvh

    first = pair.first
    pvh.enter(first.computer, CODE)
    # mov ebx, 0x12345678; pause; inc ebx (0x43 would be a REX prefix in long mode); then the end
    code = "bb78563412" + PAUSE + "43"
    assert pair.run(code + DONE).cpu.get(reg.RBX) == 0x1234_5679


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ymm": b"\1" * 256}, "AVX"),
        ({"control": [0x10, 0, 0, 0, 0]}, "real mode"),
        ({"xcr0": 7}, "XCR0"),
        ({"segments": [(0x11, 0, 0xFFFF_FFFF, 0xA0BB)] * 6}, "ring 1"),
        ({"segments": [(0xFFF0, 0, 0xFFFF_FFFF, 0xA09B)] * 6}, "0xfff0"),
    ],
)
def test_what_the_engine_cannot_be_is_refused(pair: Pair, change: dict[str, Any], said: str) -> None:
    pair.run(PAUSE + DONE)
    third = Bare()
    try:
        with pytest.raises(EngineError, match=said):
            third.cpu.thaw({**pair.state, **change})
    finally:
        third.close()
