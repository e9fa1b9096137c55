"""A machine that is switched on: assembled, run on a thread of its own, and started again after each reset."""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cvmboot.assembly import Assembly, assemble, start
from cvmboot.engines import settle
from cvmboot.media import Media
from cvmboot.options import RunOptions
from machine.console import HostConsole
from machine.errors import EngineError, MachineError
from machine.exceptions import TripleFault
from uefi.firmware import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from cvmboot.snapshots.file import SnapshotFile
    from cvmboot.trace import Event, Tracer
    from cvmboot.trace_file import TraceFile
    from cvmboot.unikernel import UnikernelAssembly
    from machine.gdb.server import GdbServer
    from uefi.variables.store import VariableStore

RESETS = 10
"""So many resets within RESET_WINDOW are a guest that resets for ever: from then on it starts once a second."""
RESET_WINDOW = 10.0
"""Seconds."""
RESET_PAUSE = 1.0
"""Seconds."""


class PoweredMachine:
    """One machine across its resets.

    `start` begins a thread, which alone touches the machine. `outcome` is set when it has ended by itself or by `stop`,
    `error` when our own code failed; `report` holds the lines of a crash report, `violated` says
    whether an SEV-SNP guest broke the rules under a strict check. That thread calls `on_end` last.
    """

    def __init__(
        self,
        image: "Path",
        options: RunOptions,
        console: HostConsole,
        warn: Callable[[str], None],
        on_end: Callable[[], None],
        snapshot: "SnapshotFile | None" = None,
    ) -> None:
        """`snapshot`: where the machine goes on, instead of booting the image. It must stay open until `wait_until_on`."""
        settle(options, warn, restored=snapshot is not None)
        self.image = image
        self._snapshot = snapshot
        self.options = options
        self.console = console
        self.warn = warn
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.report: list[str] = []
        self.violated = False
        self._on_end = on_end
        self._lock = threading.Lock()
        self._assembly: Assembly | UnikernelAssembly | None = None
        self._stopped: Outcome | None = None
        self._variables: VariableStore | None = None
        self._media = Media()
        self._disk_command_line: str | None = None
        """Of a program that a BIOS would load from the disk that was given as the image."""
        self._wake = threading.Event()
        self._resets: deque[float] = deque(maxlen=RESETS)
        self._on = threading.Event()
        self._tracer: Tracer | None = None
        self._trace_file: TraceFile | None = None
        self._gdb: GdbServer | None = None
        self._gdb_backlog: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._main, name="cvmboot-machine", daemon=True)

    # -- from other threads

    def trace(self, sink: "Callable[[Event], object]") -> None:
        """Hand an event of each service call to `sink`, on the machine's thread. Before `start`."""
        from cvmboot.trace import Tracer

        self._tracer = Tracer(sink)

    def start(self) -> None:
        """Switch on. UsageError or CvmbootError if the files that the options name cannot be made."""
        if self.options.trace is not None:
            if self._is_unikernel():
                from cvmboot.unikernel import refuse_firmware_options

                refuse_firmware_options(self.options, self.image)  # before a file is made anew
            from cvmboot.trace_file import TraceFile

            self._trace_file = TraceFile(self.options.trace, self.warn)
            self.trace(self._trace_file.write)
        if self.options.gdb is not None:
            from cvmboot.debugging import gdb_server

            self._gdb = gdb_server(
                self.options.gdb, self._post_to_debugged, lambda: self.stop(Outcome("shutdown")), self
            )
            self.warn(f"waiting for GDB; there: target remote 127.0.0.1:{self._gdb.port}")
        self._thread.start()

    @property
    def assembly(self) -> "Assembly | UnikernelAssembly | None":
        """The machine as it is now. For its own thread."""
        return self._assembly

    @property
    def media(self) -> Media:
        """Image and disks. For the machine's thread."""
        return self._media

    @property
    def gdb_port(self) -> int | None:
        """The port on which GDB is waited for."""
        return self._gdb.port if self._gdb is not None else None

    def wait_until_on(self) -> None:
        """Wait until the image has been loaded, or the machine has ended before that."""
        self._on.wait()

    def call(self, action: "Callable[[Assembly | UnikernelAssembly], None]") -> None:
        """Have the machine's thread call `action` soon; not at all if the machine is off."""
        self._post(action)

    def at_rest(
        self, action: "Callable[[Assembly | UnikernelAssembly, Media, RunOptions], None]", patience: float
    ) -> None:
        """Have the machine's thread call `action` where no service is half done, and wait for it; raises what it raises.

        CvmbootError if the machine is off, or does not get to such a place within `patience` seconds.
        """
        from cvmboot.visit import Visit, pay

        def begin(visit: Visit) -> None:
            with self._lock:
                assembly = self._assembly
                if assembly is not None:
                    assembly.computer.at_rest(partial(visit, assembly))

        pay(begin, self._thread.is_alive, lambda assembly: action(assembly, self._media, self.options), patience)

    def stop(self, outcome: Outcome) -> None:
        """Switch off, with this outcome unless there is one already."""
        with self._lock:
            if self._stopped is None:
                self._stopped = outcome
            assembly = self._assembly
            if assembly is not None:
                assembly.computer.finish(outcome)
        self._wake.set()

    def feed(self, data: bytes) -> None:
        """Type on the console."""
        if data:
            self.console.feed(data)
            self._post(lambda assembly: assembly.board.input_arrived())

    def flush(self) -> bool:
        """Have collected console output, and the trace, written soon. False if there is none."""
        console, trace = self.console.dirty, self._trace_file is not None and self._trace_file.dirty
        if console:
            self._post(lambda assembly: assembly.console.flush())
        if trace:
            self._post(lambda assembly: self._flush_trace())
        return console or trace

    def _post(self, action: "Callable[[Assembly | UnikernelAssembly], None]") -> None:
        with self._lock:
            assembly = self._assembly
            if assembly is not None:
                assembly.computer.post(lambda: action(assembly))

    def _post_to_debugged(self, action: Callable[[], None]) -> None:
        """The same for a debugger, which may be there before the machine is, and outlives a reset."""
        with self._lock:
            if self._assembly is not None:
                self._assembly.computer.post(action)
            else:
                self._gdb_backlog.append(action)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end; False if it did not come within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- on the machine's thread

    def _main(self) -> None:
        try:
            self.outcome = self._run()
        except BaseException as error:  # whatever it is: the thread that waits for us has to hear of it
            self.error = error
        finally:
            self._media.close()
            if self._trace_file is not None:
                self._trace_file.close()
            if self._gdb is not None:
                self._gdb.close()
            self._on.set()
            self._on_end()

    def _flush_trace(self) -> None:
        if self._trace_file is not None:
            self._trace_file.flush()

    def _run(self) -> Outcome:
        while True:
            outcome = self._run_once()
            if outcome.kind != "reset" or not self.options.reboot:
                return outcome
            if self._variables is not None:
                self._variables.reset()
            self._slow_down()
            if self._stopped is not None:
                return self._stopped

    def _is_unikernel(self) -> bool:
        """Whether the image is an ELF file, or a disk with one that a BIOS would load, which is then known as the image."""

        def first_bytes() -> bytes:
            with self.image.open("rb") as file:
                return file.read(4)

        try:
            known = self._media.known_image(self.image)
            first = bytes(known[:4] if known is not None else first_bytes())
        except OSError:
            return False  # whoever reads it next says why
        if first == b"\x7fELF" or first.startswith(b"MZ"):
            return first == b"\x7fELF"
        from cvmboot.bios_disks import program_of

        program = program_of(self.image)
        if program is None:
            return False
        self._media.image(self.image, lambda: program.elf)
        self._disk_command_line = program.command_line
        return True

    def _restore(self, snapshot: "SnapshotFile") -> "Assembly | UnikernelAssembly":
        from cvmboot.snapshots.restore import restore

        return restore(snapshot, self.options, self.console, self.warn, self._media)

    def _build(self) -> "Assembly | UnikernelAssembly":
        if self._is_unikernel():
            from cvmboot import unikernel

            return unikernel.assemble(
                self.options, self.console, self.warn, self.image, self._media, self._disk_command_line
            )
        return assemble(self.options, self.console, self.warn, self._variables)

    def _run_once(self) -> Outcome:
        snapshot, self._snapshot = self._snapshot, None
        assembly = self._build() if snapshot is None else self._restore(snapshot)
        try:
            assembly.computer.await_input = lambda: self._await_input(assembly)
            if isinstance(assembly, Assembly):
                self._variables = assembly.firmware.variables
                if snapshot is None:
                    start(assembly, self.image, self.options, self._media)
                if self._tracer is not None:
                    self._tracer.attach(assembly)
            if self._gdb is not None:
                self._gdb.stub.attach(assembly.computer)
            with self._lock:
                self._assembly = assembly
                for action in self._gdb_backlog:
                    assembly.computer.post(action)
                self._gdb_backlog.clear()
                if self._stopped is not None:
                    assembly.computer.finish(self._stopped)
            self._on.set()
            return self._until_end(assembly)
        finally:
            with self._lock:
                self._assembly = None
            self.console.flush()
            if isinstance(assembly, Assembly):
                if self._tracer is not None:
                    self._tracer.finish()
                self._check_pages(assembly)
                if self.options.screenshot is not None:
                    self._save_screen(assembly, self.options.screenshot)
            assembly.close()

    def _await_input(self, assembly: "Assembly | UnikernelAssembly") -> bool:
        """Nothing but input can happen any more: wait for it where the console has a gate."""
        if not self.console.ask():
            return False
        assembly.board.input_arrived()
        return True

    def outcome_of(self, result: "Outcome | MachineError") -> Outcome:
        """What a run of the machine that is on now ended with, or raised, comes to. On its own thread."""
        if isinstance(result, Outcome):
            return result
        if isinstance(result, TripleFault):
            assembly = self._assembly
            # Who means it takes its own interrupt table away first.
            ends = assembly is not None and assembly.board.triple_fault_ends
            if assembly is not None and ends and not assembly.computer.cpu.table("idtr")[1]:
                return Outcome("shutdown")
            return Outcome("crashed", text=str(result), fault=result.fault)
        return Outcome("crashed", text=str(result))

    def _until_end(self, assembly: "Assembly | UnikernelAssembly") -> Outcome:
        failure: Exception | None = None
        try:
            outcome: Outcome = assembly.computer.run()
        except TripleFault as fault:
            outcome = self.outcome_of(fault)
        except EngineError as error:
            outcome, failure = self.outcome_of(error), error
        if outcome.kind == "crashed":
            from cvmboot import crash

            self.report = crash.report(assembly, outcome)
        if failure is not None:
            raise failure
        return outcome

    def _check_pages(self, assembly: Assembly) -> None:
        if assembly.snp is None:
            return
        refusals = assembly.snp.refusals()
        if refusals:
            self.warn("\n  ".join(refusals))
        lines = assembly.snp.finish(assembly)
        if lines:
            self.violated = self.violated or self.options.snp_check == "strict"
            self.warn("\n".join(["SEV-SNP rules that the guest broke, and real hardware may not forgive:", *lines]))

    def _save_screen(self, assembly: Assembly, path: "Path") -> None:
        from uefi.graphics.screenshot import save_png

        try:
            save_png(assembly.screen, path)
        except OSError as error:
            self.warn(f"--screenshot {path}: {error.strerror or error}; name a file that can be written")

    def _slow_down(self) -> None:
        """A guest that resets for ever must not take the host's processor for it."""
        now = time.monotonic()
        resets: Any = self._resets
        resets.append(now)
        if len(resets) == RESETS and now - resets[0] < RESET_WINDOW:
            if not self._wake.is_set():
                spent = now - resets[0]
                self.warn(f"{RESETS} resets in {spent:.1f} s: from now on one a second; --no-reboot ends at the first")
            resets.clear()
            resets.extend([now] * (RESETS - 1))
            self._wake.wait(RESET_PAUSE)
