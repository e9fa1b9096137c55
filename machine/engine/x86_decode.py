"""A decoder of x64 instructions as far as emulating one of them needs it: prefixes, opcode, operands and length.

AMD64 APM volume 3, chapter 1. 64-bit mode only.
"""

from collections.abc import Callable

Read = Callable[[int], int]
"""The value of a general register by its number in the instruction encoding."""

_MASK = (1 << 64) - 1


class Undecodable(Exception):
    """The bytes end too early."""


class Instruction:
    """The instruction at the start of `code`. `opcode` is 0x0f00 | second byte for two-byte opcodes; `at` is behind it.

    `size` is that of operands in bytes, for opcodes that follow the operand size; `repeat` is 0xf2, 0xf3 or 0.
    """

    __slots__ = ("address_size", "at", "code", "mod", "opcode", "reg", "repeat", "rex", "rm", "segment", "size")

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.rex = self.repeat = self.segment = 0
        self.address_size = 8
        narrow = False
        at = 0
        try:
            while True:
                byte = code[at]
                if byte == 0x66:
                    narrow = True
                elif byte in (0xF2, 0xF3):
                    self.repeat = byte
                elif byte in (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65):
                    self.segment = byte if byte in (0x64, 0x65) else self.segment
                elif byte == 0x67:
                    self.address_size = 4
                elif byte == 0xF0:
                    pass
                else:
                    break
                at += 1
            if 0x40 <= byte <= 0x4F:
                self.rex = byte
                at += 1
                byte = code[at]
            if byte == 0x0F:
                at += 1
                byte = 0x0F00 | code[at]
        except IndexError:
            raise Undecodable from None
        self.opcode = byte
        self.at = at + 1
        self.size = 8 if self.rex & 8 else 2 if narrow else 4
        self.mod = self.reg = self.rm = 0

    def byte(self, offset: int = 0) -> int:
        """A byte behind what has been decoded so far."""
        if self.at + offset >= len(self.code):
            raise Undecodable
        return self.code[self.at + offset]

    def modrm(self) -> None:
        """Decode a ModRM byte into `mod`, `reg` and `rm`, with the bits of REX."""
        byte = self.byte()
        self.at += 1
        self.mod = byte >> 6
        self.reg = byte >> 3 & 7 | (8 if self.rex & 4 else 0)
        self.rm = byte & 7 | (8 if self.rex & 1 else 0)

    def immediate(self, size: int) -> int:
        """`size` bytes behind the rest, as a signed number."""
        if self.at + size > len(self.code):
            raise Undecodable
        value = int.from_bytes(self.code[self.at : self.at + size], "little", signed=True)
        self.at += size
        return value

    def address(self, read: Read, rip: int, following: int = 0) -> int:
        """The offset that a memory operand names, without its segment's base; `following` immediate bytes come behind."""
        low = self.rm & 7
        base: int | None = None
        value = 0
        if low == 4:
            sib = self.byte()
            self.at += 1
            index = sib >> 3 & 7 | (8 if self.rex & 2 else 0)
            if index != 4:
                value += read(index) << (sib >> 6)
            if sib & 7 == 5 and self.mod == 0:
                value += self.immediate(4)
            else:
                base = sib & 7 | (8 if self.rex & 1 else 0)
        elif low == 5 and self.mod == 0:
            value += self.immediate(4) + rip + self.at + following
        else:
            base = self.rm
        if base is not None:
            value += read(base)
        if self.mod == 1:
            value += self.immediate(1)
        elif self.mod == 2:
            value += self.immediate(4)
        return value & (_MASK if self.address_size == 8 else 0xFFFF_FFFF)
