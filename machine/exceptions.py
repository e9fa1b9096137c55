"""Delivery of interrupts and exceptions through the guest's own IDT (AMD64 APM volume 2, 8.9, long mode)."""

import struct

from machine import registers as reg
from machine.cpu import Cpu, Fault
from machine.errors import BadAddress, MachineError
from machine.linear import LinearMemory

NMI, DOUBLE_FAULT = 2, 8
RESERVED = 32
"""Vectors below are exceptions'."""
NAMES = {
    **{0: "divide error", 1: "debug", 2: "NMI", 3: "breakpoint", 4: "overflow", 5: "bound range", 6: "invalid opcode"},
    **{7: "no coprocessor", 8: "double fault", 10: "invalid TSS", 11: "segment not present", 12: "stack fault"},
    **{13: "general protection fault", 14: "page fault", 16: "x87 error", 17: "alignment check", 18: "machine check"},
    **{19: "SIMD floating-point error", 29: "VMM communication exception", 30: "security exception"},
}
_WITH_CODE = frozenset((8, 10, 11, 12, 13, 14, 17, 21, 29, 30))
_CONTRIBUTORY = frozenset((0, 10, 11, 12, 13, 14))
_GATE_INTERRUPT, _GATE_TRAP = 0xE, 0xF


class TripleFault(MachineError):
    """A fault while a double fault was delivered: the processor shuts down. `fault` is the first one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"triple fault after {describe(fault)}")
        self.fault = fault


class _GateError(Exception):
    pass


def describe(fault: Fault) -> str:
    """One phrase for a person: "page fault (vector 14, error code 0x2) at 0x0"."""
    text = f"{NAMES.get(fault.vector, 'interrupt')} (vector {fault.vector}"
    text += f", error code {fault.error_code:#x})" if fault.error_code is not None else ")"
    return text + (f" at {fault.address:#x}" if fault.address is not None else "")


def gate_target(memory: LinearMemory, cpu: Cpu, vector: int) -> int | None:
    """Where the IDT sends `vector`, or None if it has no usable gate."""
    try:
        return _gate(memory, cpu, vector)[0]
    except (_GateError, BadAddress):
        return None


def _gate(memory: LinearMemory, cpu: Cpu, vector: int) -> tuple[int, int, int, int, int]:
    """Target, selector, stack table index, type and DPL of a 16-byte gate descriptor."""
    base, limit = cpu.table("idtr")
    if vector * 16 + 15 > limit:
        raise _GateError(f"vector {vector} is beyond the IDT's limit {limit:#x}")
    raw = memory.read(base + vector * 16, 16)
    low, selector, ist, flags = raw[0:2], raw[2:4], raw[4] & 7, raw[5]
    kind = flags & 0xF
    if not flags & 0x80 or kind not in (_GATE_INTERRUPT, _GATE_TRAP):
        raise _GateError(f"vector {vector} has no interrupt or trap gate")
    target = int.from_bytes(low + raw[6:12], "little")
    return target, int.from_bytes(selector, "little"), ist, kind, flags >> 5 & 3


def handler_of(memory: LinearMemory, cpu: Cpu, fault: Fault) -> int | None:
    """Where the IDT sends `fault`, or what becomes of it for want of a gate; None if that is a triple fault."""
    current: Fault | None = fault
    while current is not None:
        target = gate_target(memory, cpu, current.vector)
        if target is not None:
            return target
        current = _worse(current)
    return None


def _worse(fault: Fault) -> Fault | None:
    """What follows if `fault` cannot be delivered (AMD64 APM volume 2, 8.2.9); None: the processor shuts down."""
    if fault.vector == DOUBLE_FAULT:
        return None
    nested = fault.vector in _CONTRIBUTORY or fault.error_code is not None
    return Fault(DOUBLE_FAULT, 0) if nested else Fault(13, fault.vector * 8 + 2)


def take_back(memory: LinearMemory, cpu: Cpu, vector: int, frame: int) -> Fault:
    """The exception that a processor has delivered by itself, whose stack frame is at the linear address `frame`.

    RIP, RFLAGS and RSP become what they were before. BadAddress.
    """
    pushed = list(struct.unpack("<6Q", memory.read(frame, 48)))
    code = pushed.pop(0) if vector in _WITH_CODE else None
    for register, value in zip((reg.RIP, reg.RFLAGS, reg.RSP), (pushed[0], pushed[2], pushed[3]), strict=True):
        cpu.set(register, value)
    return Fault(vector, code, cpu.get(reg.CR2) if vector == 14 else None)


def deliver(memory: LinearMemory, cpu: Cpu, fault: Fault) -> None:
    """Push the interrupt frame of `fault` and set RIP to its handler. Between two runs only. TripleFault if it fails twice."""
    current: Fault | None = fault
    while current is not None:
        try:
            _deliver(memory, cpu, current)
            return
        except (_GateError, BadAddress):
            current = _worse(current)
    raise TripleFault(fault)


def _deliver(memory: LinearMemory, cpu: Cpu, fault: Fault) -> None:
    target, selector, ist, kind, dpl = _gate(memory, cpu, fault.vector)
    old_cs = cpu.get(reg.CS)
    privilege = old_cs & 3
    if fault.software and dpl < privilege:
        raise _GateError(f"INT {fault.vector} from ring {privilege} through a gate of ring {dpl}")
    if selector & 0xFFFC == 0:
        raise _GateError(f"vector {fault.vector} has a null code selector")
    stack, old_stack = cpu.get(reg.RSP), cpu.get(reg.RSP)
    old_ss = cpu.get(reg.SS)
    if ist or privilege != selector & 3:
        task, _ = cpu.table("tr")
        stack = int.from_bytes(memory.read(task + (0x24 + 8 * (ist - 1) if ist else 4), 8), "little")
    stack &= ~0xF
    rflags = cpu.get(reg.RFLAGS)
    frame = [cpu.get(reg.RIP), old_cs, rflags, old_stack, old_ss]
    if fault.vector in _WITH_CODE and not fault.software and fault.error_code is not None:
        frame.insert(0, fault.error_code)
    data = b"".join((value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") for value in frame)
    memory.write(stack - len(data), data)
    if fault.vector == 14 and fault.address is not None:
        cpu.set(reg.CR2, fault.address)
    cleared = reg.RFLAGS_TF | reg.RFLAGS_NT | reg.RFLAGS_RF | reg.RFLAGS_VM
    if kind == _GATE_INTERRUPT:
        cleared |= reg.RFLAGS_IF
    cpu.set(reg.RFLAGS, rflags & ~cleared)
    if privilege and not selector & 3:
        cpu.enter_ring0(selector)
    elif selector & 0xFFFC != old_cs & 0xFFFC:
        cpu.set(reg.CS, selector & 0xFFFC)
    cpu.set(reg.RSP, stack - len(data))
    cpu.set(reg.RIP, target)
