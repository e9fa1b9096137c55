"""EFI_SIMPLE_NETWORK_PROTOCOL: states, frames of all sizes, filters, and who has the device."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_machine import MAC, OTHER, NetworkMachine, frame

from uefi import guids
from uefi.network.interface import (
    BROADCAST,
    MAXIMUM_SENT,
    MAXIMUM_WAITING,
    MULTICAST,
    PROMISCUOUS,
    PROMISCUOUS_MULTICAST,
    STATISTICS,
    UNICAST,
)
from uefi.protocols.simple_network import SimpleNetwork
from uefi.status import Status

NICS = ["virtio", "virtio-legacy", "gvnic", "gvnic:dqo-rda"]
EVERYONE, GROUP, OTHER_GROUP = b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")


@pytest.fixture
def machine():
    made = NetworkMachine()
    yield made
    made.close()


@pytest.fixture(params=NICS)
def any_machine(request):
    made = NetworkMachine(request.param)
    yield made
    made.close()


def counted(machine) -> dict[str, int]:
    size, table = machine.word(8 * len(STATISTICS)), machine.put(bytes(8 * len(STATISTICS)))
    assert machine.call(machine.net, "Statistics", 0, size, table) == Status.SUCCESS
    return {name: machine.memory.read_u64(table + 8 * n) for n, name in enumerate(STATISTICS)}


def state(machine) -> int:
    return int.from_bytes(machine.mode(0, 4), "little")


# -- frames


def test_frames_go_out_and_come_in_on_every_device(any_machine):
    machine = any_machine
    machine.bring_up()
    assert machine.transmit(frame(EVERYONE, 100, source=MAC)) == Status.SUCCESS
    assert machine.wire.sent == [frame(EVERYONE, 100, source=MAC)]
    machine.wire.on_receive(frame())
    assert machine.receive() == frame()
    assert machine.receive() == Status.NOT_READY


@pytest.mark.parametrize(
    ("size", "status"),
    [
        *((0, Status.BUFFER_TOO_SMALL), (13, Status.BUFFER_TOO_SMALL), (14, 0), (60, 0), (1514, 0)),
        *((1515, Status.INVALID_PARAMETER), (9000, Status.INVALID_PARAMETER), (65_535, Status.INVALID_PARAMETER)),
        *((1 << 40, Status.INVALID_PARAMETER), ((1 << 64) - 1, Status.INVALID_PARAMETER)),
    ],
)
def test_sizes_of_frames_that_are_sent(machine, size, status):
    machine.bring_up()
    buffer = machine.put(frame(EVERYONE, 65_535))
    assert machine.call(machine.net, "Transmit", 0, size, buffer, 0, 0, 0) == status
    assert machine.wire.sent == ([frame(EVERYONE, size)] if not status else [])


@pytest.mark.parametrize("size", [0, 13, 14, 60, 1514, 1515, 9000, 65_535])
def test_sizes_of_frames_that_come(machine, size):
    machine.bring_up()
    machine.wire.on_receive(frame(size=size))
    machine.wire.on_receive(frame(fill=b"l"))
    if 14 <= size <= 1514:
        assert machine.receive() == frame(size=size)
    assert machine.receive() == frame(fill=b"l")
    assert machine.receive() == Status.NOT_READY
    assert counted(machine)["RxOversizeFrames"] == (size > 1514)


def test_a_frame_waits_for_a_buffer_that_is_large_enough(machine):
    machine.bring_up()
    machine.wire.on_receive(frame(size=200))
    size, buffer, filler = machine.word(199), machine.put(b"\xee" * 300), b"\xee" * 300
    assert machine.call(machine.net, "Receive", 0, size, buffer, 0, 0, 0) == Status.BUFFER_TOO_SMALL
    assert machine.memory.read_u64(size) == 200
    assert machine.memory.read(buffer, 300) == filler
    header, source, destination, protocol = (machine.put(b"\xee" * 40) for _ in range(4))
    arguments = (header, size, buffer, source, destination, protocol)
    assert machine.call(machine.net, "Receive", *arguments) == Status.SUCCESS
    assert machine.memory.read(buffer, 300) == frame(size=200) + filler[200:]
    assert machine.memory.read_u64(header) == 14
    assert machine.memory.read(source, 7) == OTHER + b"\xee"
    assert machine.memory.read(destination, 7) == MAC + b"\xee"
    assert machine.memory.read(protocol, 3) == b"\x00\x08\xee"


def test_a_pointer_that_is_no_memory_loses_no_frame(machine):
    machine.bring_up()
    machine.wire.on_receive(frame())
    size = machine.word(2000)
    assert machine.call(machine.net, "Receive", 0, size, 1 << 50, 0, 0, 0) == Status.INVALID_PARAMETER
    assert machine.call(machine.net, "Receive", 1 << 50, size, machine.put(bytes(99)), 0, 0, 0) != Status.SUCCESS
    assert machine.receive() == frame()


def test_buffers_come_back_in_their_order_each_once(machine):
    machine.bring_up()
    buffers = [machine.put(frame(fill=bytes((n,)))) for n in range(MAXIMUM_SENT)]
    for buffer in buffers:
        assert machine.call(machine.net, "Transmit", 0, 60, buffer, 0, 0, 0) == Status.SUCCESS
    assert machine.transmit(frame()) == Status.NOT_READY
    assert len(machine.wire.sent) == MAXIMUM_SENT
    result, interrupts = machine.word(), machine.word()
    for wanted in [*buffers, 0, 0]:
        assert machine.call(machine.net, "GetStatus", interrupts, result) == Status.SUCCESS
        assert machine.memory.read_u64(result) == wanted
        assert machine.memory.read_u32(interrupts) == (0x02 if wanted else 0)
    assert machine.transmit(frame()) == Status.SUCCESS


def test_a_guest_that_takes_no_frames_loses_the_late_ones(machine):
    machine.bring_up()
    for n in range(MAXIMUM_WAITING + 10):
        machine.wire.on_receive(frame(fill=bytes((n & 0xFF,))))
    got = []
    while isinstance(received := machine.receive(), bytes):
        got.append(received[14])
    assert got == [n & 0xFF for n in range(MAXIMUM_WAITING)]
    assert counted(machine)["RxDroppedFrames"] == 10


def test_the_event_tells_of_a_frame(machine):
    machine.bring_up()
    event = machine.memory.read_u64(machine.net.address + 0x70)
    check = machine.firmware.events.check
    assert not check(machine.firmware.events.get(event))
    machine.wire.on_receive(frame())
    assert check(machine.firmware.events.get(event))
    assert check(machine.firmware.events.get(event))
    machine.receive()
    assert not check(machine.firmware.events.get(event))


def test_statistics_count(machine):
    machine.bring_up(BROADCAST | PROMISCUOUS)
    for to in (MAC, EVERYONE, GROUP, GROUP):
        machine.wire.on_receive(frame(to))
    machine.transmit(frame(GROUP, 70))
    machine.transmit(frame(OTHER, 13))
    told = counted(machine)
    assert [told[f"Rx{k}Frames"] for k in ("Total", "Unicast", "Broadcast", "Multicast")] == [4, 1, 1, 2]
    assert [told[f"Tx{k}Frames"] for k in ("Total", "Good", "Multicast", "Undersize")] == [1, 1, 1, 1]
    assert (told["RxTotalBytes"], told["TxTotalBytes"]) == (240, 70)
    assert told["RxCrcErrorFrames"] == (1 << 64) - 1
    size, table = machine.word(21), machine.put(b"\xee" * 40)
    assert machine.call(machine.net, "Statistics", 0, size, table) == Status.BUFFER_TOO_SMALL
    assert machine.memory.read_u64(size) == 8 * len(STATISTICS)
    assert machine.memory.read(table, 24) == (4).to_bytes(8, "little") * 2 + b"\xee" * 8
    machine.call(machine.net, "Statistics", 1, 0, 0)
    assert counted(machine)["RxTotalFrames"] == 0


# -- filters


@pytest.fixture(scope="module")
def shared():
    made = NetworkMachine()
    yield made
    made.close()


@given(
    filters=st.integers(0, 31),
    groups=st.lists(st.sampled_from([GROUP, OTHER_GROUP]), max_size=2),
    to=st.sampled_from([MAC, OTHER, EVERYONE, GROUP, OTHER_GROUP]),
)
@settings(max_examples=200, deadline=None)
def test_filters(shared, filters, groups, to):
    machine = shared
    for name in ("Shutdown", "Stop"):
        machine.call(machine.net, name)
    machine.bring_up(0)
    addresses = machine.put(b"".join(group.ljust(32, b"\xee") for group in groups) or b"\0")
    enabled = machine.call(machine.net, "ReceiveFilters", filters, 0, 0, len(groups), addresses)
    if filters & MULTICAST and not groups:
        assert enabled == Status.INVALID_PARAMETER
        filters = 0
    else:
        assert enabled == Status.SUCCESS
    machine.wire.on_receive(frame(to))
    wanted = bool(filters & PROMISCUOUS)
    if to == EVERYONE:
        wanted |= bool(filters & BROADCAST)
    elif to in (GROUP, OTHER_GROUP):
        wanted |= bool(filters & PROMISCUOUS_MULTICAST) or (bool(filters & MULTICAST) and to in groups)
    else:
        wanted |= bool(filters & UNICAST) and to == MAC
    answer = Status.NOT_READY if filters else Status.DEVICE_ERROR
    assert machine.receive() == (frame(to) if wanted else answer)


def test_the_station_address_is_what_unicast_means(machine):
    machine.bring_up(UNICAST)
    assert machine.call(machine.net, "StationAddress", 0, machine.put(OTHER)) == Status.SUCCESS
    machine.wire.on_receive(frame(MAC))
    machine.wire.on_receive(frame(OTHER))
    assert machine.receive() == frame(OTHER)
    assert machine.receive() == Status.NOT_READY
    assert machine.mode(552, 6) == OTHER
    assert machine.mode(616, 6) == MAC
    assert machine.call(machine.net, "StationAddress", 0, machine.put(GROUP)) == Status.INVALID_PARAMETER
    assert machine.call(machine.net, "Shutdown") == Status.SUCCESS
    assert machine.mode(552, 6) == MAC


# -- what go-boot does


def test_a_station_address_in_the_slot_of_the_filters(machine):
    machine.bring_up(UNICAST | BROADCAST)
    pointer = machine.put(OTHER.ljust(32, b"\0"))
    assert machine.call(machine.net, "ReceiveFilters", 0, pointer, 0x1234, 7, 8) == Status.SUCCESS
    assert "quirk: StationAddress" in machine.notes.pop()
    assert int.from_bytes(machine.mode(28, 4), "little") == UNICAST | BROADCAST
    for enable, disable in ((0x80, 0), (0, 0x80), (2, pointer), (0, 1 << 40 | 0x8000_0000)):
        assert machine.call(machine.net, "ReceiveFilters", enable, disable, 0, 0, 0) == Status.INVALID_PARAMETER
    assert not machine.notes


def test_a_buffer_that_is_sent_again_before_it_came_back(machine):
    machine.bring_up()
    buffer = machine.put(frame())
    for _ in range(2):
        assert machine.call(machine.net, "Transmit", 0, 60, buffer, 0, 0, 0) == Status.SUCCESS
    assert machine.notes == ["quirk: a buffer is transmitted again that GetStatus has not given back"]


# -- who has the device


def test_a_driver_of_the_guests_takes_the_device_and_reset_gets_it_back(any_machine):
    machine = any_machine
    machine.bring_up()
    machine.wire.on_receive(frame())
    machine.reset_by_guest()
    assert machine.transmit(frame()) == Status.DEVICE_ERROR
    assert machine.receive() == Status.DEVICE_ERROR
    assert machine.call(machine.net, "GetStatus", machine.word(), 0) == Status.DEVICE_ERROR
    assert "a driver of the guest's" in machine.notes[0]
    machine.wire.on_receive(frame())
    assert machine.call(machine.net, "Reset", 0) == Status.SUCCESS
    assert machine.receive() == Status.NOT_READY
    machine.wire.on_receive(frame(fill=b"n"))
    assert machine.receive() == frame(fill=b"n")
    assert int.from_bytes(machine.mode(28, 4), "little") == 5


def test_a_device_in_use_is_reset_when_firmware_takes_it(machine):
    """Its rings must not be written to any more."""
    virtio = machine.device.virtio
    virtio.set_status(0x01 | 0x02 | 0x04)
    assert virtio.live
    machine.bring_up()
    assert virtio.status == 0
    virtio.set_status(0x01 | 0x02 | 0x04)
    assert machine.transmit(frame()) == Status.DEVICE_ERROR


def test_the_link_is_told(machine):
    machine.bring_up()
    assert machine.mode(652, 1) == b"\x01"
    machine.wire.set_link(False)
    assert machine.mode(652, 1) == b"\0"
    machine.wire.set_link(True)
    assert machine.mode(652, 1) == b"\x01"


def test_nothing_is_written_after_exitbootservices(any_machine):
    machine = any_machine
    machine.bring_up()
    machine.wire.on_receive(frame())
    machine.firmware.leave_boot_services(machine.cpu)
    before = bytes(machine.computer.memory.view)
    machine.wire.on_receive(frame())
    machine.wire.set_link(False)
    machine.wire.on_receive(frame())
    assert machine.computer.memory.view == before
    assert not machine.board.nic.port.waiting  # the device has no driver, so that it loses what comes


def test_states_and_what_they_refuse(machine):
    call, net = machine.call, machine.net
    ip, mac = machine.put(bytes((224, 0, 0, 1))), machine.put(bytes(32))
    calls = [
        *(("Shutdown",), ("Reset", 1), ("ReceiveFilters", 0, 0, 0, 0, 0), ("StationAddress", 1, 0)),
        *(("Statistics", 0, 0, 0), ("MCastIpToMac", 0, ip, mac), ("GetStatus", machine.word(), 0)),
        *(("Transmit", 0, 60, machine.put(bytes(60)), 0, 0, 0), ("Receive", 0, machine.word(9), mac, 0, 0, 0)),
    ]
    assert call(net, "Initialize", 0, 0) == Status.NOT_STARTED
    for each in calls:
        assert call(net, *each) == Status.NOT_STARTED, each
    assert call(net, "Start") == Status.SUCCESS
    for each in calls:
        assert call(net, *each) == Status.DEVICE_ERROR, each
    assert state(machine) == 1
    assert call(net, "Initialize", 1 << 60, (1 << 64) - 1) == Status.SUCCESS
    assert call(net, "Initialize", 0, 0) == Status.DEVICE_ERROR
    assert call(net, "Stop") == Status.DEVICE_ERROR
    assert state(machine) == 2
    assert call(net, "Shutdown") == Status.SUCCESS
    assert call(net, "Stop") == Status.SUCCESS
    assert call(net, "Stop") == Status.NOT_STARTED
    assert state(machine) == 0


# -- hostile guests

WILD = st.one_of(
    st.integers(0, 40),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([1 << 63, (1 << 64) - 1, (64 << 20) - 1, 64 << 20, 0xC000_0000, 0x1000, 0x10_0000]),
)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_calls_in_any_order_leave_a_machine_that_works(data):
    machine = NetworkMachine(data.draw(st.sampled_from(NICS)))
    try:
        buffer = machine.put(bytes(4096))
        argument = st.one_of(WILD, st.integers(buffer, buffer + 4096))
        for _ in range(data.draw(st.integers(1, 30))):
            slot = data.draw(st.sampled_from(SimpleNetwork.SLOTS))
            arguments = [data.draw(argument) for _ in slot.signature.kinds]
            assert machine.call(machine.net, slot.signature.name, *arguments) >= 0
            if data.draw(st.booleans()):
                machine.wire.on_receive(frame(data.draw(st.sampled_from([MAC, GROUP, EVERYONE]))))
            if data.draw(st.integers(0, 9)) == 0:
                machine.reset_by_guest()
        for name in ("Shutdown", "Stop"):
            machine.call(machine.net, name)
        machine.bring_up()
        machine.wire.sent.clear()
        assert machine.transmit(frame()) == Status.SUCCESS
        assert machine.wire.sent == [frame()]
    finally:
        machine.close()


def test_a_guest_that_closes_the_event_or_takes_the_protocol_off(machine):
    machine.bring_up()
    net, handles = machine.net, machine.firmware.handles
    machine.firmware.events.close(machine.memory.read_u64(net.address + 0x70))
    handle = handles.find(guids.SIMPLE_NETWORK_PROTOCOL)[0]
    handles.uninstall(handle, guids.SIMPLE_NETWORK_PROTOCOL)
    machine.wire.on_receive(frame())
    assert machine.call(net, "Shutdown") == Status.SUCCESS
