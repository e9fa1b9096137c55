"""Devices at physical addresses above 4 GiB: a board's window there, and what lies outside of it."""

from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.errors import BusConflict
from machine.memory import HIGH_START
from machine.paging import IdentityMap
from tests.engines import ENGINES
from tests.machine.bare import DONE, Bare

WINDOW, SIZE = 0x1_4000_0000, 0x20_0000
_MAP = 0x500_0000


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    high = IdentityMap(machine.computer.memory, _MAP, 6 << 30)
    machine.cpu.set(reg.CR3, high.base)
    yield machine
    machine.close()


def test_loads_and_stores_reach_a_device_in_the_window(bare: Bare) -> None:
    stored: list[tuple[int, int, int]] = []
    bus = bare.computer.bus
    bus.open_window(WINDOW, SIZE)
    bus.add_mmio(
        WINDOW + 0x3000,
        0x1000,
        lambda _cpu, offset, size: (0x1122_3344_5566_7788 >> 8 * offset) & (1 << 8 * size) - 1,
        lambda _cpu, offset, size, value: stored.append((offset, size, value)),
    )
    # mov rcx,WINDOW+0x3000; mov dword[rcx+8],0x12345678; mov word[rcx+2],0xcafe; mov rax,[rcx]; movzx ebx,byte[rcx+1]
    code = f"48b9{(WINDOW + 0x3000).to_bytes(8, 'little').hex()} c7410878563412 66c74102feca 488b01 0fb65901 4989c0"
    assert bare.run(code + DONE) == "done"
    assert stored == [(8, 4, 0x1234_5678), (2, 2, 0xCAFE)]
    assert bare.cpu.get(reg.R8) == 0x1122_3344_5566_7788
    assert bare.cpu.get(reg.RBX) == 0x77


def test_what_is_in_no_window_and_what_no_device_claims_reads_as_ones(bare: Bare) -> None:
    bus = bare.computer.bus
    bus.add_mmio(WINDOW + SIZE, 0x1000, lambda _cpu, _offset, _size: 0, lambda *_: None)
    bus.open_window(WINDOW, SIZE)
    code = "48c7c3ffffffff"  # mov rbx,-1; and for each: mov rax,[address]; and rbx,rax
    for address in (WINDOW - 8, WINDOW, WINDOW + SIZE - 8, WINDOW + SIZE, HIGH_START, (6 << 30) - 8):
        code += f"48a1{address.to_bytes(8, 'little').hex()} 4821c3"
    assert bare.run(code + DONE) == "done"
    assert bare.cpu.get(reg.RBX) == (1 << 64) - 1


def test_a_window_may_open_after_the_guest_has_looked(bare: Bare) -> None:
    bus = bare.computer.bus
    bus.add_mmio(WINDOW, 0x1000, lambda _cpu, _offset, size: 0, lambda *_: None)
    bare.on_out = lambda offset, value: offset or bare.computer.post(lambda: bus.open_window(WINDOW, SIZE))
    # mov rcx,WINDOW; mov rax,[rcx]; mov r8,rax; mov dx,0x500; out dx,al; again: mov rax,[rcx]; test rax,rax; jnz again
    code = f"48b9{WINDOW.to_bytes(8, 'little').hex()} 488b01 4989c0 66ba0005 ee 488b01 4885c0 75f8"
    assert bare.run(code + DONE) == "done"
    assert bare.cpu.get(reg.R8) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("base", "size"),
    [(0xC000_0000, 0x1000), (WINDOW + 1, 0x1000), (WINDOW, 0x800), (WINDOW, 0), (WINDOW - 0x1000, 0x2000)],
)
def test_windows_that_cannot_be(bare: Bare, base: int, size: int) -> None:
    bare.computer.bus.open_window(WINDOW, SIZE)
    with pytest.raises(BusConflict, match="window"):
        bare.computer.bus.open_window(base, size)


def test_a_window_does_not_cover_ram() -> None:
    machine = Bare(memory=5 << 30)
    try:
        with pytest.raises(BusConflict, match="RAM ends at 0x180000000"):
            machine.computer.bus.open_window(WINDOW, SIZE)
    finally:
        machine.close()
