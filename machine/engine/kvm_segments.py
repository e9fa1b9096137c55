"""Segments on KVM: far transfers, returns from interrupts, segment registers, task and local descriptor table.

The real segments are the monitor's. What a guest loads comes from its own descriptor table and is kept beside them (AMD64 APM
volume 2, 4.5 to 4.8; volume 3, chapter 4).
"""

from machine import registers as reg
from machine.cpu import Fault, Stop
from machine.engine import kvm_abi as abi
from machine.engine.kvm_carried import FLAGS, MASK, Carried, general_protection
from machine.engine.kvm_monitor import USER_CODE
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction

_SEGMENTS = (reg.ES, reg.CS, reg.SS, reg.DS, reg.FS, reg.GS)


class SegmentInstructions(Carried):
    """Those of one processor."""

    def _code_selector(self, selector: int) -> None:
        """Go on in the 64-bit code segment of ring 0 that `selector` names."""
        if selector & 3:
            raise CannotCarry("it goes to ring 3")
        cpu = self._cpu
        base, limit = cpu.table("gdtr")
        at = selector & ~7
        if not at or selector & 4 or at + 7 > limit:
            raise general_protection(selector & ~3)
        descriptor = self._read(base + at, 8)
        if not descriptor >> 47 & 1 or descriptor >> 43 & 3 != 3:
            raise general_protection(selector & ~3)
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
            raise general_protection()
        if selector & 0xFFFF == USER_CODE:
            # It has pushed the selector that it really runs with, which it can read.
            selector = cpu.get(reg.CS)
        self._code_selector(selector & 0xFFFF)
        cpu.set(reg.SS, data & 0xFFFC)
        real[abi.RIP], real[abi.RSP] = target, pointer
        before, masked = cpu.interruptible, cpu.nmi_masked
        cpu.nmi_masked = False
        cpu.set(reg.RFLAGS, flags & FLAGS)
        return Stop.KICKED if masked or (cpu.interruptible and not before) else None

    def _far_return(self, instruction: Instruction, rip: int) -> Stop | None:
        real = self._cpu.real
        size = 8 if instruction.rex & 8 else instruction.size
        stack = real[abi.RSP]
        target, selector = self._read(stack, size), self._read(stack + size, size) & 0xFFFF
        self._code_selector(selector)
        real[abi.RIP], real[abi.RSP] = target, (stack + 2 * size) & MASK
        return None

    def _far_pointer(self, instruction: Instruction, rip: int) -> Stop | None:
        """JMP and CALL through a far pointer in memory."""
        instruction.modrm()
        kind = instruction.reg & 7
        if kind not in (3, 5) or instruction.mod == 3:
            raise general_protection()
        cpu, real = self._cpu, self._cpu.real
        at = self._address(instruction, rip)
        # APM volume 3: with REX.W Intel's processors take 64 bits of offset, AMD's 32; assemblers know both.
        size = 8 if instruction.rex & 8 else instruction.size
        target, selector = self._read(at, size), self._read(at + size, 2)
        old, following = cpu.get(reg.CS), (rip + instruction.at) & MASK
        stack = (real[abi.RSP] - 2 * size) & MASK
        if kind == 3:
            cpu.check_store(stack, 2 * size)
        self._code_selector(selector)
        if kind == 3:
            mask = (1 << 8 * size) - 1
            self._store(stack, (following & mask).to_bytes(size, "little") + old.to_bytes(size, "little"))
            real[abi.RSP] = stack
        real[abi.RIP] = target
        return None

    # -- segment registers and what else descriptors are loaded into

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
            raise general_protection(selector & ~3)
        descriptor = self._read(base + at, 8)
        if not descriptor >> 44 & 1 or (descriptor >> 43 & 1 and not descriptor >> 41 & 1):
            raise general_protection(selector & ~3)
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
        real[abi.RSP] = (real[abi.RSP] + size) & MASK
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
            raise general_protection(selector & ~3)
        low, high = self._read(base + at, 8), self._read(base + at + 8, 8)
        if low >> 40 & 0x1F not in (9, 11) or not low >> 47 & 1:
            raise general_protection(selector & ~3)
        task = low >> 16 & 0xFF_FFFF | (low >> 56) << 24 | (high & 0xFFFF_FFFF) << 32
        self._store(base + at, (low | 2 << 40).to_bytes(8, "little"))
        cpu.set_table("tr", task, low & 0xFFFF | (low >> 48 & 0xF) << 16, selector)
