"""The registers of a processor on KVM as the guest is to see them: of a ring 0 that it never is in.

General registers are the real ones. Selectors, control registers, RFLAGS.IF and the descriptor table registers are kept here:
the real ones belong to the monitor.
"""

import struct
from typing import Any

from machine import registers as reg
from machine.cpu_state import (
    LDT_ATTRIBUTES,
    SEGMENTS,
    TSS_ATTRIBUTES,
    Segment,
    flat_segment,
    pack_fxsave,
    unpack_fxsave,
)
from machine.engine import kvm_abi as abi
from machine.engine.kvm_monitor import DATA_SEGMENTS, USER_CODE_SEGMENT, USER_DATA_SEGMENT
from machine.errors import EngineError
from machine.paging import Mode

_EFER, _FS_BASE, _GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101
PLACES = (*(abi.RAX, abi.RCX, abi.RDX, abi.RBX, abi.RSP, abi.RBP, abi.RSI, abi.RDI), *range(8, 16), abi.RIP)
"""Where struct kvm_regs has RAX to R15 and RIP."""
_HIDDEN = reg.RFLAGS_IF | reg.RFLAGS_RF
_RFLAGS_AC = 1 << 18
_MASK = (1 << 64) - 1
_BASES = {reg.FS_BASE: abi.SREGS_AT + abi.FS_AT, reg.GS_BASE: abi.SREGS_AT + abi.GS_AT}
_CONTROL = (reg.CR0, reg.CR2, reg.CR3, reg.CR4, reg.CR8)
_SELECTORS = dict(zip(SEGMENTS, (reg.ES, reg.CS, reg.SS, reg.DS, reg.FS, reg.GS), strict=True))
_MSRS = (0x174, 0x175, 0x176, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102)
_NO_BREAKPOINTS = [0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
_KEPT = frozenset((*range(reg.CR0, reg.CR8 + 1), *range(reg.ES, reg.GS + 1)))
_FPU_REGISTERS = frozenset((reg.MXCSR, reg.FPCW, reg.FPSW, reg.FPTAG))
FCW, MXCSR = 0x37F, 0x1F80
_CR0_AFTER_INIT = 0x10
_TAG_VALID, _TAG_ZERO, _TAG_SPECIAL, _TAG_EMPTY = range(4)


def full_tag(st: bytes, status: int, abridged: int) -> int:
    """The tag word of FSTENV from the abridged one of FXSAVE (APM volume 2, 11.4.4)."""
    top, full = status >> 11 & 7, 0
    for physical in range(8):
        stack = (physical - top) & 7
        mantissa, exponent = struct.unpack_from("<QH", st, 16 * stack)
        exponent &= 0x7FFF
        if not abridged >> physical & 1:
            tag = _TAG_EMPTY
        elif exponent == 0x7FFF or (exponent and not mantissa >> 63) or (not exponent and mantissa):
            tag = _TAG_SPECIAL
        else:
            tag = _TAG_VALID if exponent else _TAG_ZERO
        full |= tag << 2 * physical
    return full


class KvmRegisters:
    """Registers of one processor; see `machine.cpu.Cpu`."""

    def __init__(self, vcpu: abi.Vcpu) -> None:
        self.vcpu = vcpu
        self.page = vcpu.page
        self.real = vcpu.regs
        self.stale = False
        """Control registers have changed in a way that takes rights away, or may have."""
        self._clear()
        page = self.page
        for at in DATA_SEGMENTS:
            page[abi.SREGS_AT + at : abi.SREGS_AT + at + abi.SEGMENT.size] = USER_DATA_SEGMENT
        page[abi.SREGS_AT : abi.SREGS_AT + abi.SEGMENT.size] = USER_CODE_SEGMENT

    def _clear(self) -> None:
        self._kept = [0] * reg.COUNT
        self._msrs: dict[int, int] = {}
        self._efer = 0
        self._tables = {"gdtr": (0, 0xFFFF), "idtr": (0, 0xFFFF)}
        self.task: Segment = (0, 0, 0xFFFF, TSS_ATTRIBUTES)
        self.local_table: Segment = (0, 0, 0xFFFF, LDT_ATTRIBUTES)
        self._hidden: dict[int, Segment] = {}
        self.debug = list(_NO_BREAKPOINTS)
        """DR0 to DR3, DR6, DR7"""
        self.xcr0 = 1
        self.nmi_masked = False
        self._mode: Mode | None = None
        self.interruptible = False
        for register in range(abi.RFLAGS):
            self.real[register] = 0
        self.real[abi.RFLAGS] = 2

    # -- one by one

    def get(self, register: int) -> int:
        """Read one register."""
        if register <= reg.RIP:
            value: int = self.real[PLACES[register]]
            return value
        if register == reg.RFLAGS:
            return self.real[abi.RFLAGS] & ~_HIDDEN | (reg.RFLAGS_IF if self.interruptible else 0)
        at = _BASES.get(register)
        if at is not None:
            return int.from_bytes(self.page[at : at + 8], "little")
        if register in _FPU_REGISTERS:
            return self._fpu_register(register)
        return self._kept[register]

    def set(self, register: int, value: int) -> None:
        """Write one register."""
        value &= _MASK
        if register <= reg.RIP:
            self.real[PLACES[register]] = value
        elif register == reg.RFLAGS:
            self.interruptible = value & reg.RFLAGS_IF != 0
            self.real[abi.RFLAGS] = value & ~(reg.RFLAGS_RF | _RFLAGS_AC) | reg.RFLAGS_IF | 2
        elif register in _KEPT:
            self._kept[register] = value
            self._hidden.pop(register, None)
            if register < reg.ES:
                self._mode = None
                self.stale = self.stale or register in (reg.CR0, reg.CR3, reg.CR4)
            elif register in (reg.FS, reg.GS):
                self.set(reg.FS_BASE if register == reg.FS else reg.GS_BASE, 0)
        elif register in _BASES:
            at = _BASES[register]
            self.page[at : at + 8] = value.to_bytes(8, "little")
        else:
            self._set_fpu_register(register, value)

    def arguments(self) -> tuple[int, int, int, int, int]:
        """RCX, RDX, R8, R9, RSP."""
        real = self.real
        return real[abi.RCX], real[abi.RDX], real[8], real[9], real[abi.RSP]

    def mode(self) -> Mode:
        """The paging mode as the control registers have it now."""
        if self._mode is None:
            kept = self._kept
            self._mode = Mode(kept[reg.CR0], kept[reg.CR3], kept[reg.CR4], self._efer)
        return self._mode

    def read_msr(self, index: int) -> int:
        """Read an MSR that the engine keeps."""
        if index == _EFER:
            return self._efer
        if index in (_FS_BASE, _GS_BASE):
            return self.get(reg.FS_BASE if index == _FS_BASE else reg.GS_BASE)
        return self._msrs.get(index, 0)

    def write_msr(self, index: int, value: int) -> None:
        """Write an MSR that the engine keeps."""
        if index == _EFER:
            self._efer = value
            self._mode = None
            self.stale = True
        elif index in (_FS_BASE, _GS_BASE):
            self.set(reg.FS_BASE if index == _FS_BASE else reg.GS_BASE, value)
        else:
            self._msrs[index] = value

    def table(self, name: str) -> tuple[int, int]:
        """(base, limit) of a descriptor table register or TR."""
        return self.task[1:3] if name == "tr" else self._tables[name]

    def set_table(self, name: str, base: int, limit: int, selector: int = 0) -> None:
        """Load a descriptor table register or TR."""
        if name == "tr":
            self.task = selector, base, limit, TSS_ATTRIBUTES
        else:
            self._tables[name] = base, limit

    def enter_ring0(self, selector: int) -> None:
        """No guest is in ring 3 here: one that goes there leaves KVM."""
        raise EngineError(f"a guest on KVM went from ring 3 to {selector:#x}, and was never in ring 3")

    def begin_turn(self, blocks: int) -> None:
        """Blocks of code cannot be counted here."""

    def takes_interrupt(self, _waiting: bool) -> bool | None:
        """RFLAGS and the code tell."""
        return None

    def power_on(self) -> None:
        """All registers empty, and the x87 and SSE units as FNINIT and the processor's manual have them."""
        self._clear()
        self.stale = True
        self.set(reg.FS_BASE, 0)
        self.set(reg.GS_BASE, 0)
        self.vcpu.set_fpu(bytearray(abi.FPU.pack(b"", FCW, 0, 0, 0, 0, 0, b"", MXCSR, 0)))

    def enter_real_mode(self, vector: int, signature: int) -> None:
        """The state after INIT and a start-up IPI, kept for the engine that can run it."""
        self.power_on()
        self.set(reg.CR0, _CR0_AFTER_INIT)
        self.set(reg.CS, vector << 8)
        self._hidden[reg.CS] = (vector << 8, vector << 12, 0xFFFF, 0x9B)
        self.set(reg.RDX, signature)

    # -- x87 and SSE

    def _fpu(self) -> tuple[bytes, int, int, int, bytes, int, tuple[int, int, int]]:
        st, control, status, tag, opcode, rip, rdp, xmm, mxcsr, _ = abi.FPU.unpack(self.vcpu.get_fpu())
        return st, control, status, tag, xmm, mxcsr, (opcode, rip, rdp)

    def _fpu_register(self, register: int) -> int:
        st, control, status, tag, _, mxcsr, _ = self._fpu()
        if register == reg.MXCSR:
            return mxcsr
        if register == reg.FPTAG:
            return full_tag(st, status, tag)
        return control if register == reg.FPCW else status

    def _set_fpu_register(self, register: int, value: int) -> None:
        fields = list(abi.FPU.unpack(self.vcpu.get_fpu()))
        if register == reg.MXCSR:
            fields[8] = value & 0xFFFF
        elif register == reg.FPCW:
            fields[1] = value & 0xFFFF
        elif register == reg.FPSW:
            fields[2] = value & 0xFFFF
        elif register == reg.FPTAG:
            fields[3] = sum(1 << n for n in range(8) if value >> 2 * n & 3 != _TAG_EMPTY)
        self.vcpu.set_fpu(bytearray(abi.FPU.pack(*fields)))

    def save(self) -> dict[str, Any]:
        """All state that interrupted guest code can notice, in the form that all engines share."""
        st, control, status, tag, xmm, mxcsr, _ = self._fpu()
        top = status >> 11 & 7
        state: dict[str, Any] = {
            "general": [self.get(register) for register in reg.GENERAL],
            "scalars": [
                *(
                    self.get(reg.FS_BASE),
                    self.get(reg.GS_BASE),
                    mxcsr,
                    control,
                    status,
                    full_tag(st, status, tag),
                ),
            ],
        }
        for n in range(16):
            state[f"xmm{n}"] = xmm[16 * n : 16 * n + 16]
        for physical in range(8):
            stack = (physical - top) & 7
            state[f"fp{physical}"] = st[16 * stack : 16 * stack + 10]
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        for register, value in zip(reg.GENERAL, state["general"], strict=True):
            self.set(register, value)
        fs_base, gs_base, mxcsr, control, status, full = state["scalars"]
        self.set(reg.FS_BASE, fs_base)
        self.set(reg.GS_BASE, gs_base)
        top = status >> 11 & 7
        st = b"".join(state[f"fp{(stack + top) & 7}"].ljust(16, b"\0") for stack in range(8))
        xmm = b"".join(state[f"xmm{n}"] for n in range(16))
        tag = sum(1 << n for n in range(8) if full >> 2 * n & 3 != _TAG_EMPTY)
        self.vcpu.set_fpu(
            bytearray(abi.FPU.pack(st, control & 0xFFFF, status & 0xFFFF, tag, 0, 0, 0, xmm, mxcsr & 0xFFFF, 0))
        )

    # -- the whole processor

    def freeze(self) -> dict[str, Any]:
        """The whole processor as plain data (`machine.cpu_state`)."""
        st, control, status, tag, xmm, mxcsr, pointers = self._fpu()
        top = status >> 11 & 7
        registers = [st[16 * ((n - top) & 7) :][:10] for n in range(8)]
        full = full_tag(st, status, tag)
        return {
            "general": [self.get(register) for register in reg.GENERAL],
            "control": [self._kept[register] for register in _CONTROL],
            "debug": list(self.debug),
            "xcr0": self.xcr0,
            "nmi_masked": self.nmi_masked,
            "segments": [self._segment(name, register) for name, register in _SELECTORS.items()],
            "gdtr": self._tables["gdtr"],
            "idtr": self._tables["idtr"],
            "ldtr": self.local_table,
            "tr": self.task,
            "msrs": [
                *((index, self._msrs.get(index, 0)) for index in _MSRS),
                *((index, self.read_msr(index)) for index in (_FS_BASE, _GS_BASE, _EFER)),
            ],
            "fxsave": pack_fxsave(
                *(control, status, full, mxcsr, registers), [xmm[16 * n : 16 * n + 16] for n in range(16)], pointers
            ),
            "ymm": None,
        }

    def _segment(self, name: str, register: int) -> Segment:
        found = self._hidden.get(register) or flat_segment(self._kept[register], name == "cs")
        if register in (reg.FS, reg.GS):
            found = (found[0], self.get(reg.FS_BASE if register == reg.FS else reg.GS_BASE), *found[2:])
        return found

    def thaw(self, state: dict[str, Any]) -> None:
        """Become what `freeze` gave. Any state can be kept; whether it can be run is another matter."""
        for register, value in zip(_CONTROL, state["control"], strict=True):
            self.set(register, value)
        for (_name, register), segment in zip(_SELECTORS.items(), state["segments"], strict=True):
            self.set(register, segment[0])
            self._hidden[register] = tuple(segment)
        self._tables["gdtr"], self._tables["idtr"] = tuple(state["gdtr"]), tuple(state["idtr"])
        self.local_table, self.task = tuple(state["ldtr"]), tuple(state["tr"])
        self.debug, self.xcr0, self.nmi_masked = list(state["debug"]), state["xcr0"], state["nmi_masked"]
        for index, value in state["msrs"]:
            self.write_msr(index, value)
        fcw, fsw, tags, mxcsr, registers, xmm, pointers = unpack_fxsave(state["fxsave"])
        top = fsw >> 11 & 7
        st = b"".join(registers[(top + n) & 7].ljust(16, b"\0") for n in range(8))
        used = sum(1 << n for n in range(8) if tags >> 2 * n & 3 != _TAG_EMPTY)
        self.vcpu.set_fpu(bytearray(abi.FPU.pack(st, fcw, fsw, used, *pointers, b"".join(xmm), mxcsr & 0xFFFF, 0)))
        for register, value in zip(reg.GENERAL, state["general"], strict=True):
            self.set(register, value)
