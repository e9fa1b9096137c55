"""What all boards have: a serial port that is the console, the interrupt controllers, and perhaps one network device."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from machine.computer import Computer
from machine.console import HostConsole
from machine.devices.serial16550 import LINE_STATUS, READY, TRANSMITTER, Serial16550
from machine.errors import MachineError
from machine.interrupts import i8259
from machine.interrupts.controller import InterruptController
from machine.interrupts.io_apic import IO_APIC_BASE, IO_APIC_SIZE
from machine.interrupts.local_apic import APIC_BASE, APIC_SIZE
from machine.net.backend import DEFAULT_MTU
from machine.posted_writes import PostedWrites

if TYPE_CHECKING:
    from machine.cpu import Cpu
    from machine.devices.virtio.mmio import VirtioMmio
    from machine.net.backend import Backend
    from machine.net.port import NetworkPort

COM1 = 0x3F8


class Nic:
    """The network device: its slot on bus 0, the port it is plugged into, its address (6 bytes), and what resets it."""

    def __init__(self, slot: int, port: "NetworkPort", mac: bytes, reset: Callable[[], None]) -> None:
        self.slot = slot
        self.port = port
        self.mac = mac
        self.reset = reset


class Board:
    """The common part of a board. The local APICs are in the mode that firmware leaves them in; the 8259s are masked."""

    MP_TABLE: ClassVar[range | None] = None
    """Where firmware, or the monitor, leaves an MP table."""

    triple_fault_ends = False
    """Whether guests switch this machine off by a triple fault, for want of another way."""
    hardware_reduced = False
    """Whether the machine has ACPI's hardware-reduced form (ACPI 6.5, 4.1)."""
    usual_nic = "virtio"
    """The network device that a guest of this board looks for."""

    def __init__(self, computer: Computer, console: HostConsole) -> None:
        self.computer = computer
        self.console = console
        self.nic: Nic | None = None
        self.port: NetworkPort | None = None
        """What the network device is plugged into."""
        bus = computer.bus
        computer.on_idle = console.flush
        computer.input_waiting = console.pending
        console.on_taken = computer.idle.effect
        self.interrupts = InterruptController(computer.clock, len(computer.engine.cpus))
        computer.connect(self.interrupts)
        self.serial = Serial16550(console, self.interrupts.line(4))
        self.serial.on_poll_empty = self._input_polled
        bus.add_ports(COM1, 8, self.serial.read, self._write_serial)
        computer.posted_writes = PostedWrites(
            COM1 + TRANSMITTER, COM1 + LINE_STATUS, READY, self._may_post, self._write_posted
        )
        self._add_i8259s(computer)
        io_apic = self.interrupts.io_apic
        bus.add_mmio(IO_APIC_BASE, IO_APIC_SIZE, io_apic.read, io_apic.write)
        bus.add_mmio(APIC_BASE, APIC_SIZE, self.interrupts.read_local_apic, self.interrupts.write_local_apic)
        for apic in self.interrupts.local_apics:
            apic.enter_virtual_wire_mode()

    def _add_i8259s(self, computer: Computer) -> None:
        pic = self.interrupts.pic
        for base, chip, vector, cascade in ((0x20, pic.master, 0x68, 4), (0xA0, pic.slave, 0x70, 2)):
            computer.bus.add_ports(base, i8259.PORTS, chip.read, chip.write)
            # As UEFI firmware leaves them: vectors that are no exceptions', and all masked. A guest that uses the I/O
            # APIC only (TamaGo) would take the serial port's IRQ 4 as exception 4 otherwise.
            for offset, word in ((0, 0x11), (1, vector), (1, cascade), (1, 0x01), (1, 0xFF)):
                chip.write(computer.engine.cpus[0], offset, 1, word)

    def place_mp_table(self) -> None:
        """Tell of the processors where this board does so. MachineError if there are more than it has room for."""
        if self.MP_TABLE is None:
            return
        from machine.boot.mp_table import TooManyProcessors, place

        try:
            place(self.computer, self.MP_TABLE.start, len(self.MP_TABLE), self._io_apic_bases())
        except TooManyProcessors:
            raise MachineError(
                f"--cpus {len(self.computer.engine.cpus)}: more than this board's MP table has room for; wanted fewer"
            ) from None

    def _io_apic_bases(self) -> list[int]:
        return [IO_APIC_BASE]

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes, mtu: int = DEFAULT_MTU) -> None:
        """Plug a network device in, which tells its driver `mtu`. MachineError for a `kind` that the board has no place for."""
        raise MachineError(f"this board has no place for a network device; got {kind!r}")

    def _virtio_net(
        self,
        kind: str,
        backend: "Backend",
        mac: bytes,
        mtu: int,
        line: Callable[[bool], None],
        long_header: bool = False,
    ) -> "VirtioMmio":
        """A network device over MMIO that the board places. MachineError unless `kind` is "virtio"."""
        if kind != "virtio":
            raise MachineError(f"--nic {kind}: this board has VirtIO over MMIO only; use --nic virtio")
        from machine.devices.virtio.mmio import VirtioMmio
        from machine.devices.virtio.net import VirtioNet
        from machine.net.port import NetworkPort

        port = self.port = NetworkPort(backend, self.computer.idle.effect)
        net = VirtioNet(self.computer.dma(kind), port, mac, defer=self.computer.defer, mtu=mtu, long_header=long_header)
        device = VirtioMmio(net, line)
        self.computer.idle.polled = device.is_polled
        return device

    def _deliver_message(self, address: int, data: int) -> None:
        self.interrupts.deliver_msi(address, data)

    def _input_polled(self) -> None:
        if self.console.dirty:
            self.console.flush()
        self.computer.idle.input_poll()

    def _write_serial(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        self.computer.idle.effect()
        self.serial.write(cpu, offset, size, value)

    def _may_post(self) -> bool:
        # With a gate, input is there when the guest looks for it often enough: each look counts.
        return self.serial.passes_on and self.console.gate is None and not self.console.waiting()

    def _write_posted(self, _cpu: "Cpu", data: bytes) -> None:
        self.computer.idle.effect()
        self.serial.transmit(data)
        self.console.flush()

    def input_arrived(self) -> None:
        """New console input: devices that interrupt for it do so. On the engine thread."""
        self.serial.input_available()
