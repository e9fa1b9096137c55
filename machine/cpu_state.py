"""The state of a whole processor as plain data: what one engine writes down and another can take.

The keys of the dictionary, all numbers unsigned:

* `general`: RAX to R15, RIP, RFLAGS; `control`: CR0, CR2, CR3, CR4, CR8; `debug`: DR0 to DR3, DR6, DR7; `xcr0`;
  `nmi_masked`: whether an NMI waits for IRET
* `segments`: for each of `SEGMENTS` (selector, base, limit, attributes), with the hidden parts; attributes are bits 40 to 55
  of a descriptor without the limit's upper four (AMD64 APM volume 2, 4.7): type, S, DPL, P, then AVL, L, D, G
* `gdtr`, `idtr`: (base, limit); `ldtr`, `tr`: (selector, base, limit, attributes)
* `msrs`: (index, value) of those that `machine.msr` leaves to the engine, and EFER, whose LMA may be missing: it follows from LME
  and CR0.PG
* `fxsave`: x87, MXCSR and XMM registers as FXSAVE64 stores them, 512 bytes (APM volume 5, FXSAVE); `ymm`: the upper halves of
  YMM0 to YMM15, 256 bytes, or none where the engine has no AVX
"""

import struct

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
LDT_ATTRIBUTES, TSS_ATTRIBUTES = 0x0082, 0x008B

_FLAT_DATA, _FLAT_CODE64 = 0xC093, 0xA09B
_LEGACY = struct.Struct("<HHBxHQQII")
FXSAVE_SIZE = 512
_MXCSR_MASK = 0xFFFF

Segment = tuple[int, int, int, int]
"""Selector, base, limit in bytes, attributes."""


def segment_of(selector: int, descriptor: int) -> Segment:
    """A segment register that was loaded from an 8-byte descriptor."""
    base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 56 << 24
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000
    attributes = descriptor >> 40 & 0xF0FF
    if attributes & 0x8000:
        limit = limit << 12 | 0xFFF
    return selector, base, limit, attributes


def descriptor_of(segment: Segment) -> int:
    """The 8-byte descriptor from which a segment register would get these hidden parts."""
    _, base, limit, attributes = segment
    if attributes & 0x8000:
        limit >>= 12
    low = limit & 0xFFFF | (base & 0xFF_FFFF) << 16
    return low | (attributes & 0xF0FF) << 40 | (limit & 0xF_0000) << 32 | (base >> 24 & 0xFF) << 56


def flat_segment(selector: int, code: bool) -> Segment:
    """What long mode has where nobody can tell: no base, no limit, the privilege that the selector asks for."""
    attributes = (_FLAT_CODE64 if code else _FLAT_DATA) | (selector & 3) << 5
    return selector, 0, 0xFFFF_FFFF, attributes


def pack_fxsave(
    fcw: int, fsw: int, tags: int, mxcsr: int, registers: list[bytes], xmm: list[bytes], pointers: tuple[int, int, int]
) -> bytes:
    """The image of FXSAVE64. `tags` are two bits for each of R0 to R7, 3 for empty; `registers` are R0 to R7, 10 bytes each, and
    not ST0 to ST7; `pointers` are FOP, FIP, FDP."""
    used = sum(1 << n for n in range(8) if tags >> 2 * n & 3 != 3)
    top = fsw >> 11 & 7
    stack = b"".join(registers[(top + n) & 7].ljust(16, b"\0") for n in range(8))
    opcode, instruction, data = pointers
    head = _LEGACY.pack(fcw & 0xFFFF, fsw & 0xFFFF, used, opcode & 0xFFFF, instruction, data, mxcsr, _MXCSR_MASK)
    return (head + stack + b"".join(xmm)).ljust(FXSAVE_SIZE, b"\0")


def unpack_fxsave(image: bytes) -> tuple[int, int, int, int, list[bytes], list[bytes], tuple[int, int, int]]:
    """What `pack_fxsave` was given. ValueError for an image of another size."""
    if len(image) != FXSAVE_SIZE:
        raise ValueError(f"an FXSAVE image of {len(image)} bytes, wanted {FXSAVE_SIZE}")
    fcw, fsw, used, opcode, instruction, data, mxcsr, _ = _LEGACY.unpack_from(image)
    tags = sum(3 << 2 * n for n in range(8) if not used >> n & 1)
    top = fsw >> 11 & 7
    registers = [b""] * 8
    for n in range(8):
        at = 32 + 16 * n
        registers[(top + n) & 7] = image[at : at + 10]
    xmm = [image[160 + 16 * n : 176 + 16 * n] for n in range(16)]
    return fcw, fsw, tags, mxcsr, registers, xmm, (opcode, instruction, data)
