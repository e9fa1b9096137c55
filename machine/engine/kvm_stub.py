"""Stubs of code through which a guest on KVM reaches its serial port without leaving ring 3.

Drivers load DX, and AL, right before `in al, dx` or `out dx, al`. The first of these loads, if it is long enough, gives way to a
JMP to a stub. That carries out the loads, and then either the access on a page of ours, or, where the port is another one or
the page says so, it goes to the guest's own IN or OUT, which traps as ever:

        mov dx, [rsp + 8]       jmp stub            stub:   mov dx, [rsp + 8]
        mov al, [rsp + 10]      mov al, [rsp + 10]          mov al, [rsp + 10]
        out dx, al              out dx, al                  posted, or back to OUT
        ret                     ret                         back to RET

No instruction begins inside the five bytes of the JMP, unless code overlaps itself. The one such place that programmers know,
behind a prefix, has HLT: whoever jumps there traps, and is given its own code back. A stub changes neither flags nor the
stack, and RCX only for a while: each place in it where the guest may be interrupted stands for one between two of the
guest's own instructions.
"""

import struct
from bisect import bisect_right
from typing import NamedTuple

from machine.engine.x86_decode import Instruction, Undecodable

IN, OUT = 0xEC, 0xEE
JUMP = 5
"""Bytes of JMP rel32."""
LIKE_HLT = 0xF4
"""What the lowest byte of a JMP's displacement ought to be."""
LONGEST_LOADS = 15
"""Bytes of code before an access that are looked at."""
_REACH = 1 << 31
_U32 = struct.Struct("<I")

# Offsets in the page that the stubs of one processor work on.
SAVED, ROOM, LOOKS, READY, BYTES = 0, 8, 12, 16, 2048
"""RCX while a stub has another use for it; how many bytes can still be posted; how often the status may still be read; the
status; the bytes, the last one first."""
CAPACITY = 4096 - BYTES
MOST_LOOKS = 8
"""Reads of the status behind each byte that a stub answers. A guest that reads on waits for input, and is to be seen."""


class Stub(NamedTuple):
    """One stub. `places` are (offset, the RIP that it stands for, whether RCX is in the page), by offset."""

    code: bytes
    places: list[tuple[int, int, bool]]

    def place(self, offset: int) -> tuple[int, bool]:
        """The RIP that an offset stands for, and whether RCX is in the page."""
        _, rip, saved = self.places[bisect_right(self.places, offset, key=lambda place: place[0]) - 1]
        return rip, saved


def loads_before(code: bytes) -> list[list[bytes]]:
    """The ways in which `code`, which ends right before an IN or OUT, can end with loads that a stub may carry out as well.

    Each is a list of instructions, of which the first one is long enough to give way to a JMP.
    """
    found = []
    for start in range(len(code) - JUMP, -1, -1):
        at, loads = start, []
        while at < len(code) and (size := _load(code[at:])):
            loads.append(code[at : at + size])
            at += size
        if at == len(code) and len(loads[0]) >= JUMP:
            found.append(loads)
    return found


def _load(code: bytes) -> int:
    """The length of the load at the start of `code` if it is the same at another address; else 0."""
    instruction = Instruction(code)
    opcode = instruction.opcode
    try:
        if 0xB0 <= opcode <= 0xBF:  # MOV register, immediate
            instruction.immediate(1 if opcode < 0xB8 else instruction.size)
            return instruction.at
        if opcode not in (0x88, 0x89, 0x8A, 0x8B, 0x0FB6, 0x0FB7):  # MOV and MOVZX register, register or memory
            return 0
        instruction.modrm()
        if opcode in (0x88, 0x89) and instruction.mod != 3:  # a store
            return 0
        if instruction.mod == 0 and instruction.rm & 7 == 5:  # relative to RIP
            return 0
        if instruction.mod != 3:
            instruction.address(lambda _register: 0, 0)
    except Undecodable:
        return 0
    return instruction.at


class _Assembler:
    """Code from a linear address on, and what its places stand for."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.code = bytearray()
        self.places: list[tuple[int, int, bool]] = []

    def add(self, code: bytes, rip: int, saved: bool) -> None:
        """An instruction. Before it, the guest is at `rip`."""
        self.places.append((len(self.code), rip, saved))
        self.code += code

    def jump(self, target: int, saved: bool) -> None:
        """JMP to the guest."""
        self.add(jump(self._at + len(self.code), target), target, saved)


def jump(at: int, target: int) -> bytes:
    """JMP rel32 at linear address `at`."""
    return b"\xe9" + struct.pack("<i", target - at - JUMP)


def in_reach(first: int, second: int) -> bool:
    """Whether code around one linear address can jump to code around the other."""
    return abs(first - second) < _REACH - 8192


def assemble(at: int, page: int, loads: list[bytes], access: int, rip: int, port: int) -> Stub:
    """The stub at linear `at` for the `access`, IN or OUT, at `rip`, behind `loads`, if it is to `port`.

    `page` is the linear address of the page that it works on, below 2 GiB.
    """
    stub = _Assembler(at)
    first = rip - sum(map(len, loads))
    for load in loads:
        stub.add(load, first, False)
        first += len(load)

    def absolute(code: bytes, offset: int) -> bytes:
        return code + b"\x25" + _U32.pack(page + offset)

    save, load_back = absolute(b"\x48\x89\x0c", SAVED), absolute(b"\x48\x8b\x0c", SAVED)
    counter = ROOM if access == OUT else LOOKS
    stub.add(save, rip, False)
    for code in (b"\x0f\xb7\xca", b"\x8d\x89" + struct.pack("<i", -port)):  # movzx ecx, dx; lea ecx, [rcx - port]
        stub.add(code, rip, True)
    stub.add(b"\xe3" + bytes((len(load_back) + JUMP,)), rip, True)  # jrcxz: it is that port
    back = len(stub.code)
    stub.add(load_back, rip, True)
    stub.jump(rip, False)
    stub.add(absolute(b"\x8b\x0c", counter), rip, True)  # mov ecx, [counter]
    stub.add(b"\xe3" + struct.pack("b", back - len(stub.code) - 2), rip, True)  # jrcxz: none left
    if access == OUT:
        stub.add(b"\x88\x81" + _U32.pack(page + BYTES - 1), rip, True)  # mov [rcx + bytes - 1], al
    stub.add(b"\x8d\x49\xff", rip, True)  # lea ecx, [rcx - 1]
    stub.add(absolute(b"\x89\x0c", counter), rip, True)
    behind = rip + 1
    if access == OUT:  # done; mov dword [looks], most
        stub.add(absolute(b"\xc7\x04", LOOKS) + _U32.pack(MOST_LOOKS), behind, True)
    else:
        stub.add(absolute(b"\x8a\x04", READY), rip, True)  # mov al, [ready]: done
    stub.add(load_back, behind, True)
    stub.jump(behind, False)
    return Stub(bytes(stub.code), stub.places)
