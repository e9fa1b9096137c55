"""Several CPUs: how they are started, how they take turns, and that they see one memory."""

import threading
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.boards.board import Board
from machine.clock import VirtualClock
from machine.console import HostConsole
from machine.exceptions import TripleFault
from machine.turns import HALTED, WAITING
from tests.engines import ENGINES
from tests.machine.bare import CODE, DONE, Bare

APIC = 0xFEE0_0000
ICR, ICR_HIGH = APIC + 0x300, APIC + 0x310
OTHER, THIRD = CODE + 0x10000, CODE + 0x20000
WORD = 0x500_0000
TRAMPOLINE = 0x8000


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(cpus=3, engine=request.param)
    Board(machine.computer, HostConsole(lambda data: None))
    yield machine
    machine.close()


@pytest.fixture
def by_turns() -> Iterator[Bare]:
    """Where processors take turns: there is nothing to be seen of them elsewhere."""
    machine = Bare(cpus=3)
    Board(machine.computer, HostConsole(lambda data: None))
    yield machine
    machine.close()


def store(address: int, value: int) -> str:
    """mov eax, value; mov [address], eax."""
    return "b8" + value.to_bytes(4, "little").hex() + "a3" + address.to_bytes(8, "little").hex()


def ipi(icr: int, destination: int = 0) -> str:
    return store(ICR_HIGH, destination << 24) + store(ICR, icr)


def at(address: int) -> str:
    """mov rbx, address."""
    return "48bb" + address.to_bytes(8, "little").hex()


WAIT_FOR_WORD = at(WORD) + "f390 833b00 74f9"
"""pause; cmp dword [rbx], 0; je back."""
START = ipi(0x4500, 1) + ipi(0x4600 | TRAMPOLINE >> 12, 1)


# -- starting


def test_a_start_up_ipi_begins_in_real_mode(bare: Bare) -> None:
    # mov ecx, 0x1b; rdmsr; mov cs:[0x100], eax; mov ax, cs; mov cs:[0x104], ax; mov dword cs:[0x10c], edx; hlt
    code = "66b91b000000 0f32 662ea30001 8cc8 2ea30401 66ba01000000 662e89160c01 f4"
    bare.computer.memory.write(TRAMPOLINE, bytes.fromhex(code))
    wait = at(TRAMPOLINE + 0x10C) + "f390 833b00 74f9"
    assert bare.run(START + wait + DONE) == "done"
    assert (
        bare.computer.memory.u32(TRAMPOLINE + 0x100) == 0xFEE0_0800
    )  # its own APIC: enabled, not the boot processor's
    assert bare.computer.memory.u16(TRAMPOLINE + 0x104) == TRAMPOLINE >> 4


def test_the_state_behind_a_start_up_ipi(bare: Bare) -> None:
    bare.computer.memory.write(TRAMPOLINE, bytes.fromhex("f4"))
    bare.computer.clock.call_at(0, lambda: None)
    wait = at(WORD) + "ff03 813b00000100 75f6"  # inc dword [rbx]; cmp dword [rbx], 0x10000; jne back
    assert bare.run(START + wait + DONE) == "done"
    cpu = bare.computer.engine.cpus[1]
    assert bare.computer.turns.states == ["running", HALTED, WAITING]
    assert (cpu.get(reg.RIP), cpu.get(reg.CS), cpu.get(reg.CR0)) == (1, TRAMPOLINE >> 4, 0x6000_0010)
    assert (cpu.get(reg.RDX), cpu.get(reg.RFLAGS), cpu.get(reg.CR3)) == (bare.computer.cpuid.signature, 2, 0)


GDT_AT = TRAMPOLINE + 0x200


@pytest.mark.parametrize("base", [0, 0xF, 0x123456])
def test_a_trampoline_climbs_to_long_mode(bare: Bare, base: int) -> None:
    """As TamaGo's: from real mode at once, by a far return. The base of a 64-bit code segment does not count."""
    memory = bare.computer.memory
    code_segment = 0x00209A00_0000FFFF | (base & 0xFFFFFF) << 16
    memory.write(GDT_AT, b"".join(d.to_bytes(8, "little") for d in (0, code_segment, 0x00CF9200_0000FFFF)))
    memory.write(GDT_AT + 0x20, (23).to_bytes(2, "little") + GDT_AT.to_bytes(4, "little"))
    tables = bare.map.base.to_bytes(4, "little").hex()
    sixteen = (
        "fa 8cc8 8ed8"  # cli; mov ax, cs; mov ds, ax
        "660f011620 02"  # lgdt [0x220]
        f"66b8{tables} 0f22d8"  # mov eax, tables; mov cr3, eax
        "66b8a0000000 0f22e0"  # mov eax, 0xa0; mov cr4, eax
        "66b9800000c0 0f32 660d00090000 0f30"  # EFER.LME and NXE
        "66b811000080 0f22c0"  # mov eax, 0x80000011; mov cr0, eax
        "66b810000000 8ed0 66bc00900000"  # mov eax, 0x10; mov ss, ax; mov esp, 0x9000
        "6a08 66b8 00810000"  # push 8; mov eax, 0x8100
        "50 cb"  # push ax; retf
    )
    memory.write(TRAMPOLINE, bytes.fromhex(sixteen))
    # 64-bit code at 0x8100: lea rax, [rip]; mov [WORD + 8], rax; mov dword [WORD], 1; cli; hlt
    long = "488d0500000000" + at(WORD) + "48894308 c70301000000 fa f4"
    memory.write(0x8100, bytes.fromhex(long))
    assert bare.run(START + WAIT_FOR_WORD + DONE) == "done"
    assert memory.u64(WORD + 8) == 0x8107


def test_a_processor_that_runs_ignores_start_up_ipis_and_init_stops_it(bare: Bare) -> None:
    # inc dword [rbx]; jmp back
    bare.start(1, at(WORD) + "ff03 ebfc", OTHER)
    ignored = ipi(0x4600 | TRAMPOLINE >> 12, 1)
    wait = at(WORD) + "f390 813b00010000 72f6"  # until it has counted
    after = ipi(0x4500, 1) + "8b0b b800001000 ffc8 75fc 3b0b"  # INIT; mov ecx, [rbx]; a while; cmp ecx, [rbx]
    assert bare.run(ignored + wait + after + "7402 0f0b" + DONE) == "done"
    assert bare.computer.turns.states[1] == WAITING


@pytest.mark.parametrize("index", [0, 1, 2])
def test_cpuid_says_which_processor_it_is(bare: Bare, index: int) -> None:
    cpu, cpuid = bare.computer.engine.cpus[index], bare.computer.cpuid
    assert cpuid(cpu, 1, 0)[1] >> 16 == index << 8 | 3 and cpuid(cpu, 1, 0)[3] >> 28 & 1
    assert (cpuid(cpu, 0x0B, 0)[3], cpuid(cpu, 0x0B, 1)[:2]) == (index, (2, 3))
    assert cpuid(cpu, 0x8000_0008, 0)[2] & 0xFF == 2
    assert cpuid(cpu, 0x8000_0001, 0)[2] >> 22 & 1 and cpuid(cpu, 0x8000_001E, 0) == (index, index, 0, 0)
    sizes = []
    for leaf in range(4):
        eax, ebx, ecx, _ = cpuid(cpu, 0x8000_001D, leaf)
        sizes.append(((ebx & 0xFFF) + 1) * ((ebx >> 22) + 1) * (ecx + 1))
        assert (eax >> 14 & 0xFFF) + 1 == (3 if leaf == 3 else 1)
    assert sizes == [32 << 10, 32 << 10, 512 << 10, 32 << 20]
    assert cpuid(cpu, 0x8000_001D, 4) == (0, 0, 0, 0)


def test_a_processor_may_stop_itself_and_be_started_again(bare: Bare) -> None:
    bare.start(1, at(WORD) + "f0ff03" + ipi(0x4500, 1) + "ebfe", OTHER)
    bare.computer.memory.write(TRAMPOLINE, bytes.fromhex("66b802000000 66a30001 f4"))  # mov eax, 2; mov [0x100], eax
    again = ipi(0x4600 | TRAMPOLINE >> 12, 1) + at(0x100) + "f390 833b02 75f9"
    assert bare.run(WAIT_FOR_WORD + "b900008000 ffc9 75fc" + again + DONE) == "done"
    assert bare.computer.memory.u32(WORD) == 1


def test_an_init_of_the_boot_processor_starts_the_machine_anew(bare: Bare) -> None:
    bare.computer.on_boot_processor_init = lambda: bare.computer.finish("reset")
    bare.start(1, ipi(0x4500, 0) + "ebfe", OTHER)
    assert bare.run("ebfe") == "reset"


# -- turns


def test_a_spinning_processor_lets_the_others_run(bare: Bare) -> None:
    """Without PAUSE, with interrupts off, without a trap."""
    bare.start(1, at(WORD) + "ff4304 817b0400000400 75f4 c70301000000 fa f4", OTHER)
    spin = at(WORD) + "833b00 74fb"
    assert bare.run(spin + DONE) == "done"
    assert bare.computer.memory.u32(WORD + 4) == 0x40000


def test_atomic_increments_of_three_processors_add_up(bare: Bare) -> None:
    count = at(WORD + 8) + "b900000400 f0ff03 ffc9 75f9"  # mov ecx, 0x40000; lock inc dword [rbx]; dec ecx; jne
    finished = at(WORD) + "f0ff03"
    bare.start(1, count + finished + "fa f4", OTHER)
    bare.start(2, count + finished + "fa f4", THIRD)
    assert bare.run(count + at(WORD) + "f390 833b02 75f9" + DONE) == "done"
    assert bare.computer.memory.u32(WORD + 8) == 3 * 0x40000


def test_a_waiting_processor_that_pauses_costs_no_turn(by_turns: Bare) -> None:
    """One that spins with PAUSE on a lock held by another gives its turn away at once."""
    turns: list[int] = []
    run = by_turns.computer.engine.run

    def counted(cpu: object) -> object:
        turns.append(cpu.index)  # type: ignore[attr-defined]
        return run(cpu)  # type: ignore[arg-type]

    by_turns.computer.engine.run = counted  # type: ignore[method-assign,assignment]
    pauses: list[int] = []
    pause = by_turns.computer.pause

    def seen(cpu: object) -> None:
        pauses.append(1)
        pause(cpu)  # type: ignore[arg-type]

    by_turns.computer.pause = seen  # type: ignore[method-assign,assignment]
    by_turns.start(1, at(WORD) + "b900008000 ffc9 75fc c70301000000 fa f4", OTHER)
    assert by_turns.run(WAIT_FOR_WORD + DONE) == "done"
    assert len(pauses) <= turns.count(0) + 1
    assert len(turns) < 2000


def test_machines_whose_processors_all_halt_sleep(by_turns: Bare) -> None:
    by_turns.start(1, "fa f4", OTHER)
    runs: list[int] = []
    run = by_turns.computer.engine.run
    by_turns.computer.engine.run = lambda cpu: runs.append(cpu.index) or run(cpu)  # type: ignore[method-assign,func-returns-value]
    clock = by_turns.computer.clock
    clock.call_at(clock.now() + 200_000_000, lambda: by_turns.computer.finish("late"))
    assert by_turns.run("fb f4 ebfc") == "late"
    assert len(runs) < 8


@pytest.fixture
def timeless() -> Iterator[Bare]:
    """Turns that do not depend on the host."""
    machine = Bare(VirtualClock(), cpus=3)
    Board(machine.computer, HostConsole(lambda data: None))
    yield machine
    machine.close()


def test_a_processor_comes_up_before_much_else_has_passed(timeless: Bare) -> None:
    """What a system does once for each, before it takes part, is more work than what the others have at that time."""
    memory = timeless.computer.memory
    # mov ecx, 0x80000; dec ecx; jne; mov dword [rbx], 1; cli; hlt
    timeless.start(1, at(WORD) + "b900000800 ffc9 75fc c70301000000 fa f4", OTHER)
    # inc ecx; cmp dword [rbx], 0; je back; mov [rbx + 8], ecx
    assert timeless.run(at(WORD) + "31c9 ffc1 833b00 74f9 894b08" + DONE) == "done"
    assert memory.u32(WORD + 8) < 0x80000 // 4


_JOBS, _WORKED = 12, WORD + 0x10


def _worker(index: int, none_left: str, taken_meanwhile: str) -> str:
    """Looks at the clock and for jobs of 300 blocks at WORD, and counts those it has done."""
    look = "0f31 833b00 7e" + none_left + "b8ffffffff f00fc103 85c0 7e" + taken_meanwhile  # rdtsc; lock xadd [rbx], -1
    return look + f"f0ff43{0x10 + 4 * index:02x} b92c010000 ffc9 75fc f0ff4b08 eb d9"


def test_short_jobs_spread_over_the_processors_that_look_for_them(timeless: Bare) -> None:
    for index, code in ((1, OTHER), (2, THIRD)):
        timeless.start(index, at(WORD) + _worker(index, "f9", "ec"), code)
    pending = f"c74308{_JOBS:02x}000000"
    computes = "b900000600 ffc9 75fc"
    jobs = f"c703{_JOBS:02x}000000"
    until_done = "837b0800 75d3"
    assert timeless.run(at(WORD) + pending + computes + jobs + _worker(0, "20", "13") + until_done + DONE) == "done"
    worked = [timeless.computer.memory.u32(_WORKED + 4 * index) for index in range(3)]
    assert sum(worked) == _JOBS
    assert min(worked) > 0, worked


def test_virtual_time_gives_the_same_turns_twice() -> None:
    def once() -> tuple[list[tuple[int, int, int]], int, int]:
        machine = Bare(VirtualClock(), cpus=3)
        try:
            Board(machine.computer, HostConsole(lambda data: None))
            # Each sends what it has just added to the port: lock inc [rbx]; mov eax, [rbx]; out 0x60, al or spin a while
            work = at(WORD) + "b900100000 f0ff03 ffc9 75f9 8b03 66ba0005 ef ebeb"
            machine.start(1, work, OTHER)
            machine.start(2, work, THIRD)
            machine.on_out = lambda _offset, _value: len(machine.outs) < 40 or machine.computer.finish("done")
            machine.run(work)
            return machine.outs[:40], machine.computer.clock.now(), machine.computer.memory.u32(WORD)
        finally:
            machine.close()

    first = once()
    assert first == once()
    assert len({value for _, _, value in first[0]}) == 40


# -- interrupts between processors


def test_an_nmi_wakes_a_processor_that_has_interrupts_off(bare: Bare) -> None:
    bare.computer.memory.write(CODE + 0x800, bytes.fromhex("48cf"))
    bare.gate(2, CODE + 0x800)
    bare.start(1, "fa f4" + at(WORD) + "c70301000000 f4", OTHER)
    # One that comes before HLT ends nothing: wait a while; send; wait a while; again until the word is set.
    send = "b900001000 ffc9 75fc" + ipi(0x4400, 1) + "b900000100 ffc9 75fc" + at(WORD) + "833b00"
    back = 256 - len(bytes.fromhex(send)) - 2
    assert bare.run(send + f"74{back:02x}" + DONE) == "done"


HANDLER = CODE + 0x900
_COUNT = at(WORD) + "f0ff03 a3b000e0fe00000000 48cf"
"""lock inc dword [rbx]; mov [EOI], eax; iretq."""


@pytest.mark.parametrize(
    ("icr", "destination", "wanted"),
    [(0x4040, 1, [1]), (0xC4040, 0, [1, 2]), (0x84040, 0, [0, 1, 2]), (0x44040, 0, [0]), (0x4040, 0xFF, [0, 1, 2])],
)
def test_who_gets_an_interrupt(bare: Bare, icr: int, destination: int, wanted: list[int]) -> None:
    bare.computer.memory.write(HANDLER, bytes.fromhex(_COUNT))
    bare.gate(0x40, HANDLER)
    bare.start(1, "fb f4 ebfd", OTHER)
    bare.start(2, "fb f4 ebfd", THIRD)
    count = len(wanted).to_bytes(1, "little").hex()
    sent = "fb b900001000 ffc9 75fc" + ipi(icr, destination) + at(WORD) + f"f390 833b{count} 75f9"
    assert bare.run(sent + "b900004000 ffc9 75fc" + DONE) == "done"
    assert bare.computer.memory.u32(WORD) == len(wanted)


def test_an_interrupt_that_comes_right_behind_hlt_is_not_lost(timeless: Bare) -> None:
    """While nobody runs, and with the next turn another one's, who spins for ever with interrupts off."""
    computer = timeless.computer
    computer.memory.write(HANDLER, bytes.fromhex(_COUNT))
    timeless.gate(0x40, HANDLER)
    timeless.start(1, "fa ebfe", OTHER)
    plain, turns = computer.clock.run_due, computer.turns
    sent: list[bool] = []

    def due() -> None:
        plain()
        if turns.states[0] == HALTED and not sent:
            sent.append(turns.over)
            turns.over = True
            assert computer.interrupts is not None
            computer.interrupts.deliver_msi(APIC, 0x40)

    computer.clock.run_due = due  # type: ignore[method-assign]
    computer.clock.call_at(computer.clock.now() + 10_000_000_000, lambda: computer.finish("late"))
    assert timeless.run("fb f4" + DONE) == "done"
    assert len(sent) == 1
    assert computer.memory.u32(WORD) == 1


def test_a_crash_of_another_processor_is_its_own(bare: Bare) -> None:
    bare.start(1, "0f0b", OTHER)
    with pytest.raises(TripleFault, match="invalid opcode"):
        bare.run("ebfe")
    assert bare.computer.cpu.index == 1


# -- one memory


FUNCTION = CODE + 0x30000
_CALL = "48b8" + FUNCTION.to_bytes(8, "little").hex() + "ffd0"  # mov rax, FUNCTION; call rax


def test_code_that_another_processor_rewrites_changes_here_too(bare: Bare) -> None:
    """The function gives 1; the other processor patches it to give 2, over and over, in a page that both execute."""
    memory = bare.computer.memory
    memory.write(FUNCTION, bytes.fromhex("b800000000 c3"))  # mov eax, 0; ret
    # other: wait until [WORD] is odd; call; add the result to [WORD + 4]; then make it even again
    other = at(WORD) + "8b13 f6c201 7505 f390 ebf5" + "90"  # mov edx, [rbx]; test dl, 1; jnz +5; pause; jmp back
    other += _CALL + at(WORD) + "014304 ff03" + "ebd7"
    bare.start(1, other, OTHER)
    # here: for r12d = 1 to 50: patch the immediate to r12d, make [WORD] odd, wait until it is even
    code = "41bc01000000" + "48b9" + (FUNCTION + 1).to_bytes(8, "little").hex() + "448921"
    code += at(WORD) + "ff03 f390 f60301 75f9 41ffc4 4183fc33"
    loop = len(bytes.fromhex(code.replace(" ", ""))) - 6 + 2
    code += "75" + (-loop & 0xFF).to_bytes(1, "little").hex()
    assert bare.run(code + DONE) == "done"
    assert memory.u32(WORD + 4) == sum(range(1, 51))


def test_each_processor_has_translations_of_its_own(bare: Bare) -> None:
    """A page table entry that one changes takes effect on another when that one executes INVLPG, not before the end of time."""
    memory = bare.computer.memory
    memory.write(WORD + 0x20_0000, b"\x55")
    slot = bare.map._split(WORD)
    entry = memory.u64(slot)
    moved = (entry & ~0xF_FFFF_FFFF_F000) | WORD + 0x20_0000
    # other: read; say so in r8; wait for the word; invlpg; read again into r9
    flag = WORD + 0x40_0000
    other = at(WORD) + "440fb603" + at(flag) + "c70301000000 f390 833b02 75f9" + at(WORD) + "0f013b 440fb60b" + at(flag)
    cpu = bare.start(1, other + "c70303000000 fa f4", OTHER)
    here = (
        at(flag)
        + "f390 833b01 75f9 48b8"
        + moved.to_bytes(8, "little").hex()
        + "48a3"
        + slot.to_bytes(8, "little").hex()
    )
    here += "c70302000000 f390 833b03 75f9"
    assert bare.run(here + DONE) == "done"
    assert (cpu.get(reg.R8), cpu.get(reg.R9)) == (0, 0x55)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_an_interrupt_that_came_while_they_were_off_is_taken_behind_sti(cpus: int, clock: str) -> None:
    """Without a trap, a timer or a HLT after that: nothing tells of STI."""
    machine = Bare(VirtualClock() if clock == "virtual" else None, cpus=cpus)
    try:
        Board(machine.computer, HostConsole(lambda data: None))
        machine.computer.memory.write(HANDLER, bytes.fromhex(DONE))
        machine.gate(0x40, HANDLER)
        # with interrupts off: send it to ourselves, spend some time, say so; then sti; and spin
        trap = "66ba0005 ee" if clock == "virtual" and cpus == 1 else ""  # virtual time of one CPU moves by traps
        code = "fa" + ipi(0x44040) + "b900008000 ffc9 75fc 66ba0105 ee fb 9090"
        assert machine.run(code + trap + f"eb{256 - 2 - len(bytes.fromhex(trap)):02x}") == "done"
        assert len(machine.outs) >= 1
    finally:
        machine.close()


def test_each_instruction_is_carried_out_once_however_often_turns_end(bare: Bare) -> None:
    """Plain increments, XCHG and string stores on memory, with a thread that kicks without pause."""
    rounds = 0x1000
    # inc dword [rbx]; mov eax, 1; lock xadd [rbx + 4], eax; pause; dec ecx; jne
    count = "b9" + rounds.to_bytes(4, "little").hex() + "ff03 b801000000 f00fc14304 f390 ffc9 75ee"
    finished = at(WORD) + "f0ff03"
    for index, code in ((1, OTHER), (2, THIRD)):
        bare.start(index, at(WORD + 64 * index) + count + finished + "fa f4", code)
    stopping = threading.Event()

    def kick() -> None:
        while not stopping.is_set():
            bare.computer.engine.kick()

    kicker = threading.Thread(target=kick)
    kicker.start()
    try:
        here = at(WORD + 192) + count + at(WORD) + "f390 833b02 75f9"
        assert bare.run(here + DONE) == "done"
    finally:
        stopping.set()
        kicker.join()
    for index in (1, 2, 3):
        assert (bare.computer.memory.u32(WORD + 64 * index), bare.computer.memory.u32(WORD + 64 * index + 4)) == (
            *(rounds, rounds),
        )
