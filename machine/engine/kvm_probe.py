"""What kind of KVM there is: an SSE instruction and a short loop in ring 0 and in ring 3, with a clock beside them.

A KVM without VT-x or SVM under it (/sys/module/kvm_pvm, on nested cloud machines) executes ring 0 in an emulator, at a
million instructions a second, and no SSE at all; ring 3 runs on the processor itself. AMD64 APM volume 2, 1.2 (privilege).
"""

import ctypes
import functools
import mmap
import struct
from time import perf_counter
from typing import NamedTuple

from machine.engine import kvm_abi as abi
from machine.engine.kvm_monitor import LINEAR, Monitor
from machine.errors import EngineError

_RAM = 2 << 20
_CODE, _STACK = 0x1000, 0x3000
_RING_0_TURNS, _RING_3_TURNS = (2_000, 8_000, 32_000), 1_000_000
_EMULATED_NS = 100.0
"""Nanoseconds of one turn of a loop of two instructions: an emulator takes ten times as long, a processor a hundredth."""
_INVALID = 6


class Probe(NamedTuple):
    """What was found. `software`: ring 0 is emulated. Nanoseconds of one turn of the loop; in ring 3 the best of three."""

    software: bool
    ring_0_ns: float | None
    ring_3_ns: float


def _program(turns: int) -> bytes:
    # pxor xmm0, xmm0; mov ecx, turns; 1: dec ecx; jnz 1b; hlt
    return b"\x66\x0f\xef\xc0\xb9" + struct.pack("<I", turns) + b"\xff\xc9\x75\xfc\xf4"


class _Machine:
    """A megabyte of RAM and a processor."""

    def __init__(self) -> None:
        self._vm = abi.Vm()
        self._ram = mmap.mmap(-1, _RAM)
        self._vm.map(0, 0, _RAM, ctypes.addressof(ctypes.c_char.from_buffer(self._ram)))
        self._monitor = Monitor(self._vm, 1, 0, 1)
        self._vcpu = self._vm.vcpu(0)
        self._monitor.prepare(self._vcpu)
        words, first = self._monitor.words, self._monitor.first_free
        flags = 0x67  # dirty, accessed, user, writable, present

        def table(number: int) -> int:
            return self._monitor.gpa(first + number) | flags

        for at, index, entry in (
            *((0, 0, table(1)), (1, 0, table(2)), (2, 0, flags | 0x80)),
            *(
                (0, 511, table(3)),
                (3, 511, table(4)),
                (4, LINEAR >> 21 & 511, self._monitor.gpa(self._monitor.table_at) | flags),
            ),
        ):
            words[(first + at) * 512 + index] = entry
        self._sregs = self._monitor.sregs(0, self._monitor.gpa(first), self._vcpu.get_sregs())

    def time(self, ring: int, turns: int) -> float | None:
        """Nanoseconds of a turn, or None if the processor does not get to the end."""
        vcpu, program = self._vcpu, _program(turns)
        self._ram[_CODE : _CODE + len(program)] = program
        vcpu.page[abi.SREGS_AT : abi.SREGS_AT + abi.SREGS_SIZE] = self._sregs
        if ring == 0:
            for at, selector, kind, long in ((abi.CS_AT, 0x10, 11, 1), (abi.SS_AT, 0, 3, 0)):
                segment = abi.SEGMENT.pack(0, 0xFFFF_FFFF, selector, kind, 1, 0, 1 - long, 1, long, 1, 0, 0, 0)
                vcpu.page[abi.SREGS_AT + at : abi.SREGS_AT + at + abi.SEGMENT.size] = segment
        for register in range(18):
            vcpu.regs[register] = 0
        vcpu.regs[abi.RIP], vcpu.regs[abi.RSP], vcpu.regs[abi.RFLAGS] = _CODE, _STACK, 2
        vcpu.page[abi.DIRTY_REGS] = abi.SYNC_REGS | abi.SYNC_SREGS
        begun = perf_counter()
        while (error := vcpu.run()) == abi.EINTR:
            pass
        spent = perf_counter() - begun
        # In ring 3 the HLT at the end becomes #GP, and the monitor's stub tells us.
        ends = abi.EXIT_HLT if ring == 0 else abi.EXIT_IO
        if error or vcpu.page[abi.EXIT_REASON] != ends or vcpu.regs[abi.RCX]:
            return None
        if ring and vcpu.page[abi.EXIT_UNION + 2] == _INVALID:
            return None
        return spent / turns * 1e9

    def time_in_ring_0(self) -> float | None:
        """Nanoseconds of a turn in ring 0. Longer and longer runs, until one shows more than what it costs to enter the guest."""
        found = []
        for turns in _RING_0_TURNS:
            taken = self.time(0, turns)
            if taken is None:
                return None
            found.append(taken)
            if taken < _EMULATED_NS:
                break
        return min(found)

    def close(self) -> None:
        self._vcpu.close()
        self._vm.close()
        self._monitor.close()


@functools.cache
def probe() -> Probe:
    """Look, once in a process: 5 to 20 ms. EngineError, in one line, if this KVM does not serve."""
    machine = _Machine()
    try:
        in_ring_0 = machine.time_in_ring_0()
        times = [machine.time(3, _RING_3_TURNS) for _ in range(3)]
    except OSError as error:
        raise EngineError(f"{abi.DEVICE}: {error.strerror or error}") from None
    finally:
        machine.close()
    finished = [taken for taken in times if taken is not None]
    if not finished:
        raise EngineError(f"{abi.DEVICE} does not run a guest in ring 3")
    if min(finished) > _EMULATED_NS:
        raise EngineError(f"{abi.DEVICE} takes {min(finished):.0f} ns for a loop that a processor does in 1")
    return Probe(in_ring_0 is None or in_ring_0 > _EMULATED_NS, in_ring_0, min(finished))
