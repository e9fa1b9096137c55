"""Cloud Hypervisor's machine model: one I/O APIC, PCI, a port that switches it off, the clock of KVM."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from machine.boards.board import Board, Nic
from machine.callbacks import nothing, zero
from machine.computer import Computer
from machine.console import HostConsole
from machine.devices import i8042, rtc
from machine.errors import BusConflict, MachineError
from machine.kvm_paravirt import KvmParavirt
from machine.net.backend import DEFAULT_MTU
from machine.pci import bus as pci_bus
from machine.pci import config_space
from machine.pci.bus import PciBus

if TYPE_CHECKING:
    from machine.cpu import Cpu
    from machine.net.backend import Backend

SHUTDOWN_PORT = 0x600
"""The ACPI sleep control register (HW-reduced ACPI, ACPI 6.5, 4.8.3.7), which is the reset register, too."""
S5, RESET = 5, 1
"""SLP_TYP of soft off, and what resets the machine."""
TABLES = 0xA_0000
"""Where the monitor leaves ACPI's tables, behind the last RAM below 1 MiB."""
LOW_DEVICES = range(0xC000_0000, 0xFEC0_0000)

DEVICE_WINDOW, DEVICE_WINDOW_SIZE = 0x1_4000_0000, 1 << 30
"""Where TamaGo puts the network device's registers, and the last gibibyte that it maps."""
NIC_SLOT, NIC_MESSAGES = 3, 0xE800_0000

_SLEEP_ENABLE, _TYPE_SHIFT = 0x20, 2


class CloudHypervisorBoard(Board):
    """Devices of one computer. `end(kind)` is called for a "shutdown" or a "reset" that a device was asked for."""

    hardware_reduced = True
    _ENDS: ClassVar[dict[int, str]] = {_SLEEP_ENABLE | S5 << _TYPE_SHIFT: "shutdown", RESET: "reset"}

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console)
        self._end = end
        computer.on_boot_processor_init = partial(end, "reset")
        bus, line = computer.bus, self.interrupts.line
        KvmParavirt(computer)
        self.i8042 = i8042.I8042(partial(end, "reset"), line(1))
        bus.add_ports(i8042.DATA_PORT, 1, self.i8042.read_data, self.i8042.write_data)
        bus.add_ports(i8042.COMMAND_PORT, 1, self.i8042.read_status, self.i8042.write_command)
        self.rtc = rtc.Rtc(computer.clock, line(8))
        bus.add_ports(rtc.PORT, rtc.PORTS, self.rtc.read, self.rtc.write)
        bus.add_ports(SHUTDOWN_PORT, 4, zero, self._sleep)
        self.pci = PciBus(bus, nothing)
        bus.add_ports(pci_bus.ADDRESS_PORT, 1, self.pci.read_address, self.pci.write_address)
        bus.add_ports(pci_bus.DATA_PORT, pci_bus.DATA_PORTS, self.pci.read_data, self.pci.write_data)

    def _sleep(self, _cpu: "Cpu", offset: int, _size: int, value: int) -> None:
        if not offset and value & 0xFF in self._ENDS:
            self._end(self._ENDS[value & 0xFF])

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes, mtu: int = DEFAULT_MTU) -> None:
        """Plug a VirtIO network device in at 00:03.0. MachineError for another kind, or where RAM lies in its place."""
        if kind != "virtio":
            raise MachineError(f"--nic {kind}: this board has VirtIO over PCI only; use --nic virtio")
        computer = self.computer
        try:
            computer.bus.open_window(DEVICE_WINDOW, DEVICE_WINDOW_SIZE)
        except BusConflict as error:
            raise MachineError(f"--nic {kind}: {error}; use --memory 4G at most") from None
        from machine.devices.virtio.net import VirtioNet
        from machine.devices.virtio.pci_modern import VirtioPciModern
        from machine.net.port import NetworkPort

        port = self.port = NetworkPort(backend, computer.idle.effect)
        # As with Firecracker, headers have 12 bytes whatever was negotiated; the command register's bus master bit, which
        # TamaGo leaves clear, holds nothing back either.
        net = VirtioNet(computer.dma(kind), port, mac, defer=computer.defer, mtu=mtu, long_header=True)
        device = VirtioPciModern(net, self._deliver_message, wide=True, always_master=True)
        self.pci.add(device, NIC_SLOT)
        for index, address in ((0, DEVICE_WINDOW), (2, NIC_MESSAGES)):
            device.set_bar_address(device.bars[index], address)
        device.write_config(config_space.COMMAND, 2, config_space.COMMAND_MEMORY)
        computer.idle.polled = device.is_polled
        self.nic = Nic(NIC_SLOT, port, mac, device.reset)
