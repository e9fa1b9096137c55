"""The 8259 pair and the 8254, programmed as PC operating systems do it."""

from device_accesses import CPU, Line, accesses, check_twin
from hypothesis import given
from hypothesis import strategies as st

from machine.clock import NANOSECONDS, VirtualClock
from machine.devices.i8254 import I8254
from machine.interrupts.i8259 import I8259Pair


class Pics:
    """Ports 0, 1: master; 2, 3: slave; 4, 5: ELCR."""

    def __init__(self) -> None:
        self.raised = 0
        self.pair = I8259Pair(self._changed)

    def _changed(self) -> None:
        self.raised += 1

    def read(self, cpu: object, offset: int, size: int) -> int:
        if offset >= 4:
            return self.pair.read_elcr(CPU, offset - 4, size)
        return (self.pair.slave if offset & 2 else self.pair.master).read(CPU, offset & 1, size)

    def write(self, cpu: object, offset: int, size: int, value: int) -> None:
        if offset >= 4:
            self.pair.write_elcr(CPU, offset - 4, size, value)
        else:
            (self.pair.slave if offset & 2 else self.pair.master).write(CPU, offset & 1, size, value)

    def save(self) -> dict:
        return self.pair.save()

    def load(self, state: dict) -> None:
        self.pair.load(state)

    def out(self, *pairs: tuple[int, int]) -> None:
        for offset, value in pairs:
            self.write(CPU, offset, 1, value)

    def linux_init(self, auto_eoi: bool = False) -> None:
        last = 0x03 if auto_eoi else 0x01
        self.out((1, 0xFF), (0, 0x11), (1, 0x30), (1, 0x04), (1, last))
        self.out((2, 0x11), (3, 0x38), (3, 0x02), (3, 0x01), (1, 0x00), (3, 0x00))


def test_linux_initialisation_and_an_interrupt_through_the_master() -> None:
    pics = Pics()
    pics.linux_init()
    pics.pair.set_line(4, True)
    assert pics.pair.output
    assert pics.pair.pending_vector() == 0x34
    assert pics.pair.acknowledge() == 0x34
    assert not pics.pair.output
    pics.pair.set_line(4, False)
    pics.out((0, 0x0B))
    assert pics.read(CPU, 0, 1) == 0x10
    pics.out((0, 0x64))  # specific EOI
    assert pics.read(CPU, 0, 1) == 0
    assert pics.raised == 1


def test_probe_of_the_mask_register() -> None:
    pics = Pics()
    pics.linux_init()
    pics.out((3, 0xFF), (1, 0xFB))
    assert (pics.read(CPU, 1, 1), pics.read(CPU, 3, 1)) == (0xFB, 0xFF)
    pics.pair.set_line(4, True)
    assert not pics.pair.output
    pics.out((1, 0xEB))
    assert pics.pair.acknowledge() == 0x34


def test_slave_interrupts_need_both_eois() -> None:
    pics = Pics()
    pics.linux_init()
    pics.pair.set_line(8, True)
    assert pics.pair.acknowledge() == 0x38
    pics.pair.set_line(8, False)
    pics.pair.set_line(12, True)
    assert not pics.pair.output
    pics.out((2, 0x20))
    assert not pics.pair.output
    pics.out((0, 0x20))
    assert pics.pair.acknowledge() == 0x3C


def test_priorities_nest() -> None:
    pics = Pics()
    pics.linux_init()
    for irq in (7, 5, 1):
        pics.pair.set_line(irq, True)
    assert pics.pair.acknowledge() == 0x31
    pics.pair.set_line(0, True)
    assert pics.pair.acknowledge() == 0x30
    assert not pics.pair.output
    pics.out((0, 0x20))
    assert not pics.pair.output
    pics.out((0, 0x20))
    assert pics.pair.acknowledge() == 0x35


def test_rotation_makes_the_served_one_the_lowest() -> None:
    pics = Pics()
    pics.linux_init()
    pics.pair.set_line(3, True)
    pics.pair.set_line(4, True)
    assert pics.pair.acknowledge() == 0x33
    pics.pair.set_line(3, False)
    pics.pair.set_line(3, True)
    pics.out((0, 0xA0))
    assert pics.pair.acknowledge() == 0x34


def test_level_lines_ask_again_until_they_are_released() -> None:
    pics = Pics()
    pics.linux_init()
    pics.out((4, 0x20), (5, 0x0E))
    assert pics.read(CPU, 4, 2) == 0x0E20
    pics.pair.set_line(5, True)
    for _ in range(2):
        assert pics.pair.acknowledge() == 0x35
        pics.out((0, 0x20))
    pics.pair.set_line(5, False)
    assert not pics.pair.output
    assert pics.pair.acknowledge() == 0x37  # spurious
    pics.out((0, 0x0B))
    assert pics.read(CPU, 0, 1) == 0


def test_auto_eoi_and_special_mask_and_poll() -> None:
    pics = Pics()
    pics.linux_init(auto_eoi=True)
    pics.pair.set_line(0, True)
    assert pics.pair.acknowledge() == 0x30
    pics.out((0, 0x0B))
    assert pics.read(CPU, 0, 1) == 0
    pics.linux_init()
    pics.pair.set_line(1, True)
    assert pics.pair.acknowledge() == 0x31
    pics.pair.set_line(6, True)
    assert not pics.pair.output
    pics.out((1, 0x02), (0, 0x68))
    assert pics.pair.pending_vector() == 0x36
    pics.out((0, 0x0C))
    assert pics.read(CPU, 0, 1) == 0x86
    assert not pics.pair.output
    pics.out((0, 0x0C))
    assert pics.read(CPU, 0, 1) == 0


@given(
    accesses(range(6), (1,), st.integers(0, 255)),
    accesses(range(6), (1,), st.integers(0, 255)),
    st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=30),
)
def test_random_pic_accesses_and_a_restored_twin(first: list, second: list, lines: list[tuple[int, bool]]) -> None:
    def make() -> Pics:
        pics = Pics()
        for irq, level in lines:
            pics.pair.set_line(irq, level)
            if pics.pair.output:
                assert 0 <= pics.pair.acknowledge() <= 255
        return pics

    check_twin(make, first, second)


class Pit:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.line = Line()
        self.pit = I8254(self.clock, self.line)

    def out(self, *pairs: tuple[int, int]) -> None:
        for port, value in pairs:
            if port == 0x61:
                self.pit.write_61(CPU, 0, 1, value)
            else:
                self.pit.write(CPU, port - 0x40, 1, value)

    def inb(self, port: int) -> int:
        return self.pit.read_61(CPU, 0, 1) if port == 0x61 else self.pit.read(CPU, port - 0x40, 1)

    def read_count(self, counter: int) -> int:
        return self.inb(0x40 + counter) | self.inb(0x40 + counter) << 8

    def go(self, nanoseconds: int) -> int:
        """Let time pass; the number of interrupts in it."""
        before, target = self.line.changes.count(True), self.clock.now() + nanoseconds
        while (deadline := self.clock.next_deadline()) is not None and deadline <= target:
            self.clock.jump_to(deadline)
            self.clock.run_due()
        self.clock.jump_to(target)
        return self.line.changes.count(True) - before


def test_linux_calibrates_the_tsc_with_counter_2() -> None:
    pit = Pit()
    pit.out((0x61, pit.inb(0x61) & ~0x02 | 0x01), (0x43, 0xB0))
    latch = 1_193_182 // 100
    pit.out((0x42, latch & 0xFF), (0x42, latch >> 8))
    start = pit.clock.tsc()
    while not pit.inb(0x61) & 0x20:
        pit.clock.trap()
    ticks = pit.clock.tsc() - start
    assert abs(ticks - pit.clock.tsc_frequency // 100) < pit.clock.tsc_frequency // 10_000


def test_quick_calibration_reads_the_running_count() -> None:
    pit = Pit()
    pit.out((0x61, 0x01), (0x43, 0xB0), (0x42, 0xFF), (0x42, 0xFF))
    assert pit.read_count(2) == 0xFFFF
    pit.go(NANOSECONDS // 1000)
    assert abs(0xFFFF - pit.read_count(2) - 1193) <= 1
    assert not pit.inb(0x61) & 0x20
    pit.go(NANOSECONDS)
    assert pit.inb(0x61) & 0x20


def test_gate_holds_mode_0() -> None:
    pit = Pit()
    pit.out((0x43, 0xB0), (0x42, 0x00), (0x42, 0x10))
    pit.go(NANOSECONDS)
    assert pit.read_count(2) == 0x1000
    pit.out((0x61, 0x01))
    pit.go(1_000_000)
    pit.out((0x61, 0x00))
    held = pit.read_count(2)
    assert abs(0x1000 - held - 1193) <= 1
    pit.go(1_000_000)
    assert pit.read_count(2) == held
    pit.out((0x61, 0x01))
    pit.go(1_000_000)
    assert abs(held - pit.read_count(2) - 1193) <= 1


def test_rate_generator_interrupts_at_its_rate_and_a_one_shot_once() -> None:
    pit = Pit()
    pit.out((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04))  # 1193: 1 kHz
    assert pit.go(NANOSECONDS) in (1000, 1001)
    pit.out((0x43, 0x30), (0x40, 0xA9), (0x40, 0x04))
    assert pit.go(NANOSECONDS) == 1
    pit.out((0x43, 0x36), (0x40, 0), (0x40, 0))
    assert pit.go(NANOSECONDS) == 18
    pit.out((0x43, 0x38), (0x40, 2), (0x40, 0))
    assert pit.go(NANOSECONDS) == 1
    assert pit.line.level is False


def test_rises_for_which_there_was_no_time_are_told() -> None:
    pit = Pit()
    told: list[int] = []
    pit.pit = I8254(pit.clock, pit.line, told.append)
    pit.out((0x43, 0x34), (0x40, 0xA9), (0x40, 0x04))  # 1193: 1 kHz
    pit.go(3_000_000)
    assert told == []
    pit.clock.jump_to(pit.clock.now() + 20_000_000)
    pit.clock.run_due()
    assert len(told) == 1
    assert 18 <= told[0] <= 20
    pit.out((0x43, 0x34), (0x40, 0x40), (0x40, 0x00))  # 18 kHz
    pit.clock.jump_to(pit.clock.now() + 20_000_000)
    pit.clock.run_due()
    pit.out((0x43, 0x30), (0x40, 0xA9), (0x40, 0x04))  # once
    pit.clock.jump_to(pit.clock.now() + 20_000_000)
    pit.clock.run_due()
    assert len(told) == 1


def test_the_fastest_rate_leaves_the_guest_time() -> None:
    pit = Pit()
    pit.out((0x43, 0x14), (0x40, 0x01))
    assert pit.go(NANOSECONDS // 100) <= 500


def test_latch_and_read_back() -> None:
    pit = Pit()
    pit.out((0x43, 0x34))
    pit.out((0x43, 0xE2))
    assert pit.inb(0x40) == 0x80 | 0x40 | 0x34
    pit.out((0x40, 0x00), (0x40, 0x80))
    pit.out((0x43, 0x00))
    pit.go(1_000_000)
    assert pit.read_count(0) == 0x8000
    pit.out((0x43, 0xC2))
    pit.go(1_000_000)
    assert pit.inb(0x40) & 0x7F == 0x34
    assert abs(0x8000 - pit.read_count(0) - 1193) <= 1


def test_bcd_and_single_byte_access() -> None:
    pit = Pit()
    pit.out((0x43, 0x31), (0x40, 0x00), (0x40, 0x10))
    assert pit.read_count(0) == 0x1000
    pit.go(10 * NANOSECONDS // 1_193_182 + 1)
    assert pit.read_count(0) == 0x0990
    pit.out((0x43, 0x10), (0x40, 0x55))
    assert pit.inb(0x40) == 0x55


def test_refresh_toggles_every_15_microseconds() -> None:
    pit = Pit()
    seen = []
    for _ in range(8):
        seen.append(pit.inb(0x61) & 0x10)
        pit.go(15_085)
    assert seen == [0, 0x10] * 4


@given(accesses(range(4)), accesses(range(4)), st.integers(0, 10**9))
def test_random_pit_accesses_and_a_restored_twin(first: list, second: list, moment: int) -> None:
    def make() -> I8254:
        clock = VirtualClock()
        clock.jump_to(moment)
        return I8254(clock, Line())

    check_twin(make, first, second)


@given(st.lists(st.tuples(st.sampled_from([0x40, 0x42, 0x43, 0x61]), st.integers(0, 255)), max_size=40))
def test_random_programs_as_time_passes(steps: list[tuple[int, int]]) -> None:
    pit = Pit()
    for port, value in steps:
        pit.out((port, value))
        pit.go(value * 1000)
        assert 0 <= pit.inb(port if port != 0x43 else 0x42) <= 255
