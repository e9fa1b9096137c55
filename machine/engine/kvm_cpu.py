"""One processor on KVM: the guest in ring 3 under our monitor, and what becomes of each exception that brings it out."""

import threading
from time import process_time, thread_time
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Cpu, Fault, GuestException, Stop, Watch
from machine.engine import kvm_abi as abi
from machine.engine.kvm_mmio import MemoryAccess
from machine.engine.kvm_monitor import LINEAR, SYSCALL_TARGET, USER_CODE_SEGMENT, USER_DATA_SEGMENT
from machine.engine.kvm_registers import KvmRegisters
from machine.engine.kvm_shadow import Shadow
from machine.engine.kvm_signal import Knock
from machine.engine.kvm_traps import Traps
from machine.engine.leaving import LOOK_AT_RATE, CannotCarry, look_at_rate
from machine.engine.x86_decode import Instruction
from machine.errors import BadAddress, EngineError
from machine.memory import HIGH_START
from machine.paging import FETCH, READ, WRITE, NonCanonical, PageFault, Translation

if TYPE_CHECKING:
    from machine.engine.kvm import KvmEngine
    from machine.engine.kvm_posted import Posting
    from machine.engine.kvm_threads import Runner

_DEBUG, _BREAKPOINT, _OVERFLOW, _INVALID, _PROTECTION, _PAGE_FAULT, _ALIGNMENT = 1, 3, 4, 6, 13, 14, 17
_SEGMENT_FAULTS = frozenset((10, 11, 12, _PROTECTION))
_PASSED_ON = frozenset((0, 5, 7, 16, 18, 19))
_FAULT_WRITE, _FAULT_FETCH = 2, 16
_SYSCALL = b"\x0f\x05"
_FS, _GS = 0x64, 0x65
_TF, _AC = reg.RFLAGS_TF, 1 << 18
_BOTH = (abi.SYNC_REGS | abi.SYNC_SREGS).to_bytes(8, "little")
_CS = slice(abi.SREGS_AT + abi.CS_AT, abi.SREGS_AT + abi.CS_AT + abi.SEGMENT.size)
_SS = slice(abi.SREGS_AT + abi.SS_AT, abi.SREGS_AT + abi.SS_AT + abi.SEGMENT.size)
_CR2_AT = abi.SREGS_AT + abi.CONTROL_AT + 8
_CR3_AT = abi.SREGS_AT + abi.CONTROL_AT + 16
_CPL_AT = abi.SREGS_AT + abi.CS_AT + 16
_IO_PORT, _IO_SIZE = abi.EXIT_UNION + 2, abi.EXIT_UNION + 1
_SAME_FAULTS = 8
"""So often the same access may fault although our tables allow it, before we give in: KVM itself refuses it."""
_DECODED = _SEGMENT_FAULTS | {_INVALID}
"""Exits whose reason is read from the code."""
_MOST_AGAIN = 8
_LONG_ALONE = 256
"""Times in the guest after which a processor that is alone is run by the engine's thread: that saves two switches of threads."""
_LONGEST = 15
_MOST_REWRITTEN = 2000


class KvmCpu(KvmRegisters):
    """One processor of the KVM engine."""

    def __init__(self, engine: "KvmEngine", index: int) -> None:
        super().__init__(engine.vm.vcpu(index))
        self.index = index
        self.face: Cpu = self
        """What handlers get to see: the processor wherever it is (`machine.engine.moving`)."""
        self.fault: Fault | None = None
        self.exits = 0
        self.posting: Posting | None = None
        self._engine = engine
        self._memory = engine.memory
        self._handlers = engine.handlers
        self.runner: Runner | None = None
        """Its thread, from when it first ran beside others on."""
        self.beside = False
        """Whether others are in the guest as well, as far as anybody knows."""
        self.alone = 0
        """How often it was in the guest since others last were beside it."""
        engine.monitor.prepare(self.vcpu)
        self.shadow = Shadow(
            *(engine.monitor, engine.pool, engine.memory, self._place_code, engine.code.changed),
            *(engine.shadows, engine.gather),
        )
        fresh = self.vcpu.get_sregs()
        sregs = engine.monitor.sregs(index, self.shadow.root, fresh)
        self.page[abi.SREGS_AT : abi.SREGS_AT + abi.SREGS_SIZE] = sregs
        self.knock = Knock(self.page)
        self._traps = Traps(self, engine.handlers)
        self._access = MemoryAccess(self, engine.handlers)
        self._last_fault: tuple[int, int, int] = (0, 0, 0)
        self._same_faults = 0
        self._rate_since = 0.0
        self._spent = process_time if engine.several else thread_time
        self._error_code = 0
        self._opened: int | None = None
        self._own_flag = 0
        self._again = 0
        self._rewritten = 0

    # -- guest memory

    def linear_read(self, address: int, size: int) -> bytes:
        """Bytes at a linear address, as far as they are mapped to RAM."""
        parts = []
        while size > 0:
            n = min(size, 4096 - (address & 0xFFF))
            try:
                found = self._handlers.look(self.mode(), address)
                parts.append(self._memory.read(found.physical + (address & 0xFFF), n))
            except (PageFault, NonCanonical, BadAddress):
                break
            address, size = (address + n) & (1 << 64) - 1, size - n
        return b"".join(parts)

    def code(self, rip: int) -> bytes:
        """Up to 15 bytes of code at RIP, as they stand in RAM."""
        inside = rip & 0xFFF
        if inside <= 4096 - 15:
            physical = self.shadow.code_at.get(rip - inside)
            if physical is not None:
                return self._memory.read(physical + inside, 15)
        return self.linear_read(rip, 15)

    def translate(self, address: int, access: int) -> Translation:
        """The guest's own translation for an access by its ring 0. PageFault, NonCanonical."""
        return self._handlers.translate(self.face, self.mode(), address, access, False)

    def segment(self, instruction: Instruction) -> int:
        """The base of a memory operand's segment."""
        if instruction.segment == _FS:
            return self.get(reg.FS_BASE)
        return self.get(reg.GS_BASE) if instruction.segment == _GS else 0

    def linear(self, instruction: Instruction, rip: int, following: int = 0) -> int:
        """The linear address of a memory operand; `following` immediate bytes come behind it."""
        return (instruction.address(self.get, rip, following) + self.segment(instruction)) & (1 << 64) - 1

    def is_ram(self, physical: int) -> bool:
        """Whether there is RAM."""
        return self._memory.is_ram(physical)

    def is_device(self, physical: int) -> bool:
        """Whether devices may be at an address outside RAM."""
        return physical < HIGH_START or any(physical in window for window in self._engine.windows)

    def ram_read(self, physical: int, size: int) -> bytes:
        """Bytes of RAM."""
        return self._memory.read(physical, size)

    def ram_write(self, physical: int, data: bytes) -> None:
        """Store bytes into RAM."""
        self._memory.write(physical, data)

    def check_store(self, address: int, size: int) -> None:
        """PageFault, or CannotCarry where there is no RAM, unless `size` bytes can be stored at a linear address."""
        for page in range(address & ~0xFFF, address + size, 4096):
            if not self._memory.is_ram(self.translate(max(page, address), WRITE).physical):
                raise CannotCarry("a system instruction of it stores to what is no RAM")

    def store(self, address: int, data: bytes) -> None:
        """Store bytes at a linear address for the guest: all of them, or PageFault."""
        self.check_store(address, len(data))
        while data:
            n = min(len(data), 4096 - (address & 0xFFF))
            physical = self.translate(address, WRITE).physical + (address & 0xFFF)
            self._memory.write(physical, data[:n])
            address, data = address + n, data[n:]

    def _place_code(self, linear: int, physical: int) -> int:
        return self._engine.code.place(linear, physical, self.real[abi.RIP], self.linear_read)

    # -- running

    def start(self, stepping: bool = False) -> Stop:
        """Run from RIP, for one instruction if `stepping`. Nobody answers other processors meanwhile."""
        self.fault = None
        self.beside = bool(self._engine.threads.inside)
        page = self.page
        if self.runner is None:
            self.knock.thread = threading.get_native_id()
        while True:
            if page[abi.IMMEDIATE_EXIT]:
                self.knock.clear()
                return Stop.KICKED
            if self.runner is not None:
                self._count_alone(self.runner)
            stop = self._once(stepping)
            if stop is not None:
                return stop
            if not self.exits % LOOK_AT_RATE and self._engine.may_leave:
                self._rate_since = look_at_rate(self._rate_since, self._spent())

    def _count_alone(self, runner: "Runner") -> None:
        """Nobody has run beside it for long: go without its thread."""
        self.alone += 1
        if self.alone > _LONG_ALONE:
            runner.end()
            self.runner = None
            self.knock.thread = threading.get_native_id()

    def answer(self, left: int | None) -> Stop | None:
        """Carry out what has brought it out of the guest, where it ran beside others; None to let it in again."""
        self.to_own_code()
        stop = self._leave_guest(left, False)
        while stop is None and self._opened is not None:
            stop = self._once(False)
        if stop is None and not self.exits % LOOK_AT_RATE and self._engine.may_leave:
            self._rate_since = look_at_rate(self._rate_since, self._spent())
        if stop is None and self.page[abi.IMMEDIATE_EXIT]:
            self.knock.clear()
            return Stop.KICKED
        return stop

    def _once(self, stepping: bool) -> Stop | None:
        """Into the guest and out again."""
        self.enter(stepping)
        try:
            left = self.run_guest() if self.runner is None else self._engine.threads.run(self.runner)
        finally:
            self.to_own_code()
        return self._leave_guest(left, stepping)

    def to_own_code(self) -> None:
        """It has come out: have its RIP in code of the guest's own, and write what it has posted."""
        if self.posting is not None:
            self.posting.leave(self)

    def _leave_guest(self, left: int | None, stepping: bool) -> Stop | None:
        """What `run_guest` gave, for one instruction if `stepping`; None to go on."""
        if stepping or self._opened is not None:
            self.real[abi.RFLAGS] = self.real[abi.RFLAGS] & ~_TF | self._own_flag
        if left is not None:
            return self._exit(left, stepping)
        self._close()
        return None

    def enter(self, stepping: bool) -> None:
        """Have the next KVM_RUN begin in ring 3 with the registers as they stand in the shared page."""
        if self.posting is not None:
            self.posting.enter(self)
        real = self.real
        if stepping or self._opened is not None:
            self._own_flag = real[abi.RFLAGS] & _TF
            real[abi.RFLAGS] |= _TF
        if self.stale or not self.shadow.ready():
            self.stale = False
            if self.posting is not None:
                self.posting.check(self)
            self.shadow.flush()
        self._to_ring_3()

    def _to_ring_3(self) -> None:
        page = self.page
        page[_CR3_AT : _CR3_AT + 8] = self.shadow.root.to_bytes(8, "little")
        page[_CS] = USER_CODE_SEGMENT
        page[_SS] = USER_DATA_SEGMENT
        page[abi.DIRTY_REGS : abi.DIRTY_REGS + 8] = _BOTH

    def run_guest(self) -> int | None:
        """KVM_RUN until ring 3 is left for a reason: the exception's vector, 256 for SYSCALL; None if somebody knocked.

        Then the state is between two instructions of the guest. On whatever thread runs this processor.
        """
        page, vcpu = self.page, self.vcpu
        held = False
        while True:
            error = vcpu.run()
            if error:
                if error != abi.EINTR:
                    raise EngineError(f"{abi.DEVICE}: KVM_RUN failed with error {error}")
                # Only in ring 3, and with no exception on its way, is the state one that we can change.
                if page[_CPL_AT] and not page[abi.EVENTS_AT] and not page[abi.EVENTS_AT + 3]:
                    return None
                held = True
                self.knock.hold(0)
                continue
            if held:
                self.knock.release()
            reason = page[abi.EXIT_REASON]
            if reason != abi.EXIT_IO:
                raise EngineError(
                    f"{abi.DEVICE}: exit {reason} at {self.real[abi.RIP]:#x}, which the monitor never causes"
                )
            vector = page[_IO_PORT]
            if page[_IO_SIZE] != 1:
                self.real[abi.RIP] = self.real[abi.RCX]
                self.real[abi.RFLAGS] = self.real[11]
                return 256
            frame = self._engine.monitor.frame(self.real[abi.RSP], vector)
            self._error_code = frame.error_code
            self.real[abi.RIP], self.real[abi.RFLAGS], self.real[abi.RSP] = frame.rip, frame.rflags, frame.rsp
            if vector == _DEBUG and self.posting is not None and self.posting.begins_stub(frame.rip):
                self._to_ring_3()
                continue
            return vector

    def _exit(self, vector: int, stepping: bool) -> Stop | None:
        """What an exception means; None to go on."""
        self.exits += 1
        if vector in (_INVALID, _PROTECTION) and self.posting is not None and self.posting.missed(self):
            return None
        if self._opened is not None and vector not in (_DEBUG, _PAGE_FAULT):
            self._close()
        if self.shadow.stale and vector in _DECODED and self._again < _MOST_AGAIN:
            # Others have changed code since: what stands there now may not be what came out. Then it does not, the next time.
            self._again += 1
            return None
        self._again = 0
        try:
            if vector in _SEGMENT_FAULTS:
                stop = self._traps.protection(vector, self._error_code)
            elif vector == _PAGE_FAULT:
                stop = self._page_fault()
                if stop is None and stepping and self._access.emulated:
                    stop = Stop.KICKED
                return stop
            elif vector == _INVALID:
                stop = self._traps.invalid()
            elif vector == 256:
                stop = self._traps.system_call(self.real[abi.RIP])
            else:
                stop = self._other(vector, stepping)
        except GuestException as raised:
            stop = self.raise_fault(raised.fault)
        except PageFault as fault:
            stop = self.raise_fault(Fault(_PAGE_FAULT, fault.error_code, fault.address))
        except NonCanonical:
            stop = self.raise_fault(Fault(_PROTECTION, 0))
        return Stop.KICKED if stop is None and stepping else stop

    def raise_fault(self, fault: Fault) -> Stop:
        """Leave `fault` for delivery."""
        self.fault = fault
        return Stop.EXCEPTION

    def _other(self, vector: int, stepping: bool) -> Stop | None:
        if vector == _DEBUG:
            if self._opened is not None:
                self._close()
                return None
            if stepping:
                return Stop.KICKED
            if self.code(self.real[abi.RIP])[:1] == b"\xf1":  # INT1; a software KVM leaves RIP there
                self.real[abi.RIP] += 1
            return self.raise_fault(Fault(_DEBUG))
        if vector in (_BREAKPOINT, _OVERFLOW):
            return self.raise_fault(Fault(vector, software=True))
        if vector == _ALIGNMENT:  # ring 0 never checks alignment
            self.real[abi.RFLAGS] &= ~_AC
            return None
        if vector in _PASSED_ON:
            return self.raise_fault(Fault(vector))
        return self.raise_fault(Fault(vector, self._error_code))

    def _page_fault(self) -> Stop | None:
        page = self.page
        address = int.from_bytes(page[_CR2_AT : _CR2_AT + 8], "little")
        code = self._error_code
        access = FETCH if code & _FAULT_FETCH else WRITE if code & _FAULT_WRITE else READ
        self._access.emulated = False
        if not self.shadow.ready():  # others have taken rights away since, or all of the pool
            self.shadow.flush()
        if address >= LINEAR:
            returning = self.real[abi.RCX]
            if address == SYSCALL_TARGET and access == FETCH and self.linear_read(returning - 2, 2) == _SYSCALL:
                self.real[abi.RFLAGS] = self.real[11]
                return self._traps.system_call(returning)
            self.translate(address, access)
            raise CannotCarry("it uses linear addresses in the last 2 MiB, where the monitor lies")
        if self.posting is not None and self.posting.owns(address):
            self.posting.give_up()
            return None
        found = self.translate(address, access)
        if not self._memory.is_ram(found.physical):
            if access == FETCH:
                raise CannotCarry("it executes code outside RAM")
            return self._access.emulate()
        if access == WRITE and self.shadow.executes(address, found.physical >> 12):
            self._count_rewritten()
            rip = self.real[abi.RIP]
            if (rip ^ address) < 4096 or (rip + _LONGEST ^ address) < 4096:
                self._engine.gather()
                self.shadow.open(address, found.physical >> 12)
                self._opened = found.physical
                return None
        if self.shadow.allows(address, access):
            self._refused(address, code)
        self.shadow.map(address, found, access)
        return None

    def _count_rewritten(self) -> None:
        """A page goes from code to data, which costs new tables: not for ever."""
        self._rewritten += 1
        if self._rewritten > _MOST_REWRITTEN:
            raise CannotCarry("it keeps writing to pages that it executes")

    def _close(self) -> None:
        """The instruction that wrote to its own page has been carried out, or left."""
        if self._opened is not None:
            self._memory.wrote(self._opened, 1)
            self._opened = None
            self.shadow.stale = True

    def _refused(self, address: int, code: int) -> None:
        """Our tables allow it already: KVM may not have seen that yet, or never will."""
        same = (self.real[abi.RIP], address, code)
        self._same_faults = self._same_faults + 1 if same == self._last_fault else 0
        self._last_fault = same
        if self._same_faults > _SAME_FAULTS:
            raise CannotCarry(f"KVM lets ring 3 have no access to {address:#x}")

    # -- debugging

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """There are none on KVM."""
        if addresses:
            raise EngineError("breakpoints need Unicorn; leave --engine kvm out")

    def set_watches(self, watches: tuple[Watch, ...]) -> None:
        """There are none on KVM."""
        if watches:
            raise EngineError("watchpoints need Unicorn; leave --engine kvm out")

    def pass_breakpoint(self) -> None:
        """There is none to pass."""

    def touched(self) -> tuple[Watch, int]:
        """No watchpoint ever ends a run here."""
        raise EngineError("watchpoints need Unicorn; leave --engine kvm out")

    def close(self) -> None:
        """Free it."""
        self.vcpu.close()
