"""Every instruction is executed exactly once, however often the engine is kicked, from other threads or by its own traps."""

import platform
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from machine.cpu import Cpu
from machine.engine import unicorn_insides
from tests.engines import ENGINES
from tests.machine.bare import CODE, DONE, Bare

COUNTERS, DEVICE = 0x500_0000, 0xFED0_0000
ROUNDS = 4000
BODIES = {
    "nothing": "90",
    "rdtsc": "0f31",
    "out": "ee",
    "in": "ec",
    "store to a device": "8903",
    "load from a device": "8b03",
    "change a device register": "ff03",
    "rdmsr": "b977070000 0f32 66ba0006",
    "wrmsr": "b977070000 0f30",
    "an instruction that Unicorn does not know": "f20f01ff",
    "xchg": "498706 498706",
    "cmpxchg": "498b06 4c89c1 490fb10e 498b06",
}
TRAPS = {"nothing": 0, "xchg": 0, "cmpxchg": 0, "change a device register": 2}


@pytest.fixture(params=["insides known", "insides unknown", *ENGINES[1:]])
def bare(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bare]:
    """A machine, one over a Unicorn whose insides are not known, and one on KVM."""
    if request.param == "insides unknown":
        monkeypatch.setattr(unicorn_insides, "find", lambda _library, _handle: None)
    machine = Bare(engine="kvm" if request.param == "kvm" else "unicorn")
    yield machine
    machine.close()


@pytest.mark.skipif(
    sys.platform == "win32" or platform.machine() != "x86_64", reason="machine code of x86-64 is needed"
)
def test_the_insides_of_this_unicorn_are_known() -> None:
    """Fails with a Unicorn that has become another: unicorn_insides then has to learn it, or all guests are slower."""
    machine = Bare()
    try:
        assert machine.computer.engine.cpus[0].stop.known  # type: ignore[attr-defined]
    finally:
        machine.close()


@pytest.mark.parametrize("kicked_by_itself", [False, True])
@pytest.mark.parametrize("name", BODIES)
def test_exactly_once(bare: Bare, name: str, kicked_by_itself: bool) -> None:
    computer, ram = bare.computer, bare.computer.memory
    traps = [0]

    def trap(value: object) -> object:
        traps[0] += 1
        if kicked_by_itself:
            computer.engine.kick()
        return value

    def read(_cpu: Cpu, _offset: int, _size: int) -> int:
        return int(bool(trap(0)))

    def write(_cpu: Cpu, _offset: int, _size: int, _value: int) -> None:
        trap(None)

    computer.bus.add_mmio(DEVICE, 0x1000, read, write)
    computer.bus.add_ports(0x600, 8, read, write)
    computer.msrs.register(0x777, lambda cpu: int(bool(trap(0))), lambda cpu, value: bool(trap(True)))
    computer.trap_instructions[b"\xf2\x0f\x01\xff"] = lambda _cpu, _code: int(bool(trap(1))) * 4
    computer.read_tsc = lambda cpu: int(bool(trap(5)))  # type: ignore[method-assign]
    # mov r15d,ROUNDS; mov r14,COUNTERS; mov rbx,DEVICE+16; mov dx,0x600
    start = "41bf" + ROUNDS.to_bytes(4, "little").hex() + "49be" + COUNTERS.to_bytes(8, "little").hex()
    start += "48bb" + (DEVICE + 16).to_bytes(8, "little").hex() + "66ba0006"
    # inc qword [r14+8]; the body; lock inc qword [r14+16]; push r15; pop rax; dec r15; jnz back
    loop = bytes.fromhex("49ff4608" + BODIES[name] + "f049ff4610 4157 58 49ffcf")
    back = (-(len(loop) + 6)).to_bytes(4, "little", signed=True)
    over = threading.Event()

    def kick() -> None:
        while not over.is_set():
            computer.engine.kick()
            time.sleep(0.00003)

    kicker = threading.Thread(target=kick)
    kicker.start()
    try:
        code = bytes.fromhex(start) + loop + b"\x0f\x85" + back + bytes.fromhex(DONE)
        assert bare.run(code.hex(), CODE) == "done"
    finally:
        over.set()
        kicker.join()
    assert (ram.u64(COUNTERS + 8), ram.u64(COUNTERS + 16)) == (ROUNDS, ROUNDS)
    assert traps[0] == ROUNDS * TRAPS.get(name, 1)
