"""The GHCB MSR protocol: requests in the low 12 bits of MSR 0xC0010130 (AMD 56421 GHCB, 2.3.1)."""

from machine.computer import Computer
from machine.cpu import Cpu
from sev.guest.page_state import PRIVATE, SHARED
from sev.guest.services import Services

C_BIT = 51
PROTOCOL_MIN, PROTOCOL_MAX = 1, 2
SEV_INFO, SEV_INFO_REQ = 0x001, 0x002
CPUID_REQ, CPUID_RESP = 0x004, 0x005
AP_RESET_HOLD_REQ, AP_RESET_HOLD_RESP = 0x006, 0x007
PREFERRED_GPA_REQ, PREFERRED_GPA_RESP = 0x010, 0x011
REGISTER_GPA_REQ, REGISTER_GPA_RESP = 0x012, 0x013
PSC_REQ, PSC_RESP = 0x014, 0x015
RUN_VMPL_REQ, RUN_VMPL_RESP = 0x016, 0x017
FEATURES_REQ, FEATURES_RESP = 0x080, 0x081
TERMINATE_REQ = 0x100
INFO_MASK = 0xFFF
NO_FRAME = (1 << 52) - 1
HYPERVISOR_FEATURES = 0x3
"""SNP and AP creation: what QEMU with KVM and Compute Engine answer."""

_REASONS = {
    (0, 0): "general",
    (0, 1): "protocol range not supported",
    (0, 2): "SNP features not supported",
    (1, 0): "GHCB registration failed",
    (1, 1): "page state change failed",
    (1, 2): "PVALIDATE failed",
    (1, 3): "not at VMPL0",
}


def sev_info() -> int:
    """SEV information: maximum and minimum protocol version, C-bit position."""
    return PROTOCOL_MAX << 48 | PROTOCOL_MIN << 32 | C_BIT << 24 | SEV_INFO


def termination(reason_set: int, reason: int) -> str:
    """A termination request in words."""
    known = _REASONS.get((reason_set, reason))
    text = f"the guest asked for its termination: reason {reason:#x} of set {reason_set}"
    return f"{text}, {known}" if known else text


class GhcbMsr:
    """The MSR of each CPU, and which GHCB each has registered."""

    def __init__(self, computer: Computer, services: Services, ghcbs: list[int]) -> None:
        """`ghcbs` are the GHCB pages that the firmware has registered, one for each CPU, and leaves in the MSR."""
        self._computer = computer
        self._services = services
        self.values = list(ghcbs)
        self.registered: list[int | None] = list(ghcbs)

    def run(self, cpu: Cpu) -> None:
        """Answer the request in the CPU's MSR, whose low 12 bits are not zero."""
        value = self.values[cpu.index]
        answer = self._answer(cpu, value & INFO_MASK, value >> 12)
        if answer is not None:
            self.values[cpu.index] = answer & 0xFFFF_FFFF_FFFF_FFFF

    def _answer(self, cpu: Cpu, request: int, data: int) -> int | None:
        services = self._services
        if request == SEV_INFO_REQ:
            return sev_info()
        if request == CPUID_REQ:
            answer = self._computer.cpuid(cpu, data >> 20, 0)
            return answer[data >> 18 & 3] << 32 | (data >> 18 & 3) << 30 | CPUID_RESP
        if request == PREFERRED_GPA_REQ:
            return NO_FRAME << 12 | PREFERRED_GPA_RESP
        if request == REGISTER_GPA_REQ:
            if not self._computer.memory.is_ram(data << 12):
                return NO_FRAME << 12 | REGISTER_GPA_RESP
            self.registered[cpu.index] = data << 12
            return data << 12 | REGISTER_GPA_RESP
        if request == PSC_REQ:
            frame, operation = data & (1 << 40) - 1, data >> 40 & 0xF
            known = operation in (PRIVATE, SHARED)
            done = known and services.page_states.change(cpu, frame, 1, operation)
            return (0 if done else 1) << 32 | PSC_RESP
        if request == RUN_VMPL_REQ:
            return 1 << 32 | RUN_VMPL_RESP  # there is no other VMPL's software to run
        if request == FEATURES_REQ:
            return HYPERVISOR_FEATURES << 12 | FEATURES_RESP
        if request == AP_RESET_HOLD_REQ and cpu.index:
            self._computer.hold(cpu.index)
            return 1 << 12 | AP_RESET_HOLD_RESP
        if request == AP_RESET_HOLD_REQ:
            services.terminate("the guest parks its boot processor for ever (AP reset hold)")
        elif request == TERMINATE_REQ:
            services.terminate(termination(data & 0xF, data >> 4 & 0xFF))
        else:
            services.terminate(f"the guest made an unknown request through the GHCB MSR: {data << 12 | request:#x}")
        return None
