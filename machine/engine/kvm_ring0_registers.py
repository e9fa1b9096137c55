"""The registers of a processor on KVM whose guest is in ring 0 itself: the real ones, in the page shared with the kernel."""

from typing import Any

from machine import registers as reg
from machine.cpu_state import LDT_ATTRIBUTES, TSS_ATTRIBUTES, Segment, pack_fxsave, segment_of, unpack_fxsave
from machine.engine import kvm_abi as abi
from machine.engine.kvm_registers import FCW, MXCSR, PLACES, full_tag
from machine.errors import BadAddress
from machine.linear import LinearMemory
from machine.memory import PhysicalMemory
from machine.paging import CR0_PE, EFER_LMA, EFER_LME, Mode

_EFER, _FS_BASE, _GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101
_KEPT_BY_KVM = (0x174, 0x175, 0x176, 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102)
_CONTROL = {reg.CR0: 0, reg.CR2: 1, reg.CR3: 2, reg.CR4: 3, reg.CR8: 4}
_EFER_AT = 5
_SEGMENT_AT = dict(
    zip(
        (reg.ES, reg.CS, reg.SS, reg.DS, reg.FS, reg.GS),
        (abi.ES_AT, abi.CS_AT, abi.SS_AT, abi.DS_AT, abi.FS_AT, abi.GS_AT),
        strict=True,
    )
)
_TABLE_AT = {"gdtr": abi.GDT_AT, "idtr": abi.IDT_AT}
_MASK = (1 << 64) - 1
_CR0_ET = 1 << 4
_X87 = 1
_DEBUG = [0, 0, 0, 0, 0xFFFF_0FF0, 0x400]
"""DR0 to DR3, DR6, DR7 after INIT (APM volume 2, table 14-1)."""
_EMPTY = 3


class Ring0Registers:
    """Registers of one processor; see `machine.cpu.Cpu`. What is written here reaches KVM with the next KVM_RUN."""

    def __init__(self, vcpu: abi.Vcpu, memory: PhysicalMemory) -> None:
        self.vcpu = vcpu
        self.page = vcpu.page
        self.real = vcpu.regs
        self._memory = memory
        self.system_written = True
        """Whether anything of struct kvm_sregs was written since the last KVM_RUN, which then has to load it."""
        self.page[abi.SREGS_AT : abi.SREGS_AT + abi.SREGS_SIZE] = bytes(vcpu.get_sregs())
        self.power_on()

    def power_on(self) -> None:
        """As after INIT, but for CS, which has no base."""
        for register in range(18):
            self.real[register] = 0
        self.real[abi.RFLAGS] = 2
        for register in _CONTROL:
            self.set(register, 0)
        self.set(reg.CR0, _CR0_ET)
        self._set_efer(0)
        for register in _SEGMENT_AT:
            self.set_segment(register, (0, 0, 0xFFFF, 0x9B if register == reg.CS else 0x93))
        self._set_system(abi.TR_AT, (0, 0, 0xFFFF, TSS_ATTRIBUTES))
        self._set_system(abi.LDT_AT, (0, 0, 0xFFFF, LDT_ATTRIBUTES))
        for name in _TABLE_AT:
            self.set_table(name, 0, 0xFFFF)
        self.vcpu.set_fpu(bytearray(abi.FPU.pack(b"", FCW, 0, 0, 0, 0, 0, b"", MXCSR, 0)))
        self.vcpu.set_debug_registers(_DEBUG)
        self._set_xcr0(_X87)

    @property
    def nmi_masked(self) -> bool:
        """False: the guest's IRET is not seen here."""
        return False

    @nmi_masked.setter
    def nmi_masked(self, masked: bool) -> None:
        """Nobody would take it back."""

    # -- one by one

    def _control_at(self, index: int) -> slice:
        at = abi.SREGS_AT + abi.CONTROL_AT + 8 * index
        return slice(at, at + 8)

    def get(self, register: int) -> int:
        """Read one register."""
        if register <= reg.RIP:
            value: int = self.real[PLACES[register]]
            return value
        if register == reg.RFLAGS:
            return int(self.real[abi.RFLAGS])
        if register in _CONTROL:
            return int.from_bytes(self.page[self._control_at(_CONTROL[register])], "little")
        if register in _SEGMENT_AT:
            return self.segment(register)[0]
        if register in (reg.FS_BASE, reg.GS_BASE):
            return self.segment(reg.FS if register == reg.FS_BASE else reg.GS)[1]
        fields = abi.FPU.unpack(self.vcpu.get_fpu())
        if register == reg.FPTAG:
            return full_tag(fields[0], fields[2], fields[3])
        return int(fields[{reg.MXCSR: 8, reg.FPCW: 1, reg.FPSW: 2}[register]])

    def set(self, register: int, value: int) -> None:
        """Write one register. A selector loads its descriptor from the guest's table, or in real mode a base."""
        value &= _MASK
        if register <= reg.RIP:
            self.real[PLACES[register]] = value
        elif register == reg.RFLAGS:
            self.real[abi.RFLAGS] = value | 2
        elif register in _CONTROL:
            self.page[self._control_at(_CONTROL[register])] = value.to_bytes(8, "little")
            self.system_written = True
            self._follow_paging()
        elif register in _SEGMENT_AT:
            self.set_segment(register, self._described(value & 0xFFFF))
        elif register in (reg.FS_BASE, reg.GS_BASE):
            which = reg.FS if register == reg.FS_BASE else reg.GS
            selector, _, limit, attributes = self.segment(which)
            self.set_segment(which, (selector, value, limit, attributes))
        else:
            fields = list(abi.FPU.unpack(self.vcpu.get_fpu()))
            if register == reg.FPTAG:
                fields[3] = sum(1 << n for n in range(8) if value >> 2 * n & 3 != _EMPTY)
            else:
                fields[{reg.MXCSR: 8, reg.FPCW: 1, reg.FPSW: 2}[register]] = value & 0xFFFF
            self.vcpu.set_fpu(bytearray(abi.FPU.pack(*fields)))

    def _described(self, selector: int) -> Segment:
        if not self.get(reg.CR0) & CR0_PE:
            return selector, selector << 4, 0xFFFF, 0x93
        base, limit = self.table("gdtr")
        at = selector & 0xFFF8
        if at and at + 7 <= limit:
            try:
                raw = LinearMemory(self._memory, self, self.mode()).read(base + at, 8)  # type: ignore[arg-type]
                return segment_of(selector, int.from_bytes(raw, "little"))
            except BadAddress:
                pass
        return selector, 0, 0, 0

    def segment(self, register: int) -> Segment:
        """A segment register with its hidden parts."""
        return self._system(_SEGMENT_AT[register])

    def set_segment(self, register: int, segment: Segment) -> None:
        """Load a segment register with its hidden parts."""
        self._set_system(_SEGMENT_AT[register], segment)

    def _system(self, at: int) -> Segment:
        base, limit, selector, kind, present, dpl, db, s, long, g, avl, unusable, _ = abi.SEGMENT.unpack_from(
            self.page, abi.SREGS_AT + at
        )
        if unusable:
            return selector, base, limit, 0
        low = kind | s << 4 | dpl << 5 | present << 7
        return selector, base, limit, low | avl << 12 | long << 13 | db << 14 | g << 15

    def _set_system(self, at: int, segment: Segment) -> None:
        self.system_written = True
        selector, base, limit, attributes = segment
        bits = [attributes >> n & 1 for n in range(16)]
        abi.SEGMENT.pack_into(
            *(self.page, abi.SREGS_AT + at, base, limit, selector, attributes & 0xF, bits[7], attributes >> 5 & 3),
            *(bits[14], bits[4], bits[13], bits[15], bits[12], 1 - bits[7], 0),
        )

    def arguments(self) -> tuple[int, int, int, int, int]:
        """RCX, RDX, R8, R9, RSP."""
        real = self.real
        return real[abi.RCX], real[abi.RDX], real[8], real[9], real[abi.RSP]

    def mode(self) -> Mode:
        """The paging mode as the control registers have it now."""
        return Mode(self.get(reg.CR0), self.get(reg.CR3), self.get(reg.CR4), self.read_msr(_EFER))

    def _xcr0(self) -> int:
        """XCR0, or what it is before anybody sets it where KVM has no XSAVE."""
        try:
            return self.vcpu.get_xcr0()
        except OSError:
            return _X87

    def _set_xcr0(self, value: int) -> None:
        if value != self._xcr0():
            self.vcpu.set_xcr0(value)

    def _set_efer(self, value: int) -> None:
        self.page[self._control_at(_EFER_AT)] = value.to_bytes(8, "little")
        self._follow_paging()

    def _follow_paging(self) -> None:
        """EFER.LMA is what LME and CR0.PG make of it: KVM takes nothing else."""
        at = self._control_at(_EFER_AT)
        efer = int.from_bytes(self.page[at], "little") & ~EFER_LMA
        if efer & EFER_LME and self.get(reg.CR0) >> 31 & 1:
            efer |= EFER_LMA
        self.page[at] = efer.to_bytes(8, "little")
        self.system_written = True

    def read_msr(self, index: int) -> int:
        """Read an MSR that KVM keeps."""
        if index == _EFER:
            return int.from_bytes(self.page[self._control_at(_EFER_AT)], "little")
        if index in (_FS_BASE, _GS_BASE):
            return self.get(reg.FS_BASE if index == _FS_BASE else reg.GS_BASE)
        return self.vcpu.get_msr(index)

    def write_msr(self, index: int, value: int) -> None:
        """Write an MSR that KVM keeps."""
        if index == _EFER:
            self._set_efer(value)
        elif index in (_FS_BASE, _GS_BASE):
            self.set(reg.FS_BASE if index == _FS_BASE else reg.GS_BASE, value)
        else:
            self.vcpu.set_msr(index, value)

    def table(self, name: str) -> tuple[int, int]:
        """(base, limit) of a descriptor table register or TR."""
        if name == "tr":
            return self._system(abi.TR_AT)[1:3]
        base, limit = abi.TABLE.unpack_from(self.page, abi.SREGS_AT + _TABLE_AT[name])
        return base, limit

    def set_table(self, name: str, base: int, limit: int, selector: int = 0) -> None:
        """Load a descriptor table register or TR."""
        if name == "tr":
            self._set_system(abi.TR_AT, (selector, base, limit, TSS_ATTRIBUTES))
        else:
            abi.TABLE.pack_into(self.page, abi.SREGS_AT + _TABLE_AT[name], base, limit)
            self.system_written = True

    def begin_turn(self, blocks: int) -> None:
        """Blocks of code cannot be counted here."""

    def enter_ring0(self, selector: int) -> None:
        """Ring 0 with CS = `selector` and a null SS, as an interrupt from ring 3 finds them."""
        self.set(reg.CS, selector & 0xFFFC)
        self.set_segment(reg.SS, (0, 0, 0xFFFF_FFFF, 0xC093))

    def enter_real_mode(self, vector: int, signature: int) -> None:
        """Real mode at vector << 12, everything else as after INIT."""
        self.power_on()
        self.set_segment(reg.CS, (vector << 8, vector << 12, 0xFFFF, 0x9B))
        self.set(reg.RDX, signature)

    # -- many at once

    def _fxsave(self) -> bytes:
        st, control, status, tag, opcode, rip, rdp, xmm, mxcsr, _ = abi.FPU.unpack(self.vcpu.get_fpu())
        top = status >> 11 & 7
        registers = [st[16 * ((n - top) & 7) :][:10] for n in range(8)]
        vectors = [xmm[16 * n : 16 * n + 16] for n in range(16)]
        return pack_fxsave(control, status, full_tag(st, status, tag), mxcsr, registers, vectors, (opcode, rip, rdp))

    def _load_fxsave(self, image: bytes) -> None:
        fcw, fsw, tags, mxcsr, registers, xmm, pointers = unpack_fxsave(image)
        top = fsw >> 11 & 7
        st = b"".join(registers[(top + n) & 7].ljust(16, b"\0") for n in range(8))
        used = sum(1 << n for n in range(8) if tags >> 2 * n & 3 != _EMPTY)
        self.vcpu.set_fpu(bytearray(abi.FPU.pack(st, fcw, fsw, used, *pointers, b"".join(xmm), mxcsr & 0xFFFF, 0)))

    def save(self) -> dict[str, Any]:
        """All state that interrupted guest code can notice, in the form that all engines share."""
        fcw, fsw, tags, mxcsr, registers, xmm, _ = unpack_fxsave(self._fxsave())
        state: dict[str, Any] = {
            "general": [self.get(register) for register in reg.GENERAL],
            "scalars": [self.get(reg.FS_BASE), self.get(reg.GS_BASE), mxcsr, fcw, fsw, tags],
        }
        state.update({f"xmm{n}": value for n, value in enumerate(xmm)})
        state.update({f"fp{n}": value for n, value in enumerate(registers)})
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        fs_base, gs_base, mxcsr, fcw, fsw, tags = state["scalars"]
        registers, xmm = [state[f"fp{n}"] for n in range(8)], [state[f"xmm{n}"] for n in range(16)]
        self._load_fxsave(pack_fxsave(fcw, fsw, tags, mxcsr, registers, xmm, (0, 0, 0)))
        self.set(reg.FS_BASE, fs_base)
        self.set(reg.GS_BASE, gs_base)
        for register, value in zip(reg.GENERAL, state["general"], strict=True):
            self.set(register, value)

    def freeze(self) -> dict[str, Any]:
        """The whole processor as plain data (`machine.cpu_state`)."""
        return {
            "general": [self.get(register) for register in reg.GENERAL],
            "control": [self.get(register) for register in _CONTROL],
            "debug": self.vcpu.get_debug_registers(),
            "xcr0": self._xcr0(),
            "nmi_masked": self.nmi_masked,
            "segments": [self._system(at) for at in _SEGMENT_AT.values()],
            "gdtr": self.table("gdtr"),
            "idtr": self.table("idtr"),
            "ldtr": self._system(abi.LDT_AT),
            "tr": self._system(abi.TR_AT),
            "msrs": [(index, self.read_msr(index)) for index in (*_KEPT_BY_KVM, _FS_BASE, _GS_BASE, _EFER)],
            "fxsave": self._fxsave(),
            "ymm": None,
        }

    def thaw(self, state: dict[str, Any]) -> None:
        """Become what `freeze` gave."""
        for register, value in zip(_CONTROL, state["control"], strict=True):
            self.set(register, value)
        for index, value in state["msrs"]:
            self.write_msr(index, value)
        for at, segment in zip(_SEGMENT_AT.values(), state["segments"], strict=True):
            self._set_system(at, tuple(segment))
        self.set_table("gdtr", *state["gdtr"])
        self.set_table("idtr", *state["idtr"])
        self._set_system(abi.LDT_AT, tuple(state["ldtr"]))
        self._set_system(abi.TR_AT, tuple(state["tr"]))
        self.vcpu.set_debug_registers(list(state["debug"]))
        self._set_xcr0(state["xcr0"])
        self._load_fxsave(state["fxsave"])
        for register, value in zip(reg.GENERAL, state["general"], strict=True):
            self.set(register, value)
