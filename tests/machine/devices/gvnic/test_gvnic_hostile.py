"""A hostile driver: rings that cannot be, admin commands and register accesses at random. Nothing may raise."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from gvnic_driver import (
    CPU,
    DQO_QPL,
    DQO_RDA,
    FORMATS,
    GQI_QPL,
    GQI_RDA,
    PASSED,
    RAM,
    Admin,
    Driver,
    Machine,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

RESET = 2


def gqi(kind: int = 0, count: int = 1, total: int = 60, length: int = 60, address: int = 0) -> Callable[[Driver], None]:
    def put(driver: Driver) -> None:
        driver.descriptor(struct.pack(">BBBBHHQ", kind, 0, 0, count, total, length, address))
        driver.kick()

    return put


def dqo(kind: int = 0x2C, length: int = 60, address: int = 0x100000) -> Callable[[Driver], None]:
    def put(driver: Driver) -> None:
        driver.descriptor(struct.pack("<QB3xHH", address, kind, 0, length))
        driver.kick()

    return put


def endless(driver: Driver) -> None:
    for _ in range(63):
        driver.descriptor(struct.pack("<QB3xHH", 0x100000, 0x0C, 0, 16000))
    driver.tx_count += 64
    driver.descriptor(struct.pack("<QB3xHH", 0x100000, 0x2C, 0, 1))
    driver.doorbell(driver.tx_doorbell, 63)
    driver.ram.write(0x10000 + 62 * 16, struct.pack("<QB3xHH", 0x100000, 0x2C, 0, 1))
    driver.doorbell(driver.tx_doorbell, 63)


def slot(address: int) -> Callable[[Driver], None]:
    def put(driver: Driver) -> None:
        if driver.dqo:
            driver.ram.write(0x16000, struct.pack("<H6xQ16x", 1, address))
        else:
            driver.ram.write(0x16000, struct.pack(">Q", address))
        driver.doorbell(driver.rx_doorbell, 1)
        driver.machine.wire.on_receive(bytes(1500))

    return put


BROKEN: dict[str, tuple[int, Callable[[Driver], None]]] = {
    "more than the ring": (GQI_RDA, lambda driver: driver.doorbell(driver.tx_doorbell, 65)),
    "a doorbell that goes back": (GQI_RDA, lambda driver: driver.doorbell(driver.tx_doorbell, 0xFFFFFFFF)),
    "more buffers than the ring": (GQI_RDA, lambda driver: driver.doorbell(driver.rx_doorbell, 65)),
    "no descriptors in a packet": (GQI_RDA, gqi(count=0)),
    "a packet larger than the ring": (GQI_RDA, gqi(count=65)),
    "begins in the middle": (GQI_RDA, gqi(kind=0x20)),
    "begins with metadata": (GQI_RDA, gqi(kind=0x30)),
    "unknown type": (GQI_RDA, gqi(kind=0xF0)),
    "lengths differ": (GQI_RDA, gqi(total=61)),
    "outside memory": (GQI_RDA, gqi(address=RAM - 59)),
    "an address that wraps": (GQI_RDA, gqi(address=0xFFFF_FFFF_FFFF_FFE0)),
    "behind the page list": (GQI_QPL, gqi(address=32 * 4096 - 59)),
    "far behind the page list": (GQI_QPL, gqi(address=1 << 63)),
    "unknown DQO type": (DQO_RDA, dqo(kind=0x21)),
    "DQO outside memory": (DQO_RDA, dqo(address=RAM - 59)),
    "DQO not registered": (DQO_QPL, dqo(address=0x200000)),
    "DQO half registered": (DQO_QPL, dqo(address=Driver.TX_PAGES + 32 * 4096 - 59)),
    "a packet without an end": (DQO_RDA, endless),
    "a slot outside memory": (GQI_RDA, slot(RAM - 10)),
    "a slot behind the page list": (GQI_QPL, slot(32 * 4096 - 10)),
    "a DQO buffer outside memory": (DQO_RDA, slot(1 << 62)),
    "a DQO buffer that is not registered": (DQO_QPL, slot(Driver.TX_PAGES)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_stops_the_device_until_it_is_reset(name: str) -> None:
    queue_format, attack = BROKEN[name]
    machine = Machine()
    driver = Driver(machine, queue_format)
    attack(driver)
    assert machine.status & RESET, name
    assert machine.nic.problem
    assert not machine.wire.sent
    driver.kick()
    machine.wire.on_receive(bytes(60))
    assert not machine.port.waiting
    assert driver.admin.give(0xD, "Q", 0x8000) == PASSED
    machine.write(0, 0x10, 0)
    assert not machine.status & RESET
    fresh = Driver(machine, queue_format)
    fresh.offer()
    fresh.send(bytes(60))
    machine.wire.on_receive(bytes(61))
    assert machine.wire.sent == [bytes(60)]
    assert fresh.receive() == [bytes(61)]


U64 = st.one_of(
    st.sampled_from([0, 1, 0x1000, 0x3000, 0x8000, RAM - 8, RAM, (1 << 64) - 1]), st.integers(0, (1 << 64) - 1)
)
FIELDS = st.lists(
    st.tuples(st.integers(0, 13), st.one_of(st.sampled_from([0, 1, 2, 64, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))),
    max_size=3,
)
COMMANDS = st.lists(
    st.tuples(st.one_of(st.integers(0, 16), st.integers(0, 0xFFFFFFFF)), st.binary(max_size=56), FIELDS), max_size=20
)

GOOD_COMMANDS = {
    1: struct.pack(">QII", 0x3000, 1, 4096),
    2: struct.pack(">QQIIIIB7x", 0x2000, 0x2800, 8, 2, 64, 0, 3),
    3: struct.pack(">IIQQ", 7, 4, 0x3000, 4096),
    4: struct.pack(">I", 7),
    5: struct.pack(">I4xQQIIQHH4x", 0, 0x2400, 0x10000, 0xFFFFFFFF, 0, 0x12000, 64, 64),
    6: struct.pack(">II4xIQQQIHHHB5x", 0, 0, 1, 0x2440, 0x14000, 0x16000, 0xFFFFFFFF, 64, 2048, 64, 0),
    0xB: struct.pack(">I4xQ", 1, 1500),
    0xC: struct.pack(">QQQ", 4096, 0x8000, 1000),
    0xD: struct.pack(">Q", 0x8000),
    0xE: struct.pack(">QQ", 2048, 0x8000),
    0xF: struct.pack(">QQ", 304, 0x8000),
}


def check(machine: Machine) -> None:
    """What holds whatever the driver did: plain state that another device takes, and a device that a reset cures."""
    state = machine.nic.save()
    other = Machine()
    other.nic.load(state)
    assert other.nic.save() == state
    assert machine.port.counters["sent"] == len(machine.wire.sent)
    machine.nic.write_config(4, 2, 6)
    machine.write(0, 0x10, 0)
    assert machine.nic.commands.resources is None
    assert machine.status == 20
    driver = Driver(machine, GQI_RDA)
    machine.wire.sent.clear()
    driver.send(bytes(60))
    assert machine.wire.sent == [bytes(60)]


@settings(max_examples=150, deadline=None)
@given(COMMANDS)
def test_random_admin_commands(commands: list[tuple[int, bytes, list[tuple[int, int]]]]) -> None:
    machine = Machine()
    admin = Admin(machine)
    machine.ram.write(0x3000, struct.pack(">4Q", 0x100000, 0x101000, 0x102000, 0x103000))
    for opcode, noise, changes in commands:
        good = GOOD_COMMANDS.get(opcode)
        command = bytearray((noise if good is None else good).ljust(56, b"\0"))
        for word, value in changes:
            command[4 * word : 4 * word + 4] = value.to_bytes(4, "big")
        status = admin.give(opcode, "56s", bytes(command))
        assert status == PASSED or status >= 0xFFFFFFF0
        lists: list[Any] = machine.nic.commands.lists.save()
        assert sum(len(pages) for _, pages in lists) <= 32768
        resources = machine.nic.commands.resources
        if resources is not None:
            assert set(resources.transmit) | set(resources.receive) <= set(range(4))
    check(machine)


RING_STATES = (
    st.sampled_from(FORMATS),
    st.binary(min_size=16, max_size=256),
    st.lists(
        st.tuples(st.sampled_from(["tx", "rx", "irq", "frame", "deferred"]), st.integers(0, 0xFFFFFFFF)), max_size=12
    ),
    U64,
)


@settings(max_examples=200, deadline=None)
@given(*RING_STATES)
@example(GQI_RDA, bytes(16), [("tx", 1)], 0)
def test_random_rings(queue_format: int, noise: bytes, steps: list[tuple[str, int]], address: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    for at in (0x10000, 0x16000):
        machine.ram.write(at, (noise * 128)[:2048])
    order = "<Q" if driver.dqo else ">Q"
    machine.ram.write(0x16008 if driver.dqo else 0x16000, struct.pack(order, address))
    for what, value in steps:
        small = value % 65
        if what == "tx":
            driver.doorbell(driver.tx_doorbell, value if value % 3 == 0 else small)
        elif what == "rx":
            driver.doorbell(driver.rx_doorbell, value if value % 3 == 0 else small)
        elif what == "irq":
            driver.doorbell(driver.blocks[value % 2], value)
        elif what == "frame":
            machine.wire.on_receive(bytes(14 + value % 3000))
        else:
            machine.run_deferred()
    assert bool(machine.status & RESET) == bool(machine.nic.problem)
    check(machine)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("examples", "strategies", "test"),
    [(10_000, RING_STATES, test_random_rings), (1_500, (COMMANDS,), test_random_admin_commands)],
    ids=["ring states", "lists of admin commands"],
)
def test_ten_thousand_of(examples: int, strategies: tuple[Any, ...], test: Any) -> None:
    """A list of admin commands has up to 20, seven and more on average."""
    settings(max_examples=examples, deadline=None, database=None)(given(*strategies)(test.hypothesis.inner_test))()


ACCESS = st.tuples(
    st.booleans(),
    st.sampled_from([0, 1, 2]),
    st.one_of(st.integers(0, 0x2F), st.sampled_from([0x400, 0x800, 0x810, 0xFF8, 0xFFC]), st.integers(0, 0xFF8)),
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(st.integers(0, 255), st.integers(0, (1 << 64) - 1)),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([0, 1]), st.sampled_from([0, *FORMATS]), st.lists(ACCESS, max_size=60), st.booleans())
def test_random_mmio(
    revision: int, queue_format: int, accesses: list[tuple[bool, int, int, int, int]], master: bool
) -> None:
    machine = Machine(revision=revision)
    if queue_format:
        Driver(machine, queue_format, revision)
    if not master:
        machine.nic.write_config(4, 2, 2)
    for is_write, number, offset, size, value in accesses:
        bar = machine.nic.bars[number]
        assert bar.base is not None
        at = bar.base + min(offset, bar.size - size)
        if is_write:
            machine.bus.mmio_write(CPU, at, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= machine.bus.mmio_read(CPU, at, size) < 1 << 8 * size
        machine.run_deferred()
    if not revision:
        check(machine)
