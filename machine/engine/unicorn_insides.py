"""Places inside Unicorn's library that its interface does not show, found by what stands there.

Three fields of `struct uc_struct` (uc_priv.h): `cpu`; `stop_interrupt`, a function that Unicorn calls on its own thread each time
it is between two blocks; `no_exit_request`, made for the IT blocks of ARM, which leaves out the question behind each load
and store. And one of a processor, `hflags2`, where Unicorn keeps whether an NMI is being handled. Each is read from the code of
an exported function that uses it, or known by the function that it points to. Where a library looks otherwise (another
version, another processor), nothing is found, and nothing of this is used.
"""

import ctypes
import platform
import re
import struct
from typing import NamedTuple

from machine.engine import unicorn_abi as abi

_ASKS = "helper_check_exit_request_x86_64"
_LEAVES_OUT = "check_exit_request_x86_64"
_EXITS = "cpu_exit"
_ENV = "x86_cpu_exec_exit_x86_64"
_SETS_GIF, _CLEARS_GIF = "helper_stgi_x86_64", "helper_clgi_x86_64"
_HEAD = 64
"""Bytes of a function that are looked at."""

_FIRST_FIELD = re.compile(rb"[\x48\x4c]\x8b[\x87\x8f\x97\x9f\xa7\xaf\xb7\xbf](.{4})", re.DOTALL)
"""mov r64, [rdi + cpu]"""
_BYTE_OF_FIELD = re.compile(rb"\x48\x8b[\xb7\x87\x8f\x97].{4}\x80[\xbe\xb8\xb9\xba](.{4})\x00", re.DOTALL)
"""mov r64, [rdi + uc]; cmp byte [r64 + no_exit_request], 0"""
_STOPS_AT_ILLEGAL = bytes.fromhex("83fe06 0f94c0 c3")
"""x86_stop_interrupt, a static function: cmp esi, EXCP06_ILLOP; sete al; ret"""
_ENV_OF_CPU = re.compile(rb"\x48\x8d[\xbf\xb7\x87\x8f\x97](.{4})", re.DOTALL)
"""lea r64, [rdi + env]"""
_SET_BIT_0 = re.compile(rb"\x83[\x88-\x8f](.{4})\x01", re.DOTALL)
"""or dword [r64 + hflags2], 1"""
_CLEAR_BIT_0 = re.compile(rb"\x83[\xa0-\xa7](.{4})\xfe", re.DOTALL)
"""and dword [r64 + hflags2], ~1"""
_LARGEST = 0x10000
_AT_RESET = 1
"""hflags2 of a processor that has not run: the global interrupt flag alone"""
HF2_NMI = 1 << 2
"""The bit of `hflags2` that stands while an NMI is being handled, and that IRET clears (target/i386/cpu.h, seg_helper.c)."""


class Insides(NamedTuple):
    """Addresses for one instance of Unicorn."""

    cpu: int
    """its CPUState"""
    exit_cpu: int
    """cpu_exit(CPUState *): ends a chain of blocks at the next one; safe from any thread"""
    asks: int
    """helper_check_exit_request(uc, 0): leaves the translated code that called it, if cpu_exit has been called"""
    stop_interrupt: int
    """the pointer to bool stop_interrupt(uc, exception)"""
    no_exit_request: int
    """the byte"""


def find(library: abi.Library, handle: ctypes.c_void_p) -> Insides | None:
    """The places in an instance that has been initialised (memory is mapped), or None if one of them is not known."""
    asks, leaves_out, exits = (library.address(name) for name in (_ASKS, _LEAVES_OUT, _EXITS))
    base, near = handle.value, library.address("uc_emu_stop")
    if platform.machine() not in ("x86_64", "AMD64") or not (asks and leaves_out and exits and base and near):
        return None
    cpu = _FIRST_FIELD.match(ctypes.string_at(asks, _HEAD))
    byte = _BYTE_OF_FIELD.match(ctypes.string_at(leaves_out, _HEAD))
    if cpu is None or byte is None:
        return None
    cpu_at, byte_at = (struct.unpack("<i", match.group(1))[0] for match in (cpu, byte))
    if not (0 < cpu_at < _LARGEST and not cpu_at % 8 and 0 < byte_at < _LARGEST):
        return None
    fields = struct.unpack(f"<{cpu_at // 8 + 1}Q", ctypes.string_at(base, cpu_at + 8))
    low, high = sorted((asks, near))  # our functions lie between these two, and only there do we look for one
    stops = [
        base + 8 * number
        for number, value in enumerate(fields)
        if low < value < high and ctypes.string_at(value, len(_STOPS_AT_ILLEGAL)) == _STOPS_AT_ILLEGAL
    ]
    no_exit_request = base + byte_at
    if len(stops) != 1 or not fields[-1] or ctypes.string_at(no_exit_request, 1) != b"\0":
        return None
    return Insides(fields[-1], exits, asks, stops[0], no_exit_request)


def flags_of(library: abi.Library, handle: ctypes.c_void_p) -> ctypes.c_uint32 | None:
    """`hflags2` of an instance that has not run yet, in place, or None where it is not known."""
    places = find(library, handle)
    functions = [library.address(name) for name in (_ENV, _SETS_GIF, _CLEARS_GIF)]
    if places is None or not all(functions):
        return None
    heads = [ctypes.string_at(function, _HEAD) for function in functions]
    found = [pattern.search(head) for pattern, head in zip((_ENV_OF_CPU, _SET_BIT_0, _CLEAR_BIT_0), heads, strict=True)]
    env, sets, clears = (struct.unpack("<i", match.group(1))[0] if match is not None else 0 for match in found)
    if sets != clears or not (0 < env < _LARGEST and 0 < sets < _LARGEST):
        return None
    flags = ctypes.c_uint32.from_address(places.cpu + env + sets)
    return flags if flags.value == _AT_RESET else None
