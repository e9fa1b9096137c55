"""Calls from the host into guest code: what has been started and has not come back.

A service never runs the engine and never writes RIP (design rule 2). To call a guest function it pushes the function's
address and, behind it, that of the continuation stub onto the guest's stack, with 32 bytes of shadow space; the `ret` of the
service's own stub then jumps into the function, whose `ret` jumps to the continuation stub, which traps here again. What is
to happen then stands in a record on a stack of records, plain data for all that can last.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from machine import registers as reg
from machine.callbacks import zero
from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi.dispatcher import RETURN_PORT, Service
from uefi.interface import Dispatch, GuestCall
from uefi.status import EfiError, Status, status_name

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_SHADOW = 32
_RED_ZONE = 128
MAXIMUM_DEPTH = 1024
"""Nested calls; a guest that starts images or events without end runs out of its stack long before."""


class Record:
    """One call in progress. `rsp` is the guest's stack pointer at the trap: [rsp] is where the caller goes on.

    `kind` says who resumes it. `state` is plain data; `steps` is the generator of a service in several steps.
    """

    __slots__ = ("kind", "rsp", "service", "state", "steps")

    def __init__(self, kind: str, rsp: int, state: dict[str, Any], service: Service | None = None) -> None:
        self.kind = kind
        self.rsp = rsp
        self.state = state
        self.service = service
        self.steps: Generator[Any, int, int] | None = None


Resume = Callable[[Cpu, Record, int], None]


class Calls:
    """The stacks of records, one a processor, and how they go on. `stack` is that of the processor which is being served.

    Only the boot processor runs notifications.
    """

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self.stacks: list[list[Record]] = [[] for _ in firmware.computer.engine.cpus]
        self.stack = self.stacks[0]
        self.several = len(self.stacks) > 1
        self._resume: dict[str, Resume] = {
            "steps": self._resume_steps,
            "dispatch": self._resume_dispatch,
            "interrupted": self._resume_interrupted,
        }
        firmware.computer.bus.add_ports(RETURN_PORT, 1, zero, self._returned)
        code = firmware.dispatcher.code
        self.continuation = code(bytes((0xE7, RETURN_PORT, 0xC3)))
        self._ret = code(b"\xc3")
        self._park = code(b"\xeb\xfe")
        self._park_slot = firmware.pool(16)
        firmware.memory.write_u64(self._park_slot, self._park)

    @property
    def busy_with(self) -> str | None:
        """A service in several steps that is half done: its name. None if all that is in progress is plain data."""
        for record in self.stack:
            if record.steps is not None:
                return record.service.name if record.service is not None else "a service"
        return None

    def register(self, kind: str, resume: Resume) -> None:
        """Name who goes on when a record of `kind` is on top and the call that it waits for has come back."""
        self._resume[kind] = resume

    def serve(self, cpu: Cpu) -> None:
        """From now on it is this processor whose calls are answered."""
        self.stack = self.stacks[cpu.index]

    def push(self, record: Record) -> None:
        """Put a record on top. EfiError(OUT_OF_RESOURCES) at the greatest depth."""
        if len(self.stack) >= MAXIMUM_DEPTH:
            raise EfiError(Status.OUT_OF_RESOURCES)
        self.stack.append(record)

    def invoke(self, cpu: Cpu, rsp: int, target: int, arguments: tuple[int, ...]) -> None:
        """Arrange that the next `ret` jumps to `target`, called below `rsp`; the record on top gets its return value."""
        memory = self._firmware.memory
        extra = arguments[4:]
        base = (rsp - _SHADOW - 8 * len(extra)) & ~15
        memory.write_u64(base - 16, target)
        memory.write_u64(base - 8, self.continuation)
        for n, value in enumerate(extra):
            memory.write_u64(base + _SHADOW + 8 * n, value)
        for register, value in zip((reg.RCX, reg.RDX, reg.R8, reg.R9), arguments, strict=False):
            cpu.set(register, value)
        cpu.set(reg.RSP, base - 16)

    def invoke_outside(self, cpu: Cpu, rsp: int, target: int, arguments: tuple[int, ...]) -> None:
        """The same between two runs, when no stub's `ret` is about to be executed."""
        self.invoke(cpu, rsp, target, arguments)
        cpu.set(reg.RIP, self._ret)

    def finish(self, cpu: Cpu, record: Record, value: int) -> None:
        """Take `record` off the top and let its caller go on with `value` in RAX; or wake the record below it."""
        self.stack.pop()
        if record.state.get("nested"):
            self._wake(cpu, value)
            return
        dispatcher = self._firmware.dispatcher
        if record.service is not None and dispatcher.after is not None:
            dispatcher.after(cpu, record.service, value)
        if record.kind != "dispatch" and self.settle():
            self.dispatch_then_return(cpu, record.rsp, value)
            return
        cpu.set(reg.RSP, record.rsp)
        cpu.set(reg.RAX, value)

    def _returned(self, cpu: Cpu, _offset: int, _size: int, _value: int) -> None:
        """The continuation stub executed its OUT."""
        self.stack = self.stacks[cpu.index]
        if not self.stack and cpu.index:
            self._firmware.application_processors.returned(cpu)
            return
        if not self.stack:
            self._firmware.crash(cpu, "guest code returned to the firmware without having been called by it")
            return
        self._wake(cpu, cpu.get(reg.RAX))

    def _wake(self, cpu: Cpu, value: int) -> None:
        record = self.stack[-1]
        try:
            self._resume[record.kind](cpu, record, value)
        except BadAddress as error:
            self._firmware.crash(cpu, f"{error}: a pointer that the guest passed, or its stack, is no memory any more")
        except EfiError as error:
            self._firmware.crash(cpu, f"the firmware cannot go on: {status_name(error.status)}")

    def yield_to_loop(self, cpu: Cpu, record: Record) -> None:
        """Leave the engine; when it runs again, the record on top is resumed with 0. For services that wait."""
        base = (record.rsp - _SHADOW) & ~15
        self._firmware.memory.write_u64(base - 16, self.continuation)
        cpu.set(reg.RSP, base - 16)
        self._firmware.computer.engine.kick()

    # -- services in several steps

    def start_steps(self, cpu: Cpu, rsp: int, service: Service, steps: Generator[Any, int, int]) -> None:
        """Begin a service that is a generator."""
        record = Record("steps", rsp, {}, service)
        record.steps = steps
        self.push(record)
        self._advance(cpu, record, None)

    def _resume_steps(self, cpu: Cpu, record: Record, value: int) -> None:
        self._advance(cpu, record, value)

    def _advance(self, cpu: Cpu, record: Record, value: int | None) -> None:
        assert record.steps is not None
        try:
            wish = record.steps.send(value)  # type: ignore[arg-type]
        except StopIteration as end:
            self.finish(cpu, record, end.value or 0)
            return
        except EfiError as error:
            self.finish(cpu, record, error.status)
            return
        except BadAddress:
            self.finish(cpu, record, Status.INVALID_PARAMETER)
            return
        if isinstance(wish, GuestCall):
            self.invoke(cpu, record.rsp, wish.target, wish.arguments)
        elif isinstance(wish, Dispatch):
            self.dispatch_nested(cpu, record.rsp)
        else:
            raise TypeError(f"a service yielded {wish!r}")

    # -- event notifications

    def settle(self) -> bool:
        """Run the host's own notifications that are pending first; True if one of the guest's is pending then."""
        firmware = self._firmware
        events = firmware.events
        tpl = events.tpl
        while events.waiting_above > tpl:
            event = events.first_pending()
            if event.host_notify is None:
                return not firmware.left_boot_services and self.stack is self.stacks[0]
            events.take_pending(tpl)
            events.tpl = event.tpl
            event.host_notify()
            events.tpl = tpl
        return False

    def dispatch_then_return(self, cpu: Cpu, rsp: int, value: int) -> None:
        """Run pending notifications, then let the caller at [rsp] go on with `value`."""
        if len(self.stack) >= MAXIMUM_DEPTH:
            cpu.set(reg.RAX, value)
            return
        self.push(Record("dispatch", rsp, {"value": value, "tpl": self._firmware.events.tpl}))
        self._wake(cpu, 0)

    def dispatch_nested(self, cpu: Cpu, rsp: int) -> None:
        """Run pending notifications, then resume the record that is on top now."""
        if self.stack is not self.stacks[0]:
            self._wake(cpu, 0)
            return
        record = Record("dispatch", rsp, {"nested": True, "value": 0, "tpl": self._firmware.events.tpl})
        self.push(record)
        self._resume_dispatch(cpu, record, 0)

    def _resume_dispatch(self, cpu: Cpu, record: Record, _value: int) -> None:
        firmware = self._firmware
        events = firmware.events
        tpl = record.state["tpl"]
        trace = firmware.trace_notify
        if record.state.pop("notifying", False) and trace is not None:
            trace(cpu, None)
        while (event := events.take_pending(tpl)) is not None:
            events.tpl = event.tpl
            if event.host_notify is None:
                if trace is not None:
                    trace(cpu, event)
                record.state["notifying"] = True
                self.invoke(cpu, record.rsp, event.notify, (event.address, event.context))
                return
            event.host_notify()
        events.tpl = tpl
        self.finish(cpu, record, record.state["value"])

    def inject(self, cpu: Cpu) -> bool:
        """Between two runs: divert `cpu` to pending notifications, if there are any above its TPL."""
        events = self._firmware.events
        if events.waiting_above <= events.tpl:
            return False
        self.serve(cpu)
        if not self.settle():
            return False
        rsp = cpu.get(reg.RSP) - _RED_ZONE
        record = Record("interrupted", rsp, {"context": cpu.save()})
        self.push(record)
        dispatch = Record("dispatch", rsp, {"nested": True, "value": 0, "tpl": events.tpl})
        self.push(dispatch)
        # Enter through the continuation stub: the dispatch record on top takes it from there.
        cpu.set(reg.RSP, (rsp - _SHADOW) & ~15)
        cpu.set(reg.RIP, self.continuation)
        return True

    def _resume_interrupted(self, cpu: Cpu, record: Record, _value: int) -> None:
        self.stack.pop()
        # RIP cannot be written inside a trap: park the CPU, leave the engine, then put everything back.
        cpu.set(reg.RSP, self._park_slot)
        context = record.state["context"]
        self._firmware.computer.defer(partial(cpu.load, context))
