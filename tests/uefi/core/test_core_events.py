"""Events, timers and task priorities against a model that keeps sets and sorts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine.clock import VirtualClock
from uefi.events import (
    EVT_NOTIFY_SIGNAL,
    EVT_NOTIFY_WAIT,
    EVT_TIMER,
    TPL_APPLICATION,
    TPL_CALLBACK,
    TPL_HIGH_LEVEL,
    TPL_NOTIFY,
    Events,
)
from uefi.guids import Guid
from uefi.status import EfiError, Status

GROUP = Guid(bytes(range(16)))
FUNCTION = 0x1000


class Firmware:
    """What Events needs of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._next = 0x10000

    def pool(self, size: int, memory_type: int = 4) -> int:
        self._next += 16
        return self._next

    def free_pool(self, address: int) -> None:
        pass


def drain(events: Events, tpl: int = TPL_APPLICATION) -> list[int]:
    """What would be notified above `tpl`, in order."""
    order = []
    while (event := events.take_pending(tpl)) is not None:
        order.append(event.address)
    return order


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("signal", "signal", "signal", "check", "drain", "close", "tpl")),
        st.integers(0, 7),
        st.sampled_from((TPL_APPLICATION, TPL_CALLBACK, TPL_NOTIFY, TPL_HIGH_LEVEL)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_notifications_come_by_priority_and_then_in_order(operations):
    events = Events(Firmware())  # type: ignore[arg-type]
    made = [
        events.create(kind, tpl, FUNCTION if kind else 0, 0, group)
        for kind, tpl, group in (
            *((EVT_NOTIFY_SIGNAL, TPL_CALLBACK, None), (EVT_NOTIFY_SIGNAL, TPL_NOTIFY, None)),
            *((EVT_NOTIFY_SIGNAL, TPL_CALLBACK, GROUP), (EVT_NOTIFY_SIGNAL, TPL_NOTIFY, GROUP), (0, 0, GROUP)),
            *((0, 0, None), (EVT_NOTIFY_WAIT, TPL_CALLBACK, None), (EVT_NOTIFY_WAIT, TPL_NOTIFY, None)),
        )
    ]
    level = {made[n]: tpl for n, tpl in enumerate((8, 16, 8, 16, 0, 0, 8, 16))}
    notified_by_signal, group = set(made[:4]), made[2:5]
    alive, signaled, queue = set(made), set[int](), list[int]()

    def enqueue(address: int) -> None:
        if address not in queue:
            queue.append(address)

    for what, number, tpl in operations:
        address = made[number]
        if what == "drain":
            due = sorted((a for a in queue if level[a] > tpl), key=lambda a: -level[a])
            assert drain(events, tpl) == due
            queue = [a for a in queue if a not in due]
            signaled -= set(due) & notified_by_signal
        elif what == "tpl":
            old = events.tpl
            assert events.raise_tpl(tpl) == old
            assert events.tpl == max(old, tpl)
            events.tpl = TPL_APPLICATION
        elif address not in alive:
            with pytest.raises(EfiError) as caught:
                events.signal(address)
            assert caught.value.status == Status.INVALID_PARAMETER
        elif what == "close":
            events.close(address)
            alive.discard(address)
            signaled.discard(address)
            queue = [a for a in queue if a != address]
        elif what == "signal":
            members = [a for a in group if a in alive] if address in group else [address]
            if address not in signaled:
                for member in members:
                    if member not in signaled:
                        signaled.add(member)
                        if member in notified_by_signal:
                            enqueue(member)
            events.signal(address)
        elif address not in notified_by_signal:
            assert events.check(events.get(address)) == (address in signaled)
            if address not in signaled and address in made[6:]:
                enqueue(address)
            signaled.discard(address)
        assert events.waiting_above == max((level[a] for a in queue), default=0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 50), st.sampled_from((0, 0, 3, 10)), st.integers(0, 40)),
        max_size=30,
    )
)
def test_timers_against_a_model(steps):
    """One-shot and periodic timers of four events: signaled as often as the model says, never early."""
    firmware = Firmware()
    events = Events(firmware)  # type: ignore[arg-type]
    clock = firmware.clock
    made = [events.create(EVT_TIMER) for _ in range(4)]
    armed: dict[int, tuple[int, int]] = {}
    for number, delay, period, passing in steps:
        event = events.get(made[number])
        if delay:
            deadline = clock.now() + delay
            events.set_timer(event, deadline, period)
            armed[number] = deadline, period
        else:
            events.set_timer(event, None)
            armed.pop(number, None)
        end = clock.now() + passing
        while (following := clock.next_deadline()) is not None and following <= end:
            assert following == min(deadline for deadline, _ in armed.values())
            clock.jump_to(following)
            clock.run_due()
            for n, (deadline, every) in list(armed.items()):
                due = deadline <= following
                assert events.check(events.get(made[n])) == due
                if due and every:
                    armed[n] = deadline + every, every
                elif due:
                    del armed[n]
        clock.jump_to(end)
        clock.run_due()
        assert not any(events.check(events.get(address)) for address in made)


@pytest.mark.parametrize(
    ("kind", "tpl", "function"),
    [
        *((EVT_NOTIFY_SIGNAL | EVT_NOTIFY_WAIT, 8, FUNCTION), (EVT_NOTIFY_SIGNAL, 8, 0), (EVT_NOTIFY_WAIT, 16, 0)),
        *((EVT_NOTIFY_SIGNAL, 4, FUNCTION), (EVT_NOTIFY_SIGNAL, 31, FUNCTION), (EVT_NOTIFY_WAIT, 0, FUNCTION)),
        *((1, 8, FUNCTION), (0xFFFF_FFFF, 8, FUNCTION)),
    ],
)
@pytest.mark.parametrize("group", [None, GROUP])
def test_what_no_event_can_be(kind, tpl, function, group):
    events = Events(Firmware())  # type: ignore[arg-type]
    with pytest.raises(EfiError) as caught:
        events.create(kind, tpl, function, 0, group)
    assert caught.value.status == Status.INVALID_PARAMETER
