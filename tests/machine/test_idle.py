"""How long a guest that idles is made to sleep."""

from machine.idle import LONG, NEAR, RUN, RUN_OF_DRIVER, SHORT, WHILE, IdleDetector


class Guest:
    """Polls its input every microsecond, and is told to sleep."""

    def __init__(self) -> None:
        self.now = 0
        self.slept: list[int] = []
        self.detector = IdleDetector(self._sleep, lambda: self.now)

    def _sleep(self, nanoseconds: int) -> None:
        self.slept.append(nanoseconds)
        self.now += nanoseconds

    def poll(self, times: int) -> list[int]:
        self.slept.clear()
        for _ in range(times):
            self.now += 1000
            self.detector.input_poll()
        return self.slept


def test_sleeps_grow_when_a_guest_has_idled_for_a_while() -> None:
    guest = Guest()
    assert guest.poll(RUN - 1) == []
    assert guest.poll(WHILE + 3) == [SHORT] * WHILE + [LONG] * 3


def test_work_starts_it_anew() -> None:
    guest = Guest()
    guest.poll(RUN + WHILE + 3)
    guest.detector.effect()
    assert guest.poll(RUN + 1) == [SHORT] * 2
    guest.poll(WHILE)
    guest.now += 2 * NEAR  # a computation
    assert guest.poll(RUN + 1) == [SHORT] * 2


def test_a_guest_that_reads_the_clock_only_idles_where_its_network_driver_polls() -> None:
    guest = Guest()

    def clock_polls(times: int) -> list[int]:
        guest.slept.clear()
        for _ in range(times):
            guest.now += 1000
            guest.detector.time_poll()
        return guest.slept

    assert clock_polls(2 * RUN_OF_DRIVER) == []
    guest.detector.effect()
    guest.detector.polled = lambda: True
    assert clock_polls(RUN_OF_DRIVER - 1) == []
    assert clock_polls(5) == [LONG] * 5
    guest.detector.effect()  # a frame
    assert clock_polls(RUN_OF_DRIVER) == [LONG]
    guest.now += 2 * NEAR  # another process had the processor for a moment
    assert 0 < len(clock_polls(RUN_OF_DRIVER // 16)) < RUN_OF_DRIVER // 16
    for _ in range(RUN_OF_DRIVER):  # a guest that computes between its looks
        guest.now += 2 * NEAR
        clock_polls(RUN_OF_DRIVER // 64)
    assert clock_polls(RUN_OF_DRIVER // 2) == []
