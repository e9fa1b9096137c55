"""Instructions that Unicorn executes without asking anybody: found in pages of code, hooked, and carried out by the machine.

CMPXCHG8B and CMPXCHG16B are hooked for the sake of the hook: Unicorn changes ZF among flags that it has not yet worked out,
and leaves what instructions before them have computed with in RFLAGS, TF and all. In front of a hook it does work them out.
"""

import re
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Fault
from machine.engine import unicorn_abi as abi
from machine.paging import Mode

if TYPE_CHECKING:
    from machine.engine.base import Handlers
    from machine.engine.unicorn_cpu import UnicornCpu

# Each possible first byte gets a hook of its own.
# RDMSR, WRMSR, RDTSC: 0f 32, 0f 30, 0f 31; RDTSCP: 0f 01 f9; RDRAND, RDSEED: (66) (REX) 0f c7 /6, /7 with a register.
_TRAPPED = re.compile(rb"\x0f(?:[\x30-\x32]|\x01\xf9|\xc7[\xf0-\xff])")
_TRAPPED_OR_PAUSE = re.compile(_TRAPPED.pattern + rb"|\xf3\x90")
_PAUSE = b"\xf3\x90"
_EXCHANGE = re.compile(rb"\x0f\xc7[\x08-\x0f\x48-\x4f\x88-\x8f]")
_PREFIXES = frozenset((0x64, 0x65, 0x66, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)))
_LONGEST = 5
_MOST_PREFIXES = 3


class TrappedInstructions:
    """Those of one CPU. `hooked` are the linear addresses of hooks; `fetched` maps linear pages that could be executed when they
    were last filled to physical ones, -1 for what is no RAM."""

    def __init__(self, cpu: "UnicornCpu", handlers: "Handlers", pauses: bool = False) -> None:
        """`pauses`: PAUSE is told of, too; the CPU itself executes it."""
        self._pattern = _TRAPPED_OR_PAUSE if pauses else _TRAPPED
        self._cpu = cpu
        self._handlers = handlers
        self._callback = abi.CODE_CALLBACK(self._trapped)
        self._looked_through: dict[int, int] = {}
        self._codes: dict[int, bytes] = {}  # of instructions that trapped, until any page of code is filled again
        self._settled: set[int] = set()
        self.hooked: set[int] = set()
        self.fetched: dict[int, int] = {}

    def changed(self, frame: int) -> None:
        """A page of code is about to be written to."""
        self._codes.clear()
        self._looked_through.pop(frame, None)

    def all_changed(self) -> None:
        """Any page of code may have been written to."""
        self._codes.clear()
        self._looked_through.clear()

    def look_through(self, mode: Mode, page: int, physical: int) -> None:
        """Hook every place in a page of code where an instruction may start that Unicorn would not tell us of.

        That holds until the page is written to, unless such an instruction may reach into or out of a neighbour, which may
        change alone.
        """
        self._codes.clear()
        if self._looked_through.get(physical >> 12) == page:
            return
        cpu = self._cpu
        before = cpu.bytes_at(mode, page - (_LONGEST - 1), _LONGEST - 1) if page else b""
        body = cpu.memory.read(physical, 4096)
        after = cpu.bytes_at(mode, page + 4096, _LONGEST - 1)
        text = before + body + after
        first = page - len(before)
        if not self._crosses(before, body[1 - _LONGEST :]):
            self._looked_through[physical >> 12] = page
        for match in self._pattern.finditer(text):
            at = match.start()
            starts = [at]
            if text[at + 1] == 0xC7:  # the register forms take prefixes
                while at and len(starts) < 3 and (0x40 <= text[at - 1] <= 0x4F or text[at - 1] == 0x66):
                    at -= 1
                    starts.append(at)
            for start in starts:
                address = first + start
                if address not in self.hooked:
                    self.hooked.add(address)
                    cpu.hook(abi.HOOK_CODE, self._callback, address, address)
        for match in _EXCHANGE.finditer(text):
            at = match.start()
            self._settle_flags_before(first + at)
            while at and text[at - 1] in _PREFIXES and match.start() - at < _MOST_PREFIXES:
                at -= 1
                self._settle_flags_before(first + at)

    def _settle_flags_before(self, address: int) -> None:
        if address not in self._settled and address not in self.hooked:
            self._settled.add(address)
            nothing = self._cpu.stop.nothing() or abi.CODE_CALLBACK(lambda *_: False)
            self._cpu.hook(abi.HOOK_CODE, nothing, address, address)

    def _crosses(self, before: bytes, end: bytes) -> bool:
        """Whether such an instruction may begin in a page's last bytes, or in those of the page before."""
        if b"\x0f" in before or b"\x0f" in end:
            return True
        return self._pattern is _TRAPPED_OR_PAUSE and (before[-1:] == b"\xf3" or end[-1:] == b"\xf3")

    def _trapped(self, _uc: int, address: int, size: int, _user: int) -> bool:
        """True if the instruction is not to be executed any more."""
        cpu = self._cpu
        if cpu.breaks_at(address):
            return True
        try:
            code = self._codes.get(address) or self._code_at(address, size)
            if code == _PAUSE:
                self._handlers.pause(cpu.face)
                return False
            return self._emulate(code, address + len(code) - cpu.code_base())
        except BaseException as error:
            cpu.failed(error)
            return True

    def _code_at(self, address: int, size: int) -> bytes:
        cpu = self._cpu
        inside = address & 0xFFF
        physical = self.fetched.get(address - inside, -1)
        if physical >= 0 and inside + size <= 4096:
            code = cpu.memory.read(physical + inside, size)
        else:
            code = cpu.bytes_at(cpu.mode(), address, min(size, 16, 4096 - inside))
            if len(code) < size:
                code += cpu.bytes_at(cpu.mode(), address + len(code), size - len(code))
        self._codes[address] = code
        return code

    def _emulate(self, code: bytes, following: int) -> bool:
        cpu, handlers = self._cpu, self._handlers
        if code in (b"\x0f\x31", b"\x0f\x01\xf9"):
            value = handlers.read_tsc(cpu.face)
            cpu.set_edx_eax(value)
            if len(code) == 3:
                cpu.set(reg.RCX, (handlers.read_msr(cpu.face, 0xC000_0103) or 0) & 0xFFFF_FFFF)
        elif code == b"\x0f\x32":
            answer = handlers.read_msr(cpu.face, cpu.get(reg.RCX) & 0xFFFF_FFFF)
            if answer is None:
                cpu.raise_fault(Fault(13, 0))
                return True
            cpu.set_edx_eax(answer)
        elif code == b"\x0f\x30":
            value = (cpu.get(reg.RDX) & 0xFFFF_FFFF) << 32 | cpu.get(reg.RAX) & 0xFFFF_FFFF
            if not handlers.write_msr(cpu.face, cpu.get(reg.RCX) & 0xFFFF_FFFF, value):
                cpu.raise_fault(Fault(13, 0))
                return True
        elif (at := code.find(b"\x0f\xc7")) >= 0 and len(code) == at + 3:
            rex = code[at - 1] if at and 0x40 <= code[at - 1] <= 0x4F else 0
            size = 8 if rex & 8 else 2 if 0x66 in code[:at] else 4
            register = (code[at + 2] & 7) | (8 if rex & 1 else 0)
            value = handlers.random(cpu.face, size)
            if size == 2:
                value |= cpu.get(register) & ~0xFFFF
            cpu.set(register, value)
            flags = cpu.get(reg.RFLAGS) & ~0x8D5  # OF, SF, ZF, AF, PF, CF cleared ...
            cpu.set(reg.RFLAGS, flags | reg.RFLAGS_CF)  # ... but CF says that the number is good
        else:
            return False  # another instruction stands there now, or the bytes were data
        cpu.set(reg.RIP, following)
        return True
