"""Threads of the processors on KVM, with which guest code runs on several of the host's cores at once.

A processor's thread does nothing but KVM_RUN, which needs no interpreter, and then says that it has come out. Why it came out is
answered by the engine's thread, for one processor after the other, while the rest go on in the guest. So nothing outside the
guest ever happens twice at a time. Before something that a running processor must not see half done, or must not go on
without, the engine's thread has all of them come out (`gather`): they are let in again by whoever let them in before.

KVM wants a processor to be run by one thread: a change costs some kernels a grace period of RCU. So one that has a
thread of its own keeps it, also while it is alone, until it has been alone for long.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import clock_gettime_ns, monotonic, pthread_getcpuclockid
from typing import TYPE_CHECKING

from machine.callbacks import nothing
from machine.cpu import Stop
from machine.engine.leaving import CannotCarry, ManyExits
from machine.errors import EngineError

if TYPE_CHECKING:
    from machine.engine.kvm_cpu import KvmCpu

_PATIENCE = 30.0
"""Seconds after which a processor that does not come out of KVM_RUN is given up; microseconds are usual."""


class Runner:
    """The thread of one processor. `left` is what `KvmCpu.run_guest` gave, or raised."""

    def __init__(self, cpu: "KvmCpu", out: "SimpleQueue[Runner | None]") -> None:
        self.cpu = cpu
        self.left: int | Exception | None = None
        self._out = out
        self._go = threading.Lock()
        self._go.acquire()
        self._ended = False
        if sys.is_finalizing():  # a machine that nobody closed: a thread would wait for its start for ever
            raise EngineError("the program ends while its guest runs")
        self._thread = threading.Thread(target=self._work, name=f"cvmboot-cpu{cpu.index}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        self.cpu.knock.thread = threading.get_native_id()
        while True:
            self._go.acquire()
            if self._ended:
                return
            try:
                self.left = self.cpu.run_guest()
            except Exception as error:  # the engine's thread raises it
                self.left = error
            self._out.put(self)

    def go(self) -> None:
        """Let the processor into the guest."""
        self._go.release()

    def taken(self) -> int | None:
        """What `run_guest` gave; raises what it raised."""
        if isinstance(self.left, Exception):
            raise self.left
        return self.left

    def spent(self) -> int:
        """Nanoseconds of processor time that the thread has had."""
        ident = self._thread.ident
        return clock_gettime_ns(pthread_getcpuclockid(ident)) if ident is not None and self._thread.is_alive() else 0

    def end(self) -> None:
        """End the thread, which must be out of the guest."""
        self._ended = True
        self._go.release()
        self._thread.join()
        self.cpu.knock.thread = 0


class Threads:
    """All processors of one engine that may be in the guest at once (`machine.engine.base.SideBySide`). For the engine's thread.

    `inside` are those in the guest. `leave(reason)` is told why an instruction, or a processor's state, needs
    another engine; `refuses(index)` why a processor cannot be carried as it is now, if it cannot.
    """

    def __init__(self, cpus: "list[KvmCpu]") -> None:
        self._cpus = cpus
        self._out: SimpleQueue[Runner | None] = SimpleQueue()
        self._arrived: deque[Runner] = deque()
        self._woken = False
        self._known: set[int] = set()
        self.inside: set[int] = set()
        self.leave: Callable[[CannotCarry | ManyExits | str], None] = nothing
        self.refuses: Callable[[int], str | None] = nothing

    # -- in and out

    def release(self, index: int) -> bool:
        """Let a processor run, beside others. False, and it does not, if it needs another engine."""
        cpu = self._cpus[index]
        if index not in self._known:
            reason = self.refuses(index)
            if reason is not None:
                self.leave(reason)
                return False
            self._known.add(index)
        runner = self._runner(cpu)
        cpu.fault = None
        cpu.beside = True
        cpu.alone = 0
        cpu.knock.clear()
        cpu.enter(False)
        self.inside.add(index)
        runner.go()
        return True

    def _runner(self, cpu: "KvmCpu") -> Runner:
        if cpu.runner is None:
            cpu.runner = Runner(cpu, self._out)
        return cpu.runner

    def changed(self, index: int) -> None:
        """A processor has been set up by others than itself."""
        self._known.discard(index)

    def all_changed(self) -> None:
        """The same for all of them."""
        self._known.clear()

    def wake(self) -> None:
        """From any thread: have `next` return."""
        if not self._woken:
            self._woken = True
            self._out.put(None)

    def next(self, seconds: float | None) -> int | None:
        """Wait for a processor that has come out and is to be answered. None after so long, or after `wake`."""
        if not self._arrived:
            self._take(seconds)
        return self.arrived()

    def arrived(self) -> int | None:
        """The first processor that has come out and is to be answered."""
        return self._arrived[0].cpu.index if self._arrived else None

    def _take(self, seconds: float | None) -> bool:
        """Wait for a processor, or `wake`; whether it was that."""
        try:
            runner = self._out.get(timeout=seconds) if seconds is None or seconds > 0 else self._out.get_nowait()
        except Empty:
            return False
        if runner is None:
            self._woken = False
            return True
        self.inside.discard(runner.cpu.index)
        self._arrived.append(runner)
        return False

    def busy(self, index: int) -> bool:
        """Whether a processor is in the guest, or has come out and is still to be answered."""
        return index in self.inside or any(runner.cpu.index == index for runner in self._arrived)

    def step(self, index: int) -> Stop:
        """Run one instruction of a processor that is out of the guest."""
        cpu = self._cpus[index]
        cpu.runner = self._runner(cpu)
        cpu.alone = 0
        cpu.knock.clear()
        try:
            return cpu.start(stepping=True)
        except (CannotCarry, ManyExits) as leaving:
            self.leave(leaving)
            return Stop.KICKED

    def answer(self, index: int) -> Stop | None:
        """Carry out what has brought a processor out; why it does not go on, if it does not."""
        runner = next(runner for runner in self._arrived if runner.cpu.index == index)
        self._arrived.remove(runner)
        try:
            return runner.cpu.answer(runner.taken())
        except (CannotCarry, ManyExits) as leaving:
            self.leave(leaving)
            return Stop.KICKED

    def run(self, runner: Runner) -> int | None:
        """Let a processor run until it comes out, which only a knock hastens; others that come out meanwhile wait."""
        runner.go()
        woken = False
        while runner not in self._arrived:
            woken = self._take(None) or woken
        self._arrived.remove(runner)
        if woken:
            self.wake()
        return runner.taken()

    # -- all of them out

    def knock(self, index: int) -> None:
        """Have a processor come out, or not go in, because something waits for it."""
        self._cpus[index].knock.knock()

    def gather(self) -> bool:
        """Have all processors come out; whether one was in the guest. EngineError if one does not."""
        return self._bring_out(list(self.inside))

    def drop(self, index: int) -> None:
        """Have a processor come out, and forget why it did: it is about to be set up anew."""
        if index in self.inside:
            self._bring_out([index])
        self._arrived = deque(runner for runner in self._arrived if runner.cpu.index != index)

    def abandon(self) -> None:
        """Have all processors come out, and forget why they did."""
        self.gather()
        for runner in self._arrived:
            runner.cpu.to_own_code()
        self._arrived.clear()

    def _bring_out(self, wanted: list[int]) -> bool:
        if not wanted:
            return False
        deadline = monotonic() + _PATIENCE
        for index in wanted:
            self.knock(index)
        woken = False
        while late := [index for index in wanted if index in self.inside]:
            left = deadline - monotonic()
            if left <= 0:
                raise EngineError(f"processors {late} have not come out of KVM_RUN for {_PATIENCE:.0f} s")
            woken = self._take(left) or woken
        if woken:
            self.wake()
        return True

    def spent(self, index: int) -> int:
        """Nanoseconds of processor time that a processor has had in the guest, on its own thread."""
        runner = self._cpus[index].runner
        return runner.spent() if runner is not None else 0

    def close(self) -> None:
        """End all threads."""
        self.abandon()
        for cpu in self._cpus:
            runner, cpu.runner = cpu.runner, None
            if runner is not None:
                runner.end()
