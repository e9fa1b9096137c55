"""The MP table by which a board without ACPI tells of its processors (Intel MultiProcessor Specification 1.4, chapter 4)."""

import struct
from collections.abc import Sequence

from machine.computer import Computer
from machine.interrupts.controller import TIMER_GSI
from machine.interrupts.io_apic import PINS
from machine.interrupts.local_apic import APIC_BASE

_FLOATING = struct.Struct("<4sIBBB5x")
"""Signature, table address, length in paragraphs, revision, checksum; feature bytes of 0: a configuration table, no IMCR."""
_HEADER = struct.Struct("<4sHBB8s12sIHHIHBx")
_PROCESSOR = struct.Struct("<BBBBIIQ")
_BUS = struct.Struct("<BB6s")
_IO_APIC = struct.Struct("<BBBBI")
_INTERRUPT = struct.Struct("<BBHBBBB")
_REVISION = 4
_APIC_VERSION, _IO_APIC_VERSION = 0x14, 0x20
_ENABLED, _BOOT = 1, 2
_INT, _NMI, _EXTINT = 0, 1, 3
_EVERY_APIC = 0xFF
_ISA = 0
ISA_LINES = 16


class TooManyProcessors(Exception):
    """The table has no room for so many."""


def table(cpus: int, io_apics: Sequence[int], signature: int, features: int, address: int) -> bytes:
    """The floating pointer, for physical `address` (a multiple of 16), and the table behind it.

    `io_apics` are the addresses of the I/O APICs, whose ids follow those of the processors; `signature` and `features` are
    EAX and EDX of CPUID Fn1.
    """
    entries = [
        _PROCESSOR.pack(0, number, _APIC_VERSION, _ENABLED | (_BOOT if number == 0 else 0), signature, features, 0)
        for number in range(cpus)
    ]
    entries.append(_BUS.pack(1, _ISA, b"ISA   "))
    entries += [_IO_APIC.pack(2, cpus + n, _IO_APIC_VERSION, 1, at) for n, at in enumerate(io_apics)]
    # IRQ 0 arrives at input 2, where the cascade would; the others at the inputs of their numbers.
    lines = [(0, TIMER_GSI), *((irq, irq) for irq in range(1, min(ISA_LINES, PINS)) if irq != TIMER_GSI)]
    entries += [_INTERRUPT.pack(3, _INT, 0, _ISA, irq, cpus, pin) for irq, pin in lines]
    entries.append(_INTERRUPT.pack(4, _EXTINT, 0, _ISA, 0, 0, 0))
    entries.append(_INTERRUPT.pack(4, _NMI, 0, _ISA, 0, _EVERY_APIC, 1))
    body = b"".join(entries)
    header = _HEADER.pack(
        *(b"PCMP", _HEADER.size + len(body), _REVISION, 0, b"CVMBOOT ", b"machine     "),
        *(0, 0, len(entries), APIC_BASE, 0, 0),
    )
    return _checked(_FLOATING.pack(b"_MP_", address + _FLOATING.size, 1, _REVISION, 0), 10) + _checked(header + body, 7)


def _checked(data: bytes, at: int) -> bytes:
    """The bytes with the one at `at` set so that they add up to 0 modulo 256."""
    return data[:at] + bytes((-sum(data) & 0xFF,)) + data[at + 1 :]


def place(computer: Computer, address: int, room: int, io_apics: Sequence[int]) -> None:
    """Write the table of a computer to `address`. TooManyProcessors if it needs more than `room` bytes."""
    eax, _, _, edx = computer.cpuid(computer.engine.cpus[0], 1, 0)
    count = len(computer.engine.cpus)
    data = table(count, io_apics, eax, edx, address) if count + len(io_apics) < _EVERY_APIC else b""
    if not data or len(data) > room:
        raise TooManyProcessors(count)
    computer.memory.write(address, data)
