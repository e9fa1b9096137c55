"""Google Compute Engine's machine as a unikernel without UEFI sees it: the PC, under KVM. A triple fault ends it."""

from collections.abc import Callable

from machine.boards.pc import PcBoard
from machine.computer import Computer
from machine.console import HostConsole
from machine.kvm_paravirt import KvmParavirt


class GcpBoard(PcBoard):
    """Devices of one computer. `end(kind)` is called for a "shutdown" or a "reset" that a device was asked for."""

    triple_fault_ends = True
    usual_nic = "virtio-legacy"

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console, end)
        KvmParavirt(computer)
