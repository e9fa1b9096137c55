"""A hostile driver: rings with loops, wild addresses, zero lengths, index jumps, and plain noise."""

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from virtio_driver import EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, RAM, VERSION_1, WRITE, Driver, Machine

GOOD = 0x40000 + 0x9000
ALL = VERSION_1 | EVENT_IDX | INDIRECT_DESC

BROKEN = {
    "loop of one": [(GOOD, 64, NEXT, 0)],
    "loop of two": [(GOOD, 64, NEXT, 1), (GOOD, 64, NEXT, 0)],
    "next outside the table": [(GOOD, 64, NEXT, 16)],
    "next far outside": [(GOOD, 64, NEXT, 0xFFFF)],
    "no length": [(GOOD, 0, 0, 0)],
    "address behind the RAM": [(RAM, 64, 0, 0)],
    "buffer that leaves the RAM": [(RAM - 32, 64, 0, 0)],
    "address that wraps": [(0xFFFF_FFFF_FFFF_FFF0, 64, 0, 0)],
    "no header": [(GOOD, 11, 0, 0)],
    "only to be written": [(GOOD, 64, WRITE, 0)],
    "read behind write": [(GOOD, 64, WRITE | NEXT, 1), (GOOD, 64, 0, 0)],
    "indirect and next": [(GOOD, 16, INDIRECT | NEXT, 1)],
    "indirect of odd size": [(GOOD, 24, INDIRECT, 0)],
    "indirect of no size": [(GOOD, 0, INDIRECT, 0)],
    "indirect outside the RAM": [(RAM, 16, INDIRECT, 0)],
}


def offered(descriptors: list[tuple[int, int, int, int]], features: int = ALL) -> tuple[Machine, Driver]:
    machine = Machine()
    driver = Driver(machine, features)
    for number, descriptor in enumerate(descriptors):
        driver.rings[1].descriptor(number, *descriptor)
    driver.rings[1].offer(0)
    driver.kick(1)
    return machine, driver


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_forbidden_breaks_the_device_only(name: str) -> None:
    machine, driver = offered(BROKEN[name])
    assert driver.status & 0x40, name
    assert machine.net.problem
    assert not machine.wire.sent
    fresh = Driver(machine)
    fresh.transmit(bytes(60))
    assert fresh.status == 15
    assert machine.wire.sent == [bytes(60)]


def test_indirect_without_negotiation() -> None:
    machine, driver = offered([(GOOD, 16, INDIRECT, 0)], VERSION_1)
    assert driver.status & 0x40
    assert "not negotiated" in machine.net.problem


def test_nested_indirect() -> None:
    machine = Machine()
    driver = Driver(machine, ALL)
    machine.ram.write(GOOD, struct.pack("<QIHH", GOOD, 16, INDIRECT, 0))
    driver.rings[1].descriptor(0, GOOD, 16, INDIRECT)
    driver.rings[1].offer(0)
    driver.kick(1)
    assert driver.status & 0x40


@pytest.mark.parametrize("index", [17, 0x100, 0x8000, 0xFFFF])
def test_index_jumps(index: int) -> None:
    machine = Machine()
    driver = Driver(machine)
    machine.ram.set_u16(driver.rings[1].available + 2, index)
    driver.kick(1)
    assert driver.status & 0x40
    assert "jumps" in machine.net.problem


def test_head_outside_the_table() -> None:
    machine = Machine()
    driver = Driver(machine)
    driver.rings[1].offer(16)
    driver.kick(1)
    assert driver.status & 0x40


@pytest.mark.parametrize(("field", "value"), [(32, 0x1008), (40, 0x1001), (48, 0x1002)])
def test_misaligned_rings(field: int, value: int) -> None:
    machine = Machine()
    driver = Driver(machine)
    driver.write(20, 1, 0)
    driver.write(20, 1, 3)
    driver.write(22, 2, 0)
    driver.write(field, 8, value)
    driver.write(28, 2, 1)
    assert driver.status & 0x40
    assert driver.read(28, 2) == 0


@pytest.mark.parametrize("size", [0, 3, 255, 257, 512, 0xFFFF])
def test_queue_sizes(size: int) -> None:
    machine = Machine()
    driver = Driver(machine)
    driver.write(20, 1, 0)
    driver.write(20, 1, 3)
    driver.write(24, 2, size)
    driver.write(28, 2, 1)
    assert driver.status & 0x40


def test_rings_that_overlap_do_not_hold_the_machine() -> None:
    """The used ring lies over the available index, so that answering makes new requests for ever."""
    machine = Machine()
    driver = Driver(machine)
    driver.write(20, 1, 0)
    driver.write(20, 1, 3)
    for number in range(2):
        driver.write(22, 2, number)
        driver.write(24, 2, 16)
        driver.write(32, 8, 0x1000)
        driver.write(40, 8, 0x2000)
        driver.write(48, 8, 0x2000 - 4)
        driver.write(28, 2, 1)
    for n in range(16):
        machine.ram.write(0x1000 + 16 * n, struct.pack("<QIHH", 0x8000, 100, 0, 0))
    machine.ram.set_u16(0x2002, 1)
    driver.write(20, 1, 15)
    for _ in range(100):
        driver.kick(1)
        for action in machine.deferred[:]:
            machine.deferred.remove(action)
            action()
    assert len(machine.wire.sent) <= 100 * 2 * 16 + 16


def test_buffers_that_are_too_few_for_a_frame_are_waited_for() -> None:
    machine = Machine()
    driver = Driver(machine, VERSION_1 | EVENT_IDX | 1 << 15, size=4, room=1000)
    machine.wire.on_receive(bytes(3000))
    machine.wire.on_receive(bytes(500))
    assert len(machine.port.waiting) == 1, "four buffers of 1000 bytes went to the first"
    machine.wire.on_receive(bytes(2000))
    ring = driver.rings[0]
    (head, _), *rest = ring.take()
    ring.offer(head)
    driver.kick(0)
    assert [length for _, length in ring.take()] == [512]
    ring.offer(rest[0][0])
    driver.kick(0)
    assert not ring.take(), "one buffer is too few"
    for number in (rest[1][0], rest[2][0]):
        ring.offer(number)
    driver.kick(0)
    assert [length for _, length in ring.take()] == [1000, 1000, 12]
    assert driver.status == 15


addresses = st.one_of(
    st.integers(0, RAM), st.sampled_from([0, RAM - 1, RAM, 1 << 32, (1 << 64) - 1, GOOD]), st.integers(0, 2**64 - 1)
)
lengths = st.one_of(st.integers(0, 200), st.sampled_from([1514, 65535, 65562, 0x7FFFFFFF, 0xFFFFFFFF]))
descriptors = st.tuples(addresses, lengths, st.integers(0, 7) | st.integers(0, 0xFFFF), st.integers(0, 17))
rings = st.fixed_dictionaries(
    {
        "table": st.lists(descriptors, max_size=16),
        "heads": st.lists(st.integers(0, 17), min_size=1, max_size=16),
        "index": st.integers(1, 20) | st.integers(0, 0xFFFF),
        "flags": st.integers(0, 3),
        "event": st.integers(0, 0xFFFF),
    }
)


RING_STATES = (
    st.integers(0, 2),
    rings,
    st.sampled_from([0, VERSION_1, ALL, ALL | 1 << 15]),
    st.binary(max_size=300),
)


@settings(max_examples=600)
@given(*RING_STATES)
@example(1, {"table": [(GOOD, 64, 1, 0)], "heads": [0], "index": 1, "flags": 0, "event": 0}, ALL, b"")
def test_random_rings(queue: int, ring: dict[str, object], features: int, noise: bytes) -> None:
    """No crash, nothing outside RAM (Ram raises), no endless loop, and a reset mends it."""
    machine = Machine()
    driver = Driver(machine, features)
    target, ram = driver.rings[queue], machine.ram
    for number, descriptor in enumerate(ring["table"]):  # type: ignore[arg-type, var-annotated]
        target.descriptor(number, *descriptor)
    ram.write(GOOD, noise)
    for number, head in enumerate(ring["heads"]):  # type: ignore[arg-type, var-annotated]
        ram.set_u16(target.available + 4 + 2 * number, head)
    ram.set_u16(target.available, ring["flags"])  # type: ignore[arg-type]
    ram.set_u16(target.available + 4 + 2 * 16, ring["event"])  # type: ignore[arg-type]
    ram.set_u16(target.available + 2, ring["index"])  # type: ignore[arg-type]
    driver.kick(queue)
    for size in (14, 100, 1514, 40_000):
        machine.wire.on_receive(bytes(size))
    for action in machine.deferred[:100]:
        action()
    assert all(14 <= len(sent) <= 65_550 for sent in machine.wire.sent)
    ram.data[:] = bytes(RAM)
    machine.wire.sent.clear()
    fresh = Driver(machine)
    fresh.transmit(bytes(60))
    machine.wire.on_receive(bytes(64))
    assert machine.wire.sent == [bytes(60)]
    assert fresh.received() == [bytes(64)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_random_rings() -> None:
    many = settings(max_examples=10_000, deadline=None, database=None)
    many(given(*RING_STATES)(test_random_rings.hypothesis.inner_test))()  # type: ignore[attr-defined]


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=400), st.integers(0, 0x2000), st.integers(0, 2))
def test_noise_over_live_rings(noise: bytes, offset: int, queue: int) -> None:
    machine = Machine()
    driver = Driver(machine, ALL)
    machine.ram.write(0x40000 * queue + 0x1000 + offset, noise)
    for number in range(3):
        driver.kick(number)
    machine.wire.on_receive(bytes(600))
    for action in machine.deferred[:100]:
        action()
    fresh = Driver(machine)
    fresh.transmit(bytes(60))
    assert machine.wire.sent[-1] == bytes(60)
