"""Instructions that a guest in ring 3 cannot carry out itself, carried out for the ring 0 that it thinks it is in.

AMD64 APM volume 3, chapter 4 (system instructions). What no guest of ours does in ring 0 alone is not emulated but leaves KVM.
"""

from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Fault, Stop
from machine.engine import kvm_abi as abi
from machine.engine.kvm_carried import FLAGS, MASK, Action
from machine.engine.kvm_control import ControlInstructions
from machine.engine.kvm_segments import SegmentInstructions
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction, Undecodable
from machine.paging import EFER_SCE

if TYPE_CHECKING:
    from machine.engine.base import Handlers
    from machine.engine.kvm_cpu import KvmCpu

_MSR_EFER = 0xC000_0080
_ARCH_PRCTL, _ARCH_SET_FS = 158, 0x1002
_SIZES = {0xE4: 1, 0xE5: 4, 0xE6: 1, 0xE7: 4, 0xEC: 1, 0xED: 4, 0xEE: 1, 0xEF: 4}


class Traps(SegmentInstructions, ControlInstructions):
    """The system instructions of one processor."""

    def __init__(self, cpu: "KvmCpu", handlers: "Handlers") -> None:
        super().__init__(cpu, handlers)
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
            cpu.real[abi.RIP] = (rip + length) & MASK
            return None
        return cpu.raise_fault(Fault(6))

    def system_call(self, returning: int) -> Stop | None:
        """SYSCALL, with the address behind it."""
        cpu = self._cpu
        cpu.real[abi.RIP] = (returning - 2) & MASK
        if cpu.get(reg.RAX) == _ARCH_PRCTL and cpu.get(reg.RDI) == _ARCH_SET_FS:
            # TamaGo sees that it runs in ring 3, and asks an operating system for its FS base; EFER.SCE is not set on every CPU.
            cpu.set(reg.FS_BASE, cpu.get(reg.RSI))
            cpu.set(reg.RAX, 0)
            cpu.real[abi.RIP] = returning
            return None
        if not cpu.read_msr(_MSR_EFER) & EFER_SCE:
            return cpu.raise_fault(Fault(6))
        raise CannotCarry("it makes system calls")

    # -- ports

    def _port(self, instruction: Instruction, rip: int) -> Stop | None:
        opcode = instruction.opcode
        size = _SIZES[opcode]
        if size == 4 and instruction.size == 2:
            size = 2
        cpu = self._cpu
        real = cpu.real
        port = instruction.immediate(1) & 0xFF if opcode < 0xEC else real[abi.RDX] & 0xFFFF
        real[abi.RIP] = (rip + instruction.at) & MASK
        if opcode & 2:
            self._handlers.port_write(cpu.face, port, size, real[abi.RAX] & (1 << 8 * size) - 1)
            if cpu.posting is not None and instruction.at == 1:
                cpu.posting.trapped(cpu, opcode, rip, port)
            return None
        value = self._handlers.port_read(cpu.face, port, size)
        if size == 4:
            real[abi.RAX] = value & 0xFFFF_FFFF
        else:
            mask = (1 << 8 * size) - 1
            real[abi.RAX] = real[abi.RAX] & ~mask | value & mask
            if cpu.posting is not None and instruction.at == 1:
                cpu.posting.trapped(cpu, opcode, rip, port)
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
            real[abi.RDI] = (at + step) & MASK
        else:
            at = real[abi.RSI]
            self._handlers.port_write(cpu.face, port, size, self._read(at, size))
            real[abi.RSI] = (at + step) & MASK
        if repeated:
            real[abi.RCX] -= 1
        if not repeated or not real[abi.RCX]:
            self._done(instruction, rip)
        return None

    # -- flags and waiting

    def _pushf(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        size = 2 if instruction.size == 2 else 8
        stack = (cpu.real[abi.RSP] - size) & MASK
        self._store(stack, (cpu.get(reg.RFLAGS) & (1 << 8 * size) - 1 & ~reg.RFLAGS_VM).to_bytes(size, "little"))
        cpu.real[abi.RSP] = stack
        self._done(instruction, rip)
        return None

    def _popf(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        size = 2 if instruction.size == 2 else 8
        stack = cpu.real[abi.RSP]
        flags = self._read(stack, size) & FLAGS
        if size == 2:
            flags |= cpu.get(reg.RFLAGS) & ~0xFFFF
        cpu.real[abi.RSP] = (stack + size) & MASK
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

    def _software_interrupt(self, instruction: Instruction, rip: int) -> Stop | None:
        vector = instruction.immediate(1) & 0xFF
        self._done(instruction, rip)
        return self._cpu.raise_fault(Fault(vector, software=True))
