"""What the UEFI self-certification tests found wrong once, each as a short test."""

import struct

import pytest
from whole_firmware import WholeFirmware

from images.memory_folder import MemoryFolder
from uefi import guids
from uefi.events import EVT_TIMER
from uefi.guids import Guid
from uefi.handles import BY_CHILD_CONTROLLER, BY_DRIVER, BY_HANDLE_PROTOCOL, EXCLUSIVE, GET_PROTOCOL, TEST_PROTOCOL
from uefi.protocols.file import File
from uefi.status import Status
from uefi.time import EfiTime

ONE, TWO = Guid(b"1" * 16), Guid(b"2" * 16)


@pytest.fixture
def whole():
    made = WholeFirmware()
    yield made
    made.close()


@pytest.mark.parametrize("attributes", [EXCLUSIVE, EXCLUSIVE | BY_DRIVER])
def test_a_second_exclusive_opening_is_denied(whole, attributes):
    handle, agent, other = (whole.install(guid) for guid in (ONE, TWO, TWO))
    result = whole.words(0)
    assert whole.boot("OpenProtocol", handle, ONE, result, agent, other, attributes) == Status.SUCCESS
    again = Status.ALREADY_STARTED if attributes & BY_DRIVER else Status.ACCESS_DENIED
    assert whole.boot("OpenProtocol", handle, ONE, result, agent, other, attributes) == again
    assert whole.boot("OpenProtocol", handle, ONE, result, other, agent, EXCLUSIVE) == Status.ACCESS_DENIED
    assert whole.boot("CloseProtocol", handle, ONE, agent, other) == Status.SUCCESS
    assert whole.boot("OpenProtocol", handle, ONE, result, other, agent, EXCLUSIVE) == Status.SUCCESS


@pytest.mark.parametrize("service", ["UninstallProtocolInterface", "ReinstallProtocolInterface"])
@pytest.mark.parametrize("attributes", [BY_CHILD_CONTROLLER, EXCLUSIVE])
def test_a_protocol_that_is_held_stays(whole, service, attributes):
    interface = whole.words(1)
    handle, agent, child = whole.install(ONE, interface), whole.install(TWO), whole.install(TWO)
    whole.boot("OpenProtocol", handle, ONE, whole.words(0), agent, child, attributes)
    new = (whole.words(2),) if service.startswith("Re") else ()
    assert whole.boot(service, handle, ONE, interface, *new) == Status.ACCESS_DENIED
    assert whole.firmware.handles.interface(handle, ONE) == interface
    assert whole.boot("CloseProtocol", handle, ONE, agent, child) == Status.SUCCESS
    assert whole.boot(service, handle, ONE, interface, *new) == Status.SUCCESS


@pytest.mark.parametrize("attributes", [BY_HANDLE_PROTOCOL, GET_PROTOCOL, TEST_PROTOCOL])
def test_a_protocol_that_is_only_looked_at_goes(whole, attributes):
    handle, agent = whole.install(ONE), whole.install(TWO)
    assert whole.boot("OpenProtocol", handle, ONE, whole.words(0), agent, agent, attributes) == Status.SUCCESS
    assert whole.boot("UninstallProtocolInterface", handle, ONE, 0) == Status.SUCCESS
    assert handle not in whole.firmware.handles


# -- the order of drivers


class Drivers:
    """Driver bindings that note when they are asked, and support nothing."""

    def __init__(self, whole: WholeFirmware) -> None:
        self._whole = whole
        self.asked: list[str] = []
        self.images: dict[str, int] = {}

    def add(self, name: str, version: int) -> None:
        def supported(*_arguments: int) -> int:
            self.asked.append(name)
            return Status.UNSUPPORTED

        image = self._whole.install(TWO)
        binding = self._whole.words(self._whole.function(supported), 0, 0, version, image, image)
        self.images[name] = self._whole.install(guids.DRIVER_BINDING_PROTOCOL, binding, image)

    def get_driver(self, *names: str):
        """GetDriver of an override protocol: the next image after the one that is handed in."""
        whole = self._whole

        def answer(*arguments: int) -> int:
            images = [self.images[name] for name in names]
            last = whole.memory.read_u64(arguments[-1])
            at = images.index(last) + 1 if last else 0
            if at == len(images):
                return Status.NOT_FOUND
            whole.memory.write_u64(arguments[-1], images[at])
            return Status.SUCCESS

        return whole.words(whole.function(answer), 0, 0)


def test_drivers_are_asked_in_the_order_of_precedence(whole):
    drivers = Drivers(whole)
    for version, name in enumerate(
        ("old", "platform 2", "bus", "family low", "family high", "caller", "platform 1", "new")
    ):
        drivers.add(name, version)
    controller = whole.install(ONE)
    whole.install(guids.PLATFORM_DRIVER_OVERRIDE_PROTOCOL, drivers.get_driver("platform 1", "platform 2"))
    whole.install(guids.BUS_SPECIFIC_DRIVER_OVERRIDE_PROTOCOL, drivers.get_driver("bus"), controller)
    for name, number in (("family low", 1), ("family high", 2)):
        get_version = whole.words(whole.function(lambda _this, number=number: number))
        whole.install(guids.DRIVER_FAMILY_OVERRIDE_PROTOCOL, get_version, drivers.images[name])
    first = whole.words(drivers.images["caller"], 0)
    assert whole.boot("ConnectController", controller, first, 0, 0) == Status.NOT_FOUND
    assert drivers.asked == ["caller", "platform 1", "platform 2", "family high", "family low", "bus", "new", "old"]


# -- what outlives a reset


def test_the_monotonic_count_counts_resets():
    counts = []
    variables = None
    for _ in range(3):
        whole = WholeFirmware(variables)
        at = whole.words(0)
        for _ in range(2):
            assert whole.boot("GetNextMonotonicCount", at) == Status.SUCCESS
            counts.append(whole.memory.read_u64(at))
        variables = whole.firmware.variables
        variables.reset()
        whole.close()
    assert [count >> 32 for count in counts] == [counts[0] >> 32] * 2 + [(counts[0] >> 32) + 1] * 2 + [
        (counts[0] >> 32) + 2
    ] * 2
    assert counts == sorted(set(counts))


def test_high_monotonic_count():
    whole = WholeFirmware()
    at = whole.words(0)
    whole.boot("GetNextMonotonicCount", at)
    before = whole.memory.read_u64(at) >> 32
    assert whole.runtime("GetNextHighMonotonicCount", at) == Status.SUCCESS
    assert whole.memory.read_u32(at) == before + 1
    whole.boot("GetNextMonotonicCount", at)
    assert whole.memory.read_u64(at) == before + 1 << 32 | 1
    whole.close()


def test_the_time_that_was_set_stays_set_after_a_reset():
    whole = WholeFirmware()
    wanted = EfiTime(2031, 5, 6, hour=7, minute=8, second=9, timezone=60, daylight=3)
    assert whole.runtime("SetTime", whole.put(wanted.pack())) == Status.SUCCESS
    variables = whole.firmware.variables
    whole.close()
    variables.reset()
    whole = WholeFirmware(variables)
    at = whole.put(bytes(16))
    assert whole.runtime("GetTime", at, 0) == Status.SUCCESS
    told = EfiTime.unpack(whole.memory.read(at, 16))
    assert abs(told.to_ns() - wanted.to_ns()) < 1_000_000_000
    assert (told.timezone, told.daylight) == (60, 3)
    # The clock of everything else is the same one.
    assert abs(whole.computer.clock.wall() - wanted.to_ns()) < 1_000_000_000
    whole.close()


@pytest.mark.parametrize(
    ("flags", "scatter", "status"),
    [
        *((0x10000, 0, Status.INVALID_PARAMETER), (0x20000, 1, Status.INVALID_PARAMETER)),
        *((0x40000, 1, Status.INVALID_PARAMETER), (0x10000, 1, Status.UNSUPPORTED), (0, 0, Status.UNSUPPORTED)),
    ],
)
def test_capsule_flags(whole, flags, scatter, status):
    capsule = whole.put(bytes(16) + struct.pack("<III", 28, flags, 28))
    assert whole.runtime("UpdateCapsule", whole.words(capsule), 1, scatter) == status


# -- files with tokens


@pytest.fixture
def root(whole):
    folder = MemoryFolder()
    folder.now = lambda: 0
    file = File(whole.firmware, folder, folder.root())
    file.place()
    return file


def text(whole: WholeFirmware, value: str) -> int:
    return whole.put(value.encode("utf-16-le") + b"\0\0")


def test_what_cannot_begin_is_answered_at_once_and_not_signaled(whole, root):
    event = whole.firmware.events.create(EVT_TIMER)
    token = whole.words(event, 0x5A, 0, 0)
    result = whole.words(0)
    assert whole.call(root, "OpenEx", result, text(whole, "missing"), 1, 0, token) == Status.NOT_FOUND
    assert not whole.firmware.events.check(whole.firmware.events.get(event))
    assert whole.memory.read_u64(token + 8) == 0x5A
    create = 1 << 63 | 3
    assert whole.call(root, "OpenEx", result, text(whole, "made"), create, 0, token) == Status.SUCCESS
    assert whole.firmware.events.check(whole.firmware.events.get(event))
    assert whole.memory.read_u64(token + 8) == Status.SUCCESS


def test_a_label_needs_room_for_its_end(whole, root):
    kind = guids.FILE_SYSTEM_VOLUME_LABEL
    assert whole.call(root, "SetInfo", kind, 1, text(whole, "X")) == Status.BAD_BUFFER_SIZE


# -- copying


def test_copying_goes_through_memory_and_devices(whole):
    source, target = whole.put(bytes(range(200))), whole.put(bytes(200))
    assert whole.boot("CopyMem", target, source + 1, 150) == Status.SUCCESS
    assert whole.memory.read(target, 150) == bytes(range(1, 151))
    assert whole.boot("CopyMem", target + 3, target, 100) == Status.SUCCESS  # overlapping
    assert whole.memory.read(target + 3, 100) == bytes(range(1, 101))
    assert whole.boot("SetMem", target, 10, 0xEE) == Status.SUCCESS
    assert whole.memory.read(target, 11) == b"\xee" * 10 + bytes((8,))
    seen = []
    whole.computer.bus.add_mmio(
        0xD0000000,
        0x1000,
        lambda _cpu, offset, size: seen.append(("read", offset, size)) or 0x11223344 & (1 << 8 * size) - 1,
        lambda _cpu, offset, size, value: seen.append(("write", offset, size, value)),
    )
    assert whole.boot("CopyMem", target, 0xD0000000, 5) == Status.SUCCESS
    assert whole.memory.read(target, 5) == bytes.fromhex("4433221144")
    assert whole.boot("SetMem", 0xD0000002, 3, 0xAB) == Status.SUCCESS
    assert seen == [("read", 0, 4), ("read", 4, 1), ("write", 2, 1, 0xAB), ("write", 3, 1, 0xAB), ("write", 4, 1, 0xAB)]


@pytest.mark.parametrize("address", [1 << 46, 1 << 63, 0xFFFF_FFFF_FFFF_FFF0])
def test_copying_from_nowhere_kills_the_guest(whole, address):
    whole.boot("CopyMem", whole.words(0), address, 16)
    outcome = whole.computer.run()
    assert outcome.kind == "crashed"
    assert f"{address:#x}" in outcome.text
