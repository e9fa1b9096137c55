"""The CMOS clock, read and set as TamaGo, GRUB and Linux do."""

from calendar import timegm
from time import gmtime

from device_accesses import CPU, Line, accesses, check_twin
from hypothesis import given
from hypothesis import strategies as st

from machine.clock import NANOSECONDS, VirtualClock
from machine.devices.rtc import Rtc

START = timegm((2026, 11, 20, 13, 59, 58))


class Machine:
    def __init__(self, start: int = START) -> None:
        self.clock = VirtualClock(epoch=start * NANOSECONDS)
        self.line = Line()
        self.rtc = Rtc(self.clock, self.line)

    def get(self, index: int) -> int:
        self.rtc.write(CPU, 0, 1, index)
        return self.rtc.read(CPU, 1, 1)

    def put(self, index: int, value: int) -> None:
        self.rtc.write(CPU, 0, 1, index)
        self.rtc.write(CPU, 1, 1, value)

    def go(self, seconds: float) -> None:
        target = self.clock.now() + int(seconds * NANOSECONDS)
        while (deadline := self.clock.next_deadline()) is not None and deadline <= target:
            self.clock.jump_to(deadline)
            self.clock.run_due()
        self.clock.jump_to(target)

    def bcd_time(self) -> tuple[int, ...]:
        return tuple(self.get(index) for index in (0x32, 9, 8, 7, 4, 2, 0))


def test_time_is_utc_in_bcd_and_24_hours() -> None:
    machine = Machine()
    assert machine.get(0x0A) & 0x80 == 0
    assert machine.bcd_time() == (0x20, 0x26, 0x11, 0x20, 0x13, 0x59, 0x58)
    assert machine.get(6) == 6  # a Friday
    assert machine.get(0x0D) == 0x80
    machine.go(2)
    assert machine.bcd_time() == (0x20, 0x26, 0x11, 0x20, 0x14, 0x00, 0x00)


def test_binary_and_12_hour_modes() -> None:
    machine = Machine()
    machine.put(0x0B, 0x04)
    assert machine.get(4) == 0x81
    assert machine.get(2) == 59
    machine.put(0x0B, 0x00)
    assert machine.get(4) == 0x81
    midnight = Machine(timegm((2026, 1, 1, 0, 0, 0)))
    midnight.put(0x0B, 0x00)
    assert midnight.get(4) == 0x12
    noon = Machine(timegm((2026, 1, 1, 12, 0, 0)))
    noon.put(0x0B, 0x00)
    assert noon.get(4) == 0x92


def test_a_guest_that_saw_no_update_reads_a_whole_time() -> None:
    machine = Machine()
    machine.go(1.9999)  # 0.1 ms before 14:00:00
    assert machine.get(0x0A) & 0x80 == 0
    seconds = machine.get(0)
    machine.go(0.0005)
    assert (machine.get(4), machine.get(2), seconds) == (0x13, 0x59, 0x59)
    machine.go(0.002)
    assert machine.bcd_time()[4:] == (0x14, 0x00, 0x00)


def test_a_guest_that_polls_sees_the_update_coming() -> None:
    machine = Machine()
    machine.go(0.999)
    seen = []
    for _ in range(200):
        seen.append(machine.get(0x0A) & 0x80)
        machine.go(0.00001)
    assert 0x80 in seen
    assert seen[0] == seen[-1] == 0
    assert 20 <= seen.count(0x80) <= 26
    assert machine.get(0) == 0x59


def test_linux_sets_the_time() -> None:
    machine = Machine()
    control, rate = machine.get(0x0B), machine.get(0x0A)
    machine.put(0x0B, control | 0x80)
    machine.put(0x0A, rate | 0x70)
    for index, value in ((9, 0x31), (8, 0x02), (7, 0x28), (4, 0x23), (2, 0x59), (0, 0x59), (0x32, 0x20)):
        machine.put(index, value)
    machine.go(10)
    machine.put(0x0B, control)
    assert machine.bcd_time() == (0x20, 0x31, 0x02, 0x28, 0x23, 0x59, 0x59)
    machine.put(0x0A, rate)
    assert machine.bcd_time() == (0x20, 0x31, 0x02, 0x28, 0x23, 0x59, 0x59)
    machine.go(0.51)
    assert machine.bcd_time() == (0x20, 0x31, 0x03, 0x01, 0x00, 0x00, 0x00)
    machine.go(1)
    assert machine.get(0) == 0x01


def test_setting_one_register_without_set_keeps_the_rest() -> None:
    machine = Machine()
    machine.go(0.25)
    machine.put(4, 0x05)
    assert machine.bcd_time() == (0x20, 0x26, 0x11, 0x20, 0x05, 0x59, 0x58)
    machine.go(0.76)
    assert machine.get(0) == 0x59


@given(st.integers(0, timegm((9999, 12, 31, 23, 59, 59))))
def test_every_date_can_be_set_and_read_back(second: int) -> None:
    machine = Machine()
    moment = gmtime(second)
    fields = {
        0x32: moment.tm_year // 100,
        9: moment.tm_year % 100,
        8: moment.tm_mon,
        7: moment.tm_mday,
        4: moment.tm_hour,
        2: moment.tm_min,
        0: moment.tm_sec,
    }
    machine.put(0x0B, 0x86)
    for index, value in fields.items():
        machine.put(index, value)
    machine.put(0x0B, 0x06)
    assert {index: machine.get(index) for index in fields} == fields
    assert machine.get(6) == (moment.tm_wday + 1) % 7 + 1


def test_update_ended_interrupt() -> None:
    machine = Machine()
    machine.put(0x0B, 0x12)
    assert not machine.line.level
    machine.go(1.001)
    assert machine.line.level
    assert machine.get(0x0C) & ~0x40 == 0x90
    assert not machine.line.level
    assert machine.get(0x0C) == 0
    machine.go(1)
    assert machine.line.level


def test_periodic_interrupt_comes_1024_times_a_second() -> None:
    machine = Machine()
    machine.put(0x0A, 0x26)
    machine.put(0x0B, 0x42)
    count = 0
    while machine.clock.now() < NANOSECONDS:
        deadline = machine.clock.next_deadline()
        assert deadline is not None
        machine.clock.jump_to(deadline)
        machine.clock.run_due()
        if machine.line.level:
            assert machine.get(0x0C) & 0xC0 == 0xC0
            count += 1
    assert count == 1024
    machine.put(0x0B, 0x02)
    assert machine.clock.next_deadline() is None


def test_polled_flags_need_no_interrupt() -> None:
    machine = Machine()
    machine.get(0x0C)
    machine.go(0.0005)
    assert machine.get(0x0C) == 0
    machine.go(0.001)
    assert machine.get(0x0C) == 0x40
    machine.go(1)
    assert machine.get(0x0C) & 0x50 == 0x50
    assert machine.line.level is False


def test_alarm_at_a_time_and_with_wildcards() -> None:
    machine = Machine()
    for index, value in ((1, 0x05), (3, 0x00), (5, 0x14)):
        machine.put(index, value)
    machine.put(0x0B, 0x22)
    machine.go(6.5)
    assert not machine.line.level
    machine.go(1)
    assert machine.line.level
    assert machine.get(0x0C) & 0xA0 == 0xA0
    assert machine.clock.next_deadline() is not None
    for index in (3, 5):
        machine.put(index, 0xFF)
    machine.go(59)
    assert not machine.line.level
    machine.go(2)
    assert machine.line.level


def test_an_alarm_that_can_never_match_arms_nothing() -> None:
    machine = Machine()
    machine.put(1, 0x75)
    machine.put(0x0B, 0x22)
    assert machine.clock.next_deadline() is None


def test_cmos_ram_and_the_nmi_mask() -> None:
    machine = Machine()
    machine.put(0x7F, 0x5A)
    machine.put(0x0E, 0xA5)
    assert (machine.get(0x7F), machine.get(0x0E)) == (0x5A, 0xA5)
    assert not machine.rtc.nmi_masked
    assert machine.get(0x8E) == 0xA5
    assert machine.rtc.nmi_masked
    assert machine.rtc.read(CPU, 0, 1) == 0xFF
    machine.rtc.write(CPU, 0, 2, 0x770E)
    assert machine.get(0x0E) == 0x77


@given(accesses(range(2)), accesses(range(2)))
def test_random_accesses_and_a_restored_twin(first: list, second: list) -> None:
    check_twin(lambda: Rtc(VirtualClock(), Line()), first, second)


@given(st.lists(st.tuples(st.integers(0, 0x7F), st.integers(0, 255), st.integers(0, 10**10)), max_size=40))
def test_random_settings_as_time_passes(steps: list[tuple[int, int, int]]) -> None:
    machine = Machine()
    for index, value, nanoseconds in steps:
        machine.put(index, value)
        machine.clock.jump_to(machine.clock.now() + nanoseconds)
        machine.clock.run_due()
        assert 0 <= machine.get(index) <= 255
