"""Several processors in guest code at once, on KVM: that they are, and what becomes of guests that get into each other's way."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from random import Random

import pytest

from machine import registers as reg
from machine.boards.board import Board
from machine.console import HostConsole
from machine.engine.kvm import KvmEngine
from machine.errors import EngineError
from machine.exceptions import TripleFault
from machine.paging import PRESENT, WRITABLE
from machine.turns import RUNNING
from tests.engines import needs_kvm
from tests.machine.bare import CODE, DONE, Bare
from tests.machine.test_smp import OTHER, START, THIRD, WORD, at, ipi, store

pytestmark = needs_kvm

FUNCTION = CODE + 0x30000
COUNT = WORD + 0x40
STOPPED, FAULTS = WORD + 0x1000, WORD + 0x2000


@pytest.fixture
def bare() -> Iterator[Bare]:
    machine = Bare(cpus=3, engine="kvm")
    Board(machine.computer, HostConsole(lambda data: None))
    yield machine
    machine.close()


def size(code: str) -> int:
    return len(bytes.fromhex(code))


def back(code: str, condition: str = "eb") -> str:
    """A short jump, or branch, to the beginning of `code`, which it stands behind."""
    return condition + (256 - size(code) - 2).to_bytes(1, "little").hex()


def until_set(address: int) -> str:
    """cmp dword [address], 0; je back."""
    return at(address) + "f390 833b00 74f9"


def kvm_of(machine: Bare) -> KvmEngine:
    """The engine inside."""
    kvm: KvmEngine = machine.computer.engine._kvm  # type: ignore[attr-defined]
    return kvm


def watch_inside(machine: Bare) -> list[int]:
    """How many processors were in guest code each time that one was let in, from now on. The guest goes to KVM."""
    assert machine.run("90" + DONE) == "done"
    machine.computer._end = None
    threads, counts = kvm_of(machine).threads, []
    release = threads.release

    def counted(index: int) -> bool:
        done = release(index)
        counts.append(len(threads.inside))
        return done

    threads.release = counted  # type: ignore[method-assign]
    return counts


def stayed(machine: Bare) -> bool:
    return not machine.lines and machine.computer.engine.name == "kvm"


# -- at once


def test_they_are_in_guest_code_at_once(bare: Bare) -> None:
    """They pass a word to each other 20,000 times, with PAUSE in between and without a trap."""
    counts = watch_inside(bare)
    # again: pause; mov eax, [rbx]; test al, 1; jz (jnz) again; inc dword [rbx]; dec ecx; jnz again
    turn = "b910270000" + at(WORD) + "f390 8b03 a801 {} f6 ff03 ffc9 75f0"
    bare.start(1, turn.format("74") + "faf4", OTHER)
    assert bare.run(turn.format("75") + DONE) == "done"
    assert bare.computer.memory.u32(WORD) == 20_000
    assert max(counts) == 2
    assert kvm_of(bare).exits < 200
    assert stayed(bare)


def test_what_one_processor_comes_out_for_does_not_stop_the_others(bare: Bare) -> None:
    """200 OUTs of one; the other counts meanwhile, and is never brought out for them."""
    bare.start(1, at(COUNT) + "ff03 ebfc", OTHER)
    out = "66ba0005 b9c8000000" + until_set(COUNT) + "ee 8b03 f390 3b03 74fa ffc9 75f3"
    assert bare.run(out + DONE) == "done"
    assert len([value for value in bare.outs if value[0] == 0]) == 200
    assert kvm_of(bare).instances[1].exits < 50
    assert stayed(bare)


@pytest.mark.parametrize("both", [False, True])
def test_endless_loops_with_interrupts_off_end_when_somebody_says_so(bare: Bare, both: bool) -> None:
    bare.start(1, "fa ebfe", OTHER)
    bare.start(2, "fa ebfe" if both else "fa f4", THIRD)
    timer = threading.Timer(0.2, bare.computer.finish, ["stopped"])
    timer.start()
    assert bare.run("fa ebfe") == "stopped"
    timer.join()
    assert not kvm_of(bare).threads.inside
    assert stayed(bare)


# -- code


def test_code_that_is_rewritten_while_another_executes_it_is_looked_through_each_time(bare: Bare) -> None:
    """A function that asks CPUID, or knows the answer: both put the same into EBX, whatever of them is executed."""
    expected = bare.computer.cpuid(bare.computer.engine.cpus[1], 1, 0)[1]
    asks = bytes.fromhex("b801000000 0fa2 c3")  # mov eax, 1; cpuid; ret
    knows = (
        bytes.fromhex("bb") + expected.to_bytes(4, "little") + bytes.fromhex("9090c3")
    )  # mov ebx, ...; nop; nop; ret
    bare.computer.memory.write(FUNCTION, asks)
    call = "49b8" + FUNCTION.to_bytes(8, "little").hex() + "49b9" + COUNT.to_bytes(8, "little").hex()
    # again: mov eax, 1; call r8; inc dword [r9]; cmp ebx, expected; je again; inc dword [r9 + 4]; jmp again
    loop = "b801000000 41ffd0 41ff01 81fb" + expected.to_bytes(4, "little").hex()
    loop += back(loop, "74") + "41ff4104"
    bare.start(1, f"bb{expected.to_bytes(4, 'little').hex()}" + call + loop + back(loop), OTHER)
    # for ecx = 200 to 1: wait for 20 more calls; exchange both versions by one aligned store
    versions = "49bb" + asks.hex() + "49bc" + knows.hex()
    patch = "8b03 83c014 f390 3b03 7ffa 4d87e3 4d8920 ffc9"
    here = (
        "49b8" + FUNCTION.to_bytes(8, "little").hex() + versions + at(COUNT) + "b9c8000000" + patch + back(patch, "75")
    )
    assert bare.run(here + DONE) == "done"
    assert bare.computer.memory.u32(COUNT) >= 200 * 20
    assert bare.computer.memory.u32(COUNT + 4) == 0
    assert stayed(bare)


def test_two_that_execute_and_rewrite_each_others_page_get_on(bare: Bare) -> None:
    """Each page is executed by one processor and written by the other, all the time: they make progress, or leave KVM."""
    # again: inc dword [rbx]; mov eax, [rbx]; mov [rdx], eax; cmp eax, 3000; jb again; with rdx in the other's page
    loop = "ff03 8b03 8902 3db80b0000"
    loop += back(loop, "72")
    bare.start(
        1, at(COUNT) + "48ba" + (CODE + 0x800).to_bytes(8, "little").hex() + loop + store(STOPPED, 1) + "faf4", OTHER
    )
    here = at(COUNT + 8) + "48ba" + (OTHER + 0x800).to_bytes(8, "little").hex() + loop
    assert bare.run(here + until_set(STOPPED) + DONE) == "done"
    memory = bare.computer.memory
    assert (memory.u32(CODE + 0x800), memory.u32(OTHER + 0x800)) == (3000, 3000)


# -- memory


def test_page_tables_that_one_changes_while_the_other_uses_them_hold_what_was_stored(bare: Bare) -> None:
    """Accessed and dirty bits are set for a store by one; the other takes the entry away: nothing of it may come back."""
    page = WORD + 0x20_0000
    slot = bare.map._split(page)
    entry = page | PRESENT | WRITABLE
    handler = CODE + 0x900
    bare.computer.memory.write(handler, bytes.fromhex("4883c408 48cf"))  # add rsp, 8; iretq: once more
    bare.gate(14, handler)
    # other: again: invlpg [rbx]; mov [rbx], eax; inc dword [r9]; jmp again
    other = at(page) + "49b9" + COUNT.to_bytes(8, "little").hex() + "0f013b 8903 41ff01"
    bare.start(1, other + back("0f013b 8903 41ff01"), OTHER)
    # rbx: the entry; r8: what it is; r9: faults. again: [rbx] = 0; a while; r9 += [rbx] != 0; [rbx] = r8; a while
    again = "48c70300000000 b840000000 ffc8 75fc 48833b00 7403 49ffc1 4c8903 b840000000 ffc8 75fc ffc9"
    here = at(slot) + "49b8" + entry.to_bytes(8, "little").hex() + "4d31c9 b900002000" + again + back(again, "75")
    here += until_set(COUNT)
    assert bare.run(here + DONE) == "done"
    assert bare.cpu.get(reg.R9) == 0
    assert stayed(bare)


def test_rights_that_are_taken_away_are_gone_for_all_when_the_machine_says_so(bare: Bare) -> None:
    """`flush_translations` in a trap of one: what the other stores behind it faults, although it had stored there before."""
    page = WORD + 0x20_0000
    bare.map._split(page)
    bare.gate(14, CODE + 0x900)
    bare.computer.memory.write(CODE + 0x900, bytes.fromhex(store(FAULTS, 1).replace(" ", "") + "faf4"))
    # The other counts in the page, and tells so in another.
    bare.start(1, at(page) + "49b9" + COUNT.to_bytes(8, "little").hex() + "ff03 41ff01 ebf9", OTHER)

    def forbid(offset: int, _value: int) -> None:
        if offset == 0:
            bare.map.forbid(page)
            bare.computer.engine.flush_translations()
            bare.outs.append((-1, 4, bare.computer.memory.u32(page)))

    bare.on_out = forbid
    here = until_set(COUNT) + "66ba0005 ee" + until_set(FAULTS) + DONE
    assert bare.run(here) == "done"
    assert bare.computer.memory.u32(page) == next(value for offset, _, value in bare.outs if offset == -1)
    assert stayed(bare)


def test_new_tables_without_end_do_not_run_out(bare: Bare) -> None:
    """Both load CR3 over and over: the pool of tables is taken back while the other is in guest code."""
    loop = "0f20d8 0f22d8 ff03 ffc9"  # mov rax, cr3; mov cr3, rax; inc dword [rbx]; dec ecx; jnz
    loop = "b940060000" + loop + back(loop, "75")
    bare.start(1, at(COUNT) + loop + store(STOPPED, 1) + "faf4", OTHER)
    assert bare.run(at(COUNT + 8) + loop + until_set(STOPPED) + DONE) == "done"
    assert (bare.computer.memory.u32(COUNT), bare.computer.memory.u32(COUNT + 8)) == (0x640, 0x640)
    assert kvm_of(bare).pool.generation >= 1
    assert stayed(bare)


# -- interrupts


def test_a_storm_of_wild_ipis_ends(bare: Bare) -> None:
    """Any delivery mode, vector and destination, from two at once, until the machine is reset, dies, or has had enough."""
    chance = Random(7)
    for vector in range(32, 256):
        bare.gate(vector, CODE + 0x900)
    bare.gate(2, CODE + 0x900)
    bare.computer.memory.write(CODE + 0x900, bytes.fromhex("a3b000e0fe00000000 48cf"))  # mov [EOI], eax; iretq
    bare.computer.on_boot_processor_init = lambda: bare.computer.finish("reset")
    bare.computer.clock.call_at(bare.computer.clock.now() + 5_000_000_000, lambda: bare.computer.finish("late"))

    def storm() -> str:
        return "fb" + "".join(
            ipi(
                chance.choice((0, 0, 0, 1, 4, 5, 6)) << 8 | 0x4000 | chance.randrange(4) << 18 | chance.randrange(256),
                n % 4,
            )
            for n in range(60)
        )

    other, here = storm(), storm()
    bare.start(1, other + "ebfe", OTHER)
    bare.start(2, "fb ebfe", THIRD)
    with contextlib.suppress(TripleFault):
        assert bare.run(here + DONE) in ("done", "reset", "late")
    assert not kvm_of(bare).threads.inside


def test_an_init_stops_a_processor_in_guest_code_at_once(bare: Bare) -> None:
    """Nothing is counted behind it, and the processor can be started anew from a register state."""
    bare.start(1, at(COUNT) + "ff03 ebfc", OTHER)

    def look(offset: int, _value: int) -> None:
        bare.outs.append((-1, 4, bare.computer.memory.u32(COUNT)))

    bare.on_out = look
    out = "66ba0005 ee"
    here = until_set(COUNT) + ipi(0x4500, 1) + out + "b900000008 ffc9 75fc" + out + DONE
    assert bare.run(here) == "done"
    seen = [value for offset, _, value in bare.outs if offset == -1]
    assert seen[0] == seen[1] > 0
    assert stayed(bare)


# -- the machine around them


def test_at_rest_all_stand_between_two_instructions(bare: Bare) -> None:
    """Each has three copies of a count, which it writes one after the other: at rest RIP tells which are done."""
    code = at(COUNT) + "41ffc0 448903 44894304 44894308 ebf0"  # again: inc r8d; mov [rbx], r8d; +4; +8
    first = 10
    seen: list[bool] = []
    watch_inside(bare)
    computer = bare.computer

    def check() -> None:
        assert not kvm_of(bare).threads.inside
        for index, (where, count) in enumerate(((CODE, COUNT), (OTHER, COUNT + 64))):
            cpu = computer.engine.cpus[index]
            state = cpu.freeze()
            at_byte, value = state["general"][reg.RIP] - where - first, state["general"][reg.R8] & 0xFFFF_FFFF
            if at_byte < 0:
                return
            done = {0: 3, 3: 0, 6: 1, 10: 2, 14: 3}[at_byte]
            wanted = [value if n < done else value - 1 for n in range(3)]
            seen.append([computer.memory.u32(count + 4 * n) for n in range(3)] == wanted)

    bare.start(1, code.replace(at(COUNT), at(COUNT + 64)), OTHER)

    def ask() -> None:
        for _ in range(100):
            done = threading.Event()
            computer.at_rest(lambda event=done: (check(), event.set()))  # type: ignore[misc]
            done.wait(20)
        computer.finish("asked")

    asker = threading.Thread(target=ask)
    asker.start()
    assert bare.run(code) == "asked"
    asker.join()
    assert len(seen) > 150
    assert all(seen)
    assert stayed(bare)


def test_what_kvm_cannot_carry_takes_all_processors_to_unicorn(bare: Bare) -> None:
    """One of them sets a hardware breakpoint; the others count on, and nothing is counted twice or not at all."""
    count = "b900000400 ff03 ffc9 75fa"
    bare.start(1, at(COUNT) + count + "b801000000 0f23f8" + count + store(STOPPED, 1) + "faf4", OTHER)
    bare.start(2, at(COUNT + 64) + count + count + store(STOPPED + 64, 1) + "faf4", THIRD)
    assert bare.run(at(COUNT + 128) + count + until_set(STOPPED) + until_set(STOPPED + 64) + DONE) == "done"
    memory = bare.computer.memory
    assert (memory.u32(COUNT), memory.u32(COUNT + 64), memory.u32(COUNT + 128)) == (0x80000, 0x80000, 0x40000)
    assert bare.computer.engine.name == "unicorn"
    assert len(bare.lines) == 1
    assert "hardware breakpoints" in bare.lines[0]


def test_an_error_in_the_thread_of_a_processor_is_the_machines(bare: Bare) -> None:
    watch_inside(bare)
    vcpu = kvm_of(bare).instances[1].vcpu
    vcpu.run = lambda: 14  # type: ignore[method-assign]
    bare.start(1, "ebfe", OTHER)
    with pytest.raises(EngineError, match="KVM_RUN failed with error 14"):
        bare.run("ebfe")
    assert not kvm_of(bare).threads.inside


def test_processors_that_only_look_at_the_clock_sleep(bare: Bare) -> None:
    poll = "0f31 ebfc"  # rdtsc; jmp back
    bare.start(1, poll, OTHER)
    bare.start(2, poll, THIRD)
    drowsy: list[set[int]] = []
    computer = bare.computer

    def look() -> None:
        drowsy.append(set(computer.turns.drowsy))
        if drowsy[-1] == {0, 1, 2}:
            computer.finish("asleep")
        elif len(drowsy) > 200:
            computer.finish("awake")
        else:
            computer.clock.call_at(computer.clock.now() + 50_000_000, look)

    look()
    assert bare.run(poll) == "asleep"
    assert computer.turns.states == [RUNNING] * 3
    assert stayed(bare)


def test_processors_that_halt_are_not_let_in_again_and_again(bare: Bare) -> None:
    counts = watch_inside(bare)
    bare.start(1, "fb f4 ebfc", OTHER)
    bare.start(2, "fa f4", THIRD)
    clock = bare.computer.clock
    clock.call_at(clock.now() + 300_000_000, lambda: bare.computer.finish("late"))
    assert bare.run("fb f4 ebfc") == "late"
    assert 0 < len(counts) < 100  # page faults of three cold starts among them
    assert stayed(bare)


def test_the_program_ends_while_its_guest_runs_on_all_processors() -> None:
    """Nobody closes the machine; its threads are in guest code that never comes out by itself."""
    program = """
import threading, time
from tests.machine.bare import Bare
from tests.machine.test_smp import OTHER
machine = Bare(cpus=2, engine="kvm")
machine.start(1, "faebfe", OTHER)
threading.Thread(target=machine.run, args=["faebfe"], daemon=True).start()
while machine.computer.engine.name != "kvm" or len(machine.computer.engine._kvm.threads.inside) < 2:
    time.sleep(0.01)
print("inside", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "inside\n", "")


def test_start_up_ipis_leave_kvm_and_come_back(bare: Bare) -> None:
    """Real mode is Unicorn's: processors that run side by side go there together."""
    bare.computer.memory.write(0x8000, bytes.fromhex("66b801000000 66a30001 f4"))  # mov eax, 1; mov [0x100], eax; hlt
    bare.start(2, at(COUNT) + "ff03 ebfc", THIRD)
    again = at(0x100) + "f390 833b01 75f9"
    assert bare.run(until_set(COUNT) + START + again + DONE) == "done"
    assert len(bare.lines) == 1
    assert "real mode" in bare.lines[0]
