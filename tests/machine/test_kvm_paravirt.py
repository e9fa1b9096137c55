"""What a guest of KVM expects besides hardware: leaves, kvmclock, hypercalls."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine import registers as reg
from machine.clock import VirtualClock
from machine.kvm_paravirt import KvmParavirt, time_scale

from .bare import CODE, DONE, Bare

PLACE = 0x500_0000
AT_PLACE = PLACE.to_bytes(4, "little").hex()


@pytest.fixture
def bare() -> Iterator[Bare]:
    machine = Bare(VirtualClock())
    KvmParavirt(machine.computer)
    yield machine
    machine.close()


@given(st.integers(1_000_000, 1 << 34))
def test_the_scale_makes_nanoseconds_of_ticks(frequency: int) -> None:
    multiplier, shift = time_scale(frequency)
    ticks = frequency * 10
    shifted = ticks << shift if shift >= 0 else ticks >> -shift
    assert multiplier < 1 << 32
    assert abs((shifted * multiplier >> 32) - 10_000_000_000) < 200_000


def test_the_signature_and_features(bare: Bare) -> None:
    code = "b800000040 0fa2 891c25" + AT_PLACE + " 890c25" + (PLACE + 4).to_bytes(4, "little").hex()
    assert bare.run(code + "b801000040 0fa2 4189c0" + DONE) == "done"
    assert bare.computer.memory.read(PLACE, 8) == b"KVMKVMKV"
    assert bare.cpu.get(reg.R8) & 0b1001 == 0b1001


@pytest.mark.parametrize("index", ["12000000", "014d564b"])
def test_kvmclock_is_where_the_guest_wants_it_and_agrees_with_the_machine(bare: Bare, index: str) -> None:
    low = (PLACE | 1).to_bytes(4, "little").hex()
    assert bare.run(f"b9{index} b8{low} 31d2 0f30 0f32 4189c0" + DONE) == "done"
    assert bare.cpu.get(reg.R8) == PLACE | 1
    version, _, tsc, now, multiplier, shift, flags = struct.unpack("<IIQQIbB", bare.computer.memory.read(PLACE, 30))
    assert version % 2 == 0
    assert flags & 1
    later = bare.computer.clock
    delta = later.tsc() - tsc
    shifted = delta << shift if shift >= 0 else delta >> -shift
    assert abs(now + (shifted * multiplier >> 32) - later.now()) < 1000


def test_a_clock_that_lies_outside_of_ram_is_a_general_protection_fault(bare: Bare) -> None:
    bare.catch_faults()
    assert bare.run("b9014d564b b8010000f0 31d2 0f30" + DONE) == "fault"
    assert bare.faults[0].vector == 13


def _call(number: int, rbx: int, rcx: int, opcode: str) -> str:
    parts = ((0xB8, number), (0xBB, rbx), (0xB9, rcx))
    return "".join(f"{op:02x}" + value.to_bytes(4, "little").hex() for op, value in parts) + opcode + "4989c0"


@pytest.mark.parametrize("opcode", ["0f01d9", "0f01c1"], ids=["vmmcall", "vmcall"])
@pytest.mark.parametrize(
    ("number", "rbx", "rcx", "answer"),
    [(9, PLACE, 0, 0), (9, PLACE, 1, -95), (9, 0xF000_0000, 0, -14), (1, 0, 0, 0), (77, 0, 0, -1000)],
)
def test_hypercalls(bare: Bare, opcode: str, number: int, rbx: int, rcx: int, answer: int) -> None:
    assert bare.run(_call(number, rbx, rcx, opcode) + DONE, CODE) == "done"
    assert bare.cpu.get(reg.R8) == answer & (1 << 64) - 1
    if number == 9 and not answer:
        seconds, nanoseconds, tsc = struct.unpack("<qqQ", bare.computer.memory.read(PLACE, 24))
        clock = bare.computer.clock
        assert abs(seconds * 10**9 + nanoseconds - clock.wall()) < 10**6
        assert 0 <= clock.tsc() - tsc < 10**7
