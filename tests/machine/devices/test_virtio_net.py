"""virtio-net over both PCI transports, driven through the bus as a guest's driver does."""

import struct
from itertools import pairwise
from typing import Any

import pytest
from device_accesses import CPU, assert_plain
from hypothesis import given
from hypothesis import strategies as st
from virtio_driver import (
    EVENT_IDX,
    INDIRECT,
    INDIRECT_DESC,
    MAC,
    MRG_RXBUF,
    NEXT,
    VERSION_1,
    WRITE,
    Driver,
    Machine,
    Ring,
)

from machine.devices.virtio import pci_modern
from machine.net.port import MAXIMUM_WAITING

SIZES = [0, 13, 14, 60, 1514, 1515, 9000, 65_535, 65_550, 65_551]


def frame(size: int, fill: int = 0x5A) -> bytes:
    return (MAC + b"\x52\x00\x00\x00\x00\x01\x08\x00" + bytes((fill,)) * size)[:size]


def capabilities(machine: Machine) -> dict[int, dict[str, int]]:
    config, found = machine.card.config, {}
    at = config.get(0x34, 1)
    assert config.get(0x34, 4) == at, "TamaGo takes the whole double word as the pointer"
    while at:
        if config.get(at, 1) == 9:
            _, _, length, kind, bar, _, _, offset, size = struct.unpack("<BBBBBBHII", bytes(config.data[at : at + 16]))
            found[kind] = {"at": at, "bar": bar, "offset": offset, "size": size, "length": length}
        at = config.get(at + 1, 1)
    return found


def test_identity_and_structures_of_the_modern_device() -> None:
    machine = Machine()
    config = machine.card.config
    assert (config.get(0, 2), config.get(2, 2), config.get(8, 1)) == (0x1AF4, 0x1041, 1)
    assert config.get(9, 3) == 0x020000
    found = capabilities(machine)
    assert set(found) == {1, 2, 3, 4, 5}
    assert found[1]["size"] == 56
    assert config.get(found[2]["at"] + 16, 4) == 8
    spans = sorted((found[kind]["offset"], found[kind]["offset"] + found[kind]["size"]) for kind in (1, 2, 3, 4))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= machine.card.bars[0].size


def test_identity_of_the_legacy_device() -> None:
    machine = Machine(legacy=True)
    config = machine.card.config
    assert (config.get(0, 2), config.get(2, 2), config.get(8, 1), config.get(0x2E, 2)) == (0x1AF4, 0x1000, 0, 1)
    assert not capabilities(machine), "TamaGo's legacy driver refuses vendor capabilities"
    assert config.get(0x10, 4) & 0xF == 1


@pytest.mark.parametrize("features", [0, VERSION_1, MRG_RXBUF, VERSION_1 | MRG_RXBUF, VERSION_1 | EVENT_IDX])
@pytest.mark.parametrize("size", SIZES)
def test_frames_of_all_sizes(features: int, size: int) -> None:
    machine = Machine()
    driver = Driver(machine, features, room=4096 if features & MRG_RXBUF else 8192)
    data = frame(size)
    if size <= 8000:
        driver.transmit(data)
        assert machine.wire.sent == ([data] if size >= 14 else [])
        assert driver.rings[1].take() == [(0, 0)]
    machine.wire.on_receive(data)
    limit = 16 * 4096 - 12 if features & MRG_RXBUF else 8192 - driver.header
    assert driver.received() == ([data] if 14 <= size <= limit else [])
    machine.wire.on_receive(frame(100))
    assert driver.received() == [frame(100)], "the device goes on"
    assert driver.status == 15


def test_big_frames_leave_in_chains() -> None:
    machine = Machine()
    driver = Driver(machine)
    ring, data = driver.rings[1], bytes(12) + frame(9000)
    for n in range(5):
        part = data[n * 2000 : n * 2000 + 2000]
        machine.ram.write(ring.buffer(n), part)
        ring.descriptor(n, ring.buffer(n), len(part), NEXT if n < 4 else 0, n + 1)
    ring.offer(0)
    driver.kick(1)
    assert machine.wire.sent == [frame(9000)]


def test_indirect_descriptors() -> None:
    machine = Machine()
    driver = Driver(machine, VERSION_1 | INDIRECT_DESC)
    ring, ram = driver.rings[1], machine.ram
    ram.write(ring.buffer(0), bytes(12))
    ram.write(ring.buffer(1), frame(200))
    table = struct.pack("<QIHH", ring.buffer(0), 12, NEXT, 1) + struct.pack("<QIHH", ring.buffer(1), 200, 0, 0)
    ram.write(ring.buffer(2), table)
    ring.descriptor(7, ring.buffer(2), 32, INDIRECT)
    ring.offer(7)
    driver.kick(1)
    assert machine.wire.sent == [frame(200)]
    assert ring.take() == [(7, 0)]


def test_a_gateway_that_answers_inside_send_is_received() -> None:
    machine = Machine()
    driver = Driver(machine)
    machine.wire.answer = lambda sent: machine.wire.on_receive(sent[::-1])
    driver.transmit(frame(64))
    assert driver.received() == [frame(64)[::-1]]


def test_frames_wait_for_buffers_and_are_lost_beyond_the_limit() -> None:
    machine = Machine()
    driver = Driver(machine, size=4)
    for n in range(MAXIMUM_WAITING + 10):
        machine.wire.on_receive(frame(60, n & 0xFF))
    assert len(machine.port.waiting) == MAXIMUM_WAITING
    assert machine.port.counters["overruns"] == 6
    got: list[bytes] = []
    while new := driver.received():
        got += new
        driver.kick(0)
    assert got == [frame(60, n & 0xFF) for n in range(MAXIMUM_WAITING + 4)]


def test_frames_are_lost_before_the_driver_is_ready_and_after_reset() -> None:
    machine = Machine()
    machine.wire.on_receive(frame(60))
    driver = Driver(machine)
    assert driver.received() == []
    driver.write(20, 1, 0)
    machine.wire.on_receive(frame(60))
    assert not machine.port.waiting
    again = Driver(machine)
    assert again.received() == []


def test_event_index_suppresses_kicks_and_interrupts() -> None:
    machine = Machine()
    driver = Driver(machine, VERSION_1 | EVENT_IDX)
    ring = driver.rings[0]
    machine.wire.on_receive(frame(60))
    assert machine.interrupt_line()
    driver.read(pci_modern.ISR, 1)
    machine.ram.set_u16(ring.available + 4 + 2 * ring.size, 3)  # used_event: with the fourth
    for count in range(3):
        assert not machine.interrupt_line(), count
        machine.wire.on_receive(frame(60))
    assert machine.interrupt_line()
    driver.transmit(frame(60))
    sent = driver.rings[1]
    assert machine.ram.u16(sent.used + 4 + 8 * sent.size) == 1, "avail_event asks for the next kick"


def test_no_interrupt_flag() -> None:
    machine = Machine()
    driver = Driver(machine)
    machine.ram.set_u16(driver.rings[0].available, 1)
    machine.wire.on_receive(frame(60))
    assert not machine.interrupt_line()
    machine.ram.set_u16(driver.rings[0].available, 0)
    machine.wire.on_receive(frame(60))
    assert machine.interrupt_line()
    assert driver.read(pci_modern.ISR, 1) == 1
    assert not machine.interrupt_line()


def enable_msix(machine: Machine) -> None:
    config, at = machine.card.config, machine.card.msix.capability
    machine.card.write_config(at, 4, 1 << 31)
    assert config.get(at, 1) == 0x11
    base = machine.card.bars[1].base
    for vector in range(4):
        machine.bus.mmio_write(CPU, base + 16 * vector, 4, 0xFEE0_0000)
        machine.bus.mmio_write(CPU, base + 16 * vector + 8, 4, 32 + vector)
        machine.bus.mmio_write(CPU, base + 16 * vector + 12, 4, 0)


def test_msix_vectors() -> None:
    machine = Machine()
    enable_msix(machine)
    driver = Driver(machine)
    driver.write(16, 2, 3)
    for queue, vector in ((0, 1), (1, 0xFFFF), (2, 9)):
        driver.write(22, 2, queue)
        driver.write(26, 2, vector)
        assert driver.read(26, 2) == (vector if vector < 4 else 0xFFFF)
    machine.wire.on_receive(frame(60))
    driver.transmit(frame(60))
    assert machine.messages == [(0xFEE0_0000, 33)]
    machine.wire.set_link(False)
    assert machine.messages[1:] == [(0xFEE0_0000, 35)]
    assert not machine.interrupt_line()


def test_link_and_configuration() -> None:
    machine = Machine()
    driver = Driver(machine)

    def config() -> bytes:
        return bytes(driver.read(pci_modern.DEVICE + n, 1) for n in range(12))

    before = driver.read(21, 1)
    assert config() == MAC + struct.pack("<HHH", 1, 1, 1500)
    machine.wire.set_link(False)
    assert config()[6:8] == b"\0\0"
    assert driver.read(21, 1) != before
    assert driver.read(pci_modern.ISR, 1) & 2
    driver.write(pci_modern.DEVICE, 4, 0)
    assert config()[:6] == MAC, "read-only on a modern device"


@pytest.mark.parametrize("split", [False, True])
def test_64_bit_stores_may_come_as_two_halves(split: bool) -> None:
    machine = Machine()
    driver = Driver(machine)

    def store(offset: int, value: int) -> None:
        if split:
            driver.write(offset, 4, value & 0xFFFFFFFF)
            driver.write(offset + 4, 4, value >> 32)
        else:
            driver.write(offset, 8, value)

    seen: list[int] = []
    machine.net.notify = seen.append  # type: ignore[method-assign]
    for queue in (0, 1, 2):
        store(pci_modern.NOTIFY + 8 * queue, queue)
    assert seen == [0, 1, 2]
    driver.write(20, 1, 0)
    store(32, 0x1_2345_6780)
    assert driver.read(32, 8) == 0x1_2345_6780


def test_common_fields_by_bytes() -> None:
    """TamaGo changes bytes of the structure in place."""
    machine = Machine()
    card = machine.card
    for n, byte in enumerate((1, 0, 0, 0)):
        card.write(CPU, n, 1, byte)
    assert card.read(CPU, 4, 4) & 1, "VERSION_1 is bit 32"
    card.write(CPU, 8, 4, 0)
    for n in range(4):
        card.write(CPU, 12 + n, 1, 0x20 if n == 0 else 0)
    assert card.read(CPU, 12, 4) == 0x20
    card.write(CPU, 22, 1, 5)
    assert card.read(CPU, 24, 2) == 0, "no such queue"
    assert card.read(CPU, 26, 2) == 0xFFFF


def test_features_that_were_not_offered_are_refused() -> None:
    assert not Driver(Machine(), VERSION_1 | 1 << 45).accepted
    assert Driver(Machine(), VERSION_1).accepted
    assert Driver(Machine(), 0).accepted, "lenient: TamaGo negotiates nothing"
    assert not Driver(Machine(strict=True), 0).accepted
    assert Driver(Machine(strict=True), VERSION_1).accepted


def test_control_queue_filters() -> None:
    machine = Machine()
    driver = Driver(machine)
    other, group = b"\x52\x54\x00\x00\x00\x09", b"\x33\x33\x00\x00\x00\x01"
    body = bytes(60)

    def passes(destination: bytes) -> bool:
        machine.wire.on_receive(destination + body)
        return bool(driver.received())

    assert passes(other)
    assert driver.command(b"\0\0\0") == 0
    assert [passes(mac) for mac in (MAC, other, group, b"\xff" * 6)] == [True, False, False, True]
    table = (1).to_bytes(4, "little") + other + (1).to_bytes(4, "little") + group
    assert driver.command(b"\1\0" + table) == 0
    assert [passes(mac) for mac in (MAC, other, group)] == [True, True, True]
    assert driver.command(b"\1\0" + bytes(8)) == 0
    assert not passes(other)
    assert driver.command(b"\0\1\1") == 0
    assert passes(group)
    assert driver.command(b"\1\1" + other) == 0
    assert (passes(other), passes(MAC)) == (True, False)
    assert bytes(driver.read(pci_modern.DEVICE + n, 1) for n in range(6)) == other
    for wrong in (b"\0", b"\0\0", b"\0\0\7", b"\0\x09\1", b"\1\0\xff\xff\xff\xff", b"\1\1\0\0", b"\x07\0\0"):
        assert driver.command(wrong) == 1, wrong
    driver.write(20, 1, 0)
    fresh = Driver(machine)
    machine.wire.on_receive(other + body)
    assert fresh.received(), "a reset makes it promiscuous again"


def test_access_through_configuration_space() -> None:
    machine = Machine()
    card, at = machine.card, capabilities(machine)[5]["at"]

    def access(offset: int, length: int, bar: int = 0) -> None:
        card.write_config(at + 4, 1, bar)
        card.write_config(at + 8, 4, offset)
        card.write_config(at + 12, 4, length)

    access(18, 2)
    assert card.read_config(at + 16, 2) == 3
    access(20, 1)
    card.write_config(at + 16, 1, 3)
    assert card.read(CPU, 20, 1) == 3
    access(8, 4, bar=1)
    card.write_config(at + 16, 4, 0x4321)
    assert machine.bus.mmio_read(CPU, card.bars[1].base + 8, 4) == 0x4321
    for offset, length, bar in ((0xFFFF_FFFC, 4, 0), (2, 4, 0), (0, 3, 0), (0, 4, 5), (0, 0xFFFFFFFF, 0)):
        access(offset, length, bar)
        card.read_config(at + 16, 4)
        card.write_config(at + 16, 4, 0xFFFFFFFF)
    assert card.read(CPU, 20, 1) == 3


def test_bus_mastering_is_honoured() -> None:
    machine = Machine()
    driver = Driver(machine)
    machine.card.write_config(4, 2, 0x0003)
    driver.transmit(frame(60))
    machine.wire.on_receive(frame(60))
    assert not machine.wire.sent
    assert not driver.rings[0].take()
    machine.card.write_config(4, 2, 0x0007)
    assert machine.wire.sent == [frame(60)]
    assert driver.received() == [frame(60)]


def test_a_broken_ring_needs_a_reset_and_says_so() -> None:
    machine = Machine()
    driver = Driver(machine)
    ring = driver.rings[1]
    ring.descriptor(0, 0xFFFF_FFFF_FFFF_F000, 100)
    ring.offer(0)
    driver.kick(1)
    assert driver.status & 0x40
    assert machine.interrupt_line()
    assert driver.read(pci_modern.ISR, 1) & 2
    assert "0xfffffffffffff000" in machine.net.problem
    machine.wire.on_receive(frame(60))
    assert driver.rings[0].take() == []
    fresh = Driver(machine)
    fresh.transmit(frame(60))
    assert machine.wire.sent == [frame(60)]


class LegacyDriver:
    """The legacy interface, as TamaGo's driver uses it."""

    def __init__(self, machine: Machine, features: int = 0) -> None:
        self.machine = machine
        self.out(18, 1, 0)
        self.out(18, 1, self.get(18, 2) & 0xFF | 3)
        assert self.get(0, 4) & 1 << 5
        self.out(4, 4, features)
        assert self.get(4, 4) == features
        self.header = 12 if features & MRG_RXBUF else 10
        self.rings = []
        for queue in (0, 1):
            self.out(14, 2, queue)
            size = self.get(12, 2)
            assert size == 256
            assert self.get(8, 4) == 0
            self.rings.append(Ring(machine.ram, 0x80000 * queue + 0x1000, size, 1600, legacy=True))
            self.out(8, 4, self.rings[-1].descriptors >> 12)
        for n in range(256):
            self.rings[0].descriptor(n, self.rings[0].buffer(n), 1600, WRITE)
            self.rings[0].offer(n)
        self.out(18, 1, 7)
        self.out(16, 2, 0)

    def get(self, offset: int, size: int) -> int:
        return self.machine.bus.port_read(CPU, self.machine.base + offset, size)

    def out(self, offset: int, size: int, value: int) -> None:
        self.machine.bus.port_write(CPU, self.machine.base + offset, size, value)


def test_legacy_interface() -> None:
    machine = Machine(legacy=True)
    driver = LegacyDriver(machine)
    assert bytes(driver.get(20 + n, 1) for n in range(8)) == MAC + b"\1\0"
    rx, tx = driver.rings
    machine.ram.write(tx.buffer(0), bytes(10) + frame(80))
    tx.descriptor(0, tx.buffer(0), 90)
    tx.offer(0)
    driver.out(16, 2, 1)
    assert machine.wire.sent == [frame(80)]
    machine.wire.on_receive(frame(70))
    assert rx.take() == [(0, 80)]
    assert machine.ram.read(rx.buffer(0), 80) == bytes(10) + frame(70)
    assert machine.interrupt_line()
    assert driver.get(18, 2) == 0x0107, "a 16-bit read of the status reads, and clears, the ISR, too"
    assert not machine.interrupt_line()
    assert driver.get(18, 2) == 0x0007


def test_legacy_configuration_moves_with_msix() -> None:
    machine = Machine(legacy=True)
    driver = LegacyDriver(machine)
    enable_msix(machine)
    assert bytes(driver.get(24 + n, 1) for n in range(6)) == MAC
    driver.out(14, 2, 0)
    driver.out(22, 2, 0)
    assert driver.get(22, 2) == 0
    assert driver.get(20, 2) == 0xFFFF
    machine.wire.on_receive(frame(60))
    assert machine.messages == [(0xFEE0_0000, 32)]
    driver.out(24, 4, 0x44332252)
    assert bytes(driver.get(24 + n, 1) for n in range(6)) == b"\x52\x22\x33\x44" + MAC[4:]


@pytest.mark.parametrize("legacy", [False, True])
def test_saved_state_goes_on_in_a_twin(legacy: bool) -> None:
    original = Machine(legacy)
    driver: Any = LegacyDriver(original) if legacy else Driver(original, VERSION_1 | EVENT_IDX)
    enable_msix(original)
    original.wire.on_receive(frame(60, 1))
    state = original.card.save()
    assert_plain(state)
    twin = Machine(legacy)
    twin.ram.data[:] = original.ram.data
    twin.card.load(state)
    assert twin.card.save() == state
    for machine in (original, twin):
        machine.wire.on_receive(frame(61, 2))
        machine.bus.mmio_write(CPU, machine.base, 1, 0)
    assert twin.ram.data == original.ram.data
    assert twin.card.save() == original.card.save()
    assert driver.rings[0].take()


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 0x3FFF), st.sampled_from((1, 2, 4, 8)), st.integers(0, 2**64 - 1)))
)
def test_random_register_accesses(accesses: list[tuple[bool, int, int, int]]) -> None:
    machine = Machine()
    Driver(machine)
    for write, place, size, value in accesses:
        offset = place & ~(size - 1)
        if write:
            machine.card.write(CPU, offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= machine.card.read(CPU, offset, size) < 1 << 8 * size
    machine.card.write(CPU, 20, 1, 0)
    driver = Driver(machine)
    driver.transmit(frame(60))
    assert machine.wire.sent[-1] == frame(60)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 63), st.sampled_from((1, 2, 4)), st.integers(0, 2**32 - 1))))
def test_random_legacy_accesses(accesses: list[tuple[bool, int, int, int]]) -> None:
    machine = Machine(legacy=True)
    for write, offset, size, value in accesses:
        if write:
            machine.card.write(CPU, offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= machine.card.read(CPU, offset, size) < 1 << 8 * size
    machine.ram.data[:] = bytes(len(machine.ram.data))
    LegacyDriver(machine)
    machine.wire.on_receive(frame(60))
    assert machine.interrupt_line()
