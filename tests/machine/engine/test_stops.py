"""Stops of the engine: a trap that is being handled when a stop comes is neither lost nor taken twice."""

from collections.abc import Iterator
from struct import pack

import pytest

from machine import registers as reg
from machine.computer import Computer
from machine.cpu import Cpu
from machine.msr import EFER
from machine.paging import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, IdentityMap
from tests.engines import ENGINES

GDT, STACK, CODE, STUB, ELSEWHERE, TABLES = 0x1000, 0x9000, 0x10_0000, 0x10_1000, 0x50_0000, 0x20_0000
PORT = 0xE0
TIMES = 40
NUMBER = 7


@pytest.fixture(params=ENGINES)
def computer(request: pytest.FixtureRequest) -> Iterator[Computer]:
    """A machine that calls a stub `mov eax, NUMBER; out PORT, eax; ret` TIMES times, then halts, which ends the run."""
    machine = Computer(64 << 20, engine=request.param)
    memory = machine.memory
    memory.write(GDT, pack("<QQQ", 0, 0x00CF93000000FFFF, 0x00AF9B000000FFFF))
    calls = b"\xb9" + pack("<I", TIMES) + b"\xe8" + pack("<i", STUB - (CODE + 10)) + b"\xff\xc9\x75\xf7\xf4"
    memory.write(CODE, calls)
    memory.write(STUB, b"\xb8" + pack("<I", NUMBER) + bytes((0xE7, PORT, 0xC3)))
    tables = IdentityMap(memory, TABLES, memory.end)
    cpu = machine.engine.cpus[0]
    cpu.set_table("gdtr", GDT, 23)
    cpu.write_msr(EFER, EFER_LME | EFER_LMA)
    cpu.set(reg.CR3, tables.base)
    cpu.set(reg.CR4, CR4_PAE)
    cpu.set(reg.CR0, CR0_PE | CR0_PG)
    cpu.set(reg.CS, 0x10)
    cpu.set(reg.SS, 0x08)
    cpu.set(reg.RSP, STACK)
    cpu.set(reg.RIP, CODE)
    machine.on_idle = lambda: machine.finish("halted")
    yield machine
    machine.close()


@pytest.mark.parametrize("kick", [False, True])
@pytest.mark.parametrize("invalidate", [False, True])
def test_each_trap_is_taken_once(computer: Computer, kick: bool, invalidate: bool) -> None:
    """Loading an image drops translated code; a timer or a key may want the machine's attention meanwhile."""
    taken: list[int] = []

    def write(cpu: Cpu, offset: int, size: int, value: int) -> None:
        taken.append(value)
        if len(taken) > TIMES:
            computer.finish("trapped too often")
        if invalidate:
            computer.engine.invalidate(ELSEWHERE, 4096)
        if kick:
            computer.engine.kick()
        cpu.set(reg.RAX, 0)  # the service's answer; a trap taken again would bring this number

    computer.bus.add_ports(PORT, 1, lambda *_: 0, write)
    assert computer.run() == "halted"
    assert taken == [NUMBER] * TIMES


def test_code_written_while_a_trap_is_handled_is_what_runs_next(computer: Computer) -> None:
    taken: list[int] = []

    def write(cpu: Cpu, offset: int, size: int, value: int) -> None:
        taken.append(value)
        computer.memory.write(STUB + 1, pack("<I", value + 1))
        computer.engine.invalidate(STUB, 16)

    computer.bus.add_ports(PORT, 1, lambda *_: 0, write)
    assert computer.run() == "halted"
    assert taken == list(range(NUMBER, NUMBER + TIMES))


def test_firmware_that_ticks_ends_a_halt(computer: Computer) -> None:
    """A boot loader halts until something happens and then looks; nobody sends it an interrupt."""
    seen: list[int] = []
    computer.on_idle = lambda: None
    computer.halt_limit = 3_000_000
    computer.memory.write(CODE, b"\xfb\xf4" + bytes((0xE7, PORT)) + b"\xeb\xfb")  # sti; 1: hlt; out PORT, eax; jmp 1b

    def write(cpu: Cpu, offset: int, size: int, value: int) -> None:
        seen.append(computer.clock.now())
        if len(seen) == 5:
            computer.finish("enough")

    computer.bus.add_ports(PORT, 1, lambda *_: 0, write)
    assert computer.run() == "enough"
    assert seen[-1] - seen[0] >= 4 * computer.halt_limit
