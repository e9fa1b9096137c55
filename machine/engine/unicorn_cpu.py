"""One processor of the Unicorn engine: its hooks, and the run of its guest code."""

import ctypes
from typing import TYPE_CHECKING, Any

from machine import registers as reg
from machine.cpu import Cpu, Fault, GuestException, Stop, Watch
from machine.engine import unicorn_abi as abi
from machine.engine import unicorn_gateway as gateway
from machine.engine import unicorn_insides as insides
from machine.engine import unicorn_state
from machine.engine.unicorn_accesses import Accesses
from machine.engine.unicorn_debug import DebugHooks
from machine.engine.unicorn_exceptions import REMEMBERED, LastException
from machine.engine.unicorn_frames import CodeFrames
from machine.engine.unicorn_real_mode import RealMode
from machine.engine.unicorn_registers import UnicornRegisters
from machine.engine.unicorn_stop import StopFlag
from machine.engine.unicorn_system_calls import SystemCalls
from machine.engine.unicorn_traps import TrappedInstructions
from machine.errors import BadAddress, EngineError
from machine.memory import HIGH_START, PhysicalMemory
from machine.paging import FETCH, READ, WRITE, Mode, NonCanonical, PageFault, Translation

if TYPE_CHECKING:
    from machine.engine.unicorn import UnicornEngine

_ACCESS = {abi.MEM_READ: READ, abi.MEM_WRITE: WRITE, abi.MEM_FETCH: FETCH}
_FRAME_WINDOW = gateway.LINEAR - 0x1000
_VOID_PAGE = HIGH_START - 0x1000  # physical addresses beyond everything are sent here: reads all ones

_TLB_GROWTH = frozenset((400, 1200))
_TLB_LATER_GROWTH = 8192
"""TLB fills at which to flush: Unicorn doubles its table of 256 entries only then, and only if it is well filled. With 1,024 a
guest of 15 MB misses less than half as often while it starts; a larger table makes each page of new code dearer, so it grows
further only for guests that go on missing: one that moves megabytes through its heap needs 8,192 entries."""


class UnicornCpu(UnicornRegisters):
    """One processor of the Unicorn engine, an instance of the library each."""

    def __init__(self, engine: "UnicornEngine", index: int, several: bool = False) -> None:
        """`several`: there are other CPUs."""
        self.index = index
        self.face: Cpu = self
        """What handlers get to see: the processor wherever it is (`machine.engine.moving`)."""
        self.fault: Fault | None = None
        self.error: BaseException | None = None
        self._engine = engine
        self._handlers = engine.handlers
        lib = engine.library
        handle = ctypes.c_void_p()
        lib.check(lib.open(abi.ARCH_X86, abi.MODE_64, ctypes.byref(handle)), "open")
        super().__init__(lib, handle)
        self._fills = 0
        self.frames = CodeFrames(self)
        self._traps = TrappedInstructions(self, engine.handlers, pauses=several)
        self._accesses = Accesses(self, engine.handlers)
        self._system_calls = SystemCalls(self)
        self.own_pages: dict[int, int] = {}
        """Linear pages of the engine's own, and where they lie: no page walk is asked for them."""
        # Bytes of instructions that were not known, by RIP: a page that is fetched from cannot change in between.
        self._unknown: dict[int, bytes] = {}
        self._not_known: bytes | None = None
        self._keep: list[object] = []
        self._stale = False
        self._ctl(abi.CTL_CPU_MODEL, ctypes.c_int(abi.CPU_X86_EPYC_ROME))
        self._ctl(abi.CTL_TLB_TYPE, ctypes.c_int(abi.TLB_VIRTUAL))
        self._windows: list[range] = []
        self._map(engine.memory)
        self._ctl(abi.CTL_USE_EXITS, ctypes.c_int(1))
        self._flags = insides.flags_of(lib, handle)
        self._real_mode = RealMode(lib, self) if index else None
        self.stop = StopFlag(lib, handle, counting=several)
        self._install_hooks()
        self._debug: DebugHooks | None = None
        self._gateway: gateway.Gateway | None = None
        self._last_exception = LastException(lib, handle)

    def _ctl(self, control: int, *arguments: Any) -> None:
        self._lib.check(self._lib.ctl(self.handle, ctypes.c_int(control & 0xFFFFFFFF), *arguments), "ctl")

    def _map(self, memory: PhysicalMemory) -> None:
        lib = self._lib
        lib.check(lib.mem_map_ptr(self.handle, 0, memory.low_size, abi.PROT_ALL, memory.host_address), "map low RAM")
        if memory.high_size:
            host = memory.host_address + memory.low_size
            lib.check(lib.mem_map_ptr(self.handle, HIGH_START, memory.high_size, abi.PROT_ALL, host), "map high RAM")
        self._map_mmio(memory.low_size, HIGH_START - memory.low_size)

    def _map_mmio(self, base: int, size: int) -> None:
        read = abi.MMIO_READ_CALLBACK(lambda _uc, offset, width, _user: self._accesses.load(base + offset, width))
        write = abi.MMIO_WRITE_CALLBACK(
            lambda _uc, offset, width, value, _user: self._accesses.store(base + offset, width, value)
        )
        self._keep += [read, write]
        self._lib.check(self._lib.mmio_map(self.handle, base, size, read, None, write, None), f"map MMIO at {base:#x}")

    def open_window(self, base: int, size: int) -> None:
        """Let devices answer at physical addresses above 4 GiB, too. Between two runs only."""
        self._map_mmio(base, size)
        self._windows.append(range(base, base + size))
        self.flush_translations()

    def _in_window(self, physical: int) -> bool:
        return any(physical in window for window in self._windows)

    def hook(self, kind: int, callback: Any, begin: int = 1, end: int = 0, *extra: Any) -> ctypes.c_size_t:
        """Have Unicorn call `callback` for addresses from `begin` to `end`, or for all; gives the hook's handle."""
        self._keep.append(callback)
        if kind == abi.HOOK_CODE and not isinstance(callback, ctypes.c_void_p):
            callback = self.stop.around(callback)
        number = ctypes.c_size_t()
        code = self._lib.hook_add(
            self.handle,
            ctypes.byref(number),
            ctypes.c_int(kind),
            callback,
            None,
            ctypes.c_uint64(begin),
            ctypes.c_uint64(end),
            *extra,
        )
        self._lib.check(code, "hook")
        return number

    def unhook(self, number: ctypes.c_size_t) -> None:
        """Take a hook away again. Between two runs only."""
        self._lib.check(self._lib.hook_del(self.handle, number), "unhook")

    def _install_hooks(self) -> None:
        self.hook(abi.HOOK_TLB_FILL, abi.TLB_CALLBACK(self._fill))
        self.hook(abi.HOOK_INTR, abi.INTR_CALLBACK(self._interrupt))
        self.hook(abi.HOOK_INSN_INVALID, abi.INVALID_CALLBACK(self._invalid))
        self.hook(abi.HOOK_INSN, abi.IN_CALLBACK(self._accesses.port_in), 1, 0, ctypes.c_int(abi.INS_IN))
        self.hook(abi.HOOK_INSN, abi.OUT_CALLBACK(self._accesses.port_out), 1, 0, ctypes.c_int(abi.INS_OUT))
        self.hook(abi.HOOK_INSN, abi.CPUID_CALLBACK(self._accesses.cpuid), 1, 0, ctypes.c_int(abi.INS_CPUID))
        self.hook(abi.HOOK_INSN, abi.SYSCALL_CALLBACK(self._system_calls.called), 1, 0, ctypes.c_int(abi.INS_SYSCALL))

    def freeze(self) -> dict[str, Any]:
        """The whole processor as plain data (`machine.cpu_state`)."""
        return unicorn_state.freeze(self)

    def thaw(self, state: dict[str, Any]) -> None:
        """Become what `freeze` gave."""
        unicorn_state.thaw(self, state)

    # -- what the library calls back; an exception must not cross it, so it is kept and stops the run

    def failed(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self._lib.emu_stop(self.handle)

    def raise_fault(self, fault: Fault) -> None:
        self.fault = fault
        self._lib.emu_stop(self.handle)

    @property
    def nmi_masked(self) -> bool:
        """Whether an NMI is being handled: Unicorn's own mark, which its IRET takes away."""
        return self._flags is not None and bool(self._flags.value & insides.HF2_NMI)

    @nmi_masked.setter
    def nmi_masked(self, masked: bool) -> None:
        if self._flags is not None:
            self._flags.value = self._flags.value & ~insides.HF2_NMI | insides.HF2_NMI * masked

    def begin_turn(self, blocks: int) -> None:
        """Have `run` give TURN_OVER when so many more blocks have been entered. Hosts other than x64 cannot count."""
        self.stop.refill(blocks)

    def takes_interrupt(self, _waiting: bool) -> bool | None:
        """RFLAGS and the code tell."""
        return None

    def power_on(self) -> None:
        """The state in which the library makes a CPU: 64-bit mode. EngineError for CPU 0."""
        if self._real_mode is None:
            raise EngineError("the boot processor cannot be set up anew")
        self._real_mode.power_on()
        self.fault = None
        self._system_calls.pending = False
        self._efer = 0
        self._mode_key = None
        self.flush_translations()
        self.flush_code()

    def enter_real_mode(self, vector: int, signature: int) -> None:
        """Real mode at vector << 12, everything else as after INIT. EngineError for CPU 0, which nobody starts that way."""
        self.power_on()
        if self._real_mode is not None:
            self._real_mode.enter(vector, signature)

    def code_base(self) -> int:
        """What RIP is relative to: 0, but in real mode and behind it until CS is loaded again."""
        return self._real_mode.code_base() if self._real_mode is not None else 0

    def _fill(self, _uc: int, address: int, kind: int, entry: Any, _user: int) -> bool:
        try:
            self._fills += 1
            if self._fills in _TLB_GROWTH or not self._fills % _TLB_LATER_GROWTH:
                self.flush_translations()
            mode = self.mode()
            access = _ACCESS[kind]
            page = address & ~0xFFF
            own = self.own_pages.get(page)
            if own is not None:
                entry[0].paddr = own
                entry[0].perms = abi.PROT_ALL
                return True
            found = self._translate(mode, address, access)
            physical = found.physical
            memory = self._engine.memory
            frame = physical >> 12
            if access == FETCH:
                self._unknown.clear()
                if memory.is_ram(physical):
                    memory.code_pages.add(frame)
                    self.frames.now_executable(frame, page)
                    self._traps.look_through(mode, page, physical)
                perms = abi.PROT_READ | abi.PROT_EXEC
            elif access == READ and frame in memory.code_pages:
                looked_through = found.executable and self.frames.executable_at(frame, page)
                perms = abi.PROT_READ | (abi.PROT_EXEC if looked_through else 0)
            elif access == WRITE or (found.dirty and found.writable):
                if self.frames.now_writable(frame, page):
                    self._traps.changed(frame)
                perms = abi.PROT_READ | abi.PROT_WRITE
            else:
                perms = abi.PROT_READ
            if perms & abi.PROT_EXEC:
                self._traps.fetched[page] = physical if memory.is_ram(physical) else -1
            if physical >= HIGH_START and not memory.is_ram(physical) and not self._in_window(physical):
                physical = _VOID_PAGE
            target = entry[0]
            target.paddr = physical
            target.perms = perms
        except PageFault as fault:
            self.fault = Fault(14, fault.error_code, fault.address)
            return False
        except NonCanonical:
            self.fault = Fault(13, 0)
            return False
        except BaseException as error:
            self.failed(error)
            return False
        return True

    def _translate(self, mode: Mode, address: int, access: int) -> Translation:
        """The page walk. PageFault, NonCanonical."""
        try:
            return self._handlers.translate(self.face, mode, address, access, self._user)
        except PageFault:
            # A load of a segment register in ring 3 reads the table as the processor does (AMD64 APM volume 2, 5.6.2).
            base, limit = self.table("gdtr")
            if not self._user or access == FETCH or not base <= address <= base + limit:
                raise
        return self._handlers.translate(self.face, mode, address, access, False)

    def bytes_at(self, mode: Mode, address: int, size: int) -> bytes:
        """Guest code bytes at a linear address, as far as they are mapped."""
        try:
            found = self._handlers.look(mode, address)
            return self._engine.memory.read(found.physical + (address & 0xFFF), size)
        except (PageFault, NonCanonical, BadAddress):
            return b""

    def _interrupt(self, _uc: int, vector: int, _user: int) -> None:
        try:
            rip = self.get(reg.RIP) + self.code_base()
            mode = self.mode()
            software = vector in (3, 4) or self.bytes_at(mode, rip - 2, 2) == bytes((0xCD, vector & 0xFF))
            code = 0 if vector in (8, 10, 11, 12, 13, 17) and not software else None
            self.raise_fault(Fault(vector, code, software=software))
        except BaseException as error:
            self.failed(error)

    def _invalid(self, _uc: int, _user: int) -> bool:
        try:
            offset = self.get(reg.RIP)
            rip = offset + self.code_base()
            code = self._unknown.get(rip, b"")
            if not code:
                mode = self.mode()
                room = 4096 - (rip & 0xFFF)
                code = self.bytes_at(mode, rip, min(15, room))
                if room < 15:
                    code += self.bytes_at(mode, rip + room, 15 - room)
                self._unknown[rip] = code
            self._not_known = code
        except BaseException as error:
            self.failed(error)
        return False

    def _carry_out(self, code: bytes) -> bool:
        """An instruction that Unicorn does not know, at RIP. False, and a fault, if the machine does not know it either.

        Between two runs: where the callback itself writes RIP, a stop from another thread at that moment has the guest go on
        at the RIP that was written when it has executed more blocks already.
        """
        try:
            length = self._handlers.trap_instruction(self.face, code)
        except GuestException as raised:
            self.fault = raised.fault
            return False
        if not length:
            self.fault = Fault(6)
            return False
        self.set(reg.RIP, self.get(reg.RIP) + length)
        return True

    # -- debugging

    def others(self) -> "list[UnicornCpu]":
        """The other CPUs of the engine, which do not run now."""
        return self._engine.others(self)

    @property
    def memory(self) -> PhysicalMemory:
        """The RAM that it runs over."""
        return self._engine.memory

    def _debugged(self) -> DebugHooks:
        if self._debug is None:
            self._debug = DebugHooks(self)
        return self._debug

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Stop before the instructions at these linear addresses, and no others."""
        self._debugged().set_breakpoints(addresses)

    def set_watches(self, watches: tuple[Watch, ...]) -> None:
        """Stop behind instructions that touch these places, and no others."""
        self._debugged().set_watches(watches)

    def pass_breakpoint(self) -> None:
        """Let the next run begin with the instruction at RIP even if a breakpoint stands there."""
        self._debugged().resume()

    def touched(self) -> tuple[Watch, int]:
        """After WATCHPOINT: the watch, and the first physical address of it that was touched."""
        return self._debugged().last_touch

    def stop_now(self) -> None:
        """From a callback: end the run before the instruction that is about to be executed."""
        self._lib.emu_stop(self.handle)

    def breaks_at(self, address: int) -> bool:
        """From a hook: whether the run ends before the instruction at `address`, for a debugger."""
        return self._debug is not None and self._debug.breaks_at(address)

    def traps_at(self, address: int) -> bool:
        """Whether an instruction at `address` is one that Unicorn would not tell us of, and so is hooked."""
        return address in self._traps.hooked

    def _stopped_for_debugger(self) -> Stop | None:
        debug = self._debug
        if debug is None:
            return None
        if debug.hit:
            debug.hit = False
            return Stop.BREAKPOINT
        if debug.take_back():
            # Unicorn counts in translated code: without this the old block, which does not count, would run.
            with self.stop.held():
                self.flush_code()
                self._lib.emu_start(self.handle, self.get(reg.RIP), abi.NOWHERE, 0, 1)
            self.flush_code()
            debug.forget()
            return Stop.WATCHPOINT
        return None

    # -- running

    def start(self, count: int = 0) -> Stop:
        """Run from RIP; `count` instructions at most if not 0."""
        self.fault = None
        while True:
            code = self._lib.emu_start(self.handle, self.get(reg.RIP), abi.NOWHERE, 0, count)
            if self._stale:
                self.flush_code()
            if self._real_mode is not None and self._real_mode.arrived and self.error is None:
                self._real_mode.arrive()
                if self.stop.requested or count:
                    return Stop.KICKED
                continue
            if self.error is not None:
                break
            if self._not_known is not None:
                code_there, self._not_known = self._not_known, None
                if not self._carry_out(code_there):
                    return Stop.EXCEPTION
            elif not self._system_calls.pending:
                break
            elif not self._system_calls.enter():
                return Stop.EXCEPTION
            if self.stop.requested or count:
                return Stop.KICKED
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        stopped = self._stopped_for_debugger()
        if self.fault is not None:
            if self.fault.vector in REMEMBERED:
                self._last_exception.forget()
            return Stop.EXCEPTION
        if stopped is not None:
            return stopped
        if code != abi.ERR_OK:
            rip = self.get(reg.RIP)
            raise EngineError(f"unicorn stopped at {rip:#x}: {self._lib.strerror(code).decode()} ({code})")
        if count:
            halted = self.bytes_at(self.mode(), self.get(reg.RIP) - 1 + self.code_base(), 1) == b"\xf4"
            return Stop.HALTED if halted else Stop.KICKED
        return Stop.KICKED if self.stop.stopped else Stop.HALTED

    def enter_ring0(self, selector: int) -> None:
        """Ring 0 with CS = `selector` and a null SS, as an interrupt from ring 3 finds them. Between two runs only."""
        if self.get(reg.CS) & 3:
            self.through_gateway(selector, 0)

    def through_gateway(self, selector: int, base: int) -> None:
        """Load CS with a segment of base 0; `base` is what the present one has."""
        try:
            with self.stop.set_aside():
                self.gateway().enter(selector, base)
        except EngineError as failed:
            if self.error is not None:
                raise self.error from failed
            if self.fault is not None:
                raise EngineError(f"{failed}: {self.fault}") from None
            raise

    def gateway(self) -> gateway.Gateway:
        """The page of our own through which the state of this CPU is changed."""
        if self._gateway is None:
            self._gateway = gateway.Gateway(self._lib, self)
            self.own_pages |= gateway.PAGES
        return self._gateway

    def carry_out(self, code: bytes) -> None:
        """Run instructions of ours; a stop that is asked for meanwhile is kept. Between two runs only. RIP is changed."""
        with self.stop.set_aside():
            self.gateway().carry_out(code)

    def forget_frame(self, frame: int) -> None:
        """Drop the translated code of one frame, and the TLB. Not while the CPU runs.

        Unicorn takes a linear address and asks for what lies there: we answer for one that nobody else has.
        """
        self.own_pages[_FRAME_WINDOW] = frame << 12
        self._ctl(abi.CTL_TB_REMOVE_CACHE, ctypes.c_uint64(_FRAME_WINDOW), ctypes.c_uint64(_FRAME_WINDOW + 0x1000))
        del self.own_pages[_FRAME_WINDOW]
        self._traps.changed(frame)
        self.frames.forget_code_of(frame)
        self.flush_translations()

    def flush_code(self) -> None:
        """Drop all translated code. Not while the CPU runs."""
        self._stale = False
        self._traps.all_changed()
        self.frames.forget_code()
        self._ctl(abi.CTL_TB_FLUSH)

    def stop_and_flush_code(self) -> None:
        """The same while it runs: end the run, and drop the code then.

        A trap finds the place where the guest stands through the translated block. Without that the guest would go on
        at the beginning of the instruction whose trap is being handled, and trap again.
        """
        self._stale = True
        self._traps.all_changed()
        self.stop.request()

    def flush_translations(self) -> None:
        """Drop all TLB entries."""
        self.frames.forget()
        self._ctl(abi.CTL_TLB_FLUSH)

    def close(self) -> None:
        """Free the instance."""
        self.stop.retire()
        self._last_exception.close()
        self._lib.close(self.handle)
        if self._gateway is not None:
            self._gateway.close()
        if self._real_mode is not None:
            self._real_mode.close()
        self.stop.close()
        self._keep.clear()
