"""Guests in ring 0 on KVM. Most need no more than a KVM that emulates ring 0 executes: code without SSE, and no ring 3.

`test_svm.py` runs all of them on SVM.
"""

import threading
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.boards.pc import PcBoard
from machine.console import HostConsole
from machine.cpu import Cpu
from machine.engine import kvm_probe
from machine.engine.kvm_probe import Probe
from machine.errors import EngineError
from machine.exceptions import TripleFault
from tests.engines import needs_hardware, needs_kvm
from tests.machine.bare import CODE, DONE, Bare

pytestmark = needs_kvm

DEVICE, RESULT, HANDLER = 0xFED0_0000, 0x500_0000, CODE + 0x10_0000


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bare]:
    """A machine on a KVM that passes for one with VT-x or SVM where it is none."""
    monkeypatch.setattr(kvm_probe, "probe", lambda: Probe(False, 1.0, 1.0))
    machine = Bare(engine="kvm-ring0")
    yield machine
    assert not [line for line in machine.lines if "scale its TSC" not in line]
    assert machine.computer.engine.name == "kvm-ring0"
    machine.close()


def little(value: int, size: int = 4) -> str:
    return value.to_bytes(size, "little").hex()


def test_a_kvm_that_emulates_ring_0_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_probe, "probe", lambda: Probe(True, None, 1.0))
    with pytest.raises(EngineError, match="emulates ring 0"):
        Bare(engine="kvm-ring0")


def test_ports_both_ways_and_in_strings(bare: Bare) -> None:
    bare.computer.memory.write(RESULT, b"abc")
    # mov dx,0x500; in al,dx; mov bl,al; in eax,dx; mov r8d,eax; out dx,ax; mov esi,RESULT; mov ecx,3; rep outsb
    code = f"66ba0005 ec 88c3 ed 4189c0 66ef be{little(RESULT)} b903000000 f36e"
    assert bare.run(code + DONE) == "done"
    assert (bare.cpu.get(reg.RBX) & 0xFF, bare.cpu.get(reg.R8)) == (0x88, 0x55667788)
    assert bare.outs[:4] == [(0, 2, 0x7788), (0, 1, ord("a")), (0, 1, ord("b")), (0, 1, ord("c"))]
    assert bare.cpu.get(reg.RCX) == 0


def test_what_a_port_handler_writes_to_registers_holds(bare: Bare) -> None:
    bare.on_out = lambda offset, value: bare.cpu.set(reg.RAX, 0x1234) if not offset else None
    assert bare.run("66ba0005 ee 4989c0" + DONE) == "done"
    assert bare.cpu.get(reg.R8) == 0x1234


@pytest.mark.parametrize(
    ("code", "accesses"),
    [
        ("8b03", [("r", 0, 4)]),
        ("488b03", [("r", 0, 4), ("r", 4, 4)]),
        ("48c70378563412", [("w", 0, 4, 0x12345678), ("w", 4, 4, 0)]),
        ("f00fc103", [("r", 0, 4), ("w", 0, 4, 0xA5A5A5A5 + 0xDEADBEEF & 0xFFFFFFFF)]),
        ("4889df f3ab", [("w", 0, 4, 0xDEADBEEF), ("w", 4, 4, 0xDEADBEEF)]),
    ],
)
def test_device_accesses(bare: Bare, code: str, accesses: list[tuple[object, ...]]) -> None:
    seen: list[tuple[object, ...]] = []

    def read(_cpu: Cpu, offset: int, size: int) -> int:
        seen.append(("r", offset, size))
        return 0xA5A5A5A5

    def write(_cpu: Cpu, offset: int, size: int, value: int) -> None:
        seen.append(("w", offset, size, value))

    bare.computer.bus.add_mmio(DEVICE, 0x1000, read, write)
    assert bare.run(f"bb{little(DEVICE)} b8efbeadde b902000000 {code}" + DONE) == "done"
    assert seen == accesses


def test_cpuid_is_ours(bare: Bare) -> None:
    assert bare.run("31c0 0fa2 4189d8 b802000080 0fa2 4189c1" + DONE) == "done"
    assert bare.cpu.get(reg.R8).to_bytes(4, "little") == b"Auth"
    assert bare.cpu.get(reg.R9).to_bytes(4, "little") == b"AMD "


def test_msrs_reach_the_machine_and_a_refusal_is_a_fault(bare: Bare) -> None:
    written: list[int] = []
    bare.catch_faults()
    bare.computer.msrs.register(0xC0010131, lambda cpu: 0x1_0000_0005, lambda cpu, value: bool(written.append(value)))
    # mov ecx,0xc0010131; rdmsr; mov r8,rax; mov r9,rdx; wrmsr
    assert bare.run("b9310101c0 0f32 4989c0 4989d1 0f30") == "fault"
    assert (bare.cpu.get(reg.R8), bare.cpu.get(reg.R9)) == (5, 1)
    assert written == [0x1_0000_0005]
    assert (bare.faults[0].vector, bare.cpu.get(reg.RIP)) == (13, CODE + 13)


@pytest.mark.parametrize("masked", ["", "b900100000 ffc9 75fc"], ids=["at once", "when it has waited"])
def test_no_interrupt_comes_before_the_end_of_the_instruction_behind_sti(bare: Bare, masked: str) -> None:
    """One that waits while interrupts are off is taken at the first place where it can be."""
    PcBoard(bare.computer, HostConsole(lambda data: None), bare.computer.finish)
    bare.computer.memory.write(HANDLER, bytes.fromhex("4c8b0424" + DONE))  # mov r8,[rsp]
    bare.gate(0x21, HANDLER)
    init = "".join(
        f"b0{value:02x}e6{port:02x}" for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFD))
    )
    bare.on_out = lambda offset, value: bare.computer.interrupts.set_irq(1, True) if not offset else None  # type: ignore[union-attr]
    # cli; 8259; mov dx,0x500; out dx,al; (mov ecx,4096; dec ecx; jnz); sti; inc ebx; inc ebx; jmp $
    before = f"fa {init} 66ba0005 ee {masked} fb"
    assert bare.run(before + "ffc3 ffc3 ebfe") == "done"
    assert bare.cpu.get(reg.RBX) in (1, 2)  # an emulator may let another instruction pass
    assert bare.cpu.get(reg.R8) == CODE + len(bytes.fromhex(before)) + 2 * bare.cpu.get(reg.RBX)


def test_an_interrupt_ends_a_halt(bare: Bare) -> None:
    bare.computer.halt_limit = 1_000_000
    assert bare.run("fb f4" + DONE) == "done"  # sti; hlt


def test_a_triple_fault_ends_the_run(bare: Bare) -> None:
    bare.cpu.set_table("idtr", 0, 0)
    with pytest.raises(TripleFault):
        bare.run("0f0b")


def test_an_endless_loop_with_interrupts_off_ends_when_somebody_says_so(bare: Bare) -> None:
    timer = threading.Timer(0.1, bare.computer.finish, ["stopped"])
    timer.start()
    assert bare.run("fa ebfe") == "stopped"
    timer.join()


def test_the_whole_processor_comes_back_as_it_was(bare: Bare) -> None:
    assert bare.run("90" + DONE) == "done"
    state = bare.cpu.freeze()
    bare.cpu.thaw(state)
    assert bare.cpu.freeze() == state


def test_debug_registers_are_the_guests_own(bare: Bare) -> None:
    # mov eax,0x1234; mov dr0,rax; mov dr3,rax
    assert bare.run("b834120000 0f23c0 0f23d8" + DONE) == "done"
    assert bare.cpu.freeze()["debug"][:4] == [0x1234, 0, 0, 0x1234]


@needs_hardware
def test_xcr0_moves_with_the_guest(bare: Bare) -> None:
    bare.cpu.set(reg.CR4, 0x6A0 | 1 << 18)
    assert bare.run("31c9 31d2 b803000000 0f01d1" + DONE) == "done"  # xor ecx,ecx; xor edx,edx; mov eax,3; xsetbv
    assert bare.cpu.freeze()["xcr0"] == 3
