"""Frames through every queue format: whole, in pieces, in bursts, with offloads, interrupts and a machine that is saved."""

import struct
from typing import Any

import pytest
from gvnic_driver import CPU, DQO_QPL, DQO_RDA, FORMATS, GQI_QPL, GQI_RDA, MAC, PASSED, Admin, Driver, Machine

SIZES = (14, 60, 1514, 1518)


def frame(size: int, seed: int = 0) -> bytes:
    return (MAC + MAC + b"\x88\xb5" + bytes((seed + at * 7) % 256 for at in range(size)))[:size]


@pytest.mark.parametrize("revision", [0, 1])
@pytest.mark.parametrize("queue_format", FORMATS)
def test_there_and_back(queue_format: int, revision: int) -> None:
    machine = Machine(revision=revision)
    driver = Driver(machine, queue_format, revision)
    driver.offer()
    machine.wire.answer = lambda sent: machine.wire.on_receive(sent[::-1])
    for round_ in range(100):
        sent = frame(SIZES[round_ % 4], round_)
        driver.send(sent, parts=1 + round_ % 3)
        assert machine.wire.sent.pop() == sent
        assert driver.receive() == [sent[::-1]]
        driver.offer()
        if driver.dqo:
            assert [kind for kind, _ in driver.completions()] == [2]
        else:
            assert driver.consumed == driver.tx_count
    assert not machine.nic.problem


@pytest.mark.parametrize("queue_format", FORMATS)
def test_bursts_wait_for_buffers(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    frames = [frame(64 + number, number) for number in range(40)]
    for one in frames:
        machine.wire.on_receive(one)
    assert driver.receive() == []
    got: list[bytes] = []
    for count in (1, 2, 7, 30):
        driver.offer(count)
        got += driver.receive()
    assert got == frames


@pytest.mark.parametrize("queue_format", FORMATS)
def test_long_frames_take_several_buffers(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    assert driver.admin.give(0xB, "I4xQ", 1, 8896) == PASSED
    driver.offer()
    for size in (2045, 2046, 2047, 2048, 2049, 4094, 4095, 4096, 8896 + 18):
        sent = frame(size, size)
        machine.wire.on_receive(sent)
        assert driver.receive() == [sent]
        driver.offer()
    machine.wire.on_receive(frame(8896 + 19))
    assert driver.receive() == []
    assert machine.port.counters["oversize"] == 1


@pytest.mark.parametrize("queue_format", FORMATS)
@pytest.mark.parametrize("size", [1, 13, 14, 1515, 9000, 65535])
def test_sizes_of_what_is_sent(queue_format: int, size: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    sent = frame(size)
    driver.send(sent, parts=-(-size // 2048))
    assert machine.wire.sent == ([sent] if size >= 14 else [])
    assert not machine.nic.problem


@pytest.mark.parametrize("queue_format", FORMATS)
def test_a_packet_that_is_not_whole_yet_waits(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    driver.post(frame(100), parts=4)
    driver.tx_count -= 2
    driver.kick()
    assert not machine.wire.sent
    driver.tx_count += 2
    driver.kick()
    assert machine.wire.sent == [frame(100)]


@pytest.mark.parametrize("queue_format", [GQI_QPL, GQI_RDA])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_metadata_descriptor_tells_nothing_of_where_the_frame_is(queue_format: int, parts: int) -> None:
    """Linux puts one, with the flow's hash, behind the first descriptor of every TCP packet."""
    machine = Machine()
    driver = Driver(machine, queue_format)
    driver.send(frame(61))
    driver.post(frame(300), parts)
    first = driver.tx_count - parts
    rest = [driver.ram.read(0x10000 + 16 * at, 16) for at in range(first + 1, driver.tx_count)]
    head = bytearray(driver.ram.read(0x10000 + 16 * first, 16))
    head[3] += 1
    driver.tx_count = first
    for entry in (bytes(head), struct.pack(">BBHI8x", 0x30, 0x10, 0, 0x1234_5678), *rest):
        driver.descriptor(entry)
    driver.kick()
    assert machine.wire.sent == [frame(61), frame(300)]
    assert not machine.nic.problem


def test_dqo_reports_descriptors_where_asked() -> None:
    machine = Machine()
    driver = Driver(machine, DQO_RDA)
    driver.post(frame(60), flags=0x80)
    driver.post(frame(60))
    driver.kick()
    assert driver.completions() == [(4, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("queue_format", FORMATS)
def test_bursts_across_the_end_of_the_ring(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    for burst in range(1, 60):
        for number in range(burst):
            driver.post(frame(60, number))
        driver.kick()
        assert len(machine.wire.sent) == burst
        machine.wire.sent.clear()
        if driver.dqo:
            assert len(driver.completions()) == burst
        else:
            assert driver.consumed == driver.tx_count


def test_what_is_left_of_a_destroyed_queue_is_not_sent() -> None:
    machine = Machine()
    driver = Driver(machine, GQI_RDA)
    machine.ram.write(0x100000, IPV4_TCP + bytes(60000))
    for _ in range(4):
        driver.descriptor(struct.pack(">BBBBHHQ", 0x11, 8, 17, 2, 60054, 54, 0x100000))
        driver.descriptor(struct.pack(">BBHHHQ", 0x20, 7, 0, 88, 60000, 0x100036))
    driver.kick()
    sent = len(machine.wire.sent)
    assert driver.admin.give(7, "I", 0) == PASSED
    assert machine.run_deferred() == 1
    assert len(machine.wire.sent) == sent


# -- interrupts

GQI_ARM, GQI_ACK, GQI_MASK = 0, 0xA0000000, 0x40000000


def enable_msix(machine: Machine) -> None:
    for vector in range(9):
        for at, value in ((0, 0xFEE00000), (4, 0), (8, 0x40 + vector), (12, 0)):
            machine.write(1, 16 * vector + at, value, order="little")
    machine.nic.write_config(machine.nic.msix.capability + 2, 2, 0x8000)


@pytest.mark.parametrize("queue_format", FORMATS)
def test_an_event_interrupts_once_until_the_block_is_armed_again(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    enable_msix(machine)
    driver.offer()
    machine.wire.on_receive(frame(60))
    assert machine.messages == []
    arm = 0x19 if driver.dqo else GQI_ARM
    driver.doorbell(driver.blocks[1], arm)
    assert machine.messages == [(0xFEE00000, 0x41)]
    machine.wire.on_receive(frame(60))
    assert len(machine.messages) == 1
    driver.doorbell(driver.blocks[1], arm)
    assert len(machine.messages) == 2
    driver.send(frame(60))
    driver.doorbell(driver.blocks[0], arm)
    assert machine.messages[2:] == [(0xFEE00000, 0x40)]


@pytest.mark.parametrize(("queue_format", "acknowledge", "mask"), [(GQI_RDA, GQI_ACK, GQI_MASK), (DQO_RDA, 0x3, 0)])
def test_acknowledging_drops_what_is_pending(queue_format: int, acknowledge: int, mask: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    enable_msix(machine)
    driver.offer()
    driver.doorbell(driver.blocks[1], mask)
    machine.wire.on_receive(frame(60))
    driver.doorbell(driver.blocks[1], acknowledge)
    assert machine.messages == []
    machine.wire.on_receive(frame(60))
    assert len(machine.messages) == 1


def test_the_link_is_told_by_the_management_interrupt() -> None:
    machine = Machine()
    Driver(machine, GQI_QPL)
    enable_msix(machine)
    assert machine.status & 4
    machine.wire.set_link(False)
    assert not machine.status & 4
    assert machine.messages == [(0xFEE00000, 0x42)]


@pytest.mark.parametrize("queue_format", FORMATS)
def test_nothing_is_touched_without_bus_mastering(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    driver.offer()
    machine.nic.write_config(4, 2, 0x2)
    before = bytes(machine.ram.data)
    driver.post(frame(60))
    after_post = bytes(machine.ram.data)
    driver.kick()
    machine.wire.on_receive(frame(61))
    assert bytes(machine.ram.data) == after_post != before
    machine.nic.write_config(4, 2, 0x6)
    assert machine.wire.sent == [frame(60)]
    assert driver.receive() == [frame(61)]


# -- offloads

IPV4_TCP = (
    MAC + MAC + b"\x08\x00" + bytes.fromhex("450000000001400040060000c0a80001c0a80002")
    + bytes.fromhex("1f90005000000064000000c8501900ff00000000")
)  # fmt: skip


def ones(data: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2 + len(data) % 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def check_tcp(packet: bytes) -> None:
    """Both checksums of an IPv4 TCP packet, by plain addition."""
    assert ones(packet[14:34]) == 0xFFFF
    assert int.from_bytes(packet[16:18], "big") == len(packet) - 14
    assert ones(packet[26:34] + struct.pack(">HH", 6, len(packet) - 34) + packet[34:]) == 0xFFFF


def with_pseudo_header(packet: bytes, length: int) -> bytes:
    """What Linux leaves in the checksum field: the pseudo header's sum."""
    data = bytearray(packet)
    data[50:52] = ones(data[26:34] + struct.pack(">HH", 6, length)).to_bytes(2, "big")
    struct.pack_into(">H", data, 16, len(data) - 14)
    data[24:26] = b"\0\0"
    data[24:26] = (0xFFFF - ones(data[14:34])).to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("queue_format", FORMATS)
@pytest.mark.parametrize("payload", [b"", b"x", b"hello, world" * 50])
def test_checksums(queue_format: int, payload: bytes) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    packet = with_pseudo_header(IPV4_TCP + payload, 20 + len(payload))
    driver.post(packet, flags=0x40 if driver.dqo else 0x01)
    if not driver.dqo:  # offsets in units of two bytes: the field in its layer, and the layer
        machine.ram.write(0x10001, bytes((8, 17)))
    driver.kick()
    check_tcp(machine.wire.sent[0])
    assert machine.wire.sent[0][54:] == payload


@pytest.mark.parametrize("queue_format", [GQI_RDA, DQO_RDA])
def test_a_udp_checksum_is_never_zero(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    header = b"\x45\0\0\x1e\0\0\0\0\x40\x11\0\0\xc0\xa8\0\1\xc0\xa8\0\2"
    fixed = ones(header[12:20] + struct.pack(">HHHHHH", 17, 10, 1, 2, 10, 0))
    udp = struct.pack(">HHHHH", 1, 2, 10, ones(header[12:20] + struct.pack(">HH", 17, 10)), 0xFFFF - fixed)
    driver.post(MAC + MAC + b"\x08\0" + header + udp, flags=0x40 if driver.dqo else 0x01)
    if not driver.dqo:
        machine.ram.write(0x10001, bytes((3, 17)))
    driver.kick()
    assert machine.wire.sent[0][40:42] == b"\xff\xff"


@pytest.mark.parametrize("queue_format", [GQI_RDA, DQO_RDA])
def test_segmentation(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    payload = bytes(range(256)) * 19
    packet = IPV4_TCP + payload
    machine.ram.write(0x100000, packet)
    if driver.dqo:
        driver.descriptor(struct.pack("<IHBBB7x", len(payload), 1460, 54, 0, 0x25))
        driver.descriptor(struct.pack("<QB3xHH", 0x100000, 0x6C, 5, len(packet)))
    else:
        driver.descriptor(struct.pack(">BBBBHHQ", 0x11, 8, 17, 3, len(packet), 54, 0x100000))
        driver.descriptor(struct.pack(">BBHI8x", 0x30, 0, 0, 0x1234))
        driver.descriptor(struct.pack(">BBHHHQ", 0x20, 7, 0, 1460, len(payload), 0x100036))
    driver.kick()
    sent = machine.wire.sent
    assert [len(one) - 54 for one in sent] == [1460, 1460, 1460, len(payload) - 3 * 1460]
    assert b"".join(one[54:] for one in sent) == payload
    for number, one in enumerate(sent):
        check_tcp(one)
        assert int.from_bytes(one[38:42], "big") == 100 + 1460 * number
        assert int.from_bytes(one[18:20], "big") == 1 + number
        assert one[47] == (0x19 if number == 3 else 0x10)
    if driver.dqo:
        assert driver.completions() == [(2, 5)]
    else:
        assert driver.consumed == 3


@pytest.mark.parametrize("queue_format", [GQI_RDA, DQO_RDA])
def test_a_packet_that_is_not_what_the_driver_says_is_dropped(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    for size in (14, 20, 34, 53):
        driver.post(frame(size), flags=0x40 if driver.dqo else 0x01)
        driver.kick()
    driver.send(frame(60))
    assert machine.wire.sent == [frame(60)]
    assert not machine.nic.problem


def test_a_driver_with_much_to_send_lets_others_work() -> None:
    machine = Machine()
    driver = Driver(machine, GQI_RDA)
    machine.ram.write(0x100000, IPV4_TCP + bytes(60000))
    for _ in range(32):
        driver.descriptor(struct.pack(">BBBBHHQ", 0x11, 8, 17, 2, 60054, 54, 0x100000))
        driver.descriptor(struct.pack(">BBHHHQ", 0x20, 7, 0, 88, 60000, 0x100036))
    driver.kick()
    at_once = len(machine.wire.sent)
    assert 1024 <= at_once < 2048
    assert machine.run_deferred() > 5
    assert len(machine.wire.sent) == 32 * -(-60000 // 88)
    assert driver.consumed == 64


# -- state


@pytest.mark.parametrize("queue_format", FORMATS)
def test_a_restored_device_goes_on(queue_format: int) -> None:
    machine = Machine()
    driver = Driver(machine, queue_format)
    driver.offer()
    driver.doorbell(driver.blocks[1], 1 if driver.dqo else 0)
    for number in range(70):
        driver.send(frame(60, number))
        machine.wire.on_receive(frame(80, number))
        driver.receive()
        driver.offer()
    driver.completions()
    state = machine.nic.save()
    other = Machine()
    other.ram.data[:] = machine.ram.data
    other.nic.load(state)
    assert other.nic.save() == state
    driver.machine, driver.ram, driver.admin.machine = other, other.ram, other
    driver.send(frame(61))
    assert other.wire.sent == [frame(61)]
    other.wire.on_receive(frame(62))
    assert driver.receive() == [frame(62)]
    if not driver.dqo:
        assert int.from_bytes(other.ram.read(0x2000 + 4 * driver.rx_counter, 4), "big") == 71
    assert driver.admin.give(7, "I", 0) == PASSED
    assert not other.nic.problem


def test_the_state_is_plain_data() -> None:
    machine = Machine()
    Driver(machine, DQO_QPL)
    machine.wire.on_receive(frame(60))

    def check(value: Any) -> None:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert value is None or type(value) in (int, bytes, str, bool)

    check(machine.nic.save())


def test_a_64_bit_store_is_two_doorbells() -> None:
    machine = Machine()
    admin = Admin(machine)
    assert admin.configure(DQO_RDA) == PASSED
    assert admin.create_tx(id=0) == PASSED
    assert admin.create_tx(id=1, told=0x2480, ring=0x18000, other=0x1A000) == PASSED
    first, second = (int.from_bytes(machine.ram.read(at, 4), "big") for at in (0x2400, 0x2480))
    assert second == first + 1
    for ring in (0x10000, 0x18000):
        machine.ram.write(ring, struct.pack("<QB3xHH", 0x100000, 0x2C, 1, 60))
    base = machine.nic.bars[2].base
    assert base is not None
    machine.bus.mmio_write(CPU, base + 4 * first, 8, 1 << 32 | 1)
    assert len(machine.wire.sent) == 2
