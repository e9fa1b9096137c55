"""EFI_GRAPHICS_OUTPUT_PROTOCOL through guest memory."""

import struct

import pytest
from protocol_harness import Harness

from uefi.graphics.framebuffer import MODES, Framebuffer, size_needed
from uefi.protocols.graphics_output import GraphicsOutput
from uefi.status import Status

BASE = 0x3200000
FILL, TO_BUFFER, TO_VIDEO, MOVE = range(4)


@pytest.fixture
def firmware() -> Harness:
    return Harness()


@pytest.fixture
def screen(firmware: Harness) -> Framebuffer:
    return Framebuffer(firmware.ram.view[BASE : BASE + size_needed()], BASE)


@pytest.fixture
def graphics(firmware: Harness, screen: Framebuffer) -> GraphicsOutput:
    protocol = GraphicsOutput(firmware, screen)  # type: ignore[arg-type]
    protocol.place()
    return protocol


def mode(firmware: Harness, graphics: GraphicsOutput) -> tuple[int, ...]:
    return struct.unpack("<IIQQQQ", firmware.memory.read(firmware.memory.read_u64(graphics.address + 0x18), 40))


def test_mode_structure_follows_set_mode(firmware: Harness, graphics: GraphicsOutput) -> None:
    count, number, info, info_size, base, size = mode(firmware, graphics)
    assert (count, number, info_size, base, size) == (len(MODES), 2, 36, BASE, 1024 * 768 * 4)
    assert struct.unpack("<4I16xI", firmware.memory.read(info, 36)) == (0, 1024, 768, 1, 1024)
    firmware.memory.write(BASE, b"\xff" * 64)
    assert firmware.call(graphics, "SetMode", 0) == Status.SUCCESS
    assert firmware.memory.read(BASE, 64) == bytes(64)
    assert mode(firmware, graphics)[1] == 0
    assert struct.unpack("<4I16xI", firmware.memory.read(info, 36)) == (0, 640, 480, 1, 640)
    assert firmware.call(graphics, "SetMode", len(MODES)) == Status.UNSUPPORTED


def test_query_mode(firmware: Harness, graphics: GraphicsOutput) -> None:
    size, info = firmware.room(), firmware.room()
    assert firmware.call(graphics, "QueryMode", 1, size, info) == Status.SUCCESS
    address = firmware.memory.read_u64(info)
    assert firmware.memory.read_u64(size) == 36
    assert struct.unpack_from("<III", firmware.memory.read(address, 36)) == (0, 800, 600)
    firmware.free_pool(address)
    for arguments in ((99, size, info), (0, 0, info), (0, size, 0)):
        assert firmware.call(graphics, "QueryMode", *arguments) == Status.INVALID_PARAMETER


def test_blt(firmware: Harness, graphics: GraphicsOutput, screen: Framebuffer) -> None:
    pixel = firmware.put(b"\x11\x22\x33\x00")
    assert firmware.call(graphics, "Blt", pixel, FILL, 0, 0, 10, 20, 5, 5, 0) == Status.SUCCESS
    place = BASE + 20 * screen.pitch + 40
    assert firmware.memory.read(place, 20) == b"\x11\x22\x33\x00" * 5
    room = firmware.room(64)
    assert firmware.call(graphics, "Blt", room, TO_BUFFER, 9, 20, 0, 0, 2, 1, 0) == Status.SUCCESS
    assert firmware.memory.read(room, 12) == bytes(4) + b"\x11\x22\x33\x00" + bytes(4)
    assert firmware.call(graphics, "Blt", room, TO_VIDEO, 0, 0, 0, 0, 2, 1, 0) == Status.SUCCESS
    assert firmware.memory.read(BASE, 8) == bytes(4) + b"\x11\x22\x33\x00"
    assert firmware.call(graphics, "Blt", 0, MOVE, 10, 20, 0, 0, 5, 5, 0) == Status.SUCCESS
    assert firmware.memory.read(BASE, 4) == b"\x11\x22\x33\x00"


def test_blt_refuses(firmware: Harness, graphics: GraphicsOutput) -> None:
    pixel = firmware.put(b"\x11\x22\x33\x00")
    wrong = [
        (pixel, FILL, 0, 0, 1023, 0, 2, 1, 0),
        (pixel, FILL, 0, 0, (1 << 64) - 1, 0, 2, 1, 0),
        (pixel, FILL, 0, 0, 0, 0, 0, 1, 0),
        (pixel, 4, 0, 0, 0, 0, 1, 1, 0),
        (0, FILL, 0, 0, 0, 0, 1, 1, 0),
        (0, TO_VIDEO, 0, 0, 0, 0, 1, 1, 0),
        (1 << 60, TO_BUFFER, 0, 0, 0, 0, 1, 1, 0),
        (pixel, TO_VIDEO, 0, 1 << 40, 0, 0, 1, 1, 1 << 40),
        (0, MOVE, 0, 767, 0, 0, 1, 2, 0),
    ]
    for arguments in wrong:
        assert firmware.call(graphics, "Blt", *arguments) == Status.INVALID_PARAMETER
