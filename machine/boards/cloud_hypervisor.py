"""Cloud Hypervisor's machine model: one I/O APIC, PCI, a port that switches it off, the clock of KVM. No network device yet."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine.boards.board import Board
from machine.computer import Computer
from machine.console import HostConsole
from machine.devices import i8042, rtc
from machine.errors import MachineError
from machine.kvm_paravirt import KvmParavirt
from machine.pci import bus as pci_bus
from machine.pci.bus import PciBus

if TYPE_CHECKING:
    from machine.cpu import Cpu
    from machine.net.backend import Backend

SHUTDOWN_PORT = 0x600
"""The ACPI sleep control register (HW-reduced ACPI, ACPI 6.5, 4.8.3.7)."""

_SLEEP_ENABLE, _S5 = 0x20, 5 << 2


class CloudHypervisorBoard(Board):
    """Devices of one computer. `end(kind)` is called for a "shutdown" or a "reset" that a device was asked for."""

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console)
        self._end = end
        bus, line = computer.bus, self.interrupts.line
        KvmParavirt(computer)
        self.i8042 = i8042.I8042(lambda: end("reset"), line(1))
        bus.add_ports(i8042.DATA_PORT, 1, self.i8042.read_data, self.i8042.write_data)
        bus.add_ports(i8042.COMMAND_PORT, 1, self.i8042.read_status, self.i8042.write_command)
        self.rtc = rtc.Rtc(computer.clock, line(8))
        bus.add_ports(rtc.PORT, rtc.PORTS, self.rtc.read, self.rtc.write)
        bus.add_ports(SHUTDOWN_PORT, 4, lambda _cpu, _offset, _size: 0, self._sleep)
        self.pci = PciBus(bus, lambda _pin, _level: None)
        bus.add_ports(pci_bus.ADDRESS_PORT, 1, self.pci.read_address, self.pci.write_address)
        bus.add_ports(pci_bus.DATA_PORT, pci_bus.DATA_PORTS, self.pci.read_data, self.pci.write_data)

    def _sleep(self, _cpu: "Cpu", offset: int, _size: int, value: int) -> None:
        if not offset and value & 0xFF == _SLEEP_ENABLE | _S5:
            self._end("shutdown")

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes) -> None:
        """MachineError: guests put its registers above 4 GiB, where no engine of ours reaches a device yet."""
        raise MachineError("the cloud_hypervisor board has no network device yet; leave --nic and --net out")
