"""Accesses of a guest on KVM to addresses where there is no RAM: the instruction is decoded and carried out on the bus.

The forms that compilers use for device registers, and string moves. Others leave KVM: Unicorn knows them all.
"""

from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Stop
from machine.engine import kvm_abi as abi
from machine.engine.leaving import CannotCarry
from machine.engine.x86_decode import Instruction, Undecodable
from machine.paging import READ, WRITE

if TYPE_CHECKING:
    from machine.engine.base import Handlers
    from machine.engine.kvm_cpu import KvmCpu

_MASK = (1 << 64) - 1
_CF, _PF, _AF, _ZF, _SF, _OF, _DF = 1, 4, 0x10, 0x40, 0x80, 0x800, 0x400
_ARITHMETIC = _CF | _PF | _AF | _ZF | _SF | _OF
_ADD, _OR, _AND, _SUB, _XOR, _CMP = 0, 1, 4, 5, 6, 7
_KINDS = frozenset((_ADD, _OR, _AND, _SUB, _XOR, _CMP))
_STRINGS = frozenset((0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD))


def _signed(value: int, size: int, to: int) -> int:
    top = 1 << 8 * size - 1
    return ((value & (top << 1) - 1) ^ top) - top & (1 << 8 * to) - 1


class MemoryAccess:
    """The memory instructions of one processor. `emulated` says that the last fault was answered by one."""

    def __init__(self, cpu: "KvmCpu", handlers: "Handlers") -> None:
        self._cpu = cpu
        self._handlers = handlers
        self.emulated = False

    # -- memory of either kind

    def read(self, linear: int, size: int) -> int:
        """A load. PageFault."""
        cpu = self._cpu
        physical = self._physical(linear, size, READ)
        if cpu.is_ram(physical):
            return int.from_bytes(cpu.ram_read(physical, size), "little")
        if not cpu.is_device(physical):
            return (1 << 8 * size) - 1
        handlers = self._handlers
        if size < 8:
            return handlers.mmio_read(cpu.face, physical, size)
        return handlers.mmio_read(cpu.face, physical, 4) | handlers.mmio_read(cpu.face, physical + 4, 4) << 32

    def write(self, linear: int, size: int, value: int) -> None:
        """A store. PageFault."""
        cpu = self._cpu
        value &= (1 << 8 * size) - 1
        physical = self._physical(linear, size, WRITE)
        if cpu.is_ram(physical):
            cpu.ram_write(physical, value.to_bytes(size, "little"))
        elif not cpu.is_device(physical):
            pass
        elif size < 8:
            self._handlers.mmio_write(cpu.face, physical, size, value)
        else:
            self._handlers.mmio_write(cpu.face, physical, 4, value & 0xFFFF_FFFF)
            self._handlers.mmio_write(cpu.face, physical + 4, 4, value >> 32)

    def _physical(self, linear: int, size: int, access: int) -> int:
        if (linear & 0xFFF) + size > 4096:
            raise CannotCarry("it reaches a device across the end of a page")
        return self._cpu.translate(linear, access).physical + (linear & 0xFFF)

    # -- registers

    def _register(self, instruction: Instruction, number: int, size: int) -> int:
        if size == 1 and not instruction.rex and 4 <= number <= 7:
            return self._cpu.get(number - 4) >> 8 & 0xFF
        return self._cpu.get(number) & (1 << 8 * size) - 1

    def _set_register(self, instruction: Instruction, number: int, size: int, value: int) -> None:
        cpu = self._cpu
        value &= (1 << 8 * size) - 1
        if size == 1 and not instruction.rex and 4 <= number <= 7:
            cpu.set(number - 4, cpu.get(number - 4) & ~0xFF00 | value << 8)
        elif size < 4:
            cpu.set(number, cpu.get(number) & ~((1 << 8 * size) - 1) | value)
        else:
            cpu.set(number, value)

    def _flags(self, kind: int, left: int, right: int, size: int) -> int:
        """Set the flags of an operation; gives its result."""
        mask, top = (1 << 8 * size) - 1, 1 << 8 * size - 1
        if kind == _ADD:
            full = left + right
            overflow = ~(left ^ right) & (left ^ full) & top
        elif kind in (_SUB, _CMP):
            full = left - right
            overflow = (left ^ right) & (left ^ full) & top
        else:
            full = left | right if kind == _OR else left & right if kind == _AND else left ^ right
            overflow = 0
        result = full & mask
        flags = self._cpu.real[abi.RFLAGS] & ~_ARITHMETIC
        if kind in (_ADD, _SUB, _CMP):
            flags |= (_CF if full != result else 0) | ((left ^ right ^ full) & _AF)
        flags |= (_OF if overflow else 0) | (_ZF if not result else 0) | (_SF if result & top else 0)
        flags |= 0 if (result & 0xFF).bit_count() & 1 else _PF
        self._cpu.real[abi.RFLAGS] = flags
        return result

    # -- instructions

    def emulate(self) -> Stop | None:
        """Carry out the instruction at RIP, one of whose operands is not in RAM."""
        cpu = self._cpu
        self.emulated = True
        rip = cpu.real[abi.RIP]
        code = cpu.code(rip)
        try:
            instruction = Instruction(code)
            known = self._string(instruction, rip) if instruction.opcode in _STRINGS else self._move(instruction, rip)
        except Undecodable:
            known = False
        if not known:
            raise CannotCarry(f"it reaches a device with the instruction {code.hex()}")
        return None

    def _done(self, instruction: Instruction, rip: int) -> bool:
        self._cpu.real[abi.RIP] = (rip + instruction.at) & _MASK
        return True

    def _move(self, instruction: Instruction, rip: int) -> bool:
        opcode = instruction.opcode
        if 0xA0 <= opcode <= 0xA3:
            size = instruction.size if opcode & 1 else 1
            at = (instruction.immediate(instruction.address_size) + self._cpu.segment(instruction)) & _MASK
            if opcode < 0xA2:
                self._set_register(instruction, reg.RAX, size, self.read(at, size))
            else:
                self.write(at, size, self._register(instruction, reg.RAX, size))
            return self._done(instruction, rip)
        if opcode in (0x88, 0x89, 0x8A, 0x8B, 0x84, 0x85, 0x86, 0x87) or (opcode < 0x40 and opcode & 7 < 4):
            return self._with_register(instruction, rip)
        if opcode in (0xC6, 0xC7, 0x80, 0x81, 0x83, 0xF6, 0xF7):
            return self._with_immediate(instruction, rip)
        if opcode in (0x0FB6, 0x0FB7, 0x0FBE, 0x0FBF, 0x63):
            instruction.modrm()
            size = 4 if opcode == 0x63 else 2 if opcode & 1 else 1
            value = self.read(self._cpu.linear(instruction, rip), size)
            to = instruction.size
            self._set_register(
                instruction,
                instruction.reg,
                to,
                _signed(value, size, to) if opcode in (0x0FBE, 0x0FBF, 0x63) else value,
            )
            return self._done(instruction, rip)
        return False

    def _with_register(self, instruction: Instruction, rip: int) -> bool:
        opcode = instruction.opcode
        size = instruction.size if opcode & 1 else 1
        kind = opcode >> 3
        if opcode < 0x40 and kind not in _KINDS:
            return False
        instruction.modrm()
        at = self._cpu.linear(instruction, rip)
        if opcode in (0x88, 0x89):
            self.write(at, size, self._register(instruction, instruction.reg, size))
            return self._done(instruction, rip)
        memory = self.read(at, size)
        if opcode in (0x8A, 0x8B):
            self._set_register(instruction, instruction.reg, size, memory)
            return self._done(instruction, rip)
        register = self._register(instruction, instruction.reg, size)
        if opcode in (0x86, 0x87):
            self.write(at, size, register)
            self._set_register(instruction, instruction.reg, size, memory)
        elif opcode in (0x84, 0x85):
            self._flags(_AND, memory, register, size)
        elif opcode & 2:
            result = self._flags(kind, register, memory, size)
            if kind != _CMP:
                self._set_register(instruction, instruction.reg, size, result)
        else:
            before = self._cpu.real[abi.RFLAGS]
            result = self._flags(kind, memory, register, size)
            if kind != _CMP:
                self._store_result(at, size, result, before)
        return self._done(instruction, rip)

    def _store_result(self, at: int, size: int, result: int, flags: int) -> None:
        """A store behind an operation, whose flags must not stay if it faults."""
        after, self._cpu.real[abi.RFLAGS] = self._cpu.real[abi.RFLAGS], flags
        self.write(at, size, result)
        self._cpu.real[abi.RFLAGS] = after

    def _with_immediate(self, instruction: Instruction, rip: int) -> bool:
        opcode = instruction.opcode
        size = instruction.size if opcode & 1 else 1
        instruction.modrm()
        kind = instruction.reg & 7
        width = 1 if size == 1 or opcode == 0x83 else min(size, 4)
        if (opcode in (0xC6, 0xC7) and kind) or (opcode in (0xF6, 0xF7) and kind > 1):
            return False
        if opcode in (0x80, 0x81, 0x83) and kind not in _KINDS:
            return False
        at = self._cpu.linear(instruction, rip, width)
        value = instruction.immediate(width) & (1 << 8 * size) - 1
        if opcode in (0xC6, 0xC7):
            self.write(at, size, value)
        elif opcode in (0xF6, 0xF7):
            self._flags(_AND, self.read(at, size), value, size)
        else:
            before = self._cpu.real[abi.RFLAGS]
            result = self._flags(kind, self.read(at, size), value, size)
            if kind != _CMP:
                self._store_result(at, size, result, before)
        return self._done(instruction, rip)

    def _string(self, instruction: Instruction, rip: int) -> bool:
        """One step of MOVS, STOS or LODS; with a prefix RIP stays until RCX is 0."""
        real = self._cpu.real
        if instruction.address_size != 8 or instruction.segment:
            return False
        opcode = instruction.opcode
        size = instruction.size if opcode & 1 else 1
        repeated = instruction.repeat != 0
        if repeated and not real[abi.RCX]:
            return self._done(instruction, rip)
        step = -size if real[abi.RFLAGS] & _DF else size
        source, target = real[abi.RSI], real[abi.RDI]
        value = real[abi.RAX] if opcode in (0xAA, 0xAB) else self.read(source, size)
        if opcode in (0xAC, 0xAD):
            self._set_register(instruction, reg.RAX, size, value)
        else:
            self.write(target, size, value)
            real[abi.RDI] = (target + step) & _MASK
        if opcode not in (0xAA, 0xAB):
            real[abi.RSI] = (source + step) & _MASK
        if repeated:
            real[abi.RCX] -= 1
            if real[abi.RCX]:
                return True
        return self._done(instruction, rip)
