"""EFI_PCI_IO_PROTOCOL and EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL against the devices behind them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_machine import NetworkMachine, frame

from machine.boards import pc
from uefi import memory_types as mt
from uefi.dispatcher import SERVICE_PORT
from uefi.pci.access import FIFO, FILL, MOST
from uefi.pci.dma import BUS_MASTER_READ, BUS_MASTER_WRITE, COMMON_BUFFER, NO_MAPPING
from uefi.protocols.pci_io import BUS_MASTER, DUAL_ADDRESS_CYCLE, IO, MEMORY, PASS_THROUGH, PciIo
from uefi.protocols.pci_root_bridge_io import PciRootBridgeIo
from uefi.status import Status

ENABLE, DISABLE, GET = 2, 3, 0
MSIX = 1
TABLE = 64
"""Bytes of the MSI-X table: registers that keep what is written, but for reserved bits."""


@pytest.fixture(scope="module")
def machine():
    made = NetworkMachine()
    yield made
    made.close()


@pytest.fixture
def fresh():
    made = NetworkMachine()
    yield made
    made.close()


WIDTHS = st.integers(0, 11)


@given(width=WIDTHS, offset=st.integers(0, 256), count=st.integers(0, 70))
@settings(max_examples=300, deadline=None)
def test_configuration_reads(machine, width, offset, count):
    """Against the bytes of the configuration space."""
    size = 1 << (width & 3)
    config = bytes(machine.device.config.data)
    filler = b"\xee" * 600
    buffer = machine.put(filler)
    status = machine.call(machine.pci, "Pci.Read", width, offset, count, buffer)
    got = machine.memory.read(buffer, 600)
    if offset + count * size > 256 or offset % size:
        assert status == Status.UNSUPPORTED
        assert got == filler
        return
    assert status == Status.SUCCESS
    if FIFO <= width < FILL:
        wanted = config[offset : offset + size] * count
    elif width >= FILL:
        wanted = config[offset + (count - 1) * size : offset + count * size] if count else b""
    else:
        wanted = config[offset : offset + count * size]
    # The data window of VirtIO's configuration access changes as it is read.
    assert got == wanted + filler[len(wanted) :]


@given(width=WIDTHS, at=st.integers(0, TABLE), count=st.integers(0, 20), data=st.binary(min_size=256, max_size=256))
@settings(max_examples=200, deadline=None)
def test_memory_writes_and_reads(machine, width, at, count, data):
    """Against a model of the MSI-X table: reserved bits are 0."""
    size = 1 << (width & 3)
    bar = machine.device.bars[MSIX]
    zeros = machine.put(bytes(TABLE))
    assert machine.call(machine.pci, "Mem.Write", 0, MSIX, 0, TABLE, zeros) == Status.SUCCESS
    status = machine.call(machine.pci, "Mem.Write", width, MSIX, at, count, machine.put(data))
    through = size if FIFO <= width < FILL else count * size
    if at % size or at + through > bar.size:
        assert status == Status.UNSUPPORTED
        return
    assert status == Status.SUCCESS
    model = bytearray(TABLE + 256)
    for n in range(count):
        source = 0 if width >= FILL else n * size
        target = at if FIFO <= width < FILL else at + n * size
        model[target : target + size] = data[source : source + size]
    vectors = machine.device.msix.vectors
    for entry in range(0, 16 * vectors, 16):
        model[entry] &= 0xFC
        model[entry + 12 : entry + 16] = bytes((model[entry + 12] & 1, 0, 0, 0))
    room = machine.put(bytes(TABLE))
    machine.call(machine.pci, "Mem.Read", 0, MSIX, 0, 16 * vectors, room)
    assert machine.memory.read(room, 16 * vectors) == model[: 16 * vectors]


@pytest.mark.parametrize("name", ["Mem.Read", "Mem.Write"])
def test_no_access_leaves_its_bar(machine, name):
    size, room = machine.device.bars[MSIX].size, machine.put(bytes(64))
    for width, offset, count, status in (
        *((2, size - 4, 1, Status.SUCCESS), (2, size - 4, 2, Status.UNSUPPORTED), (2, size, 1, Status.UNSUPPORTED)),
        *((FIFO + 2, size - 4, 9, Status.SUCCESS), (FILL + 2, size - 4, 2, Status.UNSUPPORTED)),
        *((2, (1 << 64) - 4, 2, Status.UNSUPPORTED), (2, 0, 1 << 62, Status.UNSUPPORTED)),
    ):
        assert machine.call(machine.pci, name, width, MSIX, offset, count, room) == status


def test_bars_are_told_as_they_are(machine):
    at = machine.word()
    for index, bar in machine.device.bars.items():
        assert machine.call(machine.pci, "GetBarAttributes", index, 0, at) == Status.SUCCESS
        raw = machine.memory.read(machine.memory.read_u64(at), 48)
        assert raw[:4] == b"\x8a\x2b\x00\x00"
        low, _, _, length = (int.from_bytes(raw[n : n + 8], "little") for n in (14, 22, 30, 38))
        assert (low, length) == (bar.base, bar.size)
        assert raw[46:] == b"\x79\x00"


def test_decoding_follows_the_attributes(fresh):
    room = fresh.put(bytes(8))
    for operation, base, value in ((DISABLE, None, b"\xff"), (ENABLE, fresh.device.bars[MSIX].base, b"\x00")):
        assert fresh.call(fresh.pci, "Attributes", operation, MEMORY, 0) == Status.SUCCESS
        assert fresh.device.bars[MSIX].base == base
        assert fresh.call(fresh.pci, "Mem.Read", 0, MSIX, 0, 1, room) == Status.SUCCESS
        assert fresh.memory.read(room, 1) == value
    assert fresh.call(fresh.pci, "Attributes", DISABLE, BUS_MASTER, 0) == Status.SUCCESS
    assert not fresh.device.bus_master
    assert fresh.call(fresh.pci, "Attributes", GET, 0, room) == Status.SUCCESS
    assert fresh.memory.read_u64(room) & (IO | MEMORY | BUS_MASTER) == MEMORY


def test_ports_of_a_legacy_device_and_of_the_mainboard():
    machine = NetworkMachine("virtio-legacy")
    try:
        room = machine.put(bytes(8))
        assert machine.call(machine.pci, "Io.Read", 0, 0, 20, 6, room) == Status.SUCCESS
        assert machine.memory.read(room, 6) == machine.board.nic.mac
        base = machine.device.bars[0].base
        assert machine.call(machine.pci, "Io.Read", 1, PASS_THROUGH, base + 12, 1, room) == Status.SUCCESS
        assert machine.memory.read_u16(room) == 256  # the queue's size
        assert machine.call(machine.bridge, "Io.Read", 0, 0x64, 1, room) == Status.SUCCESS
        assert machine.call(machine.pci, "Mem.Read", 0, 0, 0, 1, room) == Status.UNSUPPORTED
    finally:
        machine.close()


def test_firmwares_own_ports_are_none(machine):
    """A service that is entered from inside of another one would never come to an end."""
    room = machine.put(bytes(8))
    assert machine.call(machine.bridge, "Io.Read", 0, SERVICE_PORT, 1, room) == Status.SUCCESS
    assert machine.memory.read(room, 1) == b"\xff"
    for number in range(200):
        at = machine.word(number)
        assert machine.call(machine.bridge, "Io.Write", 2, SERVICE_PORT & ~3, 1, at) == Status.SUCCESS
        assert machine.call(machine.bridge, "Io.Write", 0, SERVICE_PORT, 1, at) == Status.SUCCESS
    assert machine.firmware.dispatcher.last == []


def test_transfers_without_end_are_refused(machine):
    buffer = 0x10_0000
    size = 4 * (MOST + 1)
    assert size < 48 << 20
    status = machine.call(machine.pci, "Mem.Read", FIFO + 2, MSIX, 0, MOST + 1, buffer)
    assert status == Status.OUT_OF_RESOURCES
    assert machine.call(machine.pci, "Mem.Read", FIFO, MSIX, 0, 1 << 60, buffer) == Status.INVALID_PARAMETER


def test_the_bridge_tells_its_windows(machine):
    at = machine.word()
    assert machine.call(machine.bridge, "Configuration", at) == Status.SUCCESS
    raw = machine.memory.read(machine.memory.read_u64(at), 46 * 3 + 2)
    told = {
        raw[n + 3]: (int.from_bytes(raw[n + 14 : n + 22], "little"), int.from_bytes(raw[n + 38 : n + 46], "little"))
        for n in range(0, 138, 46)
    }
    windows = ((0, pc.PCI_MEMORY), (1, pc.PCI_PORTS), (2, range(1)))
    assert told == {kind: (window.start, len(window)) for kind, window in windows}


# -- DMA


def mapped(machine, operation: int, host: int, size: int) -> tuple[int, int, int]:
    """(status, device address, mapping)."""
    length, address, mapping = machine.word(size), machine.word(), machine.word()
    status = machine.call(machine.pci, "Map", operation, host, length, address, mapping)
    return status, machine.memory.read_u64(address), machine.memory.read_u64(mapping)


def test_memory_that_the_device_reaches_is_mapped_as_it_is(machine):
    host = machine.put(b"data")
    for operation in (BUS_MASTER_READ, BUS_MASTER_WRITE, COMMON_BUFFER):
        assert mapped(machine, operation, host, 4) == (Status.SUCCESS, host, NO_MAPPING)
    assert mapped(machine, BUS_MASTER_READ, (64 << 20) - 4, 8)[0] == Status.INVALID_PARAMETER
    assert mapped(machine, BUS_MASTER_READ, host, 1 << 63)[0] == Status.INVALID_PARAMETER
    assert machine.call(machine.pci, "Unmap", NO_MAPPING) == Status.SUCCESS
    assert machine.call(machine.pci, "Unmap", host) == Status.INVALID_PARAMETER


def test_memory_above_4_gib_is_copied_for_devices_of_32_bits():
    machine = NetworkMachine(memory=5 << 30)
    try:
        host, data = (4 << 30) + 123, bytes(range(200)) * 30
        machine.memory.write(host, data)
        status, address, mapping = mapped(machine, BUS_MASTER_READ, host, len(data))
        assert (status, address < 1 << 32, mapping != NO_MAPPING) == (Status.SUCCESS, True, True)
        assert machine.memory.read(address, len(data)) == data
        machine.memory.write(address, bytes(len(data)))
        assert machine.call(machine.pci, "Unmap", mapping) == Status.SUCCESS
        assert machine.memory.read(host, len(data)) == data, "the device only reads"
        assert machine.firmware.memory_map.type_at(address) == mt.CONVENTIONAL
        status, address, mapping = mapped(machine, BUS_MASTER_WRITE, host, len(data))
        machine.memory.write(address, data[::-1])
        assert machine.call(machine.pci, "Unmap", mapping) == Status.SUCCESS
        assert machine.call(machine.pci, "Unmap", mapping) == Status.INVALID_PARAMETER
        assert machine.memory.read(host, len(data)) == data[::-1]
        assert mapped(machine, COMMON_BUFFER, host, 8)[0] == Status.UNSUPPORTED
        assert machine.call(machine.pci, "Attributes", ENABLE, DUAL_ADDRESS_CYCLE, 0) == Status.SUCCESS
        assert mapped(machine, COMMON_BUFFER, host, 8) == (Status.SUCCESS, host, NO_MAPPING)
    finally:
        machine.close()


def test_buffers_are_given_and_taken_back(machine):
    at = machine.word()
    arguments = (0, mt.BOOT_DATA, 3, at, 0)
    assert machine.call(machine.pci, "AllocateBuffer", *arguments) == Status.SUCCESS
    address = machine.memory.read_u64(at)
    assert machine.firmware.memory_map.type_at(address + 0x2000) == mt.BOOT_DATA
    for pages, where in ((2, address), (3, address + 0x1000), (3, 0), (1 << 60, address)):
        assert machine.call(machine.pci, "FreeBuffer", pages, where) == Status.INVALID_PARAMETER
    assert machine.call(machine.pci, "FreeBuffer", 3, address) == Status.SUCCESS
    assert machine.call(machine.pci, "FreeBuffer", 3, address) == Status.INVALID_PARAMETER
    for pages in (0, 1 << 30, (1 << 64) - 1):
        assert machine.call(machine.pci, "AllocateBuffer", 0, mt.BOOT_DATA, pages, at, 0) == Status.OUT_OF_RESOURCES


# -- hostile guests

WILD = st.one_of(
    st.integers(0, 40),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([1 << 63, (1 << 64) - 1, (64 << 20) - 1, 0xC000_0000, 0xC000_4000, 0xE000_0000, 0x6000, 0xCF8]),
)
RESETS = ("Io.Write",)
"""Ports of the mainboard end a machine, as they should."""


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_calls_get_a_status(data):
    machine = NetworkMachine(data.draw(st.sampled_from(["virtio", "virtio-legacy", "gvnic"])))
    try:
        buffer = machine.put(bytes(4096))
        argument = st.one_of(WILD, st.integers(buffer, buffer + 4096))
        for _ in range(data.draw(st.integers(1, 30))):
            kind = data.draw(st.sampled_from([PciIo, PciRootBridgeIo]))
            table = machine.pci if kind is PciIo else machine.bridge
            slot = data.draw(st.sampled_from([slot for slot in kind.SLOTS if slot.signature.name not in RESETS]))
            delay = st.sampled_from([0, 1, 5000])
            arguments = [data.draw(delay if name == "Delay" else argument) for name in slot.signature.names]
            assert machine.call(table, slot.signature.name, *arguments) >= 0
        if machine.firmware.computer.finished:
            return
        machine.call(machine.net, "Start")
        machine.call(machine.net, "Initialize", 0, 0)
        assert machine.transmit(frame()) == Status.SUCCESS
    finally:
        machine.close()
