"""PCI as guests see it: scans, BAR sizing, decoding, capabilities, MSI-X and interrupt lines."""

from itertools import pairwise

import pytest
from device_accesses import CPU, accesses, assert_plain
from hypothesis import given
from hypothesis import strategies as st

from machine.bus import Bus
from machine.errors import BusConflict
from machine.pci import config_space as cs
from machine.pci import device as pci
from machine.pci.bus import ADDRESS_PORT, DATA_PORT, DATA_PORTS, PciBus
from machine.pci.device import PciDevice
from machine.pci.host_bridge import HostBridge
from machine.pci.lpc_bridge import SLOT, LpcBridge
from machine.pci.msix import Msix
from machine.pci.resources import ResourceError, assign

ECAM = 0xE000_0000


class Card(PciDevice):
    """A function with a memory BAR, ports, a 64-bit BAR, MSI-X and an interrupt pin."""

    def __init__(self, messages: list[tuple[int, int]]) -> None:
        super().__init__(vendor=0x1AF4, device=0x1041, class_code=0x020000, revision=1, interrupt_pin=1)
        self.memory = bytearray(4096)
        self.add_bar(0, pci.MEMORY32, 4096, self._read, self._write)
        self.msix = Msix(self, 4, 1, lambda address, data: messages.append((address, data)))
        self.add_bar(2, pci.IO, 64, self._read, self._write)
        self.add_bar(4, pci.MEMORY64 | pci.PREFETCHABLE, 0x10000, self._read, self._write)

    def _read(self, cpu: object, offset: int, size: int) -> int:
        return int.from_bytes(self.memory[offset % 4096 :][:size], "little")

    def _write(self, cpu: object, offset: int, size: int, value: int) -> None:
        self.memory[offset % 4096 : offset % 4096 + size] = value.to_bytes(size, "little")


class System:
    def __init__(self) -> None:
        self.bus = Bus()
        self.gsis: dict[int, bool] = {}
        self.pic: dict[int, bool] = {}
        self.messages: list[tuple[int, int]] = []
        self.lpc = LpcBridge(self.gsis.__setitem__, self.pic.__setitem__, 0xB000)
        self.pci = PciBus(self.bus, self.lpc.set_pirq)
        self.pci.add(HostBridge(ECAM), 0)
        self.pci.add(self.lpc, SLOT)
        self.card = Card(self.messages)
        self.pci.add(self.card, 3)
        self.bus.add_ports(ADDRESS_PORT, 1, self.pci.read_address, self.pci.write_address)
        self.bus.add_ports(DATA_PORT, DATA_PORTS, self.pci.read_data, self.pci.write_data)
        self.bus.add_mmio(ECAM, 256 << 20, self.pci.read_ecam, self.pci.write_ecam)

    def get(self, slot: int, register: int, size: int = 4, bus: int = 0) -> int:
        self.bus.port_write(CPU, 0xCF8, 4, 1 << 31 | bus << 16 | slot << 11 | register & 0xFC)
        return self.bus.port_read(CPU, 0xCFC + register % 4, size)

    def put(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.bus.port_write(CPU, 0xCF8, 4, 1 << 31 | slot << 11 | register & 0xFC)
        self.bus.port_write(CPU, 0xCFC + register % 4, size, value)

    def assign(self) -> None:
        assign(self.pci, self.lpc, range(0xC000_0000, 0xD000_0000), range(0xC000, 0xD000))


def test_a_scan_finds_what_is_there_and_nothing_else() -> None:
    system = System()
    found = {
        (bus, slot): value
        for bus in range(256)
        for slot in range(32)
        if (value := system.get(slot, 0, bus=bus)) != 0xFFFF_FFFF
    }
    assert found == {(0, 0): 0x29C0_8086, (0, 3): 0x1041_1AF4, (0, 31): 0x2918_8086}
    assert system.get(0, 8) >> 8 == 0x060000
    assert system.get(31, 8) >> 8 == 0x060100
    assert system.get(31, 0x40) == 0xB001
    assert system.get(0, 0x60) == ECAM | 1


def test_address_port_takes_32_bits_and_needs_the_enable_bit() -> None:
    system = System()
    system.bus.port_write(CPU, 0xCF8, 4, 0x8000_0000)
    assert system.bus.port_read(CPU, 0xCF8, 4) == 0x8000_0000
    system.bus.port_write(CPU, 0xCF8, 1, 0x12)
    assert system.bus.port_read(CPU, 0xCF8, 4) == 0x8000_0000
    system.bus.port_write(CPU, 0xCF8, 4, 0)
    assert system.bus.port_read(CPU, 0xCFC, 4) == 0xFFFF_FFFF


def test_byte_and_word_lanes_and_ecam_agree() -> None:
    system = System()
    assert system.get(3, 0, 2) == 0x1AF4
    assert system.get(3, 2, 2) == 0x1041
    assert system.get(3, 0x0B, 1) == 0x02
    base = ECAM | 3 << 15
    for size in (1, 2, 4):
        for register in range(0, 256, size):
            assert system.bus.mmio_read(CPU, base + register, size) == system.get(3, register, size)
    assert system.bus.mmio_read(CPU, base + 0x100, 4) == 0xFFFF_FFFF
    assert system.bus.mmio_read(CPU, ECAM | 4 << 15, 8) == 0xFFFF_FFFF_FFFF_FFFF
    system.bus.mmio_write(CPU, base + 0x3C, 1, 0x0B)
    assert system.get(3, 0x3C, 1) == 0x0B


def test_bar_sizing() -> None:
    system = System()
    sizes = []
    for register in range(0x10, 0x28, 4):
        before = system.get(3, register)
        system.put(3, register, 0xFFFF_FFFF)
        sizes.append(system.get(3, register))
        system.put(3, register, before)
        assert system.get(3, register) == before
    assert sizes == [0xFFFF_F000, 0xFFFF_F000, 0xFFC1, 0, 0xFFFF_000C, 0xFFFF_FFFF]


def test_regions_answer_only_while_the_command_register_says_so() -> None:
    system = System()
    system.put(3, 0x10, 0xC123_4000)
    system.put(3, 0x18, 0xC040)
    assert system.bus.mmio_read(CPU, 0xC123_4000, 4) == 0xFFFF_FFFF
    system.put(3, 4, 0x0002, 2)
    system.bus.mmio_write(CPU, 0xC123_4010, 4, 0x1234_5678)
    assert system.bus.mmio_read(CPU, 0xC123_4010, 4) == 0x1234_5678
    assert system.bus.port_read(CPU, 0xC050, 4) == 0xFFFF_FFFF
    system.put(3, 4, 0x0001, 2)
    assert system.bus.mmio_read(CPU, 0xC123_4010, 4) == 0xFFFF_FFFF
    assert system.bus.port_read(CPU, 0xC050, 4) == 0x1234_5678
    system.put(3, 4, 0x0003, 2)
    system.put(3, 0x10, 0xC200_0000)
    assert system.bus.mmio_read(CPU, 0xC123_4010, 4) == 0xFFFF_FFFF
    assert system.bus.mmio_read(CPU, 0xC200_0010, 4) == 0x1234_5678


def test_nothing_is_mapped_at_zero_or_while_a_size_is_probed() -> None:
    system = System()
    system.put(3, 4, 0x0002, 2)
    assert system.bus.mmio_read(CPU, 0, 4) == 0xFFFF_FFFF
    system.put(3, 0x10, 0xFFFF_FFFF)
    assert system.bus.mmio_read(CPU, 0xFFFF_F000, 4) == 0xFFFF_FFFF


def test_a_region_over_another_waits_until_that_one_moves() -> None:
    system = System()
    other = PciDevice(vendor=0x1234, device=0x1111, class_code=0xFF0000)
    other.add_bar(0, pci.MEMORY32, 4096, lambda *_: 0x55, lambda *_: None)
    system.pci.add(other, 4)
    for slot in (3, 4):
        system.put(slot, 0x10, 0xC100_0000)
        system.put(slot, 4, 0x0002, 2)
    assert system.bus.mmio_read(CPU, 0xC100_0000, 1) == 0
    system.put(3, 0x10, 0xC200_0000)
    assert system.bus.mmio_read(CPU, 0xC100_0000, 1) == 0x55
    assert system.bus.mmio_read(CPU, 0xC200_0000, 1) == 0
    system.put(4, 4, 0, 2)
    assert system.bus.mmio_read(CPU, 0xC100_0000, 1) == 0xFF
    system.put(4, 0x10, 0xC200_0000)
    system.put(4, 4, 0x0002, 2)
    system.put(4, 4, 0, 2)
    assert system.bus.mmio_read(CPU, 0xC200_0000, 1) == 0


def test_firmware_assignment_enables_everything_for_guests_that_never_do() -> None:
    system = System()
    system.assign()
    assert system.get(3, 4, 2) & 0x7 == 0x7
    ranges = []
    for register, size in ((0x10, 4096), (0x14, 4096), (0x20, 0x10000)):
        base = system.get(3, register) & ~0xF
        assert base % size == 0
        assert 0xC000_0000 <= base < 0xD000_0000
        ranges.append((base, base + size))
    ranges.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(ranges))
    assert 0xC000 <= system.get(3, 0x18) & ~3 < 0xD000
    assert system.get(3, 0x3C, 1) == 11
    assert system.get(0, 4, 2) == 0
    with pytest.raises(ResourceError, match="BAR 4 needs 0x10000"):
        assign(system.pci, system.lpc, range(0xC000_0000, 0xC000_1000), range(0xC000, 0xD000))


def test_capability_list_can_be_walked() -> None:
    device = PciDevice(vendor=1, device=2, class_code=0)
    assert device.read_config(cs.STATUS, 2) & 0x10 == 0
    first = device.config.add_capability(0x09, bytes(14))
    second = device.config.add_capability(0x11, bytes(10))
    assert device.read_config(cs.STATUS, 2) & 0x10
    assert device.read_config(cs.CAPABILITIES, 4) == first  # TamaGo takes the whole dword
    assert (device.read_config(first, 1), device.read_config(first + 1, 1)) == (0x09, second)
    assert (device.read_config(second, 1), device.read_config(second + 1, 1)) == (0x11, 0)
    assert first % 4 == second % 4 == 0
    with pytest.raises(ValueError, match="does not fit"):
        device.config.add_capability(0x09, bytes(200))


def test_read_only_bytes_stay_and_status_is_cleared_by_ones() -> None:
    system = System()
    before = [system.get(3, register) for register in (0, 8, 0x2C, 0x34)]
    for register in (0, 8, 0x2C, 0x34):
        system.put(3, register, 0xFFFF_FFFF)
    assert [system.get(3, register) for register in (0, 8, 0x2C, 0x34)] == before
    system.card.config.set(cs.STATUS, 2, 0x2810)
    system.put(3, 6, 0x2000, 2)
    assert system.get(3, 6, 2) == 0x0810


def test_option_rom() -> None:
    device = PciDevice(vendor=1, device=2, class_code=0)
    device.add_rom(b"\x55\xaa" + bytes(3000))
    bus = Bus()
    pci_bus = PciBus(bus, lambda *_: None)
    pci_bus.add(device, 1)
    device.write_config(0x30, 4, 0xFFFF_FFFE)
    assert device.read_config(0x30, 4) == 0xFFFF_F000
    device.write_config(0x30, 4, 0xC000_0001)
    assert bus.mmio_read(CPU, 0xC000_0000, 2) == 0xFFFF
    device.write_config(4, 2, 2)
    assert bus.mmio_read(CPU, 0xC000_0000, 2) == 0xAA55


def test_multi_function_slots() -> None:
    system = System()
    second = PciDevice(vendor=1, device=2, class_code=0)
    assert system.get(31, 0x0C) >> 16 & 0x80 == 0
    system.pci.add(second, 31, 3)
    assert system.get(31, 0x0C) >> 16 & 0x80
    assert system.bus.mmio_read(CPU, ECAM | 31 << 15 | 3 << 12, 4) == 0x0002_0001
    with pytest.raises(BusConflict, match="already taken"):
        system.pci.add(PciDevice(vendor=1, device=2, class_code=0), 31, 3)
    with pytest.raises(BusConflict, match="function 0"):
        system.pci.add(PciDevice(vendor=1, device=2, class_code=0), 7, 1)


def test_intx_is_shared_and_can_be_disabled() -> None:
    system = System()
    other = PciDevice(vendor=1, device=2, class_code=0, interrupt_pin=1)
    system.pci.add(other, 7)
    gsi = 16 + system.pci.pirq_of(3, 1)
    assert gsi == 16 + system.pci.pirq_of(7, 1)
    system.card.set_intx(True)
    other.set_intx(True)
    system.card.set_intx(False)
    assert system.gsis[gsi]
    assert system.pic == {11: True}
    assert system.get(7, 6, 2) & 8
    system.put(7, 4, 0x0400, 2)
    assert not system.gsis[gsi]
    assert system.pic == {11: False}
    assert system.get(7, 6, 2) & 8
    system.put(31, 0x63, 0x05, 1)
    system.put(7, 4, 0, 2)
    assert system.pic == {11: False, 5: True}
    system.put(31, 0x63, 0x80, 1)
    assert system.pic == {11: False, 5: False}


def test_msix_as_tamago_enables_it() -> None:
    system = System()
    system.assign()
    capability = system.card.msix.capability
    header = system.get(3, capability)
    assert (header & 0xFF, header >> 16) == (0x11, 3)
    table_register = system.get(3, capability + 4)
    table = system.get(3, 0x10 + 4 * (table_register & 7)) + (table_register & ~7)
    assert system.bus.mmio_read(CPU, table + 12, 4) == 1
    assert system.card.msix.notify(0) is False
    system.bus.mmio_write(CPU, table, 8, 0xFEE0_0000)
    system.bus.mmio_write(CPU, table + 8, 4, 32)
    system.bus.mmio_write(CPU, table + 12, 4, 0)
    system.put(3, capability, 1 << 31)
    assert system.get(3, capability) >> 16 == 0x8003
    assert system.card.msix.notify(0) is True
    assert system.messages == [(0xFEE0_0000, 32)]


def test_msix_masks_and_pending_bits() -> None:
    system = System()
    system.assign()
    capability = system.card.msix.capability
    table = system.get(3, 0x14)
    pba = table + (system.get(3, capability + 8) & ~7)
    for vector in range(4):
        system.bus.mmio_write(CPU, table + 16 * vector, 4, 0xFEE0_0000)
        system.bus.mmio_write(CPU, table + 16 * vector + 8, 4, 0x40 + vector)
    system.put(3, capability + 2, 0xC000, 2)
    system.bus.mmio_write(CPU, table + 12, 4, 0)
    for vector in (0, 2, 2, 99):
        assert system.card.msix.notify(vector)
    assert system.messages == []
    assert system.bus.mmio_read(CPU, pba, 8) == 0b101
    system.bus.mmio_write(CPU, pba, 8, 0)
    assert system.bus.mmio_read(CPU, pba, 4) == 0b101
    system.put(3, capability + 2, 0x8000, 2)
    assert system.messages == [(0xFEE0_0000, 0x40)]
    system.put(3, 4, 0x0002, 2)
    system.bus.mmio_write(CPU, table + 2 * 16 + 12, 4, 0)
    assert len(system.messages) == 1
    system.put(3, 4, 0x0006, 2)
    assert system.messages[1:] == [(0xFEE0_0000, 0x42)]
    assert system.bus.mmio_read(CPU, pba, 4) == 0


@given(
    accesses(range(256), (1, 2, 4)),
    accesses(range(256), (1, 2, 4)),
    st.lists(st.integers(0, 5), max_size=5),
)
def test_random_configuration_accesses_and_a_restored_twin(first: list, second: list, vectors: list[int]) -> None:
    def step(system: System, access: tuple[bool, int, int, int]) -> int | None:
        is_write, register, size, value = access
        size = min(size, 4 - register % 4)
        if is_write:
            system.put(3, register, value & (1 << 8 * size) - 1, size)
            return None
        return system.get(3, register, size)

    original, twin = System(), System()
    for access in first:
        step(original, access)
    for vector in vectors:
        original.card.msix.notify(vector)
    original.card.set_intx(len(vectors) % 2 == 1)
    state, msix = original.pci.save(), original.card.msix.save()
    assert_plain(state)
    assert_plain(msix)
    twin.pci.load(state)
    twin.card.msix.load(msix)
    original.messages.clear()
    for access in second:
        assert step(original, access) == step(twin, access)
    assert original.messages == twin.messages
    assert {bar.base for bar in original.card.bars.values()} == {bar.base for bar in twin.card.bars.values()}


@given(accesses(range(0, 4096), (1, 2, 4, 8)))
def test_random_msix_accesses(steps: list) -> None:
    system = System()
    for is_write, offset, size, value in steps:
        if is_write:
            system.card.msix.write(CPU, offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= system.card.msix.read(CPU, offset, size) < 1 << 8 * size


@pytest.mark.parametrize(
    ("index", "kind", "size"),
    [(0, pci.MEMORY32, 4096), (5, pci.MEMORY64, 4096), (3, pci.MEMORY64, 4096), (3, pci.IO, 512), (3, pci.IO, 24)],
)
def test_impossible_bars_are_refused(index: int, kind: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"BAR {index}"):
        System().card.add_bar(index, kind, size, lambda *_: 0, lambda *_: None)
