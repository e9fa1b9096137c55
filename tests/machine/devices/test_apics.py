"""Local APICs behind the controller that joins them, driven through their registers."""

import pytest
from apics import (
    APIC_BASE,
    CURRENT,
    DFR,
    DIVIDE,
    EOI,
    ERROR,
    ESR,
    ICR,
    ICR_HIGH,
    ID,
    INITIAL,
    IRR,
    ISR,
    LDR,
    PPR,
    SVR,
    TIMER,
    TPR,
    TSC_DEADLINE,
    VERSION,
    Apics,
)
from device_accesses import CPU, CPU1, Access, accesses, assert_plain
from hypothesis import given
from hypothesis import strategies as st

from machine.clock import NANOSECONDS
from machine.interrupts.apic_timer import FREQUENCY


def test_identity_as_tamago_reads_it() -> None:
    apics = Apics()
    assert (apics.get(ID), apics.get(ID, CPU1)) == (0, 1 << 24)
    assert apics.get(VERSION) == 0x0005_0014
    assert apics.base() == 0xFEE0_0900
    assert apics.base(CPU1) == 0xFEE0_0800
    assert apics.get(0x50) == 0


def test_self_ipi_priorities_and_eoi() -> None:
    apics = Apics()
    for vector in (0x41, 0x52, 0x43):
        apics.put(ICR, 0x4_0000 | vector)
    assert apics.get(IRR + 0x20) == 1 << 1 | 1 << 3 | 1 << 18
    assert apics.all.acknowledge(0) == 0x52
    assert apics.get(ISR + 0x20) == 1 << 18
    assert apics.get(PPR) == 0x50
    assert not apics.all.has_work(0)
    apics.put(EOI, 0)
    assert apics.all.acknowledge(0) == 0x43
    assert apics.all.acknowledge(0) is None
    apics.put(EOI, 0)
    apics.put(TPR, 0x40)
    assert not apics.all.has_work(0)
    apics.woken.clear()
    apics.all.local_apics[0].tpr = 0x30
    assert apics.woken == [0]
    assert apics.take() == 0x41
    assert apics.get(ICR) & 0x1000 == 0


def test_ipis_reach_whom_they_name() -> None:
    apics = Apics()
    apics.put(ICR_HIGH, 1 << 24)
    apics.put(ICR, 0x60)
    assert (apics.take(0), apics.take(1)) == (None, 0x60)
    apics.put(ICR, 0xC_0061)
    assert (apics.take(0), apics.take(1)) == (None, 0x61)
    apics.put(ICR, 0x8_0062)
    assert (apics.take(0), apics.take(1)) == (0x62, 0x62)
    apics.put(ICR_HIGH, 0xFF << 24)
    apics.put(ICR, 0x63)
    assert (apics.take(0), apics.take(1)) == (0x63, 0x63)
    apics.put(ICR_HIGH, 7 << 24)
    apics.put(ICR, 0x64)
    assert (apics.take(0), apics.take(1)) == (None, None)


def test_logical_destinations_flat_and_cluster() -> None:
    apics = Apics()
    apics.put(LDR, 0x01 << 24)
    apics.put(LDR, 0x02 << 24, CPU1)
    apics.put(ICR_HIGH, 0x02 << 24)
    apics.put(ICR, 0x0870)
    assert (apics.take(0), apics.take(1)) == (None, 0x70)
    for cpu in (CPU, CPU1):
        apics.put(DFR, 0, cpu)
    apics.put(LDR, 0x31 << 24)
    apics.put(LDR, 0x41 << 24, CPU1)
    apics.put(ICR_HIGH, 0x31 << 24)
    apics.put(ICR, 0x0871)
    assert (apics.take(0), apics.take(1)) == (0x71, None)


def test_lowest_priority_goes_to_one() -> None:
    apics = Apics()
    apics.put(TPR, 0x20)
    apics.put(ICR_HIGH, 0xFF << 24)
    apics.put(ICR, 0x0172)
    assert (apics.take(0), apics.take(1)) == (None, 0x72)
    apics.put(SVR, 0xFF, CPU1)
    apics.put(ICR, 0x0173)
    assert apics.take(0) == 0x73


def test_nmi_init_and_startup() -> None:
    apics = Apics()
    apics.put(ICR_HIGH, 1 << 24)
    apics.put(ICR, 0x0400)
    assert apics.all.has_work(1)
    assert apics.woken[-1] == 1
    assert apics.all.take_nmi(1)
    assert not apics.all.take_nmi(1)
    apics.put(ICR, 0x8500)  # level de-assert: nothing
    assert apics.inits == []
    apics.put(ICR, 0xC500)
    apics.put(ICR, 0x0604)
    assert (apics.inits, apics.startups) == ([1], [(1, 4)])
    assert apics.get(SVR, CPU1) == 0xFF
    apics.put(ICR, 0xC_4500)
    assert apics.inits == [1, 1]


def test_one_shot_timer() -> None:
    apics = Apics()
    apics.put(DIVIDE, 0x3)  # by 16
    apics.put(TIMER, 0x40)
    apics.put(INITIAL, FREQUENCY // 16 // 1000)  # 1 ms
    apics.go(500_000)
    assert abs(apics.get(CURRENT) - FREQUENCY // 16 // 2000) <= 1
    assert not apics.all.has_work(0)
    apics.go(500_000)
    assert apics.take() == 0x40
    assert apics.get(CURRENT) == 0
    apics.go(NANOSECONDS)
    assert apics.take() is None
    assert apics.clock.next_deadline() is None


def test_periodic_timer_until_masked() -> None:
    apics = Apics()
    apics.put(DIVIDE, 0xB)
    apics.put(TIMER, 0x2_0041)
    apics.put(INITIAL, FREQUENCY // 100)
    count = 0
    for _ in range(1000):
        apics.go(1_000_000)
        count += apics.take() == 0x41
    assert count == 100
    apics.put(TIMER, 0x3_0041)
    assert apics.clock.next_deadline() is None
    apics.go(NANOSECONDS)
    assert apics.take() is None
    assert 0 < apics.get(CURRENT) <= FREQUENCY // 100


def test_the_fastest_periodic_timer_leaves_the_guest_time() -> None:
    apics = Apics()
    apics.put(DIVIDE, 0xB)
    apics.put(TIMER, 0x2_0041)
    apics.put(INITIAL, 1)
    apics.clock.jump_to(1_000_000)
    apics.clock.run_due()
    deadline = apics.clock.next_deadline()
    assert deadline is not None
    assert deadline >= apics.clock.now() + 20_000


def test_tsc_deadline_timer() -> None:
    apics = Apics()
    assert apics.all.write_msr(CPU, TSC_DEADLINE, 5_000_000)
    assert apics.all.read_msr(CPU, TSC_DEADLINE) == 0
    apics.put(TIMER, 0x4_0042)
    apics.all.write_msr(CPU, TSC_DEADLINE, 5_000_000)
    assert apics.all.read_msr(CPU, TSC_DEADLINE) == 5_000_000
    apics.go(1_999_999)
    assert not apics.all.has_work(0)
    apics.go(1)
    assert apics.all.read_msr(CPU, TSC_DEADLINE) == 0
    assert apics.take() == 0x42
    apics.all.write_msr(CPU, TSC_DEADLINE, 1)
    apics.go(99_999)
    assert apics.take() is None, "the guest has time to halt"
    apics.put(TIMER, 0x4_0042)
    apics.go(1)
    assert apics.take() == 0x42
    apics.all.write_msr(CPU, TSC_DEADLINE, 1 << 63)
    apics.all.write_msr(CPU, TSC_DEADLINE, 0)
    assert apics.clock.next_deadline() is None
    apics.all.local_apics[0].timer.tsc_offset = 1_000_000
    apics.all.write_msr(CPU, TSC_DEADLINE, apics.clock.tsc() + 1_000_000 + 500_000)
    apics.go(200_000)
    assert apics.take() == 0x42


def test_a_due_timer_is_not_lost_when_it_is_reprogrammed() -> None:
    apics = Apics()
    apics.put(TIMER, 0x40)
    apics.put(INITIAL, 100)
    apics.clock.jump_to(1_000_000)  # nobody has called run_due
    apics.put(TIMER, 0x1_0040)
    assert apics.take() == 0x40


def test_software_disable_masks_and_drops() -> None:
    apics = Apics()
    apics.put(TIMER, 0x40)
    apics.put(SVR, 0xFF)
    assert apics.get(TIMER) == 0x1_0040
    apics.put(TIMER, 0x40)
    assert apics.get(TIMER) == 0x1_0040
    apics.put(ICR, 0x4_0050)
    assert not apics.all.has_work(0)
    apics.put(SVR, 0x1FF)
    assert not apics.all.has_work(0)


def test_errors_are_latched_by_a_write() -> None:
    apics = Apics()
    apics.put(ERROR, 0x33)
    apics.put(ICR, 0x4_0005)
    assert apics.take() == 0x33
    assert apics.get(ESR) == 0
    apics.put(ESR, 0)
    assert apics.get(ESR) == 0x20
    apics.get(0x3D0)
    apics.put(ESR, 0)
    assert apics.get(ESR) == 0x80
    apics.put(ESR, 0)
    assert apics.get(ESR) == 0


@pytest.mark.parametrize(
    ("path", "last_is_legal"),
    [
        ((0x800, 0xC00), True),  # xAPIC to x2APIC
        ((0xC00, 0x800), False),
        ((0xC00, 0x000), True),
        ((0x000, 0x800), True),
        ((0x000, 0xC00), False),
        ((0x400,), False),
    ],
)
def test_apic_base_transitions(path: tuple[int, ...], last_is_legal: bool) -> None:
    apics = Apics()
    results = [apics.all.write_msr(CPU, APIC_BASE, 0xFEE0_0100 | bits) for bits in path]
    assert all(results[:-1])
    assert results[-1] is last_is_legal
    assert apics.base() & 0xC00 == (path[-1] if last_is_legal else (*(0x800,), *path)[-2])
    assert not apics.all.write_msr(CPU, APIC_BASE, 0xFEC0_0900)
    assert not apics.all.write_msr(CPU, APIC_BASE, 1 << 60 | 0xFEE0_0900)


def test_x2apic_takes_ones_for_bits_that_are_read_only() -> None:
    """Xen writes them when it hands the APIC over; reserved bits are another thing."""
    apics = Apics()
    apics.x2()
    for msr, value, kept in ((0x835, 0x5700, 0x700), (0x836, 0x5400, 0x400), (0x832, 0x1_1040, 0x1_0040)):
        assert apics.all.write_msr(CPU, msr, value)
        assert apics.all.read_msr(CPU, msr) == kept
    for msr, value in ((0x835, 1 << 11), (0x832, 1 << 14), (0x837, 1 << 14)):
        assert not apics.all.write_msr(CPU, msr, value)


def test_x2apic_registers() -> None:
    apics = Apics()
    assert apics.all.read_msr(CPU, 0x802) is None
    assert not apics.all.write_msr(CPU, 0x80F, 0x1FF)
    apics.x2()
    apics.x2(CPU1)
    assert apics.get(ID) == 0xFFFF_FFFF
    assert apics.all.read_msr(CPU1, 0x802) == 1
    assert apics.all.read_msr(CPU1, 0x80D) == 2
    assert apics.all.read_msr(CPU, 0x803) == 0x0005_0014
    for msr in (0x80B, 0x83F, 0x80E, 0x831, 0x809, 0x840, 0x8FF):
        assert apics.all.read_msr(CPU, msr) is None
    for msr, value in (
        (0x802, 0),
        (0x80B, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x80F, 0x1000),
        (0x830, 1 << 20),
        (0x839, 0),
    ):
        assert not apics.all.write_msr(CPU, msr, value)
    assert apics.all.write_msr(CPU, 0x83F, 0x55)
    assert apics.all.acknowledge(0) == 0x55
    assert apics.all.write_msr(CPU, 0x80B, 0)
    assert apics.all.write_msr(CPU, 0x830, 1 << 32 | 0x56)
    assert apics.all.acknowledge(1) == 0x56
    assert apics.all.write_msr(CPU, 0x830, 2 << 32 | 0x0857)
    assert apics.all.write_msr(CPU1, 0x80B, 0)
    assert apics.all.acknowledge(1) == 0x57
    assert apics.all.read_msr(CPU, 0x830) == 2 << 32 | 0x0857
    assert apics.all.write_msr(CPU, 0x830, 0xFFFF_FFFF << 32 | 0x0458)
    assert apics.all.take_nmi(0)
    assert apics.all.take_nmi(1)


def test_an_armed_timer_survives_a_restore() -> None:
    apics, twin = Apics(), Apics()
    apics.put(TIMER, 0x40)
    apics.put(INITIAL, 1000)
    apics.go(1_000)
    twin.clock.load(apics.clock.save())
    twin.all.load(apics.all.save())
    twin.go(NANOSECONDS)
    assert twin.take() == 0x40


@given(
    st.one_of(accesses(range(0, 0x400, 16), (4,)), accesses(range(0x1000 - 8), (1, 2, 4, 8))),
    accesses(range(0, 0x400, 8), (4, 8)),
    st.lists(st.tuples(st.integers(0, 23), st.booleans()), max_size=10),
    st.lists(st.tuples(st.integers(0, 0xFF), st.integers(0, (1 << 32) - 1)), max_size=20),
    st.integers(0, 10**10),
)
def test_random_accesses_and_a_restored_twin(
    first: list[Access], second: list[Access], lines: list, table: list[tuple[int, int]], wait: int
) -> None:
    def step(apics: Apics, access: Access) -> object:
        is_write, offset, size, value = access
        apics.clock.trap()
        apics.clock.run_due()
        if is_write:
            apics.all.write_local_apic(CPU, offset, size, value & (1 << 8 * size) - 1)
            return apics.take(0), apics.take(1)
        result = apics.all.read_local_apic(CPU, offset, size)
        assert 0 <= result < 1 << 8 * size
        return result

    original, twin = Apics(), Apics()
    for access in first:
        step(original, access)
    for register, value in table:
        original.ioapic(register, value)
    for irq, level in lines:
        original.all.set_irq(irq, level)
    clock, state = original.clock.save(), original.all.save()
    assert_plain(state)
    twin.clock.load(clock)
    twin.all.load(state)
    assert twin.all.save() == state
    original.go(min(wait, 10**6))
    twin.go(min(wait, 10**6))
    for access in second:
        assert step(original, access) == step(twin, access)


@given(st.lists(st.tuples(st.booleans(), st.integers(0x7F0, 0x910), st.integers(0, (1 << 64) - 1)), max_size=60))
def test_random_msr_accesses(steps: list[tuple[bool, int, int]]) -> None:
    apics = Apics()
    apics.x2()
    for is_write, msr, value in steps:
        if is_write:
            assert apics.all.write_msr(CPU, msr, value if value & 1 else value & 0xFFFF) in (True, False)
        else:
            result = apics.all.read_msr(CPU, msr)
            assert result is None or 0 <= result < 1 << 64
