"""A whole Unicorn CPU as plain data (`machine.cpu_state`), and a fresh one that becomes what was written down."""

import ctypes
from typing import TYPE_CHECKING, Any

from machine import registers as reg
from machine.cpu_state import (
    FXSAVE_SIZE,
    LDT_ATTRIBUTES,
    SEGMENTS,
    TSS_ATTRIBUTES,
    Segment,
    descriptor_of,
    flat_segment,
    pack_fxsave,
    segment_of,
    unpack_fxsave,
)
from machine.engine import unicorn_abi as abi
from machine.errors import EngineError
from machine.paging import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu

_EFER, _FS_BASE, _GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101
_MSRS = (
    *(0x174, 0x175, 0x176, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084),
    *(_FS_BASE, _GS_BASE, 0xC000_0102, _EFER),
)
_CONTROL = (reg.CR0, reg.CR2, reg.CR3, reg.CR4, reg.CR8)
_DATA = (("es", reg.ES), ("ds", reg.DS), ("fs", reg.FS), ("gs", reg.GS))
_REGISTER = dict(zip(SEGMENTS, (reg.ES, reg.CS, reg.SS, reg.DS, reg.FS, reg.GS), strict=True))
_DEBUG = (66, 67, 68, 69, 72, 73)
_LDTR = 244
_FIP, _FDP, _FOP = 254, 256, 258
_CR4_OSXSAVE = 1 << 18
_XGETBV, _XSETBV = b"\x0f\x01\xd0", b"\x0f\x01\xd1"
_X87_AND_SSE = 3


def freeze(cpu: "UnicornCpu") -> dict[str, Any]:
    """The state of `cpu`, which stays as it is. Between two runs."""
    return {
        "general": cpu.general(),
        "control": [cpu.get(register) for register in _CONTROL],
        "debug": [_read(cpu, number) for number in _DEBUG],
        "xcr0": _xcr0(cpu),
        "nmi_masked": cpu.nmi_masked,
        "segments": [_segment(cpu, name) for name in SEGMENTS],
        "gdtr": cpu.table("gdtr"),
        "idtr": cpu.table("idtr"),
        "ldtr": _system_segment(cpu, _LDTR, LDT_ATTRIBUTES),
        "tr": _system_segment(cpu, abi.REG_TR, TSS_ATTRIBUTES),
        "msrs": [(index, cpu.read_msr(index)) for index in _MSRS],
        "fxsave": _fxsave(cpu),
        "ymm": None,
    }


def thaw(cpu: "UnicornCpu", state: dict[str, Any]) -> None:
    """Make a CPU that has not run yet what `freeze` gave. EngineError for what Unicorn cannot carry, ValueError for nonsense."""
    if state["ymm"] is not None and any(state["ymm"]):
        raise EngineError("the guest uses AVX, which the Unicorn engine does not have; use --engine kvm")
    cr0, cr2, cr3, cr4, cr8 = state["control"]
    msrs = dict(state["msrs"])
    long_mode = bool(msrs[_EFER] & (EFER_LME | EFER_LMA) and cr0 & CR0_PG)
    if not cr0 & CR0_PE:
        raise EngineError("the guest is in real mode, which the Unicorn engine cannot enter anew")
    if not long_mode:
        # The engine is in long mode, and leaves it as a processor does: through a state that has paging.
        cpu.set(reg.CR4, cr4 | CR4_PAE)
        cpu.set(reg.CR0, CR0_PG | cr0)
        cpu.set(reg.CR0, cr0 & ~CR0_PG)
    cpu.write_msr(_EFER, msrs[_EFER])
    for register, value in ((reg.CR3, cr3), (reg.CR4, cr4), (reg.CR0, cr0), (reg.CR2, cr2), (reg.CR8, cr8)):
        cpu.set(register, value)
    for name in ("gdtr", "idtr"):
        cpu.set_table(name, *state[name])
    if state["xcr0"] > 1:
        if state["xcr0"] & ~_X87_AND_SSE:
            raise EngineError(f"the guest has XCR0 = {state['xcr0']:#x}, and the Unicorn engine only x87 and SSE")
        _set_xcr0(cpu, state["xcr0"])
    segments: dict[str, Segment] = dict(zip(SEGMENTS, (tuple(s) for s in state["segments"]), strict=True))
    if long_mode:
        _load_segments(cpu, segments)
    else:
        _load_protected(cpu, segments)
    for number, name in ((_LDTR, "ldtr"), (abi.REG_TR, "tr")):
        selector, base, limit, attributes = state[name]
        record = abi.Mmr(selector, base, limit, attributes << 8)
        cpu.write_raw(number, ctypes.addressof(record))
    for number, value in zip(_DEBUG, state["debug"], strict=True):
        if value != _read(cpu, number):
            _write(cpu, number, value)
    for index, value in msrs.items():
        if index in _MSRS:
            cpu.write_msr(index, value)
    _load_fxsave(cpu, state["fxsave"])
    cpu.nmi_masked = state["nmi_masked"]
    for register, value in zip(reg.GENERAL, state["general"], strict=True):
        cpu.set(register, value)


def _read(cpu: "UnicornCpu", number: int) -> int:
    value = ctypes.c_uint64()
    cpu.read_raw(number, ctypes.addressof(value))
    return value.value


def _write(cpu: "UnicornCpu", number: int, value: int) -> None:
    held = ctypes.c_uint64(value)
    cpu.write_raw(number, ctypes.addressof(held))


def _segment(cpu: "UnicornCpu", name: str) -> Segment:
    """A segment register. Unicorn does not show hidden parts: they are those of the descriptor, which nobody changes in use."""
    selector = cpu.get(_REGISTER[name])
    bases = {"fs": _FS_BASE, "gs": _GS_BASE}
    found = flat_segment(selector, name == "cs")
    table, limit = cpu.table("gdtr")
    at = selector & 0xFFF8
    if at and not selector & 4 and at + 7 <= limit:
        raw = cpu.bytes_at(cpu.mode(), table + at, 8)
        if len(raw) == 8 and raw[5] & 0x90 == 0x90:  # present, and no system segment
            found = segment_of(selector, int.from_bytes(raw, "little"))
    if name in bases:
        found = (selector, cpu.read_msr(bases[name]), *found[2:])
    return found


def _system_segment(cpu: "UnicornCpu", number: int, attributes: int) -> Segment:
    record = abi.Mmr()
    cpu.read_raw(number, ctypes.addressof(record))
    return record.selector, record.base, record.limit, record.flags >> 8 & 0xF0FF or attributes


def _xcr0(cpu: "UnicornCpu") -> int:
    """XCR0, which only an instruction of the guest's can read."""
    if not cpu.get(reg.CR4) & _CR4_OSXSAVE or not cpu.get(reg.CR0) & CR0_PG:
        return 1
    registers = (reg.RAX, reg.RCX, reg.RDX, reg.RIP)
    kept = [cpu.get(register) for register in registers]
    cpu.set(reg.RCX, 0)
    cpu.carry_out(_XGETBV)
    value = cpu.get(reg.RDX) << 32 | cpu.get(reg.RAX) & 0xFFFF_FFFF
    for register, old in zip(registers, kept, strict=True):
        cpu.set(register, old)
    return value


def _set_xcr0(cpu: "UnicornCpu", value: int) -> None:
    cpu.set(reg.RAX, value & 0xFFFF_FFFF)
    cpu.set(reg.RDX, value >> 32)
    cpu.set(reg.RCX, 0)
    cpu.carry_out(_XSETBV)


def _load_segments(cpu: "UnicornCpu", segments: dict[str, Segment]) -> None:
    """Segment registers in long mode, from descriptors of our own: those in the guest's memory are none of our business."""
    ring = segments["cs"][0] & 3
    if ring not in (0, 3):
        raise EngineError(f"the guest is in ring {ring}; only 0 and 3 can be entered")
    loaded = [(s[0], descriptor_of(s)) for s in segments.values() if s[0] & 0xFFFC]
    gateway = cpu.gateway()
    with cpu.stop.set_aside(), gateway.descriptors(loaded):
        if ring == 3:
            gateway.enter_ring3(segments["cs"][0], segments["ss"][0])
            cpu.flush_code()
        else:
            cpu.set(reg.CS, segments["cs"][0])
            cpu.set(reg.SS, segments["ss"][0])
        for name, register in _DATA:
            cpu.set(register, segments[name][0])


def _load_protected(cpu: "UnicornCpu", segments: dict[str, Segment]) -> None:
    """The same outside of long mode, where our page cannot be reached: from the guest's own table, in ring 0."""
    if segments["cs"][0] & 3:
        raise EngineError("the guest is in ring 3 of 32-bit protected mode, which the Unicorn engine cannot enter anew")
    for name in ("cs", "ss", *(name for name, _ in _DATA)):
        if segments[name][0] & 0xFFFC:
            cpu.set(_REGISTER[name], segments[name][0])


def _fxsave(cpu: "UnicornCpu") -> bytes:
    registers, xmm = [], []
    scratch = ctypes.create_string_buffer(16)
    for n in range(8):
        cpu.read_raw(abi.REG_FP0 + n, ctypes.addressof(scratch))
        registers.append(scratch.raw[:10])
    for n in range(16):
        cpu.read_raw(abi.REG_XMM0 + n, ctypes.addressof(scratch))
        xmm.append(scratch.raw)
    pointers = (_read(cpu, _FOP), _read(cpu, _FIP), _read(cpu, _FDP))
    values = (cpu.get(reg.FPCW), cpu.get(reg.FPSW), cpu.get(reg.FPTAG), cpu.get(reg.MXCSR))
    return pack_fxsave(*values, registers, xmm, pointers)


def _load_fxsave(cpu: "UnicornCpu", image: bytes) -> None:
    if len(image) != FXSAVE_SIZE:
        raise ValueError(f"an FXSAVE image of {len(image)} bytes")
    fcw, fsw, tags, mxcsr, registers, xmm, (opcode, instruction, data) = unpack_fxsave(image)
    for register, value in ((reg.FPCW, fcw), (reg.FPSW, fsw), (reg.FPTAG, tags), (reg.MXCSR, mxcsr)):
        cpu.set(register, value)
    for first, values in ((abi.REG_FP0, registers), (abi.REG_XMM0, xmm)):
        for n, raw in enumerate(values):
            held = ctypes.create_string_buffer(raw, 16)
            cpu.write_raw(first + n, ctypes.addressof(held))
    for number, value in ((_FOP, opcode), (_FIP, instruction), (_FDP, data)):
        _write(cpu, number, value)
