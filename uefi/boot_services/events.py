"""Event, timer and task priority services (UEFI 2.10, 7.1)."""

from machine import registers as reg
from machine.cpu import Cpu
from uefi.boot_services.table import BootServicesPart, need
from uefi.calls import Record
from uefi.dispatcher import PENDING
from uefi.events import (
    EVT_NOTIFY_SIGNAL,
    EVT_TIMER,
    TIMER_CANCEL,
    TIMER_PERIODIC,
    TIMER_RELATIVE,
    TPL_APPLICATION,
    TPL_HIGH_LEVEL,
    Event,
)
from uefi.guids import Guid
from uefi.interface import DISPATCH, Steps, function
from uefi.status import EfiError, Status

_MINIMUM_PERIOD = 1_000_000
_LONGEST = 1 << 62


class EventServices(BootServicesPart):
    """TPL, events, timers."""

    @function(0x18, "RaiseTPL(u64 NewTpl)")
    def raise_tpl(self, cpu: Cpu, tpl: int) -> int:
        """Raise the level; at TPL_HIGH_LEVEL interrupts are off."""
        old = self.firmware.events.raise_tpl(tpl & 0x1F)
        if tpl >= TPL_HIGH_LEVEL:
            cpu.set(reg.RFLAGS, cpu.get(reg.RFLAGS) & ~reg.RFLAGS_IF)
        return old

    @function(0x20, "RestoreTPL(u64 OldTpl)")
    def restore_tpl(self, cpu: Cpu, tpl: int) -> int:
        """Fall back to a level; what became due meanwhile is notified before the caller goes on."""
        events = self.firmware.events
        if events.tpl >= TPL_HIGH_LEVEL > tpl:
            cpu.set(reg.RFLAGS, cpu.get(reg.RFLAGS) | reg.RFLAGS_IF)
        events.tpl = tpl & 0x1F
        self.firmware.clock.run_due()
        return Status.SUCCESS

    @function(0x50, "CreateEvent(u32 Type, u64 NotifyTpl, ptr NotifyFunction, ptr NotifyContext, ptr Event)")
    def create_event(self, cpu: Cpu, kind: int, tpl: int, notify: int, context: int, result: int) -> int:
        """Create an event."""
        need(result)
        self.firmware.memory.check(result, 8)
        self.firmware.memory.write_u64(result, self.firmware.events.create(kind, tpl, notify, context))
        return Status.SUCCESS

    @function(
        0x170,
        "CreateEventEx(u32 Type, u64 NotifyTpl, ptr NotifyFunction, ptr NotifyContext, guid EventGroup, ptr Event)",
    )
    def create_event_ex(
        self, cpu: Cpu, kind: int, tpl: int, notify: int, context: int, group: Guid | None, result: int
    ) -> int:
        """Create an event in a group."""
        need(result)
        self.firmware.memory.check(result, 8)
        if group is not None and kind & EVT_NOTIFY_SIGNAL and not notify:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.write_u64(result, self.firmware.events.create(kind, tpl, notify, context, group))
        return Status.SUCCESS

    @function(0x58, "SetTimer(ptr Event, u32 Type, u64 TriggerTime)")
    def set_timer(self, cpu: Cpu, address: int, kind: int, trigger: int) -> int:
        """Arm a timer; `trigger` is in units of 100 ns."""
        events = self.firmware.events
        event = events.get(address)
        if not event.kind & EVT_TIMER or kind > TIMER_RELATIVE:
            raise EfiError(Status.INVALID_PARAMETER)
        if kind == TIMER_CANCEL:
            events.set_timer(event, None)
            return Status.SUCCESS
        delay = min(trigger * 100, _LONGEST)
        period = max(delay, _MINIMUM_PERIOD) if kind == TIMER_PERIODIC else 0
        events.set_timer(event, self.firmware.clock.now() + (period or delay), period)
        return Status.SUCCESS

    @function(0x68, "SignalEvent(ptr Event)")
    def signal_event(self, cpu: Cpu, address: int) -> int:
        """Signal an event."""
        self.firmware.events.signal(address)
        return Status.SUCCESS

    @function(0x70, "CloseEvent(ptr Event)")
    def close_event(self, cpu: Cpu, address: int) -> int:
        """Close an event."""
        self.firmware.events.close(address)
        return Status.SUCCESS

    @function(0x78, "CheckEvent(ptr Event)")
    def check_event(self, cpu: Cpu, address: int) -> "int | Steps":
        """Whether an event is signaled."""
        firmware = self.firmware
        event = firmware.events.get(address)
        if event.kind & EVT_NOTIFY_SIGNAL and event.on_wait is None:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware.clock.run_due()
        if firmware.events.check(event):
            firmware.computer.idle.effect()
            return Status.SUCCESS
        if event.queued or firmware.calls.settle():
            return self._check_after_notify(event)
        firmware.computer.idle.input_poll()
        return Status.NOT_READY

    def _check_after_notify(self, event: Event) -> Steps:
        yield DISPATCH
        if event.on_wait is None and not event.signaled:
            return Status.NOT_READY
        event.signaled = False
        return Status.SUCCESS

    @function(0x60, "WaitForEvent(u64 NumberOfEvents, ptr Event, ptr Index)")
    def wait_for_event(self, cpu: Cpu, count: int, array: int, index_at: int) -> object:
        """Wait until one of several events is signaled."""
        firmware = self.firmware
        need(count, array, index_at)
        if firmware.events.tpl != TPL_APPLICATION or cpu.index:  # only the boot processor runs notifications
            raise EfiError(Status.UNSUPPORTED)
        raw = firmware.memory.read(array, 8 * min(count, 4096))
        addresses = [int.from_bytes(raw[n : n + 8], "little") for n in range(0, len(raw), 8)]
        for n, address in enumerate(addresses):
            event = firmware.events.get(address) if address in firmware.events else None
            if event is None or (event.kind & EVT_NOTIFY_SIGNAL and event.on_wait is None):
                firmware.memory.write_u64(index_at, n)
                raise EfiError(Status.INVALID_PARAMETER)
        state = {"events": addresses, "index": index_at}
        record = Record("wait", cpu.get(reg.RSP), state, firmware.dispatcher.current)
        firmware.calls.push(record)
        self.resume_wait(cpu, record, 0)
        return PENDING

    def resume_wait(self, cpu: Cpu, record: Record, _value: int) -> None:
        """Go on waiting: look at the events, run notifications, let time pass."""
        firmware = self.firmware
        events = firmware.events
        while True:
            firmware.clock.run_due()
            for n, address in enumerate(record.state["events"]):
                if address not in events:
                    continue
                if events.check(events.get(address)):
                    firmware.memory.write_u64(record.state["index"], n)
                    firmware.calls.finish(cpu, record, Status.SUCCESS)
                    return
            if events.waiting_above > events.tpl:
                if firmware.calls.settle():
                    firmware.calls.dispatch_nested(cpu, record.rsp)
                    return
                continue
            if not firmware.computer.wait_until(None):
                firmware.calls.yield_to_loop(cpu, record)
                return
