"""Events, timers and task priority levels (UEFI 2.10, 7.1)."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from machine.clock import Timer
from uefi import guids
from uefi.guids import Guid
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

TPL_APPLICATION, TPL_CALLBACK, TPL_NOTIFY, TPL_HIGH_LEVEL = 4, 8, 16, 31

EVT_TIMER, EVT_RUNTIME = 0x8000_0000, 0x4000_0000
EVT_NOTIFY_WAIT, EVT_NOTIFY_SIGNAL = 0x100, 0x200
EVT_SIGNAL_EXIT_BOOT_SERVICES, EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE = 0x201, 0x6000_0202
_KNOWN = frozenset(
    (
        *(0, EVT_TIMER, EVT_NOTIFY_WAIT, EVT_NOTIFY_SIGNAL, EVT_TIMER | EVT_NOTIFY_WAIT, EVT_TIMER | EVT_NOTIFY_SIGNAL),
        *(EVT_SIGNAL_EXIT_BOOT_SERVICES, EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE),
        *(EVT_RUNTIME, EVT_RUNTIME | EVT_NOTIFY_SIGNAL, EVT_RUNTIME | EVT_NOTIFY_WAIT),
    )
)
_GROUP_OF = {
    EVT_SIGNAL_EXIT_BOOT_SERVICES: guids.EVENT_GROUP_EXIT_BOOT_SERVICES,
    EVT_SIGNAL_VIRTUAL_ADDRESS_CHANGE: guids.EVENT_GROUP_VIRTUAL_ADDRESS_CHANGE,
}
TIMER_CANCEL, TIMER_PERIODIC, TIMER_RELATIVE = 0, 1, 2
TICK = 1_000_000
"""Nanoseconds: the shortest period of a timer, so that a period of 0 ("every tick") has a meaning."""


class Event:
    """An EFI_EVENT. `address` is what the guest knows it by; `on_wait` tells the state of a host's event."""

    __slots__ = (
        *("address", "context", "group", "host_notify", "kind", "notify", "on_wait"),
        *("period", "queued", "signaled", "timer", "tpl"),
    )

    def __init__(self, address: int, kind: int, tpl: int, notify: int, context: int, group: Guid | None) -> None:
        self.address = address
        self.kind = kind
        self.tpl = tpl
        self.notify = notify
        self.context = context
        self.group = group
        self.signaled = False
        self.queued = False
        self.period = 0
        self.timer: Timer | None = None
        self.on_wait: Callable[[], bool] | None = None
        self.host_notify: Callable[[], None] | None = None


class Events:
    """All events, the current TPL, and the notifications that wait for it to fall."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._events: dict[int, Event] = {}
        self._groups: dict[bytes, list[Event]] = {}
        self._pending: dict[int, deque[Event]] = {}
        self.tpl = TPL_APPLICATION
        self.waiting_above = 0
        """The highest TPL with a pending notification; 0 if there is none."""

    def create(self, kind: int, tpl: int = 0, notify: int = 0, context: int = 0, group: Guid | None = None) -> int:
        """CreateEvent(Ex): the new event. EfiError(INVALID_PARAMETER) for a bad type, TPL or a missing function."""
        if kind not in _KNOWN or (group is not None and kind in _GROUP_OF):
            raise EfiError(Status.INVALID_PARAMETER)
        if kind & (EVT_NOTIFY_WAIT | EVT_NOTIFY_SIGNAL):
            if not TPL_APPLICATION < tpl < TPL_HIGH_LEVEL or not notify:
                raise EfiError(Status.INVALID_PARAMETER)
        else:
            tpl = notify = context = 0
        address = self._firmware.pool(16)
        event = Event(address, kind, tpl, notify, context, group or _GROUP_OF.get(kind))
        self._events[address] = event
        if event.group is not None:
            self._groups.setdefault(event.group, []).append(event)
        return address

    def create_host(
        self, on_wait: Callable[[], bool] | None = None, notify: Callable[[], None] | None = None, tpl: int = TPL_NOTIFY
    ) -> int:
        """An event of the host's: signaled whenever `on_wait()` says so; `notify()` is called when it is signaled."""
        address = self._firmware.pool(16)
        event = Event(address, EVT_NOTIFY_SIGNAL if notify else 0, tpl, 0, 0, None)
        event.on_wait = on_wait
        event.host_notify = notify
        self._events[address] = event
        return address

    def join_group(self, address: int, group: Guid) -> None:
        """Make a host's event a member of a group."""
        event = self.get(address)
        event.group = group
        self._groups.setdefault(group, []).append(event)

    def __contains__(self, address: int) -> bool:
        return address in self._events

    def get(self, address: int) -> Event:
        """The event at `address`; EfiError(INVALID_PARAMETER) if there is none."""
        event = self._events.get(address)
        if event is None:
            raise EfiError(Status.INVALID_PARAMETER)
        return event

    def close(self, address: int) -> None:
        """CloseEvent."""
        event = self.get(address)
        self.set_timer(event, None)
        self._unqueue(event)
        if event.group is not None:
            self._groups[event.group].remove(event)
        del self._events[address]
        self._firmware.free_pool(address)

    def signal(self, address: int) -> None:
        """SignalEvent, with the other members of its group."""
        event = self.get(address)
        if event.signaled:
            return
        if event.group is not None:
            self.signal_group(event.group)
        else:
            self._signal(event)

    def signal_group(self, group: bytes) -> None:
        """Signal every event of a group, in the order of their creation."""
        for event in self.members(group):
            self._signal(event)

    def members(self, group: bytes) -> list[Event]:
        """The events of a group in the order of their creation."""
        return list(self._groups.get(group, ()))

    def _signal(self, event: Event) -> None:
        if event.signaled:
            return
        event.signaled = True
        if event.kind & EVT_NOTIFY_SIGNAL and (event.notify or event.host_notify):
            self._queue(event)

    def _queue(self, event: Event) -> None:
        if event.queued:
            return
        event.queued = True
        self._pending.setdefault(event.tpl, deque()).append(event)
        self.waiting_above = max(self.waiting_above, event.tpl)

    def _unqueue(self, event: Event) -> None:
        if event.queued:
            event.queued = False
            self._pending[event.tpl].remove(event)
            self._recount()

    def _recount(self) -> None:
        self.waiting_above = max((tpl for tpl, queue in self._pending.items() if queue), default=0)

    def first_pending(self) -> Event:
        """What `take_pending` would take; only when something is pending."""
        return self._pending[self.waiting_above][0]

    def take_pending(self, tpl: int) -> Event | None:
        """The next event to notify above `tpl`: the highest TPL first, then the first come."""
        if self.waiting_above <= tpl:
            return None
        event = self._pending[self.waiting_above].popleft()
        event.queued = False
        if event.kind & EVT_NOTIFY_SIGNAL:
            event.signaled = False
        self._recount()
        return event

    def check(self, event: Event) -> bool:
        """Whether the event is signaled; clears it. A waiting function of the guest's is queued if it is not."""
        if event.on_wait is not None:
            return event.on_wait()
        if event.signaled:
            event.signaled = False
            return True
        if event.kind & EVT_NOTIFY_WAIT:
            self._queue(event)
        return False

    def set_timer(self, event: Event, deadline: int | None, period: int = 0) -> None:
        """Arm the event's timer for `deadline` (ns of the clock), then every `period` ns; None disarms it."""
        if event.timer is not None:
            event.timer.cancel()
            event.timer = None
        event.period = period
        if deadline is not None:
            event.timer = self._firmware.clock.call_at(deadline, partial(self._expired, event, deadline))

    def _expired(self, event: Event, deadline: int) -> None:
        event.timer = None
        period = event.period
        if period:
            now = self._firmware.clock.now()
            following = deadline + period
            if following <= now:  # ticks that were missed altogether are not made up for
                following = now + period
            event.timer = self._firmware.clock.call_at(following, partial(self._expired, event, following))
        if event.group is not None:
            self.signal_group(event.group)
        else:
            self._signal(event)

    def stop_all(self) -> None:
        """ExitBootServices: no timer runs any more, no notification is pending."""
        for event in self._events.values():
            self.set_timer(event, None)
            event.queued = False
        self._pending.clear()
        self.waiting_above = 0

    def raise_tpl(self, tpl: int) -> int:
        """RaiseTPL: the old level."""
        old = self.tpl
        self.tpl = max(tpl, old)
        return old
