"""The target description that GDB asks for, and the registers in its order (GDB manual, appendix G, "Standard features").

Registers of the features org.gnu.gdb.i386.core, .sse and .segments stand for themselves; the system registers follow in a
feature of our own.
"""

from machine import registers as reg
from machine.cpu import Cpu

_EFER = 0xC000_0080


class Register:
    """One register of the description: `number` is that of machine.registers, or -1; `size` is in bytes."""

    __slots__ = ("kind", "name", "number", "size")

    def __init__(self, name: str, size: int, kind: str, number: int = -1) -> None:
        self.name = name
        self.size = size
        self.kind = kind
        self.number = number


_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_KINDS = {"rbp": "data_ptr", "rsp": "data_ptr"}
_CORE = (
    *(Register(name, 8, _KINDS.get(name, "int64"), reg.NAMES.index(name)) for name in _GENERAL),
    Register("rip", 8, "code_ptr", reg.RIP),
    Register("eflags", 4, "flags", reg.RFLAGS),
    *(Register(name, 4, "int32", reg.NAMES.index(name)) for name in ("cs", "ss", "ds", "es", "fs", "gs")),
    *(Register(f"st{number}", 10, "i387_ext") for number in range(8)),
    Register("fctrl", 4, "int", reg.FPCW),
    Register("fstat", 4, "int", reg.FPSW),
    Register("ftag", 4, "int", reg.FPTAG),
    *(Register(name, 4, "int") for name in ("fiseg", "fioff", "foseg", "fooff", "fop")),
)
_SSE = (*(Register(f"xmm{number}", 16, "vec128") for number in range(16)), Register("mxcsr", 4, "int", reg.MXCSR))
_SEGMENTS = (Register("fs_base", 8, "int64", reg.FS_BASE), Register("gs_base", 8, "int64", reg.GS_BASE))
_SYSTEM = (
    *(Register(name, 8, "int64", reg.NAMES.index(name)) for name in ("cr0", "cr2", "cr3", "cr4", "cr8")),
    Register("efer", 8, "int64"),
)
_FEATURES = (
    ("org.gnu.gdb.i386.core", _CORE),
    ("org.gnu.gdb.i386.sse", _SSE),
    ("org.gnu.gdb.i386.segments", _SEGMENTS),
    ("cvmboot.system", _SYSTEM),
)
REGISTERS = tuple(register for _, registers in _FEATURES for register in registers)
_FLAGS = (
    *(("CF", 0, 0), ("PF", 2, 2), ("AF", 4, 4), ("ZF", 6, 6), ("SF", 7, 7), ("TF", 8, 8), ("IF", 9, 9), ("DF", 10, 10)),
    *(("OF", 11, 11), ("IOPL", 12, 13), ("NT", 14, 14), ("RF", 16, 16), ("VM", 17, 17), ("AC", 18, 18)),
    *(("VIF", 19, 19), ("VIP", 20, 20), ("ID", 21, 21)),
)
"""Names, first and last bit of RFLAGS' fields (AMD64 APM volume 2, 3.1.6)."""
_VECTORS = (
    *(("v4_float", "ieee_single", 4), ("v2_double", "ieee_double", 2), ("v16_int8", "int8", 16)),
    *(("v8_int16", "int16", 8), ("v4_int32", "int32", 4), ("v2_int64", "int64", 2)),
)


def description() -> bytes:
    """The XML document `target.xml`."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', "<target>"]
    lines.append("<architecture>i386:x86-64</architecture>")
    for feature, registers in _FEATURES:
        lines.append(f'<feature name="{feature}">')
        if registers is _CORE:
            lines.append('<flags id="flags" size="4">')
            lines += [f'<field name="{name}" start="{first}" end="{last}"/>' for name, first, last in _FLAGS]
            lines.append("</flags>")
        if registers is _SSE:
            lines += [f'<vector id="{name}" type="{kind}" count="{count}"/>' for name, kind, count in _VECTORS]
            lines.append('<union id="vec128">')
            lines += [f'<field name="{name}" type="{name}"/>' for name, _, _ in _VECTORS]
            lines += ['<field name="uint128" type="uint128"/>', "</union>"]
        lines += [f'<reg name="{r.name}" bitsize="{8 * r.size}" type="{r.kind}"/>' for r in registers]
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(lines).encode()


def read_registers(cpu: Cpu) -> list[bytes]:
    """The value of each of REGISTERS, little-endian. Registers that no engine keeps read as 0."""
    state = cpu.save()
    values = []
    for register in REGISTERS:
        if register.name.startswith("st"):
            values.append(state[f"fp{register.name[2:]}"])
        elif register.kind == "vec128":
            values.append(state[register.name])
        elif register.name == "efer":
            values.append(cpu.read_msr(_EFER).to_bytes(8, "little"))
        elif register.number >= 0:
            value = cpu.get(register.number) & ((1 << 8 * register.size) - 1)
            values.append(value.to_bytes(register.size, "little"))
        else:
            values.append(bytes(register.size))
    return values


def write_register(cpu: Cpu, number: int, value: bytes) -> bool:
    """Store into the register at `number` of REGISTERS; False for one that cannot be changed from outside."""
    register = REGISTERS[number]
    if len(value) != register.size:
        return False
    if register.name.startswith("st") or register.kind == "vec128":
        state = cpu.save()
        state[f"fp{register.name[2:]}" if register.name.startswith("st") else register.name] = value
        cpu.load(state)
        return True
    # A selector without its descriptor, or a paging mode, would be loaded half.
    if register.number < 0 or register in _SYSTEM or register.name in ("cs", "ss", "ds", "es", "fs", "gs"):
        return False
    cpu.set(register.number, int.from_bytes(value, "little"))
    return True
