"""SNP AP creation: the guest starts and stops its other processors through the hypervisor (AMD 56421 GHCB, 4.1.16)."""

from typing import Any

from machine.computer import Computer
from machine.cpu import Cpu
from sev.guest.ghcb_page import INVALID_INPUT, Malformed
from sev.guest.rmp import VALIDATED, Rmp
from sev.guest.vmsa import SEV_FEATURES, SIZE, BadVmsa, Vmsa

CREATE_ON_INIT, CREATE, DESTROY = 0, 1, 2


class Processors:
    """Which VMSA waits for which processor's INIT. `sev_features` are the guest's."""

    def __init__(self, computer: Computer, rmp: Rmp, sev_features: int) -> None:
        self._computer = computer
        self._rmp = rmp
        self._features = sev_features
        self.on_init: dict[int, int] = {}
        computer.init_filter = self._initialized

    def request(self, cpu: Cpu, info: int, vmsa: int, features: int) -> None:
        """One request: SW_EXITINFO1, SW_EXITINFO2 and RAX. Malformed, where KVM refuses and where the processor would."""
        operation, vmpl, apic = info & 0xFFFF, info >> 16 & 0xFF, info >> 32
        if operation > DESTROY:
            raise Malformed(INVALID_INPUT, f"AP creation request {operation}; wanted 0, 1 or 2")
        if not 0 <= apic < len(self._computer.engine.cpus) or apic == cpu.index:
            raise Malformed(INVALID_INPUT, f"AP creation for APIC id {apic}; there is no other processor of that id")
        if apic == 0:
            raise Malformed(INVALID_INPUT, "AP creation for the boot processor, which firmware started")
        if operation == DESTROY:
            self.on_init.pop(apic, None)
            self._computer.park(apic)
            return
        if features != self._features:
            raise Malformed(INVALID_INPUT, f"AP creation with SEV_FEATURES {features:#x}; the guest has others")
        if vmpl:
            raise Malformed(INVALID_INPUT, f"AP creation at VMPL{vmpl}; only VMPL0 can be run")
        if vmsa & 0xFFF or not vmsa & 0x1F_FFFF or not self._computer.memory.is_ram(vmsa):
            raise Malformed(INVALID_INPUT, f"AP creation with a VMSA at {vmsa:#x}; wanted a page not at 2 MiB")
        self._check(vmsa)
        if operation == CREATE_ON_INIT:
            self.on_init[apic] = vmsa
        else:
            self._run(apic, vmsa)

    def _check(self, vmsa: int) -> Vmsa:
        frame = vmsa >> 12
        if self._rmp.states[frame] != VALIDATED or not self._rmp.is_vmsa(frame):
            raise Malformed(
                INVALID_INPUT, f"AP creation with a VMSA at {vmsa:#x} that RMPADJUST has not made one: VMRUN would fail"
            )
        page = Vmsa(self._computer.memory.read(vmsa, SIZE))
        if page.u64(SEV_FEATURES) != self._features:
            raise Malformed(
                INVALID_INPUT,
                f"AP creation: the VMSA has SEV_FEATURES {page.u64(SEV_FEATURES):#x}; the guest has others",
            )
        return page

    def _run(self, apic: int, vmsa: int) -> None:
        computer = self._computer
        computer.park(apic)
        try:
            self._check(vmsa).load(computer.engine.cpus[apic], computer.memory, computer.encryption_mask)
        except BadVmsa as error:
            raise Malformed(INVALID_INPUT, f"AP creation with a VMSA at {vmsa:#x}: {error}") from None
        computer.start(apic)

    def _initialized(self, apic: int) -> bool:
        """A processor got an INIT: if a VMSA waits for that, it runs now."""
        vmsa = self.on_init.pop(apic, None)
        if vmsa is None:
            return False
        try:
            self._run(apic, vmsa)
        except Malformed:
            return False  # the page is no VMSA any more: the processor does not run
        return True

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        return {"on_init": dict(self.on_init)}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        self.on_init = dict(state["on_init"])
