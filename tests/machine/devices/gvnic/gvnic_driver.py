"""The other side of the gVNIC tests: a small RAM that forgives nothing, and a driver for each queue format."""

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from machine.bus import Bus
from machine.clock import VirtualClock
from machine.devices.gvnic.device import Gvnic
from machine.errors import BadAddress
from machine.net.backend import Backend
from machine.net.port import NetworkPort
from machine.pci.bus import PciBus
from machine.pci.host_bridge import HostBridge
from machine.pci.lpc_bridge import SLOT, LpcBridge
from machine.pci.resources import assign

CPU: Any = SimpleNamespace(index=0)
RAM = 4 << 20
MAC = bytes.fromhex("525400aabbcc")
GQI_RDA, GQI_QPL, DQO_RDA, DQO_QPL = 1, 2, 3, 4
FORMATS = (GQI_RDA, GQI_QPL, DQO_RDA, DQO_QPL)
RAW = 0xFFFFFFFF
PASSED, EXISTS, PRECONDITION, INVALID = 1, 0xFFFFFFF1, 0xFFFFFFF5, 0xFFFFFFF7
NOT_FOUND, RANGE, EXHAUSTED, UNIMPLEMENTED = 0xFFFFFFF8, 0xFFFFFFF9, 0xFFFFFFFC, 0xFFFFFFFE
M32 = 0xFFFFFFFF


class Ram:
    """Guest memory; every access outside raises BadAddress, as PhysicalMemory does."""

    def __init__(self) -> None:
        self.data = bytearray(RAM)

    def read(self, address: int, size: int) -> bytes:
        self._check(address, size)
        return bytes(self.data[address : address + size])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        self._check(address, len(data))
        self.data[address : address + len(data)] = data

    def u16(self, address: int) -> int:
        raise AssertionError("the gVNIC has no use for it")

    def set_u16(self, address: int, value: int) -> None:
        raise AssertionError("the gVNIC has no use for it")

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


class Machine:
    """A PCI bus with one gVNIC, addresses handed out."""

    def __init__(self, **options: Any) -> None:
        self.ram = Ram()
        self.wire = Wire()
        self.port = NetworkPort(self.wire)
        self.messages: list[tuple[int, int]] = []
        self.deferred: list[Callable[[], None]] = []
        self.clock = VirtualClock()
        self.bus = Bus()
        self.pci = PciBus(self.bus, lambda number, level: None)
        lpc = LpcBridge(lambda irq, level: None, lambda irq, level: None, 0x600)
        self.pci.add(HostBridge(0xE0000000, 256), 0)
        self.pci.add(lpc, SLOT)
        self.nic = Gvnic(
            self.ram,
            self.port,
            MAC,
            lambda address, data: self.messages.append((address, data)),
            defer=self.deferred.append,
            clock=self.clock,
            **options,
        )
        self.pci.add(self.nic, 3)
        assign(self.pci, lpc, range(0xC0000000, 0xE0000000), range(0x6000, 0x8000))

    def read(self, bar: int, offset: int, size: int = 4, order: str = "big") -> int:
        base = self.nic.bars[bar].base
        assert base is not None
        value = self.bus.mmio_read(CPU, base + offset, size)
        return int.from_bytes(value.to_bytes(size, "little"), order)  # type: ignore[arg-type]

    def write(self, bar: int, offset: int, value: int, size: int = 4, order: str = "big") -> None:
        base = self.nic.bars[bar].base
        assert base is not None
        lying = (value & (1 << 8 * size) - 1).to_bytes(size, order)  # type: ignore[arg-type]
        self.bus.mmio_write(CPU, base + offset, size, int.from_bytes(lying, "little"))

    def run_deferred(self) -> int:
        """Call what was deferred, as the engine thread does; how many times."""
        times = 0
        while self.deferred:
            self.deferred.pop(0)()
            times += 1
        return times

    @property
    def status(self) -> int:
        return self.read(0, 0)


class Admin:
    """The admin queue at `base`. `modulo` counts the doorbell modulo 64, as TamaGo does."""

    def __init__(self, machine: Machine, base: int = 0x1000, revision: int = 0, modulo: bool = False) -> None:
        self.machine, self.base, self.modulo = machine, base, modulo
        self.count = 0
        if revision:
            machine.write(0, 0x28, 4096, 2)
            machine.write(0, 0x20, base >> 32)
            machine.write(0, 0x24, base)
        else:
            machine.write(0, 0x10, base >> 12)
        machine.write(0, 0x04, 1)

    def give(self, opcode: int, layout: str = "", *values: Any) -> int:
        """Put one command into its slot and ring; its status."""
        at = self.base + 64 * (self.count % 64)
        self.machine.ram.write(
            at, (struct.pack(">II", opcode, 0) + struct.pack(">" + layout, *values)).ljust(64, b"\0")
        )
        self.count = (self.count + 1) % 64 if self.modulo else self.count + 1 & M32
        self.machine.write(0, 0x14, self.count)
        assert self.machine.read(0, 0x18) == self.count
        return int.from_bytes(self.machine.ram.read(at + 4, 4), "big")

    def describe(self, address: int = 0x3000, version: int = 1, length: int = 4096) -> int:
        return self.give(1, "QII", address, version, length)

    def configure(self, queue_format: int = GQI_QPL, **changes: int) -> int:
        given = {"counters": 0x2000, "doorbells": 0x2800, "n": 8, "blocks": 2, "stride": 64, "first": 0, **changes}
        return self.give(2, "QQIIIIB7x", *given.values(), queue_format)

    def register(self, identity: int, pages: list[int], size: int = 4096, at: int = 0x3000) -> int:
        if pages:
            self.machine.ram.write(at, struct.pack(f">{len(pages)}Q", *pages))
        return self.give(3, "IIQQ", identity, len(pages), at, size)

    def create_tx(self, **changes: int) -> int:
        given = {"id": 0, "told": 0x2400, "ring": 0x10000, "list": RAW, "block": 0, "other": 0x12000, "size": 64}
        given = {**given, "other_size": 64, **changes}
        return self.give(5, "I4xQQIIQHH4x", *given.values())

    def create_rx(self, **changes: int) -> int:
        given = {"id": 0, "index": 0, "block": 1, "told": 0x2440, "ring": 0x14000, "other": 0x16000, "list": RAW}
        given = {**given, "size": 64, "buffer": 2048, "other_size": 64, **changes}
        return self.give(6, "II4xIQQQIHHHB5x", *given.values(), 0)


class Driver:
    """Brings a gVNIC up with rings of 64 in one queue format, sends and receives; buffers of 2 KiB, two to a page."""

    TX_PAGES, RX_PAGES, BUFFER = 0x100000, 0x180000, 2048

    def __init__(self, machine: Machine, queue_format: int, revision: int = 0, modulo: bool = False) -> None:
        self.machine, self.ram, self.format = machine, machine.ram, queue_format
        self.dqo = queue_format in (DQO_RDA, DQO_QPL)
        qpl = queue_format in (GQI_QPL, DQO_QPL)
        self.admin = admin = Admin(machine, revision=revision, modulo=modulo)
        assert admin.describe() == PASSED
        assert admin.configure(queue_format) == PASSED
        lists = [RAW, RAW]
        if qpl:
            lists = [7, 9]
            for identity, base in zip(lists, (self.TX_PAGES, self.RX_PAGES), strict=True):
                # Registered backwards, so that an offset is not an address that happens to fit
                pages = [base + 4096 * (31 - page) for page in range(32)]
                assert admin.register(identity, pages) == PASSED
        machine.ram.write(0x10000, bytes(0x8000))
        assert admin.create_tx(list=lists[0]) == PASSED
        assert admin.create_rx(list=lists[1]) == PASSED
        self.blocks = [self._be32(0x2800), self._be32(0x2840)]
        self.tx_doorbell, self.tx_counter = self._be32(0x2400), self._be32(0x2404)
        self.rx_doorbell, self.rx_counter = self._be32(0x2440), self._be32(0x2444)
        self.tx_count = self.tx_done = self.rx_count = self.rx_taken = self.rx_seen = 0
        self.sequence = 1
        self.parts: list[bytes] = []

    def _be32(self, address: int) -> int:
        return int.from_bytes(self.ram.read(address, 4), "big")

    def doorbell(self, index: int, value: int) -> None:
        self.machine.write(2, 4 * index, value, order="little" if self.dqo else "big")

    def _buffer(self, base: int, number: int) -> tuple[int, int]:
        """(what a descriptor says, the physical address) of a buffer."""
        at = number % 64 * self.BUFFER
        page, rest = divmod(at, 4096)
        if self.format == GQI_QPL:
            return at, base + 4096 * (31 - page) + rest
        return base + at, base + at

    # -- sending

    def post(self, frame: bytes, parts: int = 1, flags: int = 0) -> None:
        """Put a frame into the ring, in so many descriptors."""
        size = -(-len(frame) // parts) or 1
        pieces = [frame[at : at + size] for at in range(0, len(frame), size)] or [b""]
        for number, piece in enumerate(pieces):
            said, at = self._buffer(self.TX_PAGES, self.tx_count)
            self.ram.write(at, piece)
            last = number == len(pieces) - 1
            if self.dqo:
                kind = 0x0C | (0x20 if last else 0) | flags
                entry = struct.pack("<QB3xHH", said, kind, self.tx_count & 0x7FFF if last else 0, len(piece))
            elif number:
                entry = struct.pack(">BBHHHQ", 0x20, 0, 0, 0, len(piece), said)
            else:
                entry = struct.pack(">BBBBHHQ", flags, 0, 0, len(pieces), len(frame) & 0xFFFF, len(piece), said)
            self.descriptor(entry)

    def descriptor(self, entry: bytes) -> None:
        self.ram.write(0x10000 + self.tx_count % 64 * 16, entry)
        self.tx_count += 1

    def kick(self) -> None:
        self.doorbell(self.tx_doorbell, self.tx_count % 64 if self.dqo else self.tx_count & M32)

    def send(self, frame: bytes, parts: int = 1) -> None:
        self.post(frame, parts)
        self.kick()

    @property
    def consumed(self) -> int:
        """GQI: the event counter of the transmit queue."""
        return self._be32(0x2000 + 4 * self.tx_counter)

    def completions(self) -> list[tuple[int, int]]:
        """DQO: (kind, value) of the transmit completions since the last call."""
        found: list[tuple[int, int]] = []
        while True:
            lap, index = divmod(self.tx_done, 64)
            head, value, _ = struct.unpack("<HHI", self.ram.read(0x12000 + 8 * index, 8))
            if head >> 15 == lap & 1:
                return found
            found.append((head >> 11 & 7, value))
            self.tx_done += 1

    # -- receiving

    def offer(self, count: int = 48) -> None:
        """Post buffers up to `count` at a time."""
        while self.rx_count - self.rx_taken < count:
            said, _ = self._buffer(self.RX_PAGES, self.rx_count)
            index = self.rx_count % 64
            if self.dqo:
                self.ram.write(0x16000 + 32 * index, struct.pack("<H6xQ16x", self.rx_count % 64 | 0x400, said))
            else:
                self.ram.write(0x16000 + 8 * index, struct.pack(">Q", said))
            self.rx_count += 1
        self.doorbell(self.rx_doorbell, self.rx_count & M32)

    def receive(self) -> list[bytes]:
        """The frames since the last call; buffers that they took are not offered again by itself."""
        found: list[bytes] = []
        while (part := self._next()) is not None:
            data, more = part
            self.parts.append(data)
            if not more:
                found.append(b"".join(self.parts))
                self.parts = []
        return found

    def _next(self) -> tuple[bytes, bool] | None:
        lap, index = divmod(self.rx_taken, 64)
        if self.dqo:
            entry = self.ram.read(0x14000 + 32 * index, 32)
            length, identity = int.from_bytes(entry[4:6], "little"), int.from_bytes(entry[12:14], "little")
            if length >> 14 & 1 == lap & 1:
                return None
            assert entry[0] == 1
            assert entry[8] & 1
            assert identity & 0x400
            _, at = self._buffer(self.RX_PAGES, identity & 0x3FF)
            self.rx_taken += 1
            return self.ram.read(at, length & 0x3FFF), not entry[8] & 2
        length, flags = struct.unpack(">HH", self.ram.read(0x14000 + 64 * index + 60, 4))
        if flags & 7 != self.sequence:
            return None
        self.sequence = self.sequence % 7 + 1
        _, at = self._buffer(self.RX_PAGES, index)
        self.rx_taken += 1
        padding = 0 if self.parts else 2
        return self.ram.read(at + padding, length - padding), bool(flags & 1 << 13)
