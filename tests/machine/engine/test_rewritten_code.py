"""Code that the guest rewrites: whatever it stored is what it executes next, through whichever mapping it stored it."""

import random
from collections.abc import Iterator

import pytest

from machine.engine.moving import MovingEngine
from machine.paging import LARGE, PRESENT, WRITABLE
from tests.engines import ENGINES, needs_kvm
from tests.machine.bare import CODE, DONE, TABLES, Bare

RESULT = 0x500_0000
SITES, ROUNDS = 24, 60
ALIAS = 0x4000_0000  # a second gibibyte of addresses for the same RAM


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


def _alias(bare: Bare) -> None:
    """Map the first gibibyte a second time, at ALIAS."""
    memory = bare.computer.memory
    directory = TABLES + 4096 * (1 + 1 + 1)
    for number in range(memory.low_size >> 21):
        memory.set_u64(directory + 8 * number, number << 21 | PRESENT | WRITABLE | LARGE)


def _site(number: int, value: int) -> bytes:
    """mov eax, value; add [RESULT + 8 * number], eax; jmp next: 32 bytes, which end their block."""
    code = b"\xb8" + value.to_bytes(4, "little")
    code += b"\x01\x04\x25" + (RESULT + 8 * number).to_bytes(4, "little") + b"\xeb"
    return (code + bytes([32 - len(code) - 1])).ljust(32, b"\xcc")


def _stores(writes: list[tuple[int, int]], distance: int) -> bytes:
    """mov dword [immediate of a site, seen `distance` further up], value, for each; sites that are written in a row."""
    return b"".join(
        b"\xc7\x04\x25" + (CODE + 32 * site + 1 + distance).to_bytes(4, "little") + value.to_bytes(4, "little")
        for site, value in writes
    )


@pytest.mark.parametrize("distance", [0, ALIAS], ids=["its own address", "another address"])
@pytest.mark.parametrize("seed", range(3))
def test_what_was_stored_is_executed(bare: Bare, distance: int, seed: int) -> None:
    _alias(bare)
    chosen = random.Random(seed)
    values = [0] * SITES
    wanted = [0] * SITES
    program = b""
    start = CODE + 0x10_0000
    for _ in range(ROUNDS):
        writes = [(site, chosen.getrandbits(20)) for site in chosen.sample(range(SITES), chosen.randint(1, 4))]
        for site, value in writes:
            values[site] = value
        wanted = [(total + value) & 0xFFFF_FFFF for total, value in zip(wanted, values, strict=True)]
        program += _stores(writes, distance)
        call = CODE - (start + len(program) + 5)
        program += b"\xe8" + call.to_bytes(4, "little", signed=True)
    sites = b"".join(_site(number, 0) for number in range(SITES)) + b"\xc3"
    bare.computer.memory.write(CODE, sites)
    assert bare.run(program.hex() + DONE, start) == "done"
    memory = bare.computer.memory
    assert [memory.u32(RESULT + 8 * number) for number in range(SITES)] == wanted


def test_a_block_that_rewrites_what_follows_in_itself(bare: Bare) -> None:
    # mov byte [next + 1], 7; next: mov al, 0 -> 7; mov [RESULT], al
    following = CODE + 8
    code = b"\xc6\x04\x25" + (following + 1).to_bytes(4, "little") + b"\x07" + b"\xb0\x00"
    code += b"\x88\x04\x25" + RESULT.to_bytes(4, "little")
    assert bare.run("b90000 0000".replace(" ", "") + code.hex() + DONE, CODE - 5) == "done"
    assert bare.computer.memory.read(RESULT, 1) == b"\x07"


@pytest.mark.parametrize("distance", [0, ALIAS], ids=["its own address", "another address"])
def test_a_trapped_instruction_that_is_written_late_traps(bare: Bare, distance: int) -> None:
    _alias(bare)
    bare.computer.read_tsc = lambda cpu: 0x1234  # type: ignore[method-assign]
    routine, start = CODE, CODE + 0x10_0000
    bare.computer.memory.write(routine, bytes.fromhex("31c0 9090 c3"))  # xor eax, eax; nop; nop; ret
    call = routine - (start + 5)
    code = b"\xe8" + call.to_bytes(4, "little", signed=True)
    code += b"\x66\xc7\x04\x25" + (routine + 2 + distance).to_bytes(4, "little") + b"\x0f\x31"  # the nops become rdtsc
    call = routine - (start + len(code) + 5)
    code += b"\xe8" + call.to_bytes(4, "little", signed=True)
    code += b"\x89\x04\x25" + RESULT.to_bytes(4, "little")
    assert bare.run(code.hex() + DONE, start) == "done"
    assert bare.computer.memory.u32(RESULT) == 0x1234


@needs_kvm
def test_code_that_was_rewritten_while_the_guest_was_in_unicorn() -> None:
    bare = Bare(engine="kvm")
    try:
        moving = bare.computer.engine
        assert isinstance(moving, MovingEngine)
        function = CODE + 0x1000
        # xor eax,eax; cpuid, so that it is executed from a copy; mov eax,1; mov [RESULT],eax; the end
        code = f"31c0 0fa2 b801000000 890425{RESULT.to_bytes(4, 'little').hex()}"
        assert bare.run(code + DONE, at=function) == "done"
        places = [moving.name]
        moving._back(None)
        moving.pinned = True
        bare.computer._end = None
        assert bare.run(f"c60425{(function + 5).to_bytes(4, 'little').hex()}02" + DONE) == "done"
        places.append(moving.name)
        moving.pinned, moving._go = False, True
        bare.computer._end = None
        # mov rax, function; jmp rax
        assert bare.run(f"48b8{function.to_bytes(8, 'little').hex()} ffe0") == "done"
        places.append(moving.name)
        assert places == ["kvm", "unicorn", "kvm"]
        assert bare.computer.memory.u32(RESULT) == 2
    finally:
        bare.close()
