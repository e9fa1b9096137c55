"""The MP table: checksums, and what a reader of the specification finds in it."""

import struct

import pytest

from machine.boot.mp_table import TooManyProcessors, place, table
from machine.computer import Computer

AT = 0x9_FC00


def entries(data: bytes) -> list[bytes]:
    """Entries of the configuration table: 20 bytes for a processor, 8 for all others (MP 1.4, table 4-3)."""
    floating, header = data[:16], data[16:60]
    assert floating[:4] == b"_MP_" and sum(floating) & 0xFF == 0 and floating[8] == 1
    assert int.from_bytes(floating[4:8], "little") == AT + 16
    assert header[:4] == b"PCMP" and sum(data[16:]) & 0xFF == 0
    assert int.from_bytes(header[4:6], "little") == len(data) - 16
    assert int.from_bytes(header[36:40], "little") == 0xFEE0_0000
    found, at = [], 60
    while at < len(data):
        size = 8 if data[at] else 20
        found.append(data[at : at + size])
        at += size
    assert at == len(data) and len(found) == int.from_bytes(header[34:36], "little")
    return found


def test_processors_come_first_and_one_of_them_boots() -> None:
    found = entries(table(3, [0xFEC0_0000, 0xFEC1_0000], 0xA00F11, 0x178BFBFF, AT))
    processors = [entry for entry in found if entry[0] == 0]
    assert found[:3] == processors
    assert [(entry[1], entry[3]) for entry in processors] == [(0, 3), (1, 1), (2, 1)]
    assert struct.unpack_from("<II", processors[2], 4) == (0xA00F11, 0x178BFBFF)
    io_apics = [entry for entry in found if entry[0] == 2]
    assert [(entry[1], struct.unpack_from("<I", entry, 4)[0]) for entry in io_apics] == [
        *((3, 0xFEC0_0000), (4, 0xFEC1_0000))
    ]
    lines = {entry[5]: entry[7] for entry in found if entry[0] == 3}
    assert lines == {0: 2, 1: 1, **{irq: irq for irq in range(3, 16)}}
    assert [(entry[1], entry[6], entry[7]) for entry in found if entry[0] == 4] == [(3, 0, 0), (1, 0xFF, 1)]


def test_what_has_no_room_is_not_written() -> None:
    computer = Computer(64 << 20, 2)
    try:
        with pytest.raises(TooManyProcessors):
            place(computer, AT, 200, [0xFEC0_0000])
        assert not any(computer.memory.read(AT, 1024))
        place(computer, AT, 1024, [0xFEC0_0000])
        assert entries(computer.memory.read(AT, 252))
    finally:
        computer.close()
