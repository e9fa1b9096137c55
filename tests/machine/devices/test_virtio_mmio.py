"""virtio-net over MMIO, driven register by register as VirtIO 1.2, 4.2.3 says a driver does."""

import pytest
from device_accesses import CPU, accesses, check_twin
from hypothesis import given
from hypothesis import strategies as st
from virtio_driver import MAC, VERSION_1, WRITE, Ram, Ring, Wire

from machine.devices.virtio.mmio import MAGIC, VirtioMmio, read_empty
from machine.devices.virtio.net import VirtioNet
from machine.net.port import NetworkPort

FRAME = MAC + b"\x52\x00\x00\x00\x00\x01\x08\x00" + bytes(60)


class Machine:
    """A device with a driver; `edges` counts how often its interrupt line rose."""

    def __init__(self, long_header: bool = False) -> None:
        self.ram, self.wire = Ram(), Wire()
        self.level, self.edges = False, 0
        net = VirtioNet(self.ram, NetworkPort(self.wire), MAC, defer=lambda action: None, long_header=long_header)
        self.device = VirtioMmio(net, self._line)

    def _line(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level

    def read(self, offset: int, size: int = 4) -> int:
        return self.device.read(CPU, offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.device.write(CPU, offset, size, value)

    def start(self, features: int, size: int = 16) -> list[Ring]:
        for status in (0, 1, 3):
            self.write(0x70, status)
        for half in range(2):
            self.write(0x24, half)
            self.write(0x20, features >> 32 * half & 0xFFFF_FFFF)
        self.write(0x70, 11)
        assert self.read(0x70) == 11
        rings = [Ring(self.ram, 0x40000 * n + 0x1000, size, 2048) for n in range(2)]
        for number, ring in enumerate(rings):
            self.write(0x30, number)
            assert self.read(0x34) >= size
            assert self.read(0x44) == 0
            self.write(0x38, size)
            for offset, address in ((0x80, ring.descriptors), (0x90, ring.available), (0xA0, ring.used)):
                self.write(offset, address)
                self.write(offset + 4, 0)
            self.write(0x44, 1)
            assert self.read(0x44) == 1
        for n in range(size):
            rings[0].descriptor(n, rings[0].buffer(n), 2048, WRITE)
            rings[0].offer(n)
        self.write(0x70, 15)
        return rings


def test_identity_and_configuration() -> None:
    machine = Machine()
    assert [machine.read(offset) for offset in (0x00, 0x04, 0x08)] == [MAGIC, 2, 1]
    machine.write(0x14, 1)
    assert machine.read(0x10) & 1  # VIRTIO_F_VERSION_1
    assert machine.read(0x100, 4).to_bytes(4, "little") + machine.read(0x104, 2).to_bytes(2, "little") == MAC
    assert machine.read(0xB0) == 0xFFFF_FFFF  # no shared memory


def test_an_empty_slot_says_so() -> None:
    assert [read_empty(CPU, offset, 4) for offset in (0x00, 0x04, 0x08, 0x10)] == [MAGIC, 2, 0, 0]


@pytest.mark.parametrize(("features", "long_header", "header"), [(VERSION_1, False, 12), (0, False, 10), (0, True, 12)])
def test_frames_both_ways_with_the_header_of_what_was_negotiated(features: int, long_header: bool, header: int) -> None:
    machine = Machine(long_header)
    receive, transmit = machine.start(features)
    machine.ram.write(transmit.buffer(0), bytes(header) + FRAME)
    transmit.descriptor(0, transmit.buffer(0), header + len(FRAME))
    transmit.offer(0)
    machine.write(0x50, 1)
    assert machine.wire.sent == [FRAME]
    machine.wire.on_receive(FRAME)
    head, length = receive.take()[0]
    assert machine.ram.read(receive.buffer(head), length)[header:] == FRAME


def test_the_interrupt_is_a_level_until_acknowledged_and_an_edge_for_each_event() -> None:
    machine = Machine()
    machine.start(VERSION_1)
    machine.wire.on_receive(FRAME)
    assert (machine.level, machine.edges, machine.read(0x60)) == (True, 1, 1)
    machine.wire.on_receive(FRAME)
    assert (machine.level, machine.edges) == (True, 2)
    machine.write(0x64, 1)
    assert (machine.level, machine.read(0x60)) == (False, 0)


def test_a_reset_forgets_everything() -> None:
    machine = Machine()
    machine.start(VERSION_1)
    machine.wire.on_receive(FRAME)
    machine.write(0x70, 0)
    assert (machine.level, machine.read(0x60), machine.read(0x70), machine.read(0x44)) == (False, 0, 0, 0)


def test_a_queue_that_cannot_be_breaks_the_device_and_nothing_else() -> None:
    machine = Machine()
    machine.start(VERSION_1)
    machine.write(0x30, 2)
    machine.write(0x38, 3)
    machine.write(0x44, 1)
    assert machine.read(0x70) & 0x40
    machine.start(VERSION_1)
    assert not machine.read(0x70) & 0x40


@given(accesses(range(0x110), (1, 2, 4, 8)), accesses(range(0x110), (1, 2, 4, 8)))
def test_any_accesses_are_survived_and_a_saved_device_goes_on_as_it_was(first: list, second: list) -> None:
    check_twin(lambda: Machine().device, first, second)


@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF))
def test_notifications_and_selections_of_queues_that_are_none(queue: int, value: int) -> None:
    machine = Machine()
    machine.start(0)
    machine.write(0x30, queue)
    machine.write(0x50, value)
    machine.read(0x34)
    assert machine.read(0x00) == MAGIC
