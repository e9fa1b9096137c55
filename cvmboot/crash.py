"""The crash report: what a person needs to find out why the guest died."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cvmboot.assembly import Assembly
from cvmboot.symbols import Symbols
from machine import registers as reg
from machine.cpu import Cpu
from machine.errors import BadAddress
from machine.linear import LinearMemory
from uefi.firmware import Outcome

if TYPE_CHECKING:
    from cvmboot.unikernel import UnikernelAssembly, UnikernelSymbols

    AnySymbols = Symbols | UnikernelSymbols

INSTRUCTIONS = 6
"""Shown before RIP, and from it on."""
STACK_WORDS = 32
CALLERS = 16
SERVICES = 8
_SEARCHED_WORDS = 512
_LONGEST_INSTRUCTION = 15
_LONGEST_FUNCTION = 1 << 14
"""Bytes of code that are disassembled at most to find where the instructions before RIP begin."""
_REGISTERS = (
    *(reg.RAX, reg.RBX, reg.RCX, reg.RDX, reg.RSI, reg.RDI, reg.RBP, reg.RSP),
    *(reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.R14, reg.R15),
    *(reg.RIP, reg.RFLAGS, reg.CR0, reg.CR2, reg.CR3, reg.CR4, reg.FS_BASE, reg.GS_BASE),
)


def report(assembly: "Assembly | UnikernelAssembly", outcome: Outcome) -> list[str]:
    """The lines of the report; the first one says it all. After the run, before the machine is closed."""
    computer = assembly.computer
    cpu = computer.cpu
    memory = computer.linear(cpu)
    symbols: AnySymbols
    symbols = assembly.symbols() if isinstance(assembly, Assembly) else assembly.symbols
    rip = cpu.get(reg.RIP)
    where = f" on processor {cpu.index}" if len(computer.engine.cpus) > 1 else ""
    lines = [f"the guest crashed: {outcome.text}{where}, at RIP {_place(symbols, rip)}"]
    lines += _registers(cpu, outcome)
    lines += ["code:", *_code(memory, symbols, rip)]
    lines += ["callers:", *_callers(memory, symbols, cpu)]
    lines += [f"stack at {cpu.get(reg.RSP):#x}:", *_stack(memory, symbols, cpu.get(reg.RSP))]
    if isinstance(assembly, Assembly):
        lines += ["last service calls:", *_services(assembly)]
        lines += ["images:", *_images(assembly)]
    else:
        lines += ["program:", *(f"  {place}" for place in assembly.symbols.places())]
    return lines


def _place(symbols: "AnySymbols", address: int) -> str:
    name = symbols.describe(address)
    return f"{address:#x} ({name})" if name else f"{address:#x} (outside all images)"


def _registers(cpu: Cpu, outcome: Outcome) -> Iterator[str]:
    fault = outcome.fault
    # The engine leaves CR2 to whoever delivers the exception, and this one was not delivered.
    values = {register: cpu.get(register) for register in _REGISTERS}
    if fault is not None and fault.address is not None:
        values[reg.CR2] = fault.address
    for at in range(0, len(_REGISTERS), 4):
        yield "  " + "  ".join(f"{reg.NAMES[r]:>7} {values[r]:016x}" for r in _REGISTERS[at : at + 4])


def _read(memory: LinearMemory, address: int, size: int) -> bytes:
    """As many of `size` bytes as are mapped."""
    address &= (1 << 64) - 1
    data = b""
    while len(data) < size:
        at = address + len(data)
        part = min(size - len(data), 4096 - (at & 0xFFF))
        try:
            data += memory.read(at, part)
        except BadAddress:
            break
    return data


def _code(memory: LinearMemory, symbols: "AnySymbols", rip: int) -> Iterator[str]:
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs  # type: ignore[import-untyped]

    if not _read(memory, rip, 1):
        yield f"  no memory at {rip:#x}"
        return
    disassembler = Cs(CS_ARCH_X86, CS_MODE_64)

    def decode(start: int, end: int) -> list[tuple[int, int, str, str]]:
        return list(disassembler.disasm_lite(_read(memory, start, end - start), start))

    before: list[tuple[int, int, str, str]] = []
    for start in _starts(symbols, rip):
        before = decode(start, rip)
        if before and before[-1][0] + before[-1][1] == rip:
            break
        before = []
    after = decode(rip, rip + INSTRUCTIONS * _LONGEST_INSTRUCTION)[:INSTRUCTIONS]
    for address, _, mnemonic, operands in before[-INSTRUCTIONS:] + after:
        mark = "=>" if address == rip else "  "
        yield f"  {mark} {address:#x}  {mnemonic} {operands}".rstrip()
    if not after:
        yield f"  => {rip:#x}  no instruction: {_read(memory, rip, _LONGEST_INSTRUCTION).hex(' ')}"


def _starts(symbols: "AnySymbols", rip: int) -> Iterator[int]:
    """Where disassembling may begin so that it comes to RIP: the function's start, else wherever it fits."""
    _, _, offset = symbols.function(rip).rpartition("+")
    if offset.startswith("0x") and int(offset, 16) <= _LONGEST_FUNCTION:
        yield rip - int(offset, 16)
    yield from range(max(rip - INSTRUCTIONS * 6, 0), rip)


def _callers(memory: LinearMemory, symbols: "AnySymbols", cpu: Cpu) -> list[str]:
    rsp = cpu.get(reg.RSP)
    frames = list(_frames(memory, symbols, rsp, cpu.get(reg.RBP)))
    # A function without a frame of its own, or one that has just been entered: its return address lies on top.
    top = next(_return_addresses(memory, symbols, rsp, 1), None)
    if top is not None and frames[:1] != [top]:
        frames.insert(0, top)
    lines = [f"  {_place(symbols, address)}" for address in frames]
    if len(lines) < 2:
        guesses = [address for address in _return_addresses(memory, symbols, rsp) if address not in frames]
        lines += [f"  {_place(symbols, address)}, guessed from the stack" for address in guesses[:CALLERS]]
    return lines or ["  none found"]


def _frames(memory: LinearMemory, symbols: "AnySymbols", rsp: int, rbp: int) -> Iterator[int]:
    """Return addresses along the chain of frame pointers."""
    for _ in range(CALLERS):
        pair = _read(memory, rbp, 16)
        if rbp < rsp or rbp & 7 or len(pair) < 16:
            return
        following, address = int.from_bytes(pair[:8], "little"), int.from_bytes(pair[8:], "little")
        if symbols.image(address) is None:
            return
        yield address
        if following <= rbp:
            return
        rbp = following


def _return_addresses(
    memory: LinearMemory, symbols: "AnySymbols", rsp: int, words: int = _SEARCHED_WORDS
) -> Iterator[int]:
    """Words on the stack that point behind a CALL instruction of an image."""
    data = _read(memory, rsp, 8 * words)
    for at in range(0, len(data) - 7, 8):
        address = int.from_bytes(data[at : at + 8], "little")
        if symbols.image(address) is not None and _behind_call(_read(memory, address - 7, 7)):
            yield address


def _behind_call(code: bytes) -> bool:
    """Whether the up to 7 bytes may end with a near CALL: E8 rel32, or FF /2 with any of its operand's lengths."""
    if len(code) < 7:
        return False
    return code[2] == 0xE8 or any(code[-n] == 0xFF and code[1 - n] >> 3 & 7 == 2 for n in (2, 3, 4, 6, 7))


def _stack(memory: LinearMemory, symbols: "AnySymbols", rsp: int) -> Iterator[str]:
    data = _read(memory, rsp, 8 * STACK_WORDS)
    if not data:
        yield "  no memory there"
    for at in range(0, len(data) - 7, 32):
        words = [int.from_bytes(data[n : n + 8], "little") for n in range(at, min(at + 32, len(data) - 7), 8)]
        names = ", ".join(name for name in map(symbols.function, words) if name)
        text = f"  +{at:02x} " + " ".join(f"{word:016x}" for word in words)
        yield f"{text}  {names}" if names else text


def _services(assembly: Assembly) -> Iterator[str]:
    last = assembly.firmware.dispatcher.last[-SERVICES:]
    if not last:
        yield "  none"
    for service, values, _ in last:
        signature = service.signature
        names = signature.names if signature.static else ("This", *signature.names)
        arguments = (f"{n}={v:#x}" if isinstance(v, int) else f"{n}={v}" for n, v in zip(names, values, strict=False))
        yield f"  {service.name}({', '.join(arguments)})"


def _images(assembly: Assembly) -> Iterator[str]:
    for image in assembly.firmware.images.all():
        if image.pages:
            yield f"  {image.base:#x} to {image.base + image.pages * 4096 - 1:#x}  {image.name}"
