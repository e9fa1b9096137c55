"""The clock: one time for TSC, timers and the time of day."""

from collections.abc import Callable
from time import time_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.clock import TSC_FREQUENCY, VIRTUAL_EPOCH, Clock, RealClock, VirtualClock


def test_real_clock_moves_and_its_times_agree() -> None:
    clock = RealClock()
    first = clock.now()
    wall_start = clock.wall() - clock.now()
    assert abs(clock.tsc() * 2 // 5 - clock.now()) < 50_000_000
    assert clock.now() >= first
    assert abs((clock.wall() - clock.now()) - wall_start) < 50_000_000


def test_virtual_clock_moves_by_traps_only() -> None:
    clock = VirtualClock(step=400)
    assert (clock.now(), clock.tsc(), clock.wall()) == (0, 0, VIRTUAL_EPOCH)
    clock.trap()
    assert (clock.now(), clock.tsc(), clock.wall()) == (400, 1000, VIRTUAL_EPOCH + 400)
    clock.jump_to(10_000)
    clock.jump_to(5_000)
    assert clock.now() == 10_000


@given(st.integers(1, (1 << 32) - 1), st.integers(0, 1 << 50))
def test_tsc_to_ns_is_the_first_moment_that_shows_the_value(frequency: int, tsc: int) -> None:
    clock = VirtualClock(tsc_frequency=frequency)
    moment = clock.tsc_to_ns(tsc)
    clock.jump_to(moment)
    assert clock.tsc() >= tsc
    if moment:
        earlier = VirtualClock(tsc_frequency=frequency)
        earlier.jump_to(moment - 1)
        assert earlier.tsc() < tsc


def test_timers_run_in_order_and_cancelled_ones_do_not() -> None:
    clock = VirtualClock()
    called: list[str] = []
    clock.call_at(300, lambda: called.append("late"))
    clock.call_at(100, lambda: called.append("early"))
    cancelled = clock.call_at(50, lambda: called.append("never"))
    cancelled.cancel()
    assert clock.next_deadline() == 100
    clock.run_due()
    assert called == []
    clock.jump_to(1_000)
    clock.run_due()
    assert called == ["early", "late"]
    assert clock.next_deadline() is None


def test_a_callback_may_cancel_a_timer_of_the_same_round() -> None:
    clock = VirtualClock()
    called: list[str] = []
    clock.call_at(1, lambda: victim.cancel())  # noqa: PLW0108  there is no victim yet
    victim = clock.call_at(2, lambda: called.append("victim"))
    clock.jump_to(5)
    clock.run_due()
    assert called == []
    assert not victim.active


def test_a_timer_that_always_renews_itself_does_not_hold_the_machine() -> None:
    clock = VirtualClock()
    count = [0]

    def again() -> None:
        count[0] += 1
        clock.call_at(clock.now(), again)

    clock.call_at(0, again)
    clock.run_due()
    assert count == [1]
    clock.run_due()
    assert count == [2]


def test_endless_rearming_keeps_the_heap_small() -> None:
    clock = VirtualClock()
    for _ in range(10_000):
        clock.call_at(1 << 60, lambda: None).cancel()
    assert len(clock._heap) <= 128


@pytest.mark.parametrize("make", [RealClock, VirtualClock])
def test_save_and_load_go_on_at_the_same_time(make: Callable[[], Clock]) -> None:
    clock = make()
    clock.trap()
    saved = clock.save()
    other = make()
    other.call_at(1, lambda: None)
    other.load(saved)
    assert other.now() >= saved["now"]
    assert abs(other.now() - saved["now"]) < 1_000_000_000
    assert other.next_deadline() is None


def test_a_frequency_that_guests_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="4294967296 Hz"):
        RealClock(1 << 32)
    assert RealClock().tsc_frequency == TSC_FREQUENCY


def test_a_restored_real_clock_shows_the_present_time_of_day() -> None:
    clock = RealClock()
    clock.load({"now": 3_600_000_000_000})
    assert clock.now() >= 3_600_000_000_000
    assert abs(clock.wall() - time_ns()) < 1_000_000_000
