"""Instructions that a guest in ring 3 cannot carry out itself, carried out for the ring 0 that it thinks it is in.

AMD64 APM volume 3, chapter 4 (system instructions). What no guest of ours does in ring 0 alone is not emulated but leaves KVM.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Fault, GuestException, Stop
from machine.engine import kvm_abi as abi
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction, Undecodable
from machine.paging import CR0_PE, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, EFER_LME, EFER_SCE

if TYPE_CHECKING:
    from machine.engine.base import Handlers
    from machine.engine.kvm_cpu import KvmCpu

_CR0_EM, _CR0_TS = 1 << 2, 1 << 3
_MASK = (1 << 64) - 1
_MSR_EFER, _MSR_LSTAR = 0xC000_0080, 0xC000_0082
_TSC_AUX = 0xC000_0103
_ARCH_PRCTL, _ARCH_SET_FS = 158, 0x1002
_DR7_ENABLED = 0xFF
_DEBUG = (0, 1, 2, 3, 4, 5, 4, 5)
"""Where DR0 to DR7 are kept; DR4 and DR5 are other names."""
_SIZES = {0xE4: 1, 0xE5: 4, 0xE6: 1, 0xE7: 4, 0xEC: 1, 0xED: 4, 0xEE: 1, 0xEF: 4}
_XCR0 = 3
"""x87 and SSE: what our CPUID offers."""
_SEGMENTS = (reg.ES, reg.CS, reg.SS, reg.DS, reg.FS, reg.GS)
_FLAGS = 0x24_7FD7
"""What POPF and IRET may set in ring 0, in 64-bit mode."""

Action = Callable[[Instruction, int], Stop | None]
"""(instruction, RIP) -> why the run ends, if it does"""


def _general_protection(code: int = 0) -> GuestException:
    return GuestException(Fault(13, code))


class Traps:
    """The system instructions of one processor."""

    def __init__(self, cpu: "KvmCpu", handlers: "Handlers") -> None:
        self._cpu = cpu
        self._handlers = handlers
        port = dict.fromkeys(_SIZES, self._port)
        self._actions: dict[int, Action] = {
            **port,
            **dict.fromkeys((0x6C, 0x6D, 0x6E, 0x6F), self._port_string),
            **{0x9C: self._pushf, 0x9D: self._popf},
            **{0xFA: self._cli, 0xFB: self._sti, 0xF4: self._hlt, 0xCF: self._iret, 0xCB: self._far_return},
            **{0xCD: self._software_interrupt, 0xFF: self._far_pointer, 0x8E: self._load_segment},
            **{0x0FA1: self._pop_segment, 0x0FA9: self._pop_segment},
            **{0x0F00: self._group_6, 0x0F01: self._group_7, 0x0F06: self._clts},
            **dict.fromkeys((0x0F08, 0x0F09), self._nothing),  # INVD, WBINVD
            **{0x0F20: self._read_control, 0x0F22: self._write_control},
            **{0x0F21: self._read_debug, 0x0F23: self._write_debug},
            **{0x0F30: self._wrmsr, 0x0F32: self._rdmsr, 0x0FA2: self._cpuid, 0x0F31: self._rdtsc},
        }
        self._group_7_registers: dict[int, Action] = {
            **{0xF8: self._swapgs, 0xF9: self._rdtscp, 0xD0: self._xgetbv, 0xD1: self._xsetbv},
        }

    # -- from the three exceptions

    def protection(self, vector: int, error_code: int) -> Stop | None:
        """#GP, or #TS, #NP, #SS for want of the guest's segments: a system instruction, or the guest's own mistake."""
        cpu = self._cpu
        rip = cpu.real[abi.RIP]
        code = cpu.code(rip)
        try:
            instruction = Instruction(code)
            action = self._actions.get(instruction.opcode)
            if action is not None:
                return action(instruction, rip)
        except Undecodable:
            pass
        return cpu.raise_fault(Fault(vector, error_code))

    def invalid(self) -> Stop | None:
        """#UD: an instruction that this processor does not know, or not in ring 3."""
        cpu = self._cpu
        rip = cpu.real[abi.RIP]
        code = cpu.code(rip)
        if code[:1] == b"\xcd":  # INT n of a software KVM
            return self._software_interrupt(Instruction(code), rip)
        length = self._handlers.trap_instruction(cpu.face, code)
        if length:
            cpu.real[abi.RIP] = (rip + length) & _MASK
            return None
        return cpu.raise_fault(Fault(6))

    def system_call(self, returning: int) -> Stop | None:
        """SYSCALL, with the address behind it."""
        cpu = self._cpu
        cpu.real[abi.RIP] = (returning - 2) & _MASK
        if not cpu.read_msr(_MSR_EFER) & EFER_SCE:
            return cpu.raise_fault(Fault(6))
        if cpu.get(reg.RAX) == _ARCH_PRCTL and cpu.get(reg.RDI) == _ARCH_SET_FS:
            # TamaGo sees that it runs in ring 3, and asks an operating system for its FS base.
            cpu.set(reg.FS_BASE, cpu.get(reg.RSI))
            cpu.set(reg.RAX, 0)
            cpu.real[abi.RIP] = returning
            return None
        raise CannotCarry("it makes system calls")

    # -- helpers

    def _done(self, instruction: Instruction, rip: int) -> None:
        self._cpu.real[abi.RIP] = (rip + instruction.at) & _MASK

    def _nothing(self, instruction: Instruction, rip: int) -> Stop | None:
        self._done(instruction, rip)
        return None

    def _read(self, address: int, size: int) -> int:
        data = self._cpu.linear_read(address, size)
        if len(data) < size:
            raise CannotCarry("a system instruction of it reads what is no RAM")
        return int.from_bytes(data, "little")

    def _store(self, address: int, data: bytes) -> None:
        self._cpu.store(address, data)

    def _address(self, instruction: Instruction, rip: int) -> int:
        return self._cpu.linear(instruction, rip)

    def _become_interruptible(self, value: bool) -> Stop | None:
        cpu = self._cpu
        before, cpu.interruptible = cpu.interruptible, value
        # What waits for this is delivered before the guest goes on.
        return Stop.KICKED if value and not before else None

    # -- ports

    def _port(self, instruction: Instruction, rip: int) -> Stop | None:
        opcode = instruction.opcode
        size = _SIZES[opcode]
        if size == 4 and instruction.size == 2:
            size = 2
        cpu = self._cpu
        real = cpu.real
        port = instruction.immediate(1) & 0xFF if opcode < 0xEC else real[abi.RDX] & 0xFFFF
        real[abi.RIP] = (rip + instruction.at) & _MASK
        if opcode & 2:
            self._handlers.port_write(cpu.face, port, size, real[abi.RAX] & (1 << 8 * size) - 1)
            return None
        value = self._handlers.port_read(cpu.face, port, size)
        if size == 4:
            real[abi.RAX] = value & 0xFFFF_FFFF
        else:
            mask = (1 << 8 * size) - 1
            real[abi.RAX] = real[abi.RAX] & ~mask | value & mask
        return None

    def _port_string(self, instruction: Instruction, rip: int) -> Stop | None:
        """One step of INS or OUTS; with a prefix RIP stays until RCX is 0."""
        cpu, real = self._cpu, self._cpu.real
        size = 1 if not instruction.opcode & 1 else min(instruction.size, 4)
        repeated = instruction.repeat != 0
        if instruction.address_size != 8 or instruction.segment:
            raise CannotCarry("it uses INS or OUTS with prefixes")
        if repeated and not real[abi.RCX]:
            self._done(instruction, rip)
            return None
        step = -size if real[abi.RFLAGS] & 1 << 10 else size
        port = real[abi.RDX] & 0xFFFF
        if instruction.opcode < 0x6E:
            at = real[abi.RDI]
            cpu.check_store(at, size)
            self._store(at, self._handlers.port_read(cpu.face, port, size).to_bytes(size, "little"))
            real[abi.RDI] = (at + step) & _MASK
        else:
            at = real[abi.RSI]
            self._handlers.port_write(cpu.face, port, size, self._read(at, size))
            real[abi.RSI] = (at + step) & _MASK
        if repeated:
            real[abi.RCX] -= 1
        if not repeated or not real[abi.RCX]:
            self._done(instruction, rip)
        return None

    # -- flags and waiting

    def _pushf(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        size = 2 if instruction.size == 2 else 8
        stack = (cpu.real[abi.RSP] - size) & _MASK
        self._store(stack, (cpu.get(reg.RFLAGS) & (1 << 8 * size) - 1 & ~reg.RFLAGS_VM).to_bytes(size, "little"))
        cpu.real[abi.RSP] = stack
        self._done(instruction, rip)
        return None

    def _popf(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        size = 2 if instruction.size == 2 else 8
        stack = cpu.real[abi.RSP]
        flags = self._read(stack, size) & _FLAGS
        if size == 2:
            flags |= cpu.get(reg.RFLAGS) & ~0xFFFF
        cpu.real[abi.RSP] = (stack + size) & _MASK
        self._done(instruction, rip)
        before = cpu.interruptible
        cpu.set(reg.RFLAGS, flags)
        return Stop.KICKED if cpu.interruptible and not before else None

    def _cli(self, instruction: Instruction, rip: int) -> Stop | None:
        if self._cpu.linear_read(rip - 1, 1) == b"\x9c":
            # The POPF to this PUSHF stands alone, and is not found: it would not give the interrupt flag back.
            raise CannotCarry("it saves the interrupt flag with PUSHF right before CLI")
        self._cpu.interruptible = False
        self._done(instruction, rip)
        return None

    def _sti(self, instruction: Instruction, rip: int) -> Stop | None:
        self._done(instruction, rip)
        return self._become_interruptible(True)

    def _hlt(self, instruction: Instruction, rip: int) -> Stop | None:
        self._done(instruction, rip)
        return Stop.HALTED

    # -- control transfers to another segment

    def _code_selector(self, selector: int) -> None:
        """Go on in the 64-bit code segment of ring 0 that `selector` names."""
        if selector & 3:
            raise CannotCarry("it goes to ring 3")
        cpu = self._cpu
        base, limit = cpu.table("gdtr")
        at = selector & ~7
        if not at or selector & 4 or at + 7 > limit:
            raise _general_protection(selector & ~3)
        descriptor = self._read(base + at, 8)
        if not descriptor >> 47 & 1 or descriptor >> 43 & 3 != 3:
            raise _general_protection(selector & ~3)
        if not descriptor >> 53 & 1:
            raise CannotCarry("it goes to 32-bit code")
        cpu.set(reg.CS, selector)

    def _iret(self, instruction: Instruction, rip: int) -> Stop | None:
        if instruction.size != 8:
            raise CannotCarry("it returns from an interrupt with 32-bit operands")
        cpu, real = self._cpu, self._cpu.real
        stack = real[abi.RSP]
        target, selector, flags, pointer, data = (self._read(stack + 8 * n, 8) for n in range(5))
        if target + (1 << 47) >> 48 & 0xFFFF:
            raise _general_protection()
        if selector & 0xFFFF in (0x33,):
            # It has pushed the selector that it really runs with, which it can read.
            selector = cpu.get(reg.CS)
        self._code_selector(selector & 0xFFFF)
        cpu.set(reg.SS, data & 0xFFFC)
        real[abi.RIP], real[abi.RSP] = target, pointer
        before = cpu.interruptible
        cpu.set(reg.RFLAGS, flags & _FLAGS)
        return Stop.KICKED if cpu.interruptible and not before else None

    def _far_return(self, instruction: Instruction, rip: int) -> Stop | None:
        real = self._cpu.real
        size = 8 if instruction.rex & 8 else instruction.size
        stack = real[abi.RSP]
        target, selector = self._read(stack, size), self._read(stack + size, size) & 0xFFFF
        self._code_selector(selector)
        real[abi.RIP], real[abi.RSP] = target, (stack + 2 * size) & _MASK
        return None

    def _far_pointer(self, instruction: Instruction, rip: int) -> Stop | None:
        """JMP and CALL through a far pointer in memory."""
        instruction.modrm()
        kind = instruction.reg & 7
        if kind not in (3, 5) or instruction.mod == 3:
            raise _general_protection()
        cpu, real = self._cpu, self._cpu.real
        at = self._address(instruction, rip)
        # APM volume 3: with REX.W Intel's processors take 64 bits of offset, AMD's 32; assemblers know both.
        size = 8 if instruction.rex & 8 else instruction.size
        target, selector = self._read(at, size), self._read(at + size, 2)
        old, following = cpu.get(reg.CS), (rip + instruction.at) & _MASK
        stack = (real[abi.RSP] - 2 * size) & _MASK
        if kind == 3:
            cpu.check_store(stack, 2 * size)
        self._code_selector(selector)
        if kind == 3:
            mask = (1 << 8 * size) - 1
            self._store(stack, (following & mask).to_bytes(size, "little") + old.to_bytes(size, "little"))
            real[abi.RSP] = stack
        real[abi.RIP] = target
        return None

    def _software_interrupt(self, instruction: Instruction, rip: int) -> Stop | None:
        vector = instruction.immediate(1) & 0xFF
        self._done(instruction, rip)
        return self._cpu.raise_fault(Fault(vector, software=True))

    # -- segments and tables

    def _load_data_segment(self, register: int, selector: int) -> None:
        """MOV or POP to a segment register (APM volume 2, 4.5.3); bases of FS and GS are the descriptor's."""
        cpu = self._cpu
        if selector & 3 == 3:
            raise CannotCarry("it loads segments of ring 3")
        if not selector & 0xFFFC:
            cpu.set(register, selector)
            return
        base, limit = cpu.table("gdtr")
        at = selector & ~7
        if selector & 4 or at + 7 > limit:
            raise _general_protection(selector & ~3)
        descriptor = self._read(base + at, 8)
        if not descriptor >> 44 & 1 or (descriptor >> 43 & 1 and not descriptor >> 41 & 1):
            raise _general_protection(selector & ~3)
        cpu.set(register, selector)
        if register in (reg.FS, reg.GS):
            low = descriptor >> 16 & 0xFF_FFFF | (descriptor >> 56) << 24
            cpu.set(reg.FS_BASE if register == reg.FS else reg.GS_BASE, low)

    def _load_segment(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        instruction.modrm()
        which = instruction.reg & 7
        if which > 5 or which == 1:
            return cpu.raise_fault(Fault(6))
        memory = instruction.mod != 3
        selector = self._read(self._address(instruction, rip), 2) if memory else cpu.get(instruction.rm) & 0xFFFF
        self._load_data_segment(_SEGMENTS[which], selector)
        self._done(instruction, rip)
        return None

    def _pop_segment(self, instruction: Instruction, rip: int) -> Stop | None:
        real = self._cpu.real
        size = 2 if instruction.size == 2 else 8
        register = reg.FS if instruction.opcode == 0x0FA1 else reg.GS
        self._load_data_segment(register, self._read(real[abi.RSP], size) & 0xFFFF)
        real[abi.RSP] = (real[abi.RSP] + size) & _MASK
        self._done(instruction, rip)
        return None

    def _group_6(self, instruction: Instruction, rip: int) -> Stop | None:
        """SLDT, STR, LLDT, LTR."""
        cpu = self._cpu
        instruction.modrm()
        which = instruction.reg & 7
        address = None if instruction.mod == 3 else self._address(instruction, rip)
        if which in (0, 1):
            value = cpu.local_table[0] if which == 0 else cpu.task[0]
            if address is None:
                cpu.set(instruction.rm, cpu.get(instruction.rm) & ~0xFFFF | value if instruction.size == 2 else value)
            else:
                self._store(address, value.to_bytes(2, "little"))
        elif which in (2, 3):
            selector = cpu.get(instruction.rm) & 0xFFFF if address is None else self._read(address, 2)
            if which == 2:
                if selector & ~3:
                    raise CannotCarry("it has a local descriptor table")
                cpu.local_table = (selector, *cpu.local_table[1:])
            else:
                self._load_task(selector)
        else:
            return cpu.raise_fault(Fault(6))
        self._done(instruction, rip)
        return None

    def _load_task(self, selector: int) -> None:
        cpu = self._cpu
        base, limit = cpu.table("gdtr")
        at = selector & ~7
        if not at or selector & 4 or at + 15 > limit:
            raise _general_protection(selector & ~3)
        low, high = self._read(base + at, 8), self._read(base + at + 8, 8)
        if low >> 40 & 0x1F not in (9, 11) or not low >> 47 & 1:
            raise _general_protection(selector & ~3)
        task = low >> 16 & 0xFF_FFFF | (low >> 56) << 24 | (high & 0xFFFF_FFFF) << 32
        self._store(base + at, (low | 2 << 40).to_bytes(8, "little"))
        cpu.set_table("tr", task, low & 0xFFFF | (low >> 48 & 0xF) << 16, selector)

    def _group_7(self, instruction: Instruction, rip: int) -> Stop | None:
        """Descriptor tables, machine status word, INVLPG, and those that are told by all of ModRM."""
        cpu = self._cpu
        byte = instruction.byte()
        if byte >= 0xC0 and byte not in range(0xE0, 0xE8) and byte not in range(0xF0, 0xF8):
            action = self._group_7_registers.get(byte)
            if action is not None:
                instruction.at += 1
                return action(instruction, rip)
            length = self._handlers.trap_instruction(cpu.face, instruction.code)
            if not length:
                return cpu.raise_fault(Fault(6))
            cpu.real[abi.RIP] = (rip + length) & _MASK
            return None
        instruction.modrm()
        which = instruction.reg & 7
        address = None if instruction.mod == 3 else self._address(instruction, rip)
        if which in (0, 1) and address is not None:
            base, limit = cpu.table("gdtr" if which == 0 else "idtr")
            self._store(address, (limit & 0xFFFF).to_bytes(2, "little") + base.to_bytes(8, "little"))
        elif which in (2, 3) and address is not None:
            cpu.set_table("gdtr" if which == 2 else "idtr", self._read(address + 2, 8), self._read(address, 2))
        elif which == 4:
            status = cpu.get(reg.CR0)
            if address is not None:
                self._store(address, (status & 0xFFFF).to_bytes(2, "little"))
            elif instruction.size == 2:
                cpu.set(instruction.rm, cpu.get(instruction.rm) & ~0xFFFF | status & 0xFFFF)
            else:
                cpu.set(instruction.rm, status & ((1 << 8 * instruction.size) - 1))
        elif which == 6:
            status = cpu.get(instruction.rm) if address is None else self._read(address, 2)
            before = cpu.get(reg.CR0)
            self._set_cr0(before & ~0xE | status & 0xF | before & CR0_PE)
        elif which == 7 and address is not None:
            cpu.shadow.stale = True
        else:
            return cpu.raise_fault(Fault(6))
        self._done(instruction, rip)
        return None

    # -- control and debug registers

    def _set_cr0(self, value: int) -> None:
        cpu = self._cpu
        if not (value & CR0_PG and value & CR0_PE):
            raise CannotCarry("it leaves long mode")
        if value & (_CR0_EM | _CR0_TS):
            raise CannotCarry("it wants to know when the x87 or SSE is used (CR0.TS, CR0.EM)")
        before = cpu.get(reg.CR0)
        cpu.set(reg.CR0, value)
        if not (value ^ before) & (CR0_WP | CR0_PG):
            cpu.stale = False

    def _clts(self, instruction: Instruction, rip: int) -> Stop | None:
        return self._nothing(instruction, rip)  # a guest that had set CR0.TS would not be here

    def _read_control(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        instruction.modrm()
        register = {0: reg.CR0, 2: reg.CR2, 3: reg.CR3, 4: reg.CR4, 8: reg.CR8}.get(instruction.reg)
        if register is None:
            return cpu.raise_fault(Fault(6))
        cpu.set(instruction.rm, cpu.get(register))
        self._done(instruction, rip)
        return None

    def _write_control(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        instruction.modrm()
        which, value = instruction.reg, cpu.get(instruction.rm)
        if which == 0:
            self._set_cr0(value)
        elif which == 2:
            cpu.set(reg.CR2, value)
        elif which == 3:
            cpu.set(reg.CR3, value & ~(1 << 63))
        elif which == 4:
            if value & CR4_LA57 or not value & CR4_PAE:
                raise CannotCarry("it changes its paging mode")
            cpu.set(reg.CR4, value)
        elif which == 8:
            cpu.set(reg.CR8, value & 0xF)
        else:
            return cpu.raise_fault(Fault(6))
        self._done(instruction, rip)
        return None

    def _read_debug(self, instruction: Instruction, rip: int) -> Stop | None:
        instruction.modrm()
        self._cpu.set(instruction.rm, self._cpu.debug[_DEBUG[instruction.reg & 7]])
        self._done(instruction, rip)
        return None

    def _write_debug(self, instruction: Instruction, rip: int) -> Stop | None:
        instruction.modrm()
        value = self._cpu.get(instruction.rm)
        if instruction.reg & 7 == 7 and value & _DR7_ENABLED:
            raise CannotCarry("it sets hardware breakpoints")
        self._cpu.debug[_DEBUG[instruction.reg & 7]] = value
        self._done(instruction, rip)
        return None

    # -- model-specific registers, identification, time

    def _rdmsr(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        value = self._handlers.read_msr(cpu.face, cpu.get(reg.RCX) & 0xFFFF_FFFF)
        if value is None:
            raise _general_protection()
        cpu.set(reg.RAX, value & 0xFFFF_FFFF)
        cpu.set(reg.RDX, value >> 32)
        self._done(instruction, rip)
        return None

    def _wrmsr(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        index = cpu.get(reg.RCX) & 0xFFFF_FFFF
        value = (cpu.get(reg.RDX) & 0xFFFF_FFFF) << 32 | cpu.get(reg.RAX) & 0xFFFF_FFFF
        if index == _MSR_LSTAR and value:
            raise CannotCarry("it prepares for system calls")
        if index == _MSR_EFER and not value & EFER_LME:
            raise CannotCarry("it leaves long mode")
        if not self._handlers.write_msr(cpu.face, index, value):
            raise _general_protection()
        self._done(instruction, rip)
        return None

    def _cpuid(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        real = cpu.real
        eax, ebx, ecx, edx = self._handlers.cpuid(cpu.face, real[abi.RAX] & 0xFFFF_FFFF, real[abi.RCX] & 0xFFFF_FFFF)
        real[abi.RAX], real[abi.RBX], real[abi.RCX], real[abi.RDX] = eax, ebx, ecx, edx
        self._done(instruction, rip)
        return None

    def _rdtsc(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        value = self._handlers.read_tsc(cpu.face)
        cpu.real[abi.RAX], cpu.real[abi.RDX] = value & 0xFFFF_FFFF, value >> 32
        self._done(instruction, rip)
        return None

    def _rdtscp(self, instruction: Instruction, rip: int) -> Stop | None:
        self._cpu.real[abi.RCX] = (self._handlers.read_msr(self._cpu.face, _TSC_AUX) or 0) & 0xFFFF_FFFF
        return self._rdtsc(instruction, rip)

    def _swapgs(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        kernel = cpu.read_msr(0xC000_0102)
        cpu.write_msr(0xC000_0102, cpu.get(reg.GS_BASE))
        cpu.set(reg.GS_BASE, kernel)
        self._done(instruction, rip)
        return None

    def _xgetbv(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        if cpu.get(reg.RCX) & 0xFFFF_FFFF:
            raise _general_protection()
        cpu.set(reg.RAX, self._cpu.xcr0)
        cpu.set(reg.RDX, 0)
        self._done(instruction, rip)
        return None

    def _xsetbv(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        value = (cpu.get(reg.RDX) & 0xFFFF_FFFF) << 32 | cpu.get(reg.RAX) & 0xFFFF_FFFF
        if cpu.get(reg.RCX) & 0xFFFF_FFFF or value & ~_XCR0 or not value & 1:
            raise _general_protection()
        self._cpu.xcr0 = value
        self._done(instruction, rip)
        return None
