"""Network devices without a CPU: a driver in Python keeps their rings full, over the bus, as a guest's would.

Frames a second of processor time; the driver's own work, an index and a doorbell for each burst, is counted.
"""

import struct
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from machine.boards.pc import PCI_MEMORY, PCI_PORTS
from machine.bus import Bus
from machine.devices.gvnic.descriptor import DQO_QPL, DQO_RDA, FORMAT_NAMES, GQI_QPL
from machine.devices.gvnic.device import Gvnic
from machine.devices.virtio.net import VirtioNet
from machine.devices.virtio.pci_modern import NOTIFY, NOTIFY_MULTIPLIER, VirtioPciModern
from machine.memory import PhysicalMemory
from machine.net.backend import Backend
from machine.net.port import NetworkPort
from machine.pci.bus import PciBus
from machine.pci.device import PciDevice
from machine.pci.lpc_bridge import SLOT, LpcBridge
from machine.pci.resources import assign

RING, BURST = 256, 64
VIRTIO_HEADER = 12
_CPU: Any = SimpleNamespace(index=0)
_MAC = bytes.fromhex("525400123456")


class Wire(Backend):
    """Counts what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def send(self, frame: bytes) -> None:
        """Count it."""
        self.sent += 1


class Board:
    """64 MiB of RAM and a bus with one device on it; `make(memory, port)` gives the device."""

    def __init__(self, make: Callable[[PhysicalMemory, NetworkPort], PciDevice]) -> None:
        self.memory = PhysicalMemory(64 << 20)
        self.wire = Wire()
        self.port = NetworkPort(self.wire)
        self.bus = Bus()
        pci = PciBus(self.bus, lambda pirq, level: None)
        lpc = LpcBridge(lambda gsi, level: None, lambda irq, level: None, 0x600)
        pci.add(lpc, SLOT)
        self.device = make(self.memory, self.port)
        pci.add(self.device, 3)
        assign(pci, lpc, PCI_MEMORY, PCI_PORTS)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """A store to a BAR."""
        base = self.device.bars[bar].base
        assert base is not None
        self.bus.mmio_write(_CPU, base + offset, size, value)

    def rate(self, frames: int, burst: Callable[[], None], done: Callable[[], int]) -> float:
        """Frames a second while `burst()` moves BURST of them; `done()` says how many arrived."""
        before = done()
        begin = time.process_time()
        for _ in range(frames // BURST):
            burst()
        spent = time.process_time() - begin
        assert done() - before == frames // BURST * BURST
        return (done() - before) / spent


def virtio(size: int, frames: int) -> tuple[float, float]:
    """(sent, received) frames of `size` bytes a second through virtio-net's rings."""

    def make(memory: PhysicalMemory, port: NetworkPort) -> PciDevice:
        return VirtioPciModern(VirtioNet(memory, port, _MAC, defer=lambda action: None), lambda address, data: None)

    board = Board(make)
    memory = board.memory
    for offset, width, value in ((20, 1, 3), (8, 4, 1), (12, 4, 1), (20, 1, 11)):
        board.write(0, offset, width, value)
    rings = [0x100000, 0x200000]
    for queue, base in enumerate(rings):
        for offset, width, value in ((22, 2, queue), (24, 2, RING), (32, 8, base), (40, 8, base + 16 * RING)):
            board.write(0, offset, width, value)
        board.write(0, 48, 8, base + 0x2000)
        for n in range(RING):
            room, flags = (VIRTIO_HEADER + size, 0) if queue else (2048, 2)
            memory.write(base + 16 * n, struct.pack("<QIHH", base + 0x10000 + 2048 * n, room, flags, 0))
            memory.set_u16(base + 16 * RING + 4 + 2 * n, n)
        board.write(0, 28, 2, 1)
    index = [RING, 0]
    memory.set_u16(rings[0] + 16 * RING + 2, RING)
    board.write(0, 20, 1, 15)

    def advance(queue: int) -> None:
        index[queue] = index[queue] + BURST & 0xFFFF
        memory.set_u16(rings[queue] + 16 * RING + 2, index[queue])
        board.write(0, NOTIFY + NOTIFY_MULTIPLIER * queue, 2, queue)

    frame = bytes(size)

    def receive() -> None:
        for _ in range(BURST):
            board.wire.on_receive(frame)
        advance(0)

    sent = board.rate(frames, lambda: advance(1), lambda: board.wire.sent)
    return sent, board.rate(frames, receive, lambda: board.port.counters["received"])


def gvnic(queue_format: int, size: int, frames: int) -> tuple[float, float]:
    """(sent, received) frames of `size` bytes a second through the gVNIC's rings in one queue format."""
    board = Board(lambda memory, port: Gvnic(memory, port, _MAC, lambda address, data: None, defer=lambda action: None))
    memory, count = board.memory, 0

    def register(offset: int, value: int) -> None:
        board.write(0, offset, 4, int.from_bytes(value.to_bytes(4, "big"), "little"))

    def command(opcode: int, layout: str, *values: int) -> None:
        nonlocal count
        slot = struct.pack(">II", opcode, 0) + struct.pack(">" + layout, *values)
        memory.write(0x1000 + 64 * count, slot.ljust(64, b"\0"))
        count += 1
        register(0x14, count)
        assert memory.read(0x1000 + 64 * (count - 1) + 4, 4) == b"\0\0\0\1", f"command {opcode}"

    out_of_order = queue_format in (DQO_RDA, DQO_QPL)
    transmit, receive, lists = 0x400000, 0x800000, [0xFFFFFFFF, 0xFFFFFFFF]
    register(0x10, 1)
    command(2, "QQIIIIB7x", 0x2000, 0x2800, 8, 2, 64, 0, queue_format)
    if queue_format in (GQI_QPL, DQO_QPL):
        lists = [7, 9]
        for identity, base in zip(lists, (transmit, receive), strict=True):
            memory.write(0x20000, struct.pack(f">{RING}Q", *range(base, base + 4096 * RING, 4096)))
            command(3, "IIQQ", identity, RING, 0x20000, 4096)
    command(5, "I4xQQIIQHH4x", 0, 0x2400, 0x100000, lists[0], 0, 0x110000, RING, RING)
    command(6, "II4xIQQQIHHHB5x", 0, 0, 1, 0x2440, 0x120000, 0x130000, lists[1], RING, 2048, RING, 0)
    for n in range(RING):
        offsets = queue_format == GQI_QPL
        source, target = (4096 * n + (0 if offsets else base) for base in (transmit, receive))
        if out_of_order:
            memory.write(0x100000 + 16 * n, struct.pack("<QB3xHH", source, 0x2C, n, size))
            memory.write(0x130000 + 32 * n, struct.pack("<H6xQ16x", n, target))
        else:
            memory.write(0x100000 + 16 * n, struct.pack(">BBBBHHQ", 0, 0, 0, 1, size, size, source))
            memory.write(0x130000 + 8 * n, struct.pack(">Q", target))
    doorbells = [int.from_bytes(memory.read(at, 4), "big") for at in (0x2400, 0x2440)]
    posted = [0, RING - 1 if out_of_order else RING]

    def ring(queue: int) -> None:
        value = posted[queue] % RING if out_of_order else posted[queue]
        board.write(
            2, 4 * doorbells[queue], 4, int.from_bytes(value.to_bytes(4, "little" if out_of_order else "big"), "little")
        )

    def advance(queue: int) -> None:
        posted[queue] += BURST
        ring(queue)

    frame = bytes(size)
    ring(1)

    def take() -> None:
        for _ in range(BURST):
            board.wire.on_receive(frame)
        advance(1)

    sent = board.rate(frames, lambda: advance(0), lambda: board.wire.sent)
    return sent, board.rate(frames, take, lambda: board.port.counters["received"])


def all_rates(size: int = 1514, frames: int = 50_000) -> list[tuple[str, float, float]]:
    """(device, sent, received) for each device and queue format."""
    found = [("virtio", *virtio(size, frames))]
    for number, name in FORMAT_NAMES.items():
        found.append((f"gvnic {name}", *gvnic(number, size, frames)))
    return found
