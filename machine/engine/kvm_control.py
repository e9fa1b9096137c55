"""Control on KVM: descriptor table registers, control and debug registers, MSRs, CPUID and the time stamp counter.

AMD64 APM volume 3, chapter 4. They are kept beside the real ones, which are the monitor's.
"""

from machine import registers as reg
from machine.cpu import Fault, Stop
from machine.engine import kvm_abi as abi
from machine.engine.kvm_carried import MASK, Action, Carried, general_protection
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction
from machine.paging import CR0_PE, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, EFER_LME

_CR0_EM, _CR0_TS = 1 << 2, 1 << 3
_MSR_EFER, _MSR_LSTAR = 0xC000_0080, 0xC000_0082
_TSC_AUX = 0xC000_0103
_DR7_ENABLED = 0xFF
_DEBUG = (0, 1, 2, 3, 4, 5, 4, 5)
"""Where DR0 to DR7 are kept; DR4 and DR5 are other names."""
_XCR0 = 3
"""x87 and SSE: what our CPUID offers."""


class ControlInstructions(Carried):
    """Those of one processor."""

    def _by_modrm(self, byte: int) -> Action | None:
        """The instruction 0f 01 that all of its ModRM byte tells."""
        return {0xF8: self._swapgs, 0xF9: self._rdtscp, 0xD0: self._xgetbv, 0xD1: self._xsetbv}.get(byte)

    def _group_7(self, instruction: Instruction, rip: int) -> Stop | None:
        """Descriptor tables, machine status word, INVLPG, and those that are told by all of ModRM."""
        cpu = self._cpu
        byte = instruction.byte()
        if byte >= 0xC0 and byte not in range(0xE0, 0xE8) and byte not in range(0xF0, 0xF8):
            action = self._by_modrm(byte)
            if action is not None:
                instruction.at += 1
                return action(instruction, rip)
            length = self._handlers.trap_instruction(cpu.face, instruction.code)
            if not length:
                return cpu.raise_fault(Fault(6))
            cpu.real[abi.RIP] = (rip + length) & MASK
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
            raise general_protection()
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
            raise general_protection()
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
            raise general_protection()
        cpu.set(reg.RAX, self._cpu.xcr0)
        cpu.set(reg.RDX, 0)
        self._done(instruction, rip)
        return None

    def _xsetbv(self, instruction: Instruction, rip: int) -> Stop | None:
        cpu = self._cpu
        value = (cpu.get(reg.RDX) & 0xFFFF_FFFF) << 32 | cpu.get(reg.RAX) & 0xFFFF_FFFF
        if cpu.get(reg.RCX) & 0xFFFF_FFFF or value & ~_XCR0 or not value & 1:
            raise general_protection()
        self._cpu.xcr0 = value
        self._done(instruction, rip)
        return None
