"""What one service call costs: a loop of machine code in the guest calls OutputString with one character."""

import time
from pathlib import Path

from cvmboot.assembly import assemble, start
from cvmboot.options import RunOptions
from machine.bus import Bus
from machine.console import HostConsole
from uefi.firmware import Outcome

HELLO = Path(__file__).resolve().parent.parent / "samples" / "built" / "hello.efi"
"""Any application will do: the loop takes the place of its first instructions."""
CALLS = 100_000
_PORT = 0xE8
_CALL_OUTPUT_STRING = bytes.fromhex("4889d9 4889fa ff5308")  # mov rcx, rbx; mov rdx, rdi; call [rbx + 8]
_OUT = bytes((0xE6, _PORT))


def _loop(body: bytes) -> bytes:
    """An image's entry: `body` CALLS times with RBX = ConOut and RDI = the string "A", then EFI_SUCCESS."""
    first = bytes.fromhex("53 56 57 4883ec20 488b5a40") + b"\xbe" + CALLS.to_bytes(4, "little")
    last = b"\xff\xce\x75" + (256 - len(body) - 4).to_bytes(1, "little") + bytes.fromhex("4883c420 5f5e5b 31c0 c3")
    load = b"\x48\x8d\x3d" + (len(body) + len(last)).to_bytes(4, "little")  # lea rdi, [rip + what follows]
    return first + load + body + last + "A\0".encode("utf-16-le")


def _run(body: bytes) -> float:
    """Microseconds for each time round."""
    assembly = assemble(RunOptions(), HostConsole(lambda data: None), lambda text: None)
    try:
        bus: Bus = assembly.computer.bus
        bus.add_ports(_PORT, 1, lambda _cpu, _offset, _size: 0, lambda _cpu, _offset, _size, _value: None)
        start(assembly, HELLO, RunOptions())
        image = assembly.firmware.images.all()[-1]
        assembly.computer.memory.write(image.entry, _loop(body))
        begin = time.perf_counter()
        outcome = assembly.computer.run()
        spent = time.perf_counter() - begin
    finally:
        assembly.close()
    assert isinstance(outcome, Outcome) and outcome.kind == "returned" and outcome.status == 0, outcome
    return spent / CALLS * 1e6


def output_string() -> float:
    """Microseconds of an OutputString of one character, everything included."""
    return _run(_CALL_OUTPUT_STRING)


def engine_alone() -> float:
    """Microseconds of an OUT that nobody does anything about: what the engine and ctypes take of each call."""
    return _run(_OUT)
