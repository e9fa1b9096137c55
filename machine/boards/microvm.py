"""QEMU's microvm (docs/system/i386/microvm.rst): two I/O APICs, VirtIO over MMIO, the clock of KVM. A triple fault ends it."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from machine.boards.board import Board
from machine.computer import Computer
from machine.console import HostConsole
from machine.devices import i8254, rtc
from machine.devices.virtio import mmio
from machine.interrupts.io_apic import IO_APIC_SIZE, PINS
from machine.kvm_paravirt import KvmParavirt
from machine.net.backend import DEFAULT_MTU

if TYPE_CHECKING:
    from machine.cpu import Cpu
    from machine.net.backend import Backend

SECOND_IO_APIC_BASE = 0xFEC1_0000
VIRTIO_BASE, VIRTIO_SLOTS = 0xFEB0_0000, 24
"""Slot n interrupts on GSI 24 + n. QEMU fills them from the last one downwards."""


class MicrovmBoard(Board):
    """Devices of one computer. `end("reset")` is called for an INIT of the boot processor; no device switches the machine off."""

    MP_TABLE = range(0xF_0000, 0x10_0000)
    triple_fault_ends = True

    def __init__(self, computer: Computer, console: HostConsole, end: Callable[[str], None]) -> None:
        super().__init__(computer, console)
        bus, clock, line = computer.bus, computer.clock, self.interrupts.line
        KvmParavirt(computer)
        computer.on_boot_processor_init = partial(end, "reset")
        io_apic = self.interrupts.add_io_apic()
        bus.add_mmio(SECOND_IO_APIC_BASE, IO_APIC_SIZE, io_apic.read, io_apic.write)
        self.rtc = rtc.Rtc(clock, line(8))
        bus.add_ports(rtc.PORT, rtc.PORTS, self.rtc.read, self.rtc.write)
        self.pit = i8254.I8254(clock, line(0), self.interrupts.owe_ticks)
        bus.add_ports(i8254.PORT, i8254.PORTS, self.pit.read, self.pit.write)
        bus.add_ports(i8254.STATUS_PORT, 1, self.pit.read_61, self.pit.write_61)
        self._slots: dict[int, mmio.VirtioMmio] = {}
        bus.add_mmio(VIRTIO_BASE, VIRTIO_SLOTS * mmio.SIZE, self._read_slot, self._write_slot)

    def _io_apic_bases(self) -> list[int]:
        return [*super()._io_apic_bases(), SECOND_IO_APIC_BASE]

    def _read_slot(self, cpu: "Cpu", offset: int, size: int) -> int:
        slot, at = divmod(offset, mmio.SIZE)
        device = self._slots.get(slot)
        return device.read(cpu, at, size) if device is not None else mmio.read_empty(cpu, at, size)

    def _write_slot(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        slot, at = divmod(offset, mmio.SIZE)
        if (device := self._slots.get(slot)) is not None:
            device.write(cpu, at, size, value)

    def plug_nic(self, kind: str, backend: "Backend", mac: bytes, mtu: int = DEFAULT_MTU) -> None:
        """Plug a VirtIO network device into the last slot. MachineError for another kind."""
        slot = VIRTIO_SLOTS - 1
        self._slots[slot] = self._virtio_net(kind, backend, mac, mtu, self.interrupts.line(PINS + slot))
