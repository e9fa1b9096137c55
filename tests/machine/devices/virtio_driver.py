"""The other side of the VirtIO tests: a small RAM that forgives nothing, and a driver written from the specification."""

import struct
from collections.abc import Callable
from typing import Any

from device_accesses import CPU

from machine.bus import Bus
from machine.devices.virtio import pci_modern
from machine.devices.virtio.net import VirtioNet
from machine.devices.virtio.pci_legacy import VirtioPciLegacy
from machine.devices.virtio.pci_modern import VirtioPciModern
from machine.errors import BadAddress
from machine.net.backend import Backend
from machine.net.port import NetworkPort
from machine.pci.bus import PciBus
from machine.pci.host_bridge import HostBridge
from machine.pci.lpc_bridge import SLOT, LpcBridge
from machine.pci.resources import assign

RAM = 1 << 20
MAC = bytes.fromhex("525400aabbcc")
NEXT, WRITE, INDIRECT = 1, 2, 4
VERSION_1, EVENT_IDX, INDIRECT_DESC = 1 << 32, 1 << 29, 1 << 28
MRG_RXBUF = 1 << 15


class Ram:
    """1 MiB of guest memory; every access outside raises BadAddress, as PhysicalMemory does."""

    def __init__(self) -> None:
        self.data = bytearray(RAM)

    def read(self, address: int, size: int) -> bytes:
        self._check(address, size)
        return bytes(self.data[address : address + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        self._check(address, len(data))
        self.data[address : address + len(data)] = data

    def u16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little")

    def set_u16(self, address: int, value: int) -> None:
        self.write(address, value.to_bytes(2, "little"))

    def _check(self, address: int, size: int) -> None:
        if address < 0 or size < 0 or address + size > RAM:
            raise BadAddress(address, size)


class Wire(Backend):
    """A network that keeps what was sent; `answer` may reply from inside `send`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.answer: Callable[[bytes], None] = lambda frame: None

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self.answer(frame)


class Ring:
    """One virtqueue as a driver keeps it, with `size` buffers of `room` bytes behind it."""

    def __init__(self, ram: Ram, base: int, size: int, room: int, legacy: bool = False) -> None:
        self.ram, self.size, self.room = ram, size, room
        self.descriptors = base
        self.available = base + 16 * size
        end = self.available + 6 + 2 * size
        self.used = -(-end // 4096) * 4096 if legacy else -(-end // 4) * 4
        self.buffers = -(-(self.used + 6 + 8 * size) // 4096) * 4096
        self.index = self.seen = 0
        ram.write(base, bytes(self.buffers - base))

    def descriptor(self, number: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        self.ram.write(self.descriptors + 16 * number, struct.pack("<QIHH", address, length, flags, following))

    def buffer(self, number: int) -> int:
        return self.buffers + number * self.room

    def offer(self, head: int) -> None:
        self.ram.set_u16(self.available + 4 + 2 * (self.index % self.size), head)
        self.index = self.index + 1 & 0xFFFF
        self.ram.set_u16(self.available + 2, self.index)

    def take(self) -> list[tuple[int, int]]:
        """(head, bytes written) of what the device gave back since the last look."""
        index = self.ram.u16(self.used + 2)
        found = []
        while self.seen != index:
            found.append(struct.unpack("<II", self.ram.read(self.used + 4 + 8 * (self.seen % self.size), 8)))
            self.seen = self.seen + 1 & 0xFFFF
        return found


class Machine:
    """A PCI bus with one virtio-net on it."""

    def __init__(self, legacy: bool = False, strict: bool = False) -> None:
        self.ram, self.wire = Ram(), Wire()
        self.deferred: list[Callable[[], None]] = []
        self.messages: list[tuple[int, int]] = []
        self.gsis: dict[int, bool] = {}
        self.bus = Bus()
        self.lpc = LpcBridge(self.gsis.__setitem__, lambda irq, level: None, 0xB000)
        self.pci = PciBus(self.bus, self.lpc.set_pirq)
        self.pci.add(HostBridge(0xE000_0000), 0)
        self.pci.add(self.lpc, SLOT)
        self.port = NetworkPort(self.wire)
        self.net = VirtioNet(self.ram, self.port, MAC, defer=self.deferred.append, strict=strict)
        transport: Any = VirtioPciLegacy if legacy else VirtioPciModern
        self.card = transport(self.net, lambda address, data: self.messages.append((address, data)))
        self.pci.add(self.card, 3)
        assign(self.pci, self.lpc, range(0xC000_0000, 0xD000_0000), range(0x6000, 0x7000))
        self.base = self.card.bars[0].base
        self.interrupt_line = lambda: self.gsis.get(16 + self.pci.pirq_of(3, 1), False)


class Driver:
    """Brings the device up over the modern transport and moves frames; every access goes over the bus."""

    def __init__(self, machine: Machine, features: int = VERSION_1, size: int = 16, room: int = 2048) -> None:
        self.machine = machine
        self.long = bool(features & (VERSION_1 | MRG_RXBUF))
        self.header = 12 if self.long else 10
        self.write(20, 1, 0)
        self.write(20, 1, 1)
        self.write(20, 1, 3)
        for half in range(2):
            self.write(8, 4, half)
            self.write(12, 4, features >> 32 * half & 0xFFFFFFFF)
        self.write(20, 1, 11)
        self.accepted = bool(self.read(20, 1) & 8)
        self.rings = [Ring(machine.ram, 0x40000 * n + 0x1000, size, room) for n in range(3)]
        for number, ring in enumerate(self.rings):
            self.write(22, 2, number)
            self.write(24, 2, size)
            self.write(32, 8, ring.descriptors)
            self.write(40, 8, ring.available)
            self.write(48, 8, ring.used)
            self.write(28, 2, 1)
        for n in range(size):
            self.rings[0].descriptor(n, self.rings[0].buffer(n), room, WRITE)
            self.rings[0].offer(n)
        self.write(20, 1, 15)

    def read(self, offset: int, size: int) -> int:
        return self.machine.bus.mmio_read(CPU, self.machine.base + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.machine.bus.mmio_write(CPU, self.machine.base + offset, size, value)

    def kick(self, queue: int) -> None:
        self.write(pci_modern.NOTIFY + pci_modern.NOTIFY_MULTIPLIER * queue, 2, queue)

    @property
    def status(self) -> int:
        return self.read(20, 1)

    def transmit(self, frame: bytes) -> None:
        ring = self.rings[1]
        slot = ring.index % ring.size
        data = bytes(self.header) + frame
        self.machine.ram.write(ring.buffer(slot), data)
        ring.descriptor(slot, ring.buffer(slot), len(data))
        ring.offer(slot)
        self.kick(1)

    def received(self) -> list[bytes]:
        """Frames that came, header checked and removed; their buffers are offered again."""
        ring, frames, parts = self.rings[0], [], 0
        pending = b""
        for head, length in ring.take():
            data = self.machine.ram.read(ring.buffer(head), length)
            if not parts:
                assert data[:10] == bytes(10)
                parts = int.from_bytes(data[10:12], "little") if self.long else 1
                data = data[self.header :]
            pending += data
            parts -= 1
            if not parts:
                frames.append(pending)
                pending = b""
            ring.offer(head)
        assert not parts
        return frames

    def command(self, request: bytes) -> int:
        ring = self.rings[2]
        ram = self.machine.ram
        ram.write(ring.buffer(0), request)
        ring.descriptor(0, ring.buffer(0), len(request), NEXT, 1)
        ring.descriptor(1, ring.buffer(1), 1, WRITE)
        ram.write(ring.buffer(1), b"\xee")
        ring.offer(0)
        self.kick(2)
        assert ring.take() == [(0, 1)]
        return ram.read(ring.buffer(1), 1)[0]
