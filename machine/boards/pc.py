"""The PC board: the devices that EFI programs and the operating systems behind them expect, at the places of QEMU's Q35."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from machine.boards.board import Board, Nic
from machine.computer import Computer
from machine.console import HostConsole
from machine.devices import acpi_pm, debug_port, i8042, i8254, reset_control, rtc, system_control
from machine.net.backend import DEFAULT_MTU
from machine.pci import bus as pci_bus
from machine.pci import lpc_bridge
from machine.pci.bus import PciBus
from machine.pci.host_bridge import HostBridge

if TYPE_CHECKING:
    from machine.devices.gvnic.device import Gvnic
    from machine.devices.virtio.pci import VirtioPci
    from machine.net.backend import Backend
    from machine.net.port import NetworkPort

ECAM_BASE = 0xE000_0000
ECAM_BUSES = 256
ELCR = 0x4D0
NIC_SLOT = 3
PCI_MEMORY = range(0xC000_0000, ECAM_BASE)
PCI_PORTS = range(0x6000, 0x8000)
"""What `plug_nic` hands out, within the windows that the ACPI tables state."""


class PcBoard(Board):
    """Devices of one computer. `end(kind)` is called for a "shutdown" or a "reset" that a device was asked for."""

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console)
        bus, clock = computer.bus, computer.clock
        self._end = end
        reset = computer.on_boot_processor_init = partial(end, "reset")
        line = self.interrupts.line
        self.rtc = rtc.Rtc(clock, line(8))
        bus.add_ports(rtc.PORT, rtc.PORTS, self.rtc.read, self.rtc.write)
        self.i8042 = i8042.I8042(reset, line(1))
        bus.add_ports(i8042.DATA_PORT, 1, self.i8042.read_data, self.i8042.write_data)
        bus.add_ports(i8042.COMMAND_PORT, 1, self.i8042.read_status, self.i8042.write_command)
        self.system_control = system_control.SystemControlPortA(reset)
        bus.add_ports(system_control.PORT, 1, self.system_control.read, self.system_control.write)
        self.acpi_pm = acpi_pm.AcpiPm(clock, line(9), partial(end, "shutdown"))
        bus.add_ports(acpi_pm.PM_BASE, acpi_pm.PM_PORTS, self.acpi_pm.read, self.acpi_pm.write)
        bus.add_ports(acpi_pm.SMI_COMMAND_PORT, acpi_pm.SMI_PORTS, self.acpi_pm.read_smi, self.acpi_pm.write_smi)
        self.post = debug_port.PostPort()
        bus.add_ports(debug_port.POST_PORT, 1, self.post.read, self.post.write)
        self.pit = i8254.I8254(clock, line(0), self.interrupts.owe_ticks)
        bus.add_ports(i8254.PORT, i8254.PORTS, self.pit.read, self.pit.write)
        bus.add_ports(i8254.STATUS_PORT, 1, self.pit.read_61, self.pit.write_61)
        bus.add_ports(ELCR, 2, self.interrupts.pic.read_elcr, self.interrupts.pic.write_elcr)
        self.lpc = lpc_bridge.LpcBridge(self.interrupts.set_irq, self.interrupts.set_pic_line, acpi_pm.PM_BASE)
        self.pci = PciBus(bus, self.lpc.set_pirq)
        self.reset_control = reset_control.ResetControl(self._reset)
        bus.add_ports(pci_bus.ADDRESS_PORT, 1, self.pci.read_address, self.pci.write_address)
        bus.add_ports(pci_bus.DATA_PORT, pci_bus.DATA_PORTS, self.pci.read_data, self.pci.write_data)
        bus.add_ports(reset_control.PORT, 1, self.reset_control.read, self.reset_control.write)
        self.pci.add(HostBridge(ECAM_BASE, ECAM_BUSES), 0)
        self.pci.add(self.lpc, lpc_bridge.SLOT)
        bus.add_mmio(ECAM_BASE, ECAM_BUSES << 20, self.pci.read_ecam, self.pci.write_ecam)

    def _reset(self, _cold: bool) -> None:
        self._end("reset")

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes, mtu: int = DEFAULT_MTU) -> None:
        """Plug a network device in at 00:03.0; enabled, as firmware leaves it. Its driver is told `mtu`.

        `kind` is "virtio", "virtio:strict", "virtio-legacy" or what `machine.devices.gvnic.variant` takes; MachineError for
        others.
        """
        from machine.net.port import NetworkPort
        from machine.pci import resources

        port = self.port = NetworkPort(backend, self.computer.idle.effect)
        device: VirtioPci | Gvnic
        device = (self._gvnic if kind.startswith("gvnic") else self._virtio)(kind, port, mac, mtu)
        self.pci.add(device, NIC_SLOT)
        self.computer.idle.polled = device.is_polled
        self.nic = Nic(NIC_SLOT, port, mac, device.reset)
        resources.assign(self.pci, self.lpc, PCI_MEMORY, PCI_PORTS)

    def _virtio(self, kind: str, port: "NetworkPort", mac: bytes, mtu: int) -> "VirtioPci":
        from machine.devices.virtio.net import VirtioNet

        computer = self.computer
        device = VirtioNet(
            computer.dma(kind),
            port,
            mac,
            defer=computer.defer,
            mtu=mtu,
            strict=kind.endswith(":strict"),
            limited=bool(computer.encryption_mask),
        )
        if kind == "virtio-legacy":
            from machine.devices.virtio.pci_legacy import VirtioPciLegacy as Transport
        else:
            from machine.devices.virtio.pci_modern import VirtioPciModern as Transport  # type: ignore[assignment]
        return Transport(device, self._deliver_message)

    def _gvnic(self, kind: str, port: "NetworkPort", mac: bytes, mtu: int) -> "Gvnic":
        from machine.devices.gvnic import variant
        from machine.devices.gvnic.device import Gvnic

        computer = self.computer
        revision, formats = variant.parse(kind)
        return Gvnic(
            computer.dma("gvnic"),
            port,
            mac,
            self._deliver_message,
            defer=computer.defer,
            clock=computer.clock,
            revision=revision,
            mtu=mtu,
            formats=formats,
        )
