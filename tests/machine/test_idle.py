"""How long a guest that idles is made to sleep."""

from machine.boards.pc import PcBoard
from machine.clock import VirtualClock
from machine.computer import Computer
from machine.console import HostConsole
from machine.idle import (
    LONG,
    LONG_OF_DRIVER,
    NEAR,
    NEAR_AFTER_SLEEP,
    PART,
    RUN,
    RUN_OF_DRIVER,
    SHORT,
    IdleDetector,
)


class Guest:
    """Polls every microsecond, and is told to sleep. All its time is the processor's, unless `host_takes` some."""

    def __init__(self) -> None:
        self.now = 0
        self.spent = 0
        self.slept: list[int] = []
        self.woken_after: int | None = None
        self.detector = IdleDetector(self._sleep, lambda: self.now, lambda: self.spent)

    def _sleep(self, nanoseconds: int) -> None:
        self.slept.append(nanoseconds)
        self.now += nanoseconds if self.woken_after is None else self.woken_after
        self.woken_after = None

    def compute(self, nanoseconds: int) -> None:
        self.now += nanoseconds
        self.spent += nanoseconds

    def host_takes(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    def poll(self, times: int) -> list[int]:
        """Look for input so often; the sleeps."""
        self.slept.clear()
        for _ in range(times):
            self.compute(1000)
            self.detector.input_poll()
        return list(self.slept)

    def clock_polls(self, times: int) -> list[int]:
        """Read the clock so often; the sleeps."""
        self.slept.clear()
        for _ in range(times):
            self.compute(1000)
            self.detector.time_poll()
        return list(self.slept)


def test_a_sleep_is_a_part_of_the_time_that_the_guest_has_idled_for() -> None:
    guest = Guest()
    assert guest.poll(RUN - 1) == []
    began = guest.now
    for _ in range(2000):
        idled = guest.now - began
        (slept,) = guest.poll(1)
        assert slept <= max(SHORT, idled // PART + 1000)
        assert slept >= min(max(SHORT, idled // PART - 1000), LONG)
    assert slept == LONG
    assert guest.now - began > 10 * LONG * PART // 2


def test_work_starts_it_anew() -> None:
    guest = Guest()
    assert guest.poll(RUN + 1000)[-1] > SHORT
    guest.detector.effect()
    assert guest.poll(RUN + 1) == [SHORT] * 2
    assert guest.poll(1000)[-1] > SHORT
    guest.compute(NEAR_AFTER_SLEEP + 1)
    assert guest.poll(RUN + 1) == [SHORT] * 2


def test_sleeps_are_short_again_behind_one_that_somebody_ended() -> None:
    guest = Guest()
    assert guest.poll(RUN + 1000)[-1] > 2 * SHORT
    guest.woken_after = SHORT
    assert guest.poll(3)[1:] == [SHORT] * 2


def test_sleeps_are_short_again_when_the_guest_has_taken_input() -> None:
    computer = Computer(64 << 20, clock=VirtualClock())
    try:
        console = HostConsole(lambda _data: None)
        board = PcBoard(computer, console, lambda _what: None)
        console.feed(b"x")
        computer.idle.input_poll()
        computer.idle.input_poll()
        slept = computer.idle.slept
        for _ in range(2 * RUN):
            computer.idle.input_poll()
        assert computer.idle.slept > slept, "it idles"
        slept = computer.idle.slept
        assert board.serial.read(computer.engine.cpus[0], 0, 1) == ord("x")
        for _ in range(RUN - 1):
            computer.idle.input_poll()
        assert computer.idle.slept == slept, "it has something to do"
    finally:
        computer.close()


def test_a_busy_host_is_no_work_of_the_guest() -> None:
    guest = Guest()
    before = guest.poll(RUN + 1000)[-1]
    guest.host_takes(100 * NEAR)
    assert guest.poll(1)[0] >= before > SHORT


def test_a_goroutine_that_wakes_between_two_looks_for_input_is_not_made_late() -> None:
    """TamaGo looks eight times, and reads the clock twice; a timer that fires reads it again."""
    guest = Guest()
    for _ in range(300):
        guest.poll(8)
        usual = guest.clock_polls(2)
    assert usual[-1] > 10 * SHORT
    assert guest.poll(8)[-1] > 10 * SHORT
    assert guest.clock_polls(4)[2:] == [SHORT] * 2
    assert guest.poll(8) == [SHORT] * 8


def test_a_guest_that_reads_the_clock_only_idles_where_its_network_driver_polls() -> None:
    guest = Guest()
    assert guest.clock_polls(2 * RUN_OF_DRIVER) == []
    guest.detector.effect()
    guest.detector.polled = lambda: True
    assert guest.clock_polls(RUN_OF_DRIVER - 1) == []
    assert guest.clock_polls(5) == [SHORT] * 5
    assert guest.clock_polls(2000)[-1] == LONG_OF_DRIVER
    guest.detector.effect()  # a frame
    assert guest.clock_polls(RUN_OF_DRIVER) == [SHORT]
    guest.host_takes(2 * NEAR)  # another process had the processor for a moment
    assert guest.clock_polls(5) == [SHORT] * 5
    for _ in range(RUN_OF_DRIVER):  # a guest that computes between its looks
        guest.compute(NEAR_AFTER_SLEEP + 1)
        guest.clock_polls(RUN_OF_DRIVER // 64)
    assert guest.clock_polls(RUN_OF_DRIVER // 2) == []


def test_each_cpu_has_counts_of_its_own() -> None:
    guest = Guest()
    assert guest.poll(RUN + 1000)[-1] > SHORT
    guest.detector.switch(1)
    assert guest.poll(RUN - 1) == []
    guest.detector.effect()
    guest.detector.switch(0)
    assert guest.poll(1)[0] > SHORT
