"""The processor of an SNP guest: CPUID 0x8000001F, SEV_STATUS and the GHCB MSR, VMGEXIT, PVALIDATE, RMPADJUST, VMMCALL
(AMD64 APM volume 2, 15.34 to 15.36; volume 3 for the instructions)."""

from typing import Any

from machine import registers as reg
from machine.callbacks import Constant, never
from machine.computer import Computer
from machine.cpu import Cpu, Fault, GuestException
from machine.paging import NonCanonical, PageFault
from sev.guest.checker import (
    DOUBLE_RESCIND,
    DOUBLE_VALIDATION,
    PVALIDATE_SHARED,
    RMPADJUST_STATE,
    WRONG_VMPL,
    Checker,
)
from sev.guest.ghcb import GhcbProtocol
from sev.guest.ghcb_msr import C_BIT, INFO_MASK, GhcbMsr
from sev.guest.rmp import (
    FAIL_INPUT,
    FAIL_PERMISSION,
    FAIL_SIZEMISMATCH,
    SHARED,
    SUCCESS,
    VALIDATED,
    Rmp,
)
from sev.guest.services import Services

MSR_GHCB, MSR_SEV_STATUS = 0xC001_0130, 0xC001_0131
SEV_STATUS = 0b111
"""SEV, SEV-ES and SEV-SNP active, no further feature."""
SEV_FEATURES = SEV_STATUS >> 2
_LEAF = 0x8000_001F
_LEAF_EAX = sum(1 << bit for bit in (1, 3, 4, 5))  # SEV, SEV-ES, SEV-SNP, VMPL
_VMPLS, _REDUCTION = 4, 1
_LENGTH, _VMMCALL_LENGTH = 4, 3
_NO_HYPERCALL = (1 << 64) - 1000


class SnpProcessor:
    """Registers itself with the computer: CPUID leaf, MSRs, instructions, page filter. `vmpl` is the guest software's."""

    def __init__(self, computer: Computer, rmp: Rmp, services: Services, ghcbs: list[int], vmpl: int = 0) -> None:
        self._computer = computer
        self._rmp = rmp
        self._services = services
        self._checker: Checker = services.checker
        self._vmpl = vmpl
        self.msr = GhcbMsr(computer, services, ghcbs)
        self._protocol = GhcbProtocol(computer, services)
        answer = (_LEAF_EAX, C_BIT | _REDUCTION << 6 | _VMPLS << 12, 0, 0)
        computer.cpuid.set_leaf(_LEAF, Constant(answer))
        computer.msrs.register(MSR_SEV_STATUS, Constant(SEV_STATUS), never)
        computer.msrs.register(MSR_GHCB, self._read_ghcb, self._write_ghcb)
        computer.trap_instructions |= {
            b"\xf3\x0f\x01\xd9": self._vmgexit,
            b"\xf2\x0f\x01\xd9": self._vmgexit,
            b"\xf2\x0f\x01\xff": self._pvalidate,
            b"\xf3\x0f\x01\xfe": self._rmpadjust,
            b"\x0f\x01\xd9": self._vmmcall,
        }
        computer.page_filter = self._checker.fill

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        services = self._services
        return {
            "ghcb_msr": list(self.msr.values),
            "registered": list(self.msr.registered),
            "dr7": services.dr7,
            "jump_table": services.jump_table,
            "busy": services.requests.busy_left,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        services = self._services
        self.msr.values = list(state["ghcb_msr"])
        self.msr.registered = list(state["registered"])
        services.dr7, services.jump_table = state["dr7"], state["jump_table"]
        services.requests.busy_left = state["busy"]

    def _read_ghcb(self, cpu: Cpu) -> int:
        return self.msr.values[cpu.index]

    def _write_ghcb(self, cpu: Cpu, value: int) -> bool:
        self.msr.values[cpu.index] = value
        return True

    def _vmgexit(self, cpu: Cpu, _code: bytes) -> int:
        computer, checker = self._computer, self._checker
        computer.idle.effect()
        if computer.virtual:
            computer.tick()
        value = self.msr.values[cpu.index]
        if value & INFO_MASK:
            self.msr.run(cpu)
            return _LENGTH
        if not computer.memory.is_ram(value):
            self._services.terminate(f"VMGEXIT with a GHCB at {value:#x}, where there is no memory")
            return _LENGTH
        if not checker.host_access(value, 4096, "GHCB", cpu) and checker.strict:
            self._services.terminate(f"VMGEXIT with a GHCB at {value:#x} that is private: the host sees ciphertext")
            return _LENGTH
        checker.look_for_keys(value >> 12, 1, cpu, "in the GHCB")
        self._protocol.run(cpu, value, self.msr.registered[cpu.index] == value)
        return _LENGTH

    def _vmmcall(self, cpu: Cpu, _code: bytes) -> int:
        cpu.set(reg.RAX, _NO_HYPERCALL)
        return _VMMCALL_LENGTH

    def _frame(self, cpu: Cpu, address: int) -> int:
        """The page behind a linear address, with the checks of a one-byte read. GuestException for #PF and #GP."""
        computer = self._computer
        try:
            return computer.look(cpu.mode(), address & ~0xFFF).physical >> 12
        except PageFault as fault:
            raise GuestException(Fault(14, fault.error_code, fault.address)) from None
        except NonCanonical:
            raise GuestException(Fault(13, 0)) from None

    def _kernel_only(self, cpu: Cpu) -> None:
        if cpu.get(reg.CS) & 3:
            raise GuestException(Fault(13, 0))

    def _pvalidate(self, cpu: Cpu, _code: bytes) -> int:
        self._kernel_only(cpu)
        # Linux 6.12 leaves the frame number above the operands' bits, as compilers may with a bool.
        size, wanted = cpu.get(reg.RCX) & 1, cpu.get(reg.RDX) & 1
        if self._vmpl:
            self._checker.record(WRONG_VMPL, cpu, detail=f"PVALIDATE at VMPL{self._vmpl}")
            if self._checker.strict:
                raise GuestException(Fault(13, 0))
        frame = self._frame(cpu, cpu.get(reg.RAX))
        if size and frame & 0x1FF:
            return self._result(cpu, FAIL_INPUT, True)
        checker, count = self._checker, 512 if size else 1
        states = self._rmp.states
        if not self._rmp.is_ram(frame, count):
            return self._result(cpu, FAIL_INPUT, True)
        if states.find(SHARED, frame, frame + count) >= 0:
            # The host would have to make the page private first; TamaGo does this, and looks at EAX alone.
            checker.record(PVALIDATE_SHARED, cpu, frame)
            return self._result(cpu, FAIL_SIZEMISMATCH if size and not self._rmp.is_large(frame) else SUCCESS, True)
        status, changed = self._rmp.validate(frame, bool(size), bool(wanted))
        if changed:
            checker.changed(frame, count)
        elif status == SUCCESS:
            checker.record(DOUBLE_VALIDATION if wanted else DOUBLE_RESCIND, cpu, frame)
        return self._result(cpu, status, not changed)

    def _rmpadjust(self, cpu: Cpu, _code: bytes) -> int:
        self._kernel_only(cpu)
        size, attributes = cpu.get(reg.RCX) & 1, cpu.get(reg.RDX)
        vmpl, permissions, vmsa = attributes & 0xFF, attributes >> 8 & 0xFF, bool(attributes >> 16 & 1)
        if attributes >> 17 or vmpl >= _VMPLS or permissions > 0xF:
            return self._result(cpu, FAIL_INPUT)
        frame = self._frame(cpu, cpu.get(reg.RAX))
        if (size and frame & 0x1FF) or not self._rmp.is_ram(frame, 512 if size else 1):
            return self._result(cpu, FAIL_INPUT)
        if vmpl <= self._vmpl:
            return self._result(cpu, FAIL_PERMISSION)
        if self._rmp.states[frame] != VALIDATED:
            self._checker.record(RMPADJUST_STATE, cpu, frame)
            return self._result(cpu, FAIL_INPUT)
        status = self._rmp.adjust(frame, bool(size), vmpl, permissions, vmsa)
        self._checker.changed(frame, 512 if size else 1)
        return self._result(cpu, status)

    def _result(self, cpu: Cpu, status: int, unchanged: bool | None = None) -> int:
        """EAX; CF after PVALIDATE says that no Validated bit changed. Other flags follow EAX as after a comparison with 0."""
        cpu.set(reg.RAX, status)
        flags = cpu.get(reg.RFLAGS) & ~_FLAGS
        if unchanged:
            flags |= reg.RFLAGS_CF
        cpu.set(reg.RFLAGS, flags | (_ZF if status == 0 else 0))
        return _LENGTH


_ZF = 1 << 6
_FLAGS = 0x8D5
"""OF, SF, ZF, AF, PF, CF."""
