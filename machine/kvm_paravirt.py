"""What a guest of KVM finds besides hardware: CPUID leaves, kvmclock and hypercalls.

Linux, Documentation/virt/kvm/x86: cpuid.rst, msr.rst, hypercalls.rst. Boards that only KVM has (microvm, Firecracker) promise it;
the UEFI machine does not call itself KVM.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.callbacks import Constant
from machine.cpu import Cpu
from machine.errors import BadAddress

if TYPE_CHECKING:
    from machine.computer import Computer

SIGNATURE = b"KVMKVMKVM\0\0\0"
SIGNATURE_LEAF, FEATURES_LEAF, FREQUENCY_LEAF = 0x4000_0000, 0x4000_0001, 0x4000_0010
CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE = 1 << 0, 1 << 1, 1 << 3, 1 << 24
WALL_CLOCK, SYSTEM_TIME, WALL_CLOCK_NEW, SYSTEM_TIME_NEW = 0x11, 0x12, 0x4B56_4D00, 0x4B56_4D01
_ENABLE = 1
_TSC_STABLE = 1
_TIME_INFO = struct.Struct(
    "<IIQQIbBxx"
)  # pvclock_vcpu_time_info: version, pad, TSC, system time, multiplier, shift, flags
_WALL = struct.Struct("<III")  # pvclock_wall_clock: version, seconds, nanoseconds
_PAIRING = struct.Struct("<qqQI36x")  # kvm_clock_pairing: seconds, nanoseconds, TSC, flags

VMCALL, VMMCALL = b"\x0f\x01\xc1", b"\x0f\x01\xd9"
VAPIC_POLL_IRQ, KICK_CPU, CLOCK_PAIRING = 1, 5, 9
_PAIRING_WALLCLOCK = 0
_EPERM, _EFAULT, _EOPNOTSUPP, _ENOSYS = 1, 14, 95, 1000
_SECOND = 1_000_000_000


def time_scale(frequency: int) -> tuple[int, int]:
    """(multiplier, shift) that make nanoseconds of ticks at `frequency` Hz: (ticks << shift) * multiplier >> 32."""
    shift = 0
    while frequency > 2 * _SECOND:
        frequency >>= 1
        shift -= 1
    while frequency <= _SECOND:
        frequency <<= 1
        shift += 1
    return (_SECOND << 32) // frequency, shift


class KvmParavirt:
    """Makes a computer look like a guest of KVM."""

    def __init__(self, computer: "Computer") -> None:
        self._computer = computer
        words = struct.unpack("<III", SIGNATURE)
        signature = (FREQUENCY_LEAF, *words)
        features = (CLOCKSOURCE | NOP_IO_DELAY | CLOCKSOURCE2 | CLOCKSOURCE_STABLE, 0, 0, 0)
        computer.cpuid.set_leaf(SIGNATURE_LEAF, Constant(signature))
        computer.cpuid.set_leaf(FEATURES_LEAF, Constant(features))
        registers = (WALL_CLOCK, SYSTEM_TIME, WALL_CLOCK_NEW, SYSTEM_TIME_NEW)
        self._registers = [dict.fromkeys(registers, 0) for _ in computer.engine.cpus]
        for index in registers:
            store = self._set_time if index in (SYSTEM_TIME, SYSTEM_TIME_NEW) else self._set_wall
            computer.msrs.register(index, partial(self._read, index), partial(self._write, index, store))
        computer.trap_instructions[VMCALL] = self._hypercall
        computer.trap_instructions[VMMCALL] = self._hypercall

    def _read(self, index: int, cpu: Cpu) -> int:
        return self._registers[cpu.index][index]

    def _write(self, index: int, store: Callable[[int], bool], cpu: Cpu, value: int) -> bool:
        try:
            done = store(value)
        except BadAddress:
            return False
        if done:
            self._registers[cpu.index][index] = value
        return done

    def _set_time(self, value: int) -> bool:
        """The guest says where it wants the time: there, once, because our TSC never changes its pace."""
        if value & _ENABLE:
            clock = self._computer.clock
            multiplier, shift = time_scale(clock.tsc_frequency)
            time = _TIME_INFO.pack(2, 0, clock.tsc(), clock.now(), multiplier, shift, _TSC_STABLE)
            self._computer.memory.write(value & ~_ENABLE, time)
        return True

    def _set_wall(self, value: int) -> bool:
        """The wall clock's time at which system time was 0."""
        clock = self._computer.clock
        self._computer.memory.write(value, _WALL.pack(2, *divmod(clock.wall() - clock.now(), _SECOND)))
        return True

    def _hypercall(self, cpu: Cpu, _code: bytes) -> int:
        if cpu.get(reg.CS) & 3:
            result = -_EPERM
        else:
            number = cpu.get(reg.RAX) & 0xFFFF_FFFF
            if number == CLOCK_PAIRING:
                result = self._pair_clocks(cpu.get(reg.RBX), cpu.get(reg.RCX))
            else:
                result = 0 if number in (VAPIC_POLL_IRQ, KICK_CPU) else -_ENOSYS
        cpu.set(reg.RAX, result & (1 << 64) - 1)
        return len(VMCALL)

    def _pair_clocks(self, address: int, kind: int) -> int:
        if kind != _PAIRING_WALLCLOCK:
            return -_EOPNOTSUPP
        clock = self._computer.clock
        seconds, nanoseconds = divmod(clock.wall(), _SECOND)
        try:
            self._computer.memory.write(address, _PAIRING.pack(seconds, nanoseconds, clock.tsc(), 0))
        except BadAddress:
            return -_EFAULT
        return 0
