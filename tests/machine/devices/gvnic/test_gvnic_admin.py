"""The admin queue: what each command gives, and with which status each wrong one is refused."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from gvnic_driver import (
    CPU,
    DQO_RDA,
    EXHAUSTED,
    EXISTS,
    FORMATS,
    GQI_QPL,
    GQI_RDA,
    INVALID,
    MAC,
    NOT_FOUND,
    PASSED,
    PRECONDITION,
    RAM,
    RANGE,
    RAW,
    UNIMPLEMENTED,
    Admin,
    Driver,
    Machine,
)

from machine.devices.gvnic import variant
from machine.errors import MachineError

RESET, LINK, IS_RESET = 2, 4, 16


def test_identity() -> None:
    nic = Machine().nic
    assert nic.read_config(0, 4) == 0x00421AE0
    assert nic.read_config(8, 4) == 0x02000000
    assert nic.read_config(0x2C, 4) == 0x00581AE0
    assert nic.read_config(0x3D, 1) == 0
    assert [bar.base is not None for bar in nic.bars.values()] == [True] * 3
    assert all(nic.read_config(0x10 + 4 * bar, 4) & 0xF == 0 for bar in range(3))
    assert Machine(revision=1).nic.read_config(8, 1) == 1


def test_registers_are_big_endian() -> None:
    machine = Machine()
    assert machine.read(0, 0x08) == machine.read(0, 0x0C) == 4
    assert machine.read(0, 0x0B, 1) == 4
    machine.write(0, 0x10, 0x12345)
    assert machine.read(0, 0x10) == 0x12345
    machine.write(0, 0x08, 99)
    assert machine.read(0, 0x08) == 4
    for byte in b"test 1.0\n":
        machine.write(0, 0x1F, byte, 1)
    assert machine.nic.registers.driver_version == "test 1.0"


def test_a_64_bit_access_is_two_of_32_bits() -> None:
    machine = Machine(revision=1)
    base = machine.nic.bars[0].base
    assert base is not None
    machine.bus.mmio_write(CPU, base + 0x20, 8, int.from_bytes((0x1_0000_2000).to_bytes(8, "big"), "little"))
    assert (machine.read(0, 0x20), machine.read(0, 0x24)) == (1, 0x2000)
    assert machine.bus.mmio_read(CPU, base + 0x20, 8).to_bytes(8, "little") == (0x1_0000_2000).to_bytes(8, "big")


@pytest.mark.parametrize(("revision", "modulo"), [(0, False), (0, True), (1, False)])
def test_the_counter_answers_as_the_driver_counts(revision: int, modulo: bool) -> None:
    admin = Admin(Machine(revision=revision), revision=revision, modulo=modulo)
    for number in range(200):
        assert admin.give(0x77) == UNIMPLEMENTED, number
    assert admin.count == (200 % 64 if modulo else 200)


@pytest.mark.parametrize("count", [2, 63, 64])
def test_many_commands_with_one_doorbell(count: int) -> None:
    machine = Machine()
    Admin(machine)
    for number in range(count):
        machine.ram.write(0x1000 + 64 * number, struct.pack(">IIQ", 0xD, 0, 0x8000 + 8 * number))
    machine.write(0, 0x14, count)
    statuses = [int.from_bytes(machine.ram.read(0x1004 + 64 * number, 4), "big") for number in range(64)]
    assert statuses == [PASSED] * count + [0] * (64 - count)
    assert machine.read(0, 0x18) == count


def test_describe() -> None:
    machine = Machine(mtu=1460)
    assert Admin(machine).describe(length=0x100) == PASSED
    told = machine.ram.read(0x3000, 0x100)
    pages, _, tx, rx, queues, mtu, counters, tx_pages, rx_pages = struct.unpack_from(">Q8H", told)
    assert (queues, mtu, counters) == (1, 1460, 8)
    assert rx_pages >= rx == tx
    assert pages >= tx_pages + rx_pages
    assert told[24:30] == MAC
    count, length = struct.unpack_from(">HH", told, 30)
    options, at = {}, 40
    for _ in range(count):
        identity, size, required = struct.unpack_from(">HHI", told, at)
        assert required == 0
        options[identity] = told[at + 8 : at + 8 + size]
        at += 8 + size
    assert at == length
    assert {number: len(body) for number, body in options.items()} == {2: 4, 3: 4, 4: 8, 6: 12, 7: 8, 8: 8}
    assert struct.unpack(">IHHHH", options[6]) == (1, 4096, 4096, 64, 64)
    assert struct.unpack(">IHH", options[8]) == (4, 8896, 0)


def test_describe_gives_whole_options_that_fit_and_only_formats_that_are_offered() -> None:
    machine = Machine(formats=frozenset((GQI_QPL, DQO_RDA)))
    admin = Admin(machine)
    for length, count, total in ((40, 0, 40), (51, 0, 40), (52, 1, 52), (68, 2, 68), (4096, 4, 104)):
        machine.ram.write(0x3000, b"\xee" * 200)
        assert admin.describe(length=length) == PASSED
        assert struct.unpack(">HH", machine.ram.read(0x301E, 4)) == (count, total)
        assert machine.ram.read(0x3000 + total, 4) == b"\xee" * 4
    assert admin.configure(GQI_RDA) == INVALID
    assert admin.configure(DQO_RDA) == PASSED


def test_configure_tells_the_interrupt_doorbells() -> None:
    machine = Machine()
    assert Admin(machine).configure(blocks=8, stride=16) == PASSED
    told = [int.from_bytes(machine.ram.read(0x2800 + 16 * block, 4), "big") for block in range(8)]
    assert len(set(told)) == 8
    assert max(told) < 1024


WRONG: dict[str, tuple[int, Callable[[Admin], int]]] = {
    "no command": (UNIMPLEMENTED, lambda admin: admin.give(0)),
    "unknown command": (UNIMPLEMENTED, lambda admin: admin.give(0x12)),
    "large opcode": (UNIMPLEMENTED, lambda admin: admin.give(0x101)),
    "describe: version": (INVALID, lambda admin: admin.describe(version=2)),
    "describe: too short": (INVALID, lambda admin: admin.describe(length=39)),
    "describe: no memory": (INVALID, lambda admin: admin.describe(address=RAM - 8)),
    "configure again": (EXISTS, lambda admin: admin.configure()),
    "unregister unknown": (NOT_FOUND, lambda admin: admin.give(4, "I", 77)),
    "unregister in use": (PRECONDITION, lambda admin: admin.give(4, "I", 7)),
    "register again": (EXISTS, lambda admin: admin.register(7, [0x100000])),
    "register nothing": (INVALID, lambda admin: admin.register(1, [])),
    "register raw": (INVALID, lambda admin: admin.register(RAW, [0x100000])),
    "register unaligned": (INVALID, lambda admin: admin.register(1, [0x100000, 0x100800])),
    "register outside": (INVALID, lambda admin: admin.register(1, [RAM])),
    "register page size": (INVALID, lambda admin: admin.register(1, [0x100000], 8192)),
    "register too many": (EXHAUSTED, lambda admin: admin.give(3, "IIQQ", 1, 1 << 31, 0x3000, 0)),
    "register no list": (INVALID, lambda admin: admin.give(3, "IIQQ", 1, 2, RAM - 8, 0)),
    "tx: again": (EXISTS, lambda admin: admin.create_tx(list=7)),
    "tx: number": (EXHAUSTED, lambda admin: admin.create_tx(id=4, list=7)),
    "tx: block": (RANGE, lambda admin: admin.create_tx(id=1, list=7, block=2)),
    "tx: page list": (NOT_FOUND, lambda admin: admin.create_tx(id=1, list=8)),
    "tx: raw with page lists": (NOT_FOUND, lambda admin: admin.create_tx(id=1)),
    "tx: odd size": (INVALID, lambda admin: admin.create_tx(id=1, list=7, size=100)),
    "tx: small": (INVALID, lambda admin: admin.create_tx(id=1, list=7, size=32)),
    "tx: large": (INVALID, lambda admin: admin.create_tx(id=1, list=7, size=8192)),
    "tx: unaligned ring": (INVALID, lambda admin: admin.create_tx(id=1, list=7, ring=0x10008)),
    "tx: ring outside": (INVALID, lambda admin: admin.create_tx(id=1, list=7, ring=RAM - 512)),
    "tx: resources outside": (INVALID, lambda admin: admin.create_tx(id=1, list=7, told=RAM)),
    "rx: again": (EXISTS, lambda admin: admin.create_rx(list=9)),
    "rx: number": (EXHAUSTED, lambda admin: admin.create_rx(id=RAW, list=9)),
    "rx: block": (RANGE, lambda admin: admin.create_rx(id=1, list=9, block=RAW)),
    "rx: slots outside": (INVALID, lambda admin: admin.create_rx(id=1, list=9, other=RAM)),
    "rx: small buffers": (INVALID, lambda admin: admin.create_rx(id=1, list=9, buffer=255)),
    "rx: large buffers": (INVALID, lambda admin: admin.create_rx(id=1, list=9, buffer=4097)),
    "destroy unknown": (NOT_FOUND, lambda admin: admin.give(7, "I", 1)),
    "deconfigure with queues": (PRECONDITION, lambda admin: admin.give(9)),
    "parameter": (INVALID, lambda admin: admin.give(0xB, "I4xQ", 2, 1500)),
    "small MTU": (RANGE, lambda admin: admin.give(0xB, "I4xQ", 1, 67)),
    "large MTU": (RANGE, lambda admin: admin.give(0xB, "I4xQ", 1, 8897)),
    "link speed outside": (INVALID, lambda admin: admin.give(0xD, "Q", RAM - 4)),
    "types: short": (INVALID, lambda admin: admin.give(0xE, "QQ", 2047, 0x8000)),
    "driver: short": (INVALID, lambda admin: admin.give(0xF, "QQ", 303, 0x8000)),
    "driver: outside": (INVALID, lambda admin: admin.give(0xF, "QQ", 304, RAM)),
    "report: short": (INVALID, lambda admin: admin.give(0xC, "QQQ", 7, 0x8000, 0)),
    "report: often": (INVALID, lambda admin: admin.give(0xC, "QQQ", 4096, 0x8000, 1)),
    "report: outside": (INVALID, lambda admin: admin.give(0xC, "QQQ", 4096, RAM - 100, 0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    machine = Machine()
    driver = Driver(machine, GQI_QPL)
    state, ram = machine.nic.commands.save(), machine.ram.read(0x4000, RAM - 0x4000)
    status, give = WRONG[name]
    assert give(driver.admin) == status
    assert machine.nic.commands.save() == state
    assert machine.ram.read(0x4000, RAM - 0x4000) == ram
    assert machine.nic.admin.last_problem
    assert machine.status == LINK
    driver.send(bytes(60))
    assert machine.wire.sent == [bytes(60)]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (INVALID, {"queue_format": 0}),
        (INVALID, {"queue_format": 5}),
        (INVALID, {"n": 7}),
        (RANGE, {"blocks": 0}),
        (RANGE, {"blocks": 9}),
        (RANGE, {"blocks": 2, "first": 7}),
        (RANGE, {"blocks": 1, "first": RAW}),
        (INVALID, {"stride": 2}),
        (INVALID, {"stride": 66}),
        (INVALID, {"stride": 1 << 31}),
        (INVALID, {"counters": 0x2002}),
        (INVALID, {"counters": RAM - 16}),
        (INVALID, {"doorbells": RAM - 16}),
    ],
)
def test_configure_refused(status: int, changes: dict[str, Any]) -> None:
    machine = Machine()
    admin = Admin(machine)
    assert admin.configure(**changes) == status
    assert machine.nic.commands.resources is None
    for opcode in (5, 6, 7, 8, 9, 0xC):
        assert admin.give(opcode) == PRECONDITION
    assert admin.configure() == PASSED


@pytest.mark.parametrize("queue_format", FORMATS)
def test_take_down_and_set_up_again(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    machine.wire.on_receive(bytes(60))
    for opcode in (7, 8):
        assert driver.admin.give(opcode, "I", 0) == PASSED
    driver.kick()
    driver.offer()
    if queue_format in (2, 4):
        assert driver.admin.give(4, "I", 7) == PASSED
        assert driver.admin.give(4, "I", 9) == PASSED
    assert driver.admin.give(9) == PASSED
    assert driver.admin.give(9) == PRECONDITION
    machine.write(0, 0x10, 0)
    assert machine.status == LINK | IS_RESET
    again = Driver(machine, queue_format)
    again.offer()
    again.send(bytes(61))
    machine.wire.on_receive(bytes(62))
    assert again.receive() == [bytes(62)]
    assert machine.wire.sent == [bytes(61)]


@pytest.mark.parametrize("revision", [0, 1])
def test_reset_by_the_driver(revision: int) -> None:
    machine = Machine(revision=revision)
    Driver(machine, GQI_QPL, revision)
    assert machine.status == LINK
    machine.write(0, 0x04, 2)
    assert machine.status == LINK | IS_RESET
    assert machine.read(0, 0x10) == machine.read(0, 0x14) == machine.read(0, 0x18) == machine.read(0, 0x24) == 0
    Driver(machine, DQO_RDA, revision)
    assert machine.status == LINK


def test_a_driver_may_begin_anew_without_a_reset() -> None:
    machine = Machine()
    Driver(machine, GQI_QPL, modulo=True)
    again = Driver(machine, GQI_QPL, modulo=True)
    again.send(bytes(60))
    assert machine.wire.sent == [bytes(60)]


def test_an_admin_queue_that_is_no_memory() -> None:
    machine = Machine()
    machine.write(0, 0x10, 0xFFFFF)
    machine.write(0, 0x14, 1)
    assert machine.status & RESET
    assert machine.nic.problem
    machine.write(0, 0x10, 0)
    assert not machine.status & RESET
    Driver(machine, GQI_QPL)


@pytest.mark.parametrize("length", [1, 63, 96, 65535])
def test_an_admin_queue_of_an_odd_length(length: int) -> None:
    machine = Machine(revision=1)
    machine.write(0, 0x28, length, 2)
    machine.write(0, 0x24, 0x1000)
    machine.write(0, 0x14, 1)
    assert machine.status & RESET


def test_link_speed_and_packet_types() -> None:
    machine = Machine()
    admin = Admin(machine)
    assert admin.give(0xD, "Q", 0x8000) == PASSED
    assert int.from_bytes(machine.ram.read(0x8000, 8), "big") == 10_000
    assert admin.give(0xE, "QQ", 2048, 0x8000) == PASSED
    types = machine.ram.read(0x8000, 2048)
    assert types[:2] == b"\0\0"
    assert {types[at : at + 2] for at in range(0, 2048, 2)} >= {b"\2\2", b"\2\3", b"\3\2", b"\3\3", b"\2\4"}
    assert admin.give(0xF, "QQ", 304, 0x8000) == PASSED


def test_the_packet_type_of_what_is_received_is_in_the_map() -> None:
    machine = Machine()
    driver = Driver(machine, DQO_RDA)
    assert driver.admin.give(0xE, "QQ", 2048, 0x8000) == PASSED
    types = machine.ram.read(0x8000, 2048)
    driver.offer()
    v4, v6 = bytearray(60), bytearray(80)
    v4[12:15], v4[23] = b"\x08\x00\x45", 6
    v6[12:15], v6[20] = b"\x86\xdd\x60", 17
    for number, (received, wanted) in enumerate(((v4, b"\2\2"), (v6, b"\3\3"), (bytes(60), b"\1\1"))):
        machine.wire.on_receive(bytes(received))
        kind = int.from_bytes(machine.ram.read(0x14000 + 32 * number + 2, 2), "little") & 0x3FF
        assert types[2 * kind : 2 * kind + 2] == wanted


def test_the_report_is_written_at_once_and_at_the_interval() -> None:
    machine = Machine()
    driver = Driver(machine, GQI_QPL)
    assert driver.admin.give(0xC, "QQQ", 4096, 0x8000, 1000) == PASSED
    first = 0x8008 + 16 * 8

    def told() -> dict[int, int]:
        entries = [struct.unpack(">IIQ", machine.ram.read(first + 16 * at, 16)) for at in range(4)]
        return {name: value for name, queue, value in entries if queue == 0}

    assert told() == {65: 0, 66: 0, 67: 0, 68: 0}
    assert machine.ram.read(0x8000, 8 + 16 * 8) == bytes(8 + 16 * 8)
    machine.wire.on_receive(bytes(1519))
    machine.wire.on_receive(bytes(60))
    for _ in range(2):
        deadline = machine.clock.next_deadline()
        assert deadline is not None
        machine.clock.jump_to(deadline)
        machine.clock.run_due()
    assert told() == {65: 1, 66: 1, 67: 1, 68: 0}
    machine.write(0, 0x10, 0)
    assert machine.clock.next_deadline() is None


def test_the_report_follows_the_queues_and_ends_where_the_driver_says() -> None:
    """Linux asks for it before it makes queues, and for one of no length when it stops."""
    machine = Machine()
    admin = Admin(machine)
    assert admin.configure(GQI_RDA) == PASSED
    assert admin.give(0xC, "QQQ", 8 + 16 * 12 - 1, 0x8000, 1000) == PASSED
    assert admin.create_tx() == PASSED
    assert admin.create_rx() == PASSED
    for length, wanted in ((8 + 16 * 12 - 1, 0), (8 + 16 * 12, 65)):
        assert admin.give(0xC, "QQQ", length, 0x8000, 1000) == PASSED
        assert int.from_bytes(machine.ram.read(0x8008 + 16 * 8, 4), "big") == wanted
    assert admin.give(0xC, "QQQ", 0, 0, 20000) == PASSED
    assert machine.clock.next_deadline() is None


@pytest.mark.parametrize("queue_format", [GQI_RDA, DQO_RDA])
def test_raw_queues_have_no_page_list_whatever_the_driver_says(queue_format: int) -> None:
    admin = Admin(Machine())
    assert admin.configure(queue_format) == PASSED
    assert admin.create_tx(list=0) == PASSED
    assert admin.create_rx(list=77) == PASSED


def test_going_round_modulo_64_is_one_command() -> None:
    machine = Machine()
    admin = Admin(machine, modulo=True)
    for _ in range(63):
        admin.give(0xD, "Q", 0x8000)
    for number in range(64):
        machine.ram.write(0x1004 + 64 * number, bytes(4))
    assert admin.give(0xD, "Q", 0x8000) == PASSED
    assert [number for number in range(64) if machine.ram.read(0x1004 + 64 * number, 4) != bytes(4)] == [63]


def test_names_of_variants() -> None:
    assert variant.parse("gvnic") == (0, frozenset(FORMATS))
    assert variant.parse("gvnic:rev1") == (1, frozenset(FORMATS))
    assert variant.parse("gvnic:dqo-rda,gqi-qpl") == (0, frozenset((DQO_RDA, GQI_QPL)))
    for text in ("gvnic:", "gvnic"):
        assert variant.parse(text)[0] == 0
    with pytest.raises(MachineError, match="gvnic:fast"):
        variant.parse("gvnic:fast")
    assert not variant.is_gvnic("gvnicx")
