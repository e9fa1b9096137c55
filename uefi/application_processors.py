"""The application processors while firmware has them: parked, or running a procedure (PI 1.8 volume 2, 13.4)."""

from functools import partial
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.clock import Timer
from machine.cpu import Cpu
from uefi import memory_types as mt
from uefi.calls import Record
from uefi.dispatcher import PENDING, RETURN_PORT
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

STACK_PAGES = 8
"""32 KiB each, as EDK II gives them (PcdCpuApStackSize)."""
END_OF_CPU_LIST = 0xFFFF_FFFF


class Job:
    """One StartupAllAPs or StartupThisAP: plain data. Addresses are 0 where the caller wants nothing there.

    `waiting` are processors that have not begun, because they go one after the other; `deadline` is in ns of the clock.
    """

    __slots__ = ("argument", "deadline", "event", "failed_at", "finished_at", "procedure", "running", "waiting")

    def __init__(self, procedure: int, argument: int, event: int, failed_at: int = 0, finished_at: int = 0) -> None:
        self.procedure = procedure
        self.argument = argument
        self.event = event
        self.failed_at = failed_at
        self.finished_at = finished_at
        self.deadline: int | None = None
        self.waiting: list[int] = []
        self.running: set[int] = set()


class ApplicationProcessors:
    """Processors 1 and up. `enabled` and `healthy` are by processor number, the boot processor's included."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        count = len(firmware.computer.engine.cpus)
        self.count = count
        self.enabled = [True] * count
        self.healthy = [True] * count
        self._jobs: dict[int, Job] = {}
        self._numbers = 0
        self._answers: dict[int, int] = {}
        self._timers: dict[int, Timer] = {}
        self._stacks = 0
        if count > 1:
            # Reserved, and at once: a guest that takes all memory, and boot services with it, may leave procedures running.
            self._stacks = firmware.pages(STACK_PAGES * (count - 1), mt.RESERVED)
            # A parked processor does not come back from OUT; the loop is for whoever makes it.
            self._return = firmware.dispatcher.code(bytes((0xE7, RETURN_PORT, 0xF4, 0xEB, 0xFD)))
        firmware.calls.register("processors", self._resume)

    def busy(self, number: int) -> bool:
        """Whether a processor runs a procedure, or is to."""
        return any(number in job.running or number in job.waiting for job in self._jobs.values())

    def start(self, cpu: Cpu, job: Job, numbers: list[int], *, one_by_one: bool, timeout: int) -> object:
        """Run a job on idle processors; `timeout` is in microseconds, 0 for ever. What the service answers."""
        clock = self._firmware.clock
        job.waiting = list(numbers)
        self._numbers += 1
        number = self._numbers
        self._jobs[number] = job
        if timeout:
            job.deadline = clock.now() + min(timeout, 1 << 50) * 1000
            self._timers[number] = clock.call_at(job.deadline, partial(self._expired, number))
        self._launch(job, one_by_one)
        if job.event:
            return Status.SUCCESS
        state = {"job": number, "deadline": job.deadline}
        record = Record("processors", cpu.get(reg.RSP), state, self._firmware.dispatcher.current)
        self._firmware.calls.push(record)
        self._resume(cpu, record, 0)
        return PENDING

    def _launch(self, job: Job, one_by_one: bool = True) -> None:
        while job.waiting and not (one_by_one and job.running):
            number = job.waiting.pop(0)
            job.running.add(number)
            self._begin(number, job.procedure, job.argument)

    def _begin(self, number: int, procedure: int, argument: int) -> None:
        firmware = self._firmware
        cpu = firmware.computer.engine.cpus[number]
        firmware.calls.stacks[number].clear()
        cpu.power_on()
        firmware.processor.reset(cpu)
        top = self._stacks + 4096 * STACK_PAGES * number - 64
        firmware.memory.write_u64(top - 8, self._return)
        cpu.set(reg.RSP, top - 8)
        cpu.set(reg.RFLAGS, 2)
        cpu.set(reg.RCX, argument)
        cpu.set(reg.RIP, procedure)
        firmware.computer.start(number)

    def returned(self, cpu: Cpu) -> None:
        """A procedure has returned."""
        self._firmware.computer.park(cpu.index)
        for number, job in list(self._jobs.items()):
            if cpu.index in job.running:
                job.running.remove(cpu.index)
                self._launch(job)
                if not job.running:
                    self._end(number, job, Status.SUCCESS)

    def _expired(self, number: int) -> None:
        job = self._jobs.get(number)
        if job is not None:
            self._end(number, job, Status.TIMEOUT)

    def _end(self, number: int, job: Job, status: int) -> None:
        """All have finished, or time is up: those that have not are stopped and named."""
        firmware = self._firmware
        del self._jobs[number]
        timer = self._timers.pop(number, None)
        if timer is not None:
            timer.cancel()
        late = sorted({*job.running, *job.waiting})
        for processor in job.running:
            firmware.computer.park(processor)
        job.running.clear()
        job.waiting.clear()
        if not job.event:
            self._answers[number] = status
        memory = firmware.memory
        if job.failed_at and late:
            try:
                listed = firmware.pool(8 * (len(late) + 1))
            except EfiError:
                listed = 0
            if listed:
                memory.write(listed, b"".join(n.to_bytes(8, "little") for n in (*late, END_OF_CPU_LIST)))
            memory.write_u64(job.failed_at, listed)
        if job.finished_at:
            memory.write_u8(job.finished_at, not late)
        # TamaGo passes 1 for an event that it never waits for.
        if job.event and job.event in firmware.events:
            firmware.events.signal(job.event)

    def _resume(self, cpu: Cpu, record: Record, _value: int) -> None:
        """The boot processor waits for a job of its own."""
        firmware = self._firmware
        while True:
            firmware.clock.run_due()
            status = self._answers.pop(record.state["job"], None)
            if status is not None:
                firmware.calls.finish(cpu, record, status)
                return
            if firmware.calls.settle():
                firmware.calls.dispatch_nested(cpu, record.rsp)
                return
            if not firmware.computer.wait_until(record.state["deadline"]):
                firmware.calls.yield_to_loop(cpu, record)
                return

    def disable(self, number: int) -> None:
        """Take an idle processor out of use."""
        self.enabled[number] = False

    def enable(self, number: int) -> None:
        """Give it back."""
        self.enabled[number] = True
