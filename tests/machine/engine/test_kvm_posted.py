"""Output on the serial port of guests on KVM: it costs no exits, and nothing but that tells it from Unicorn's."""

import random
import threading
from collections.abc import Callable, Iterator

import pytest

from machine import registers as reg
from machine.cpu import Stop
from machine.engine.kvm_posted import STUBS, WORK
from machine.engine.kvm_stub import BYTES, CAPACITY, ROOM, SAVED, loads_before
from machine.engine.moving import MovingEngine
from machine.paging import PRESENT, WRITABLE
from tests.engines import ENGINES, needs_kvm
from tests.machine.bare import CODE, TABLES
from tests.machine.engine.printing_guest import (
    FCR,
    IER,
    IN8,
    LCR,
    LSR,
    MCR,
    OUT8,
    RESULT,
    SCR,
    TEXT,
    THR,
    WORDS,
    Guest,
    Program,
)

FEW = 300
"""Exits of a run that prints WORDS, which is 3,690 bytes: starting, ending, and a kick now and then on a busy host."""


@pytest.fixture
def make() -> Iterator[Callable[..., Guest]]:
    guests = []

    def made(engine: str, cpus: int = 1) -> Guest:
        guests.append(Guest(engine, cpus))
        return guests[-1]

    yield made
    for guest in guests:
        guest.bare.close()


@pytest.fixture(params=ENGINES)
def guest(request: pytest.FixtureRequest, make: Callable[..., Guest]) -> Guest:
    return make(request.param)


# -- what it is for


def test_output_costs_hardly_any_exits(guest: Guest) -> None:
    assert guest.run(Program().print(len(WORDS))) == "done"
    assert guest.printed == WORDS
    assert guest.exits < FEW


@needs_kvm
def test_lines_of_two_processors_stay_whole(make: Callable[..., Guest]) -> None:
    guest = make("kvm", cpus=2)
    lock, ready = 0x700_0000, 0x700_0004

    def program(at: int, letter: bytes, last: str) -> Program:
        text = TEXT + at - CODE
        guest.ram.write(text, letter * 40 + b"\n")
        made = Program(at).add("41be32000000")  # mov r14d, 50
        line = made.here
        made.add(f"b801000000 870425{lock.to_bytes(4, 'little').hex()} 85c0 7405 f390").back(
            "eb", line
        )  # until it was 0
        made.add("90").print(41, text).add(f"c70425{lock.to_bytes(4, 'little').hex()}00000000 f390")
        made.add("41ffce 0f85" + (line - made.here - 9).to_bytes(4, "little", signed=True).hex())
        return made.add(f"f0ff0425{ready.to_bytes(4, 'little').hex()}" + last)

    other = program(CODE + 0x8000, b"b", "faf4")
    guest.bare.start(1, other.code.hex(), other.at)
    mine = program(CODE, b"a", "")
    until = mine.here
    mine.add(f"f390 833c25{ready.to_bytes(4, 'little').hex()}02").back("75", until)
    assert guest.run(mine) == "done"
    assert sorted(guest.printed.splitlines()) == [b"a" * 40] * 50 + [b"b" * 40] * 50


@pytest.mark.parametrize("size", [CAPACITY - 1, CAPACITY, CAPACITY + 1, len(WORDS)])
def test_the_page_may_be_full(guest: Guest, size: int) -> None:
    assert guest.run(Program().print(size)) == "done"
    assert guest.printed == WORDS[:size]


@needs_kvm
def test_the_last_bytes_come_although_the_guest_goes_on_without_a_trap(make: Callable[..., Guest]) -> None:
    guest = make("kvm")

    def wait() -> None:
        guest.wait_for(100)
        guest.bare.computer.finish("all there" if guest.printed == WORDS[:100] else "too late")

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert guest.run(Program().print(100).add("ebfe")) == "all there"
    waiting.join()


def test_tables_that_change_between_the_first_look_and_the_first_byte(guest: Guest) -> None:
    program = Program().read(LSR).add("0f20d8 0f22d8").read(LSR).keep(0)  # mov rax,cr3; mov cr3,rax
    program.write(THR, 0x3E).add("0f20d8 0f22d8").print(50)
    assert guest.run(program) == "done"
    assert guest.results(1) == b"\x60"
    assert guest.printed == b">" + WORDS[:50]


def test_the_guest_finds_its_registers_flags_and_stack_as_they_were(make: Callable[..., Guest]) -> None:
    found = {}
    for param in ENGINES:
        engine = str(param.values[0])
        guest = make(engine)
        guest.ram.write(0x3F_F000 << 4, bytes(range(256)) * 16)
        program = Program().print(50)
        program.add("4883ec40 48b9efcdab8967452301 48ba1111111111110000 bb44332211")
        program.add("66c70424f803 c644240258 b4d5 9e 75007a00")  # sahf: SF, ZF, AF, PF, CF
        program.call(OUT8).add("9f 4989c0")  # lahf; mov r8, rax
        program.add("66c70424fd03").call(IN8).add("9f 4989c1 4989ca 4989d3 4989dc 4989e5")
        assert guest.run(program) == "done"
        state = [guest.cpu.get(number) for number in (8, 9, 10, 11, 12, 13)]
        found[engine] = (state, guest.ram.read(0x3FF_FF00, 0x100), guest.printed)
        assert guest.printed == WORDS[:50] + b"X"
        assert state[2] == 0x0123_4567_89AB_CDEF
    assert len(found) == len(ENGINES)
    assert len({str(value) for value in found.values()}) == 1


# -- whatever else the port can do


def test_typed_input_is_seen_and_echoed(guest: Guest) -> None:
    typed = [bytes(range(32 + n, 48 + n)) for n in range(60)]
    program = Program().print(20)
    loop = program.here
    program.read(LSR).add("f644240801").back("74", loop).read(THR).add("8a442408 88c3").write(THR)
    program.add("80fb0a").back("75", loop)  # until a line ends

    def feed() -> None:
        size = 20
        for part in (*typed, b"\n"):
            guest.wait_for(size)
            size += len(part)
            guest.bare.computer.post(lambda part=part: guest.console.feed(part))

    feeding = threading.Thread(target=feed)
    feeding.start()
    assert guest.run(program) == "done"
    feeding.join()
    assert guest.printed == WORDS[:20] + b"".join(typed) + b"\n"


SETTINGS = {
    "receiver interrupts": Program().write(MCR, 0x08).write(IER, 0x01),
    "loop-back": Program().write(MCR, 0x10),
    "loop-back with a FIFO": Program().write(FCR, 0x07).write(MCR, 0x10),
    "divisor latch": Program().write(LCR, 0x83),
    "FIFO": Program().write(FCR, 0xC7),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_made_in_the_middle_of_output_hold_from_the_next_byte_on(
    make: Callable[..., Guest], setting: str
) -> None:
    found = {}
    for param in ENGINES:
        engine = str(param.values[0])
        guest = make(engine)
        program = Program().print(30)
        program.code = program.code + relocated(SETTINGS[setting], program.here)
        for number in range(3):
            program.write(THR, 0x41 + number)
        for number, port in enumerate((LSR, THR, LSR, THR, THR, IER, FCR, LCR, MCR, LSR + 1, LSR + 2, THR, LSR)):
            program.read(port).keep(number)
        program.write(LCR, 0x03).write(MCR, 0x00).write(IER, 0x00).print(40)
        assert guest.run(program) == "done"
        found[engine] = guest.printed, guest.results(13)
        assert guest.printed.endswith(WORDS[:40])
    assert len({str(value) for value in found.values()}) == 1


@pytest.mark.parametrize("seed", range(6))
def test_any_accesses_in_any_order(make: Callable[..., Guest], seed: int) -> None:
    dice = random.Random(seed)
    program = Program().print(5)
    kept = 0
    for _ in range(110):
        what = dice.random()
        if what < 0.45:
            program.write(THR, dice.randrange(0x20, 0x7F))
        elif what < 0.8:
            program.read(LSR if dice.random() < 0.6 else THR + dice.randrange(8)).keep(kept)
            kept += 1
        else:
            port = dice.choice((IER, FCR, LCR, MCR, SCR))
            program.write(port, dice.choice((0, 0, 0, 0x80, 0x10, 0x03, dice.randrange(256))))
    found = {}
    for param in ENGINES:
        engine = str(param.values[0])
        guest = make(engine)
        guest.console.feed(b"typed before")
        assert guest.run(program) == "done"
        found[engine] = guest.printed, guest.results(kept)
        assert guest.printed.startswith(WORDS[:5])
        assert kept > 20
    assert len({str(value) for value in found.values()}) == 1


def relocated(program: Program, at: int) -> bytes:
    """The same accesses at another address."""
    code, place = b"", 0
    while place < len(program.code):  # mov word [rsp], port; mov byte [rsp+2], value; call
        code += program.code[place : place + 11]
        code += Program(at + len(code)).call(OUT8).code
        place += 16
    return code


def test_the_transmitters_interrupts_come_one_for_each_byte(guest: Guest) -> None:
    handler, counter = 0x320_0000, RESULT + 64
    # handler: push rax, rcx, rdx; read IIR; inc dword [counter]; end of interrupt; pop; iretq
    body = "50 52 66bafa03 ec ff0425" + counter.to_bytes(4, "little").hex() + "b020 e620 5a 58 48cf"
    guest.ram.write(handler, bytes.fromhex(body))
    guest.bare.gate(0x6C, handler)
    program = Program().print(30).add("b0ef e621 fb")  # unmask IRQ 4; sti
    program.write(MCR, 0x08).write(IER, 0x02)
    for number in range(20):
        program.write(THR, 0x61 + number)
    program.add("fa").write(IER, 0x00).print(10)
    assert guest.run(program) == "done"
    assert guest.printed == WORDS[:30] + bytes(range(0x61, 0x75)) + WORDS[:10]
    assert guest.ram.u32(counter) == 21


@needs_kvm
def test_another_port_through_the_same_functions(make: Callable[..., Guest]) -> None:
    guest = make("kvm")
    second: list[int] = []
    guest.bare.computer.bus.add_ports(0x2F8, 8, lambda *_: 0x60, lambda _cpu, _at, _size, value: second.append(value))
    assert guest.run(Program().print(50).print(50, port=0x2F8).print(50)) == "done"
    assert guest.printed == WORDS[:50] * 2
    assert bytes(second) == WORDS[:50]
    assert guest.exits > 100


# -- where a guest may be seen


def _for_ever() -> Program:
    """Print WORDS over and over."""
    program = Program().print(len(WORDS))
    return program.add(f"e9{(CODE - program.here - 5).to_bytes(4, 'little', signed=True).hex()}")


@needs_kvm
def test_a_guest_that_is_looked_at_is_never_in_a_stub(make: Callable[..., Guest]) -> None:
    guest = make("kvm")
    computer = guest.bare.computer
    places: list[int] = []

    def look() -> None:
        places.append(guest.cpu.get(reg.RIP))
        if len(places) == 300:
            computer.finish("enough")

    assert guest.run_looked_at(_for_ever(), look) == "enough"
    assert guest.printed == (WORDS * (len(guest.printed) // len(WORDS) + 1))[: len(guest.printed)]
    assert len(set(places)) > 2
    assert all(CODE <= place < CODE + 0x2000 for place in places)


@needs_kvm
def test_moves_between_the_engines_in_the_middle_of_output(make: Callable[..., Guest]) -> None:
    guest = make("kvm")
    computer = guest.bare.computer
    moving = computer.engine
    assert isinstance(moving, MovingEngine)
    names: list[str] = []

    def move() -> None:
        names.append(moving.name)
        if len(names) == 40:
            computer.finish("enough")
        elif moving.name == "kvm":
            moving._back(None)
        else:
            moving._go = True

    assert guest.run_looked_at(_for_ever(), move) == "enough"
    assert guest.printed == (WORDS * (len(guest.printed) // len(WORDS) + 1))[: len(guest.printed)]
    assert names.count("kvm") > 10 < names.count("unicorn")


def test_steps_are_the_guests_own(make: Callable[..., Guest]) -> None:
    found = {}
    for param in ENGINES:
        engine = str(param.values[0])
        guest = make(engine)
        assert guest.run(Program().print(50)) == "done"
        program = Program(CODE + 0x400).read(LSR).write(THR, 0x21).add("90")
        guest.ram.write(program.at, program.code)
        guest.cpu.set(reg.RIP, program.at)
        places = []
        while (rip := guest.cpu.get(reg.RIP)) != program.here:
            if not places or places[-1] != rip:
                places.append(rip)
            assert len(places) < 50
            assert guest.bare.computer.engine.step(guest.cpu) is Stop.KICKED
        guest.console.flush()
        found[engine] = places, guest.printed
        assert len(places) == 14
        assert guest.printed == WORDS[:50] + b"!"
    assert len({str(value) for value in found.values()}) == 1


# -- harm


def test_a_jump_behind_the_prefix_of_the_replaced_load(guest: Guest) -> None:
    program = Program().print(50)
    program.add("c70424f8035800").call(OUT8 + 1)  # mov dword [rsp], 0x5803f8; mov edx,[rsp+8]
    program.print(50)
    assert guest.run(program) == "done"
    assert guest.printed == WORDS[:50] + b"X" + WORDS[:50]


@needs_kvm
@pytest.mark.parametrize("inside", [2, 3, 4])
def test_a_jump_into_the_replaced_load_harms_nobody_else(make: Callable[..., Guest], inside: int) -> None:
    guest = make("kvm")
    guest.bare.catch_faults()
    threading.Timer(0.3, guest.bare.computer.finish, ["stopped"]).start()
    program = Program().print(50)
    program.add(f"e9{(OUT8 + inside - program.here - 5).to_bytes(4, 'little', signed=True).hex()}")
    assert guest.run(program) in ("fault", "stopped", "done")
    assert guest.printed.startswith(WORDS[:50])


@needs_kvm
@pytest.mark.parametrize("room", [0, 1, CAPACITY - 1, CAPACITY + 1, 1 << 31, (1 << 32) - 1])
def test_a_guest_that_writes_to_its_page_gets_what_it_deserves(make: Callable[..., Guest], room: int) -> None:
    guest = make("kvm")
    guest.bare.catch_faults()
    program = Program().print(50)
    program.add(f"c70425{(WORK + ROOM).to_bytes(4, 'little').hex()}{room.to_bytes(4, 'little').hex()}")
    program.add(f"48c70425{(WORK + SAVED).to_bytes(4, 'little').hex()}ffffffff")
    program.add(f"c70425{(WORK + BYTES).to_bytes(4, 'little').hex()}ffffffff").print(10)
    assert guest.run(program) in ("done", "fault")
    assert len(guest.printed) <= 60 + CAPACITY
    other = make("kvm")
    assert other.run(Program().print(50)) == "done"
    assert other.printed == WORDS[:50]


def test_what_is_written_over_the_stubs_is_there(guest: Guest) -> None:
    program = Program().print(50)
    program.add(f"48c70425{STUBS.to_bytes(4, 'little').hex()}78563412")
    program.add(f"488b0425{STUBS.to_bytes(4, 'little').hex()} 48890425{RESULT.to_bytes(4, 'little').hex()}").print(50)
    assert guest.run(program) == "done"
    assert guest.ram.u64(RESULT) == guest.ram.u64(STUBS) == 0x12345678
    assert guest.printed == WORDS[:50] * 2


def test_a_guest_that_turns_these_addresses_to_memory_of_its_own_has_it(guest: Guest) -> None:
    mine, table = 0x680_0000, TABLES + 0x80_0000
    guest.ram.write(mine, b"mine".ljust(4096, b"!"))
    for number in range(512):
        guest.ram.set_u64(table + 8 * number, number << 12 | PRESENT | WRITABLE)
    for number, linear in enumerate((STUBS, WORK)):
        guest.ram.set_u64(table + 8 * (linear >> 12), mine + 4096 * number | PRESENT | WRITABLE)
    program = Program().print(50)
    directory = _directory(guest)
    program.add(f"48b8{(table | PRESENT | WRITABLE).to_bytes(8, 'little').hex()}")
    program.add(f"48a3{directory.to_bytes(8, 'little').hex()} 0f20d8 0f22d8")  # mov [directory], rax; reload CR3
    program.print(50)
    program.add(f"8b0425{STUBS.to_bytes(4, 'little').hex()} 890425{RESULT.to_bytes(4, 'little').hex()}")
    assert guest.run(program) == "done"
    assert guest.ram.read(RESULT, 4) == b"mine"
    assert guest.printed == WORDS[:50] * 2


def _directory(guest: Guest) -> int:
    """Where the first entry of the first page directory is."""
    mask = 0xF_FFFF_FFFF_F000
    ram = guest.ram
    return ram.u64(ram.u64(guest.bare.map.base) & mask) & mask


def test_functions_that_are_overwritten_are_the_new_ones(guest: Guest) -> None:
    program = Program().print(50)
    program.add(
        f"c60425{(OUT8 + 5).to_bytes(4, 'little').hex()}b0"
    )  # mov al, [rsp+10] becomes mov al, 0x44; and al, 10
    program.add(f"c60425{(OUT8 + 6).to_bytes(4, 'little').hex()}2a")  # mov al, 42
    program.add(f"66c70425{(OUT8 + 7).to_bytes(4, 'little').hex()}9090")
    program.print(50)
    assert guest.run(program) == "done"
    assert guest.printed == WORDS[:50] + b"*" * 50


# -- which code it is


@needs_kvm
def test_code_of_a_c_compiler_with_a_constant_port(make: Callable[..., Guest]) -> None:
    guest = make("kvm")
    program = Program().add(f"48be{TEXT.to_bytes(8, 'little').hex()} b9{len(WORDS).to_bytes(4, 'little').hex()}")
    loop = program.here
    program.add("bafd030000 ec a820").back("74", loop)  # mov edx, LSR; in al, dx; test al, 0x20
    program.add("0fb61e baf8030000 89d8 ee 48ffc6 ffc9").back(
        "75", loop
    )  # movzx ebx, [rsi]; mov edx, THR; mov eax, ebx; out
    assert guest.run(program) == "done"
    assert guest.printed == WORDS
    assert guest.exits < FEW


@pytest.mark.parametrize(
    ("code", "lengths"),
    [
        ("668b542408", [[5]]),
        ("668b542408 8a44240a", [[5, 4]]),
        ("bafd030000", [[5]]),
        ("baf8030000 89d8", [[5, 2]]),
        ("bafd030000 894424fc", []),  # a store
        ("488b5510 0fb6450a", []),  # too short a first one
        ("8b1500000000", []),  # relative to RIP
        ("e800000000", []),
        ("ba", []),
        ("", []),
    ],
)
def test_loads_that_may_give_way(code: str, lengths: list[list[int]]) -> None:
    found = [[len(load) for load in loads] for loads in loads_before(bytes.fromhex(code))]
    assert [found_lengths for found_lengths in found if sum(found_lengths) == len(bytes.fromhex(code))] == lengths
