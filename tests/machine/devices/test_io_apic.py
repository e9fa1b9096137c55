"""The I/O APIC, the lines and messages that reach processors, and the ticks that are owed."""

from apics import (
    EOI,
    ESR,
    LDR,
    LINT0,
    TMR,
    Apics,
)
from device_accesses import CPU, CPU1, Access, accesses, check_twin
from hypothesis import given
from hypothesis import strategies as st


def ticks(apics: Apics, cpu: int = 0) -> int:
    """Timer interrupts that are taken, one behind the other."""
    count = 0
    while apics.take(cpu) is not None:
        count += 1
    return count


def tick(apics: Apics, owed: int) -> None:
    apics.all.set_irq(0, True)
    apics.all.set_irq(0, False)
    apics.all.owe_ticks(owed)


def test_missed_ticks_follow_as_the_processor_takes_them() -> None:
    apics = Apics()
    apics.route(2, 0x30)
    tick(apics, 4)
    assert ticks(apics) == 5
    tick(apics, 2)
    tick(apics, 2)  # merges with the one before, which nobody has taken; what is owed adds up
    assert ticks(apics) == 5
    tick(apics, 10**9)
    assert ticks(apics) < 100
    assert ticks(apics) == 0


def test_other_interrupts_are_no_ticks_and_a_masked_timer_owes_none() -> None:
    apics = Apics()
    apics.route(2, 0x30)
    apics.route(4, 0x90)
    tick(apics, 1)
    apics.all.set_irq(4, True)
    assert [apics.take(), apics.take(), apics.take(), apics.take()] == [0x90, 0x30, 0x30, None]
    apics.route(2, 0x1_0030)
    apics.all.pic.master.write(CPU, 1, 1, 0xFF)
    tick(apics, 5)
    apics.route(2, 0x30)
    assert ticks(apics) == 0
    tick(apics, 0)
    assert ticks(apics) == 1


def test_ioapic_as_tamago_and_linux_program_it() -> None:
    apics = Apics()
    apics.ioapic(0, 0x0F00_0000)
    assert apics.ioapic(0) == 0x0F00_0000
    assert apics.ioapic(1) >> 16 == 23
    assert apics.ioapic(0x10) == 0x1_0000
    apics.all.set_irq(4, True)
    assert apics.take() is None
    apics.all.set_irq(4, False)
    apics.route(4, 0x24)
    apics.all.set_irq(4, True)
    assert apics.take() == 0x24
    apics.all.set_irq(4, True)
    assert apics.take() is None
    apics.all.set_irq(4, False)
    apics.all.set_irq(4, True)
    assert apics.take() == 0x24


def test_level_interrupt_comes_again_after_eoi_while_asserted() -> None:
    apics = Apics()
    apics.route(17, 0xA051, 1)
    apics.all.set_irq(17, True)
    assert apics.ioapic(0x10 + 34) & 0x4000
    assert apics.get(TMR + 0x20, CPU1) == 1 << 0x11
    assert apics.take(1) == 0x51
    assert apics.all.pending_vector(1) == 0x51
    apics.all.set_irq(17, False)
    assert apics.take(1) == 0x51
    assert apics.take(1) is None
    assert apics.ioapic(0x10 + 34) & 0x4000 == 0
    apics.route(17, 0x1_A051, 1)
    apics.all.set_irq(17, True)
    assert apics.take(1) is None
    apics.route(17, 0xA051, 1)
    assert apics.all.acknowledge(1) == 0x51
    apics.put(EOI, 0, CPU1)
    apics.all.set_irq(17, False)
    assert apics.take(1) == 0x51
    apics.all.set_irq(17, True)
    apics.all.io_apic.write(CPU, 0x40, 4, 0x51)
    assert apics.ioapic(0x10 + 34) & 0x4000


def test_only_the_eoi_of_a_level_interrupt_reaches_the_ioapic() -> None:
    apics = Apics()
    apics.route(17, 0xA051, 1)
    apics.all.set_irq(17, True)
    apics.all.set_irq(17, False)
    apics.all.deliver_msi(0xFEE0_0000, 0x51)
    assert apics.take(0) == 0x51
    assert apics.ioapic(0x10 + 34) & 0x4000
    assert apics.take(1) == 0x51
    assert apics.ioapic(0x10 + 34) & 0x4000 == 0
    apics.all.deliver_msi(0xFEE0_1000, 0x51)
    assert apics.get(TMR + 0x20, CPU1) == 0


def test_irq_0_arrives_at_gsi_2() -> None:
    apics = Apics()
    apics.route(0, 0x30)
    apics.route(2, 0x32)
    apics.all.line(0)(True)
    assert apics.take() == 0x32
    apics.all.line(0)(False)
    apics.all.set_irq(2, True)
    assert apics.take() is None


def test_virtual_wire_brings_the_8259_to_the_first_processor() -> None:
    apics = Apics()
    for apic in apics.all.local_apics:
        apic.enter_virtual_wire_mode()
    for port, value in ((0, 0x11), (1, 0x30), (1, 4), (1, 1), (1, 0)):
        apics.all.pic.master.write(CPU, port, 1, value)
    apics.woken.clear()
    apics.all.set_irq(1, True)
    assert apics.woken == [0]
    assert apics.all.has_work(0)
    assert not apics.all.has_work(1)
    assert apics.all.pending_vector(0) == 0x31
    assert apics.all.acknowledge(0) == 0x31
    assert not apics.all.has_work(0)
    apics.all.pic.master.write(CPU, 0, 1, 0x20)
    apics.put(LINT0, 0x1_0700)
    apics.all.set_irq(0, True)
    assert not apics.all.has_work(0)


def test_messages() -> None:
    apics = Apics()
    assert apics.all.deliver_msi(0xFEE0_0000, 32)
    assert apics.take(0) == 32
    assert apics.all.deliver_msi(0xFEE0_1000, 0x40)
    assert (apics.take(0), apics.take(1)) == (None, 0x40)
    apics.put(LDR, 0x04 << 24, CPU1)
    assert apics.all.deliver_msi(0xFEE0_400C, 0x41)
    assert apics.take(1) == 0x41
    assert not apics.all.deliver_msi(0x1000, 0x41)
    assert apics.all.deliver_msi(0xFEE0_0000, 0x8041)  # level de-assertion
    assert apics.take(0) is None
    assert apics.all.deliver_msi(0xFEE0_0000, 5)
    apics.put(ESR, 0)
    assert apics.get(ESR) == 0x40


@given(accesses(range(0x60), (1, 2, 4, 8)), accesses((0x00, 0x10, 0x40), (4,), st.integers(0, 0x3FFFF)))
def test_random_ioapic_accesses_and_a_restored_twin(first: list[Access], second: list[Access]) -> None:
    check_twin(lambda: Apics().all.io_apic, first + second, second + first)
