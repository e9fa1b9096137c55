"""Firecracker's machine model: one I/O APIC, VirtIO over MMIO, a keyboard controller for reset only, the clock of KVM."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from machine.boards.board import Board
from machine.computer import Computer
from machine.console import HostConsole
from machine.devices import i8042, i8254
from machine.devices.virtio import mmio
from machine.kvm_paravirt import KvmParavirt
from machine.net.backend import DEFAULT_MTU

if TYPE_CHECKING:
    from machine.net.backend import Backend

NIC_BASE, NIC_IRQ = 0xC000_2000, 6


class FirecrackerBoard(Board):
    """Devices of one computer. `end("shutdown")` is called when the guest resets it: Firecracker then ends."""

    MP_TABLE = range(0x9_FC00, 0xA_0000)

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console)
        bus, line = computer.bus, self.interrupts.line
        KvmParavirt(computer)
        self.i8042 = i8042.I8042(partial(end, "shutdown"), line(1))
        computer.on_boot_processor_init = partial(end, "shutdown")
        bus.add_ports(i8042.DATA_PORT, 1, self.i8042.read_data, self.i8042.write_data)
        bus.add_ports(i8042.COMMAND_PORT, 1, self.i8042.read_status, self.i8042.write_command)
        self.pit = i8254.I8254(computer.clock, line(0), self.interrupts.owe_ticks)
        bus.add_ports(i8254.PORT, i8254.PORTS, self.pit.read, self.pit.write)
        bus.add_ports(i8254.STATUS_PORT, 1, self.pit.read_61, self.pit.write_61)

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes, mtu: int = DEFAULT_MTU) -> None:
        """Plug a VirtIO network device in. MachineError for another kind."""
        # Firecracker's device never looks at what was negotiated: its headers have 12 bytes, and TamaGo counts on that.
        device = self._virtio_net(kind, backend, mac, mtu, self.interrupts.line(NIC_IRQ), long_header=True)
        self.computer.bus.add_mmio(NIC_BASE, mmio.SIZE, device.read, device.write)
