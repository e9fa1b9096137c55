"""A whole machine with a network device whose CPU never runs: protocols are called from here, and so is the device."""

from collections.abc import Generator
from typing import Any

from machine import registers as reg
from machine.boards import pc
from machine.boards.pc import PcBoard
from machine.clock import VirtualClock
from machine.computer import Computer
from machine.console import HostConsole
from machine.errors import BadAddress
from machine.net.backend import Backend
from machine.pci.device import PciDevice
from uefi import guids
from uefi.dispatcher import PENDING
from uefi.firmware import Firmware
from uefi.guids import Guid
from uefi.interface import Interface
from uefi.pci.handles import install_pci
from uefi.protocols.pci_io import PciIo
from uefi.protocols.simple_network import SimpleNetwork
from uefi.status import EfiError, Status
from uefi.variables.store import VariableStore

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("020000000001")


class Wire(Backend):
    """The other end of the cable, in the test's hands."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)


class NetworkMachine:
    def __init__(self, nic: str = "virtio", memory: int = 64 << 20) -> None:
        self.computer = Computer(memory, 1, VirtualClock())
        self.board = PcBoard(self.computer, HostConsole(lambda data: None), lambda kind: None)
        self.firmware = Firmware(self.computer)
        self.firmware.variables = VariableStore()
        self.firmware.time.restore()
        self.notes: list[str] = []
        self.firmware.note = self.notes.append
        self.cpu = self.computer.engine.cpus[0]
        self.firmware.processor.reset(self.cpu)
        self.memory = self.firmware.memory
        self.wire = Wire()
        self.board.plug_nic(nic, self.wire, MAC)
        install_pci(self.firmware, self.board.pci, pc.PCI_MEMORY, pc.PCI_PORTS, pc.ECAM_BUSES, self.board.nic)
        self.device: PciDevice = next(d for slot, _, d in self.board.pci.functions() if slot == pc.NIC_SLOT)

    def close(self) -> None:
        self.computer.close()

    def _object(self, guid: Guid, at: int = 0) -> Any:
        handle = self.firmware.handles.find(guid)[at]
        return self.firmware.object_at(self.firmware.handles.interface(handle, guid) or 0)

    @property
    def net(self) -> SimpleNetwork:
        return self._object(guids.SIMPLE_NETWORK_PROTOCOL)

    @property
    def pci(self) -> PciIo:
        """The network device's EFI_PCI_IO_PROTOCOL."""
        return self._object(guids.PCI_IO_PROTOCOL, 1)

    @property
    def bridge(self) -> Interface:
        return self._object(guids.PCI_ROOT_BRIDGE_IO_PROTOCOL)

    def put(self, data: bytes) -> int:
        address = self.firmware.pool(len(data) or 8)
        self.memory.write(address, data)
        return address

    def word(self, value: int = 0) -> int:
        return self.put(value.to_bytes(8, "little"))

    def call(self, table: Interface, name: str, *arguments: int) -> int:
        """RAX after a guest's call. Exceptions other than those that become a status come through."""
        slot = next(slot for slot in type(table).SLOTS if slot.signature.name == name)
        assert len(arguments) == len(slot.signature.kinds)
        for register, value in zip((reg.RDX, reg.R8, reg.R9), arguments, strict=False):
            self.cpu.set(register, value)
        masked = [value & mask for value, mask in zip(arguments, slot.signature.masks[1:], strict=True)]
        try:
            result = slot.handler(table, self.cpu, *masked)
            assert not isinstance(result, Generator)
        except EfiError as error:
            return error.status
        except BadAddress:
            return Status.INVALID_PARAMETER
        return self.cpu.get(reg.RAX) if result is PENDING else result or 0

    def bring_up(self, filters: int = 0x05) -> None:
        """Start, initialize, set filters."""
        assert self.call(self.net, "Start") == Status.SUCCESS
        assert self.call(self.net, "Initialize", 0, 0) == Status.SUCCESS
        if filters:
            assert self.call(self.net, "ReceiveFilters", filters, 0, 0, 0, 0) == Status.SUCCESS

    def transmit(self, frame: bytes) -> int:
        return self.call(self.net, "Transmit", 0, len(frame), self.put(frame), 0, 0, 0)

    def receive(self, room: int = 70_000) -> bytes | int:
        """The next frame, or the status that comes instead."""
        size, buffer = self.word(room), self.firmware.pool(room)
        status = self.call(self.net, "Receive", 0, size, buffer, 0, 0, 0)
        return status or self.memory.read(buffer, self.memory.read_u64(size))

    def mode(self, offset: int, size: int) -> bytes:
        return self.memory.read(self.memory.read_u64(self.net.address + 0x78) + offset, size)

    def reset_by_guest(self) -> None:
        """What a driver of the guest's does first: it resets the device by its registers."""
        name = type(self.device).__name__
        bar = self.device.bars[0].base
        assert bar is not None
        if name == "Gvnic":
            self.computer.bus.mmio_write(self.cpu, bar + 0x10, 4, 0)  # ADMINQ_PFN
        elif name == "VirtioPciLegacy":
            self.computer.bus.port_write(self.cpu, bar + 18, 1, 0)
        else:
            self.computer.bus.mmio_write(self.cpu, bar + 20, 1, 0)


def frame(to: bytes = MAC, size: int = 60, fill: bytes = b"x", source: bytes = OTHER) -> bytes:
    """An Ethernet frame of `size` bytes, or the first ones of it."""
    return (to + source + b"\x08\x00" + fill * max(size - 14, 0))[:size]
