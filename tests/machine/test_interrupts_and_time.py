"""Interrupts through the guest's IDT, HLT, timers, the idle detector, virtual time."""

import time
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.boards.pc import PcBoard
from machine.clock import VirtualClock
from machine.console import HostConsole
from machine.exceptions import TripleFault
from machine.idle import RUN, IdleDetector
from tests.engines import ENGINES

from .bare import CODE, DONE, STACK, Bare

HANDLER = CODE + 0x10_0000


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


def _with_board(bare: Bare) -> PcBoard:
    return PcBoard(bare.computer, HostConsole(lambda data: None), bare.computer.finish)


def test_an_exception_reaches_the_guests_handler_which_returns(bare: Bare) -> None:
    # handler: mov r8,[rsp]; add qword [rsp],2; iretq
    bare.computer.memory.write(HANDLER, bytes.fromhex("4c8b0424 4883042402 48cf"))
    bare.gate(6, HANDLER)
    assert bare.run("0f0b 41b92a000000" + DONE) == "done"  # ud2; mov r9d,42
    assert bare.cpu.get(reg.R8) == CODE
    assert bare.cpu.get(reg.R9) == 42


def test_exceptions_that_have_been_handled_do_not_add_up_to_a_double_fault(bare: Bare) -> None:
    skip = "48830424 02 48cf"  # handlers: count; add qword [rsp],2; iretq
    bare.computer.memory.write(HANDLER, bytes.fromhex("49ffc0" + skip))
    bare.computer.memory.write(HANDLER + 0x100, bytes.fromhex("49ffc1 59" + skip))  # with an error code, of 0
    bare.gate(0, HANDLER)
    bare.gate(13, HANDLER + 0x100)
    for counter in (reg.R8, reg.R9):
        bare.cpu.set(counter, 0)
    divide, null_cs = "f7f6", "ff2f"  # div esi, which is 0; far jump to a null selector at rdi
    bare.cpu.set(reg.RDI, STACK)
    assert bare.run("31f6 31d2" + divide * 3 + (null_cs + divide) * 3 + DONE) == "done"
    assert (bare.cpu.get(reg.R8), bare.cpu.get(reg.R9)) == (6, 3)


@pytest.mark.parametrize("exchange", ["480fc70f", "f0480fc70f", "0fc70f", "f00fc74f08", "f0410fc78800000000"])
def test_a_compare_and_exchange_of_two_words_leaves_flags_that_are_flags(bare: Bare, exchange: str) -> None:
    """Unicorn would leave RBX in RFLAGS, with bit 8, which traps each instruction."""
    bare.cpu.set(reg.RDI, 0x500_0000)
    bare.cpu.set(reg.R8, 0x500_0000)
    bare.cpu.set(reg.RAX, 5)
    bare.cpu.set(reg.RBX, 0xFFFF_89FF_4104_8960)
    # add rax, rbx; the exchange, which finds something else; pushfq; pop r8
    assert bare.run("4801d8" + exchange + "9c 4158" + DONE) == "done"
    assert bare.cpu.get(reg.R8) == 0x86, "SF and PF from the addition, no ZF"


def test_a_page_faults_error_code_and_address_are_pushed(bare: Bare) -> None:
    # handler: pop r8; mov rcx,cr2; then the end
    bare.computer.memory.write(HANDLER, bytes.fromhex("4158 0f20d1" + DONE))
    bare.gate(14, HANDLER)
    assert bare.run("48a1 0000000090ffffff") == "done"  # mov rax,[0xffffff9000000000]
    assert bare.cpu.get(reg.R8) == 0
    assert bare.cpu.get(reg.RCX) == 0xFFFFFF9000000000


def test_the_frame_is_on_an_aligned_stack(bare: Bare) -> None:
    bare.computer.memory.write(HANDLER, bytes.fromhex("4989e0" + DONE))  # mov r8,rsp
    bare.gate(6, HANDLER)
    bare.cpu.set(reg.RSP, 0x400_0003)
    assert bare.run("0f0b") == "done"
    assert bare.cpu.get(reg.R8) == 0x400_0000 - 40


def test_no_gate_at_all_is_a_triple_fault(bare: Bare) -> None:
    bare.cpu.set_table("idtr", 0, 0)
    with pytest.raises(TripleFault, match="invalid opcode"):
        bare.run("0f0b")


def test_a_fault_while_a_fault_is_delivered_is_a_double_fault(bare: Bare) -> None:
    bare.computer.memory.write(HANDLER, bytes.fromhex("4158" + DONE))
    bare.gate(8, HANDLER)
    assert bare.run("48a1 0000000090ffffff") == "done"  # #PF without a gate
    assert bare.cpu.get(reg.R8) == 0


def test_hlt_wakes_at_the_local_apics_timer_right_after_sti(bare: Bare) -> None:
    board = _with_board(bare)
    assert board.interrupts is not None
    # handler: inc r12; mov [0xfee000b0],eax (EOI); iretq
    bare.computer.memory.write(HANDLER, bytes.fromhex("49ffc4 a3b000e0fe00000000 48cf"))
    bare.gate(0x40, HANDLER)
    apic = 0xFEE0_0000
    program = ""
    for offset, value in ((0xF0, 0x1FF), (0x3E0, 0xB), (0x320, 0x40), (0x380, 100_000)):
        program += "b8" + value.to_bytes(4, "little").hex() + "a3" + (apic + offset).to_bytes(8, "little").hex()
    assert bare.run("4531e4" + program + "fbf4" + DONE) == "done"  # xor r12d,r12d; ...; sti; hlt
    assert bare.cpu.get(reg.R12) == 1


def test_a_deadline_that_is_over_when_it_is_written_does_not_come_before_the_halt() -> None:
    """TamaGo's way to wait: WRMSR, and a few instructions later CLI, a look at a flag, STI and HLT."""
    machine = Bare(VirtualClock())
    try:
        _with_board(machine)
        machine.computer.memory.write(HANDLER, bytes.fromhex("49ffc4 a3b000e0fe00000000 48cf"))
        machine.gate(0x40, HANDLER)
        clock = machine.computer.clock
        clock.call_at(clock.now() + 1_000_000_000, lambda: machine.computer.finish("asleep for ever"))
        enable = (
            "b8ff010000 a3f000e0fe00000000 b840000400 a32003e0fe00000000"  # spurious vector; LVT timer: TSC deadline
        )
        write = "b9e0060000 b801000000 31d2 fb 0f30"  # mov ecx,0x6e0; mov eax,1; xor edx,edx; sti; wrmsr
        trap = "66ba0005 ee eb00"  # mov dx,0x500; out dx,al; jmp $+2: time goes by
        assert machine.run("4531e4" + enable + write + trap + "fa fb f4" + DONE) == "done"
        assert machine.cpu.get(reg.R12) == 1
    finally:
        machine.close()


def test_a_timer_interrupts_a_loop_that_traps_nothing(bare: Bare) -> None:
    _with_board(bare)
    bare.computer.memory.write(HANDLER, bytes.fromhex("49ffc4" + DONE))
    bare.gate(0x21, HANDLER)
    # 8259: ICW1..4 vector base 0x20, all masked but IRQ 1; then mov dx, 0x500; out dx, al; sti; jmp $
    init = "".join(
        f"b0{value:02x}e6{port:02x}" for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFD))
    )
    clock = bare.computer.clock

    def soon(offset: int, _value: int) -> None:  # not before ICW1, which forgets edges
        if offset == 0:
            clock.call_at(clock.now() + 20_000_000, lambda: bare.computer.interrupts.set_irq(1, True))

    bare.on_out = soon
    assert bare.run(init + "66ba0005 ee fb ebfe") == "done"


def test_an_idle_hlt_does_not_run_the_engine(bare: Bare) -> None:
    _with_board(bare)
    clock = bare.computer.clock
    clock.call_at(clock.now() + 300_000_000, lambda: bare.computer.finish("late"))
    runs: list[int] = []
    engine_run = bare.computer.engine.run
    bare.computer.engine.run = lambda cpu: runs.append(1) or engine_run(cpu)  # type: ignore[method-assign,func-returns-value]
    assert bare.run("fb f4 ebfc") == "late"
    assert len(runs) < 5


def test_virtual_time_jumps_to_the_next_timer() -> None:
    machine = Bare(VirtualClock())
    try:
        _with_board(machine)
        clock = machine.computer.clock
        clock.call_at(clock.now() + 3600 * 10**9, lambda: machine.computer.finish("an hour later"))
        assert machine.run("fb f4 ebfc") == "an hour later"
        assert clock.now() >= 3600 * 10**9
    finally:
        machine.close()


def test_polls_without_effect_are_idling_and_an_effect_ends_it() -> None:
    slept: list[int] = []
    detector = IdleDetector(slept.append)
    for _ in range(3 * RUN):
        detector.time_poll()
    assert not slept, "reading the time alone may be a computation"
    detector.input_poll()
    detector.input_poll()
    for _ in range(RUN):
        detector.time_poll()
    assert slept
    slept.clear()
    detector.effect()
    for _ in range(RUN - 1):
        detector.input_poll()
    assert not slept


def test_polls_far_apart_are_a_computation() -> None:
    slept: list[int] = []
    detector = IdleDetector(slept.append)
    for _ in range(2 * RUN):
        detector.input_poll()
        time.sleep(0.0002)
    assert not slept
