"""An EFI application that does nothing but a list of service calls with given arguments, as straight machine code."""

import importlib
import pkgutil
import random
import struct

import uefi.protocols
from uefi import guids
from uefi.boot_services import BootServices
from uefi.guids import Guid
from uefi.interface import Interface, Slot
from uefi.runtime_services import RuntimeServices

_HEADERS, _ALIGNMENT, _DATA_SIZE = 0x400, 0x1000, 0x4000
# The data section: 8-byte slots, strings and GUIDs, then room for what services write.
_SLOTS, _TEXTS, _ROOM = 0, 0x800, 0x2000
_RESULTS = range(40, 56)
"""Slots whose addresses are given to services as places for results, and whose contents are given as handles."""
_WILD = (
    0x6000_0000_0000,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_F000,
    0xC000_0000,
    0xFEE0_0020,
)
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 31, 0x40, 0x100, 0x200, 0x1000, 0x8000_0200, 0x6000_0202, (1 << 31) - 1, 1 << 31)
_TEXT = ("Boot0000", "\\hello", "", "..\\..\\x", "PciRoot(0x0)/Pci(0x1,0x0)", "MetaiMatch*", "en-US", "a" * 300)
_NEVER = frozenset(("Exit", "ResetSystem", "WaitForEvent", "CopyMem", "SetMem", "UnloadImage", "Io.Write"))
"""They end the run or wait for ever, or fault by design; ports reset the machine."""


def protocol_classes() -> list[type[Interface]]:
    """Every protocol that has a GUID and functions."""
    found: list[type[Interface]] = []
    for module in pkgutil.iter_modules(uefi.protocols.__path__):
        members = vars(importlib.import_module(f"uefi.protocols.{module.name}")).values()
        found += [
            each
            for each in members
            if isinstance(each, type) and issubclass(each, Interface) and each.GUID is not None and each.SLOTS
        ]
    return sorted(set(found), key=lambda each: each.NAME + each.__name__)


def _image(code: bytes, data: bytes) -> bytes:
    """A PE32+ application of a section of code at 0x1000 and one of data behind it."""
    pages = -(-len(code) // _ALIGNMENT) * _ALIGNMENT
    size = 0x1000 + pages + _DATA_SIZE
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 0xF0, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, pages + _DATA_SIZE, 0, 0, _ALIGNMENT, _ALIGNMENT)
    optional += struct.pack("<QII6HIIII", 0x2000000, _ALIGNMENT, 0x200, 0, 0, 0, 0, 0, 0, 0, size, _HEADERS, 0)
    optional += struct.pack("<HHQQQQII", 10, 0, 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    raw = code.ljust(pages, b"\x90") + data.ljust(_DATA_SIZE, b"\0")
    section = b".text\0\0\0" + struct.pack("<IIIIIIHHI", len(raw), 0x1000, len(raw), _HEADERS, 0, 0, 0, 0, 0xE0000020)
    image = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return image.ljust(_HEADERS, b"\0") + raw


class RandomGuest:
    """`calls` random calls, the same for the same `seed`. r15 is the data section, r14 the system table."""

    def __init__(self, seed: int, calls: int) -> None:
        self._random = random.Random(seed)
        self._code = bytearray()
        self._data = bytearray(_DATA_SIZE)
        self._protocols = protocol_classes()
        self._texts: list[int] = []
        self._guids: list[int] = []
        self._fill_data()
        self._prologue()
        tables: list[tuple[int, Slot]] = []
        for number, table in ((0, BootServices), (1, RuntimeServices)):
            tables += 3 * [(number, slot) for slot in table.SLOTS]
        for n, each in enumerate(self._protocols):
            tables += [(2 + n, slot) for slot in each.SLOTS]
        tables = [(number, slot) for number, slot in tables if slot.signature.name not in _NEVER]
        for _ in range(calls):
            self._call(*self._random.choice(tables))
        self._code += b"\x31\xc0\x48\x81\xc4" + struct.pack("<I", 0xA8) + b"\x41\x5e\x41\x5f\xc3"
        at = self._code.index(b"\x11\x22\x33\x44")
        pages = -(-len(self._code) // _ALIGNMENT) * _ALIGNMENT
        self._code[at : at + 4] = struct.pack("<i", pages - (at + 4))
        self.image = _image(bytes(self._code), bytes(self._data))

    def _fill_data(self) -> None:
        at = _TEXTS
        for text in _TEXT:
            raw = text.encode("utf-16-le") + b"\0\0"
            self._data[at : at + len(raw)] = raw
            self._texts.append(at)
            at += len(raw) + 15 & ~15
        values = [each.GUID for each in self._protocols] + [
            guids.GLOBAL_VARIABLE,
            guids.FILE_INFO,
            Guid(bytes(range(16))),
        ]
        for guid in values:
            assert guid is not None
            self._data[at : at + 16] = guid
            self._guids.append(at)
            at += 16
        assert at <= _ROOM
        end = b"\x7f\xff\x04\x00"
        self._data[_ROOM : _ROOM + 16] = b"\x01\x01\x06\x00\x00\x01" + end + bytes(6)  # a device path
        self._data[_ROOM + 0x800] = 0xC3  # a function that returns

    def _prologue(self) -> None:
        # push r15; push r14; sub rsp, 0xA8 (aligned); mov r14, rdx; lea r15, [rip + data]
        self._code += (
            b"\x41\x57\x41\x56\x48\x81\xec" + struct.pack("<I", 0xA8) + b"\x49\x89\xd6\x4c\x8d\x3d\x11\x22\x33\x44"
        )
        for slot, offset in ((0, 0x60), (1, 0x58)):
            self._code += b"\x49\x8b\x46" + bytes((offset,)) + b"\x49\x89\x87" + struct.pack("<I", 8 * slot)
        self._code += b"\x49\x89\x8f" + struct.pack("<I", 8 * _RESULTS[0])  # the image handle
        for n in range(len(self._protocols)):  # LocateProtocol(GUID, NULL, slot)
            self._address(0, self._guids[n])
            self._immediate(1, 0)
            self._address(2, 8 * (2 + n))
            self._code += b"\x49\x8b\x87" + struct.pack("<I", 0) + b"\xff\x90" + struct.pack("<I", 0x140)

    # Loading argument `n`: rcx, rdx, r8, r9, then the stack, by way of rax.

    def _to(self, n: int, load_rax: bytes) -> None:
        self._code += load_rax
        if n < 4:
            self._code += (b"\x48\x89\xc1", b"\x48\x89\xc2", b"\x49\x89\xc0", b"\x49\x89\xc1")[n]
        else:
            self._code += b"\x48\x89\x84\x24" + struct.pack("<I", 8 * n)

    def _immediate(self, n: int, value: int) -> None:
        self._to(n, b"\x48\xb8" + struct.pack("<Q", value & (1 << 64) - 1))

    def _address(self, n: int, offset: int) -> None:
        self._to(n, b"\x49\x8d\x87" + struct.pack("<I", offset))

    def _content(self, n: int, offset: int) -> None:
        self._to(n, b"\x49\x8b\x87" + struct.pack("<I", offset))

    def _argument(self, n: int, kind: str, name: str) -> None:
        choose = self._random
        if "Notify" in name or "Procedure" in name:
            self._address(n, _ROOM + 0x800)
            return
        if kind == "guid":
            if choose.random() < 0.9:
                self._address(n, choose.choice(self._guids))
            else:
                self._immediate(n, choose.choice((0, *_WILD)))
            return
        if name in ("Microseconds", "Delay"):  # timers tick all the while, even in virtual time
            self._immediate(n, choose.randrange(10_000))
            return
        if kind != "ptr":
            wild = choose.random() < 0.1
            self._immediate(n, choose.getrandbits(64) if wild else choose.choice(_NUMBERS))
            return
        what = choose.random()
        if what < 0.3:
            self._address(n, 8 * choose.choice(_RESULTS))
        elif what < 0.55:
            self._content(n, 8 * choose.choice(_RESULTS))
        elif what < 0.7:
            self._address(n, choose.choice(self._texts))
        elif what < 0.85:
            self._address(n, _ROOM + 0x10 * choose.randrange(0x40))
        else:
            self._immediate(n, choose.choice((0, 0, *_WILD)))

    def _call(self, table: int, slot: Slot) -> None:
        kinds, names = slot.signature.kinds, slot.signature.names
        first = 0
        if not slot.signature.static:
            if self._random.random() < 0.95:
                self._content(0, 8 * table)
            else:
                self._immediate(0, self._random.choice(_WILD))
            first = 1
        for n, (kind, name) in enumerate(zip(kinds, names, strict=True)):
            self._argument(first + n, kind, name)
        # The table may be missing: then its slot holds 0, and the call is left out.
        load = b"\x49\x8b\x87" + struct.pack("<I", 8 * table) + b"\x48\x85\xc0\x74\x06"
        self._code += load + b"\xff\x90" + struct.pack("<I", slot.offset)
