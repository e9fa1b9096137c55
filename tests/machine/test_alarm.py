"""The alarm rings for whatever was set last, however the times set before lie to it."""

import random
import threading
from collections.abc import Iterator

import pytest

from machine.alarm import Alarm


class Bell:
    """Rings once for each time set."""

    def __init__(self) -> None:
        self.rang = threading.Event()
        self.alarm = Alarm(self._ring)

    def _ring(self) -> bool:
        self.rang.set()
        return False


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.alarm.close()


@pytest.mark.parametrize("before", [(), (None,), (10**12,), (10**12, None), (1000, 10**12), (10**12, 10**13)])
def test_it_rings_for_the_last_time_set(bell: Bell, before: tuple[int | None, ...]) -> None:
    chance = random.Random(1)
    for _ in range(100):
        for nanoseconds in before:
            bell.alarm.set(nanoseconds)
        bell.rang.clear()
        bell.alarm.set(chance.choice((0, 20_000, 200_000)))
        assert bell.rang.wait(30), "it never rang"


def test_it_does_not_ring_for_what_was_taken_back(bell: Bell) -> None:
    bell.alarm.set(10**12)
    bell.alarm.set(None)
    assert not bell.rang.wait(0.05)


def test_it_rings_again_while_it_has_not_helped() -> None:
    times = 0
    done = threading.Event()

    def ring() -> bool:
        nonlocal times
        times += 1
        if times == 3:
            done.set()
        return times < 3

    alarm = Alarm(ring)
    try:
        alarm.urge()
        assert done.wait(30)
    finally:
        alarm.close()
