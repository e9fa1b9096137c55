"""Ring 3 and back: exceptions, interrupts and SYSCALL from user mode find the kernel's stack and selectors."""

import itertools
import struct
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.cpu import Cpu, Stop
from machine.engine.unicorn_cpu import UnicornCpu
from machine.errors import EngineError
from tests.engines import ENGINES

from .bare import CODE, DONE, GDT, KERNEL, STACK, TABLES, Bare

USER_CODE, USER_DATA = 0x1B, 0x23
USER, HANDLER, TASK, KERNEL_STACK = CODE + 0x1000, CODE + 0x2000, 0x500_0000, 0x600_0000
GO_TO_USER = "48cf"  # iretq


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    _prepare(machine)
    yield machine
    machine.close()


def _prepare(machine: Bare) -> None:
    """A task's kernel stack, and at RSP what IRETQ needs to go to USER in ring 3."""
    ram = machine.computer.memory
    for table in range(TABLES, TABLES + 3 * 4096, 8):  # everything may be touched from ring 3
        entry = ram.u64(table)
        if entry & 1:
            ram.set_u64(table, entry | 4)
    ram.write(TASK + 4, struct.pack("<Q", KERNEL_STACK))
    machine.cpu.set_table("tr", TASK, 0x67, 0x40)
    frame = STACK - 0x100
    ram.write(frame, struct.pack("<5Q", USER, USER_CODE, 0x202, STACK - 0x200, USER_DATA))
    machine.cpu.set(reg.RSP, frame)


def test_a_fault_in_user_mode_arrives_on_the_kernels_stack_and_iretq_goes_back(bare: Bare) -> None:
    # handler: mov r8,[rsp+8]; mov r9,[rsp+24]; mov r10,rsp; mov r11d,cs; swapgs; swapgs; add qword [rsp],2; iretq
    bare.computer.memory.write(
        HANDLER, bytes.fromhex("4c8b442408 4c8b4c2418 4989e2 448cc9 0f01f8 0f01f8 4883042402 48cf")
    )
    bare.gate(6, HANDLER)
    # user: ud2; mov r12d,cs; then the end (ports are open: there is no I/O permission check in this test)
    bare.computer.memory.write(USER, bytes.fromhex("0f0b 418ccc" + DONE))
    bare.cpu.set(reg.RFLAGS, 0x3002)  # IOPL 3 survives iretq only from the frame
    bare.computer.memory.write(STACK - 0x100 + 16, struct.pack("<Q", 0x3202))
    assert bare.run(GO_TO_USER) == "done"
    assert bare.cpu.get(reg.R8) == USER_CODE
    assert bare.cpu.get(reg.R9) == STACK - 0x200
    assert bare.cpu.get(reg.R10) == KERNEL_STACK - 40
    assert bare.cpu.get(reg.RCX) & 0xFFFF == KERNEL
    assert bare.cpu.get(reg.R12) & 0xFFFF == USER_CODE


def test_a_way_to_ring_0_that_fails_is_told_with_its_cause() -> None:
    """What no guest should bring about: the page of our own through which the CPU goes cannot be reached."""
    machine = Bare()
    try:
        _prepare(machine)
        machine.gate(6, HANDLER)
        machine.computer.memory.write(USER, bytes.fromhex("0f0b"))
        cpu = machine.cpu
        assert isinstance(cpu, UnicornCpu)
        cpu.gateway()
        cpu.own_pages.clear()
        with pytest.raises(EngineError, match=r"enter ring 0: .*: Fault\(vector=1[34]"):
            machine.run(GO_TO_USER)
    finally:
        machine.close()


def test_syscall_enters_the_kernel_and_leaves_registers_as_amd_says(bare: Bare) -> None:
    cpu = bare.cpu
    cpu.write_msr(0xC000_0081, KERNEL << 32)
    cpu.write_msr(0xC000_0082, HANDLER)
    cpu.write_msr(0xC000_0084, 0x200)
    bare.computer.memory.write(USER, bytes.fromhex("bf2a000000 0f05 90"))  # mov edi,42; syscall
    # kernel: mov r8,rcx; mov r9,r11; pushfq; pop r10; mov r12d,cs; mov r13d,ss
    bare.computer.memory.write(HANDLER, bytes.fromhex("4989c8 4d89d9 9c 415a 418ccc 418cd5" + DONE))
    assert bare.run(GO_TO_USER) == "done"
    assert cpu.get(reg.RDI) == 42
    assert cpu.get(reg.R8) == USER + 7
    assert cpu.get(reg.R9) & 0x200
    assert not cpu.get(reg.R10) & 0x200
    assert cpu.get(reg.R12) & 0xFFFF == KERNEL
    assert cpu.get(reg.R13) & 0xFFFF == KERNEL + 8
    assert cpu.get(reg.RSP) == STACK - 0x200, "SYSCALL does not touch the stack pointer"


def test_syscall_without_sce_is_an_invalid_opcode(bare: Bare) -> None:
    bare.gate(6, HANDLER)
    bare.cpu.write_msr(0xC000_0080, 0xD00)
    bare.computer.memory.write(USER, bytes.fromhex("0f05"))
    bare.computer.memory.write(HANDLER, bytes.fromhex("4c8b0424" + DONE))  # mov r8,[rsp]
    assert bare.run(GO_TO_USER) == "done"
    assert bare.cpu.get(reg.R8) == USER


def test_supervisor_pages_are_closed_to_user_mode(bare: Bare) -> None:
    bare.gate(14, HANDLER)
    slot = TABLES + 8192 + 8 * (0x700_0000 >> 21)
    bare.computer.memory.set_u64(slot, bare.computer.memory.u64(slot) & ~4)
    bare.computer.memory.write(USER, bytes.fromhex("48a1" + (0x700_0000).to_bytes(8, "little").hex()))
    bare.computer.memory.write(
        HANDLER, bytes.fromhex("4158 4c8b1424 410f20d1" + DONE)
    )  # pop r8; mov r10,[rsp]; mov r9,cr2
    assert bare.run(GO_TO_USER) == "done"
    assert [bare.cpu.get(register) for register in (reg.R8, reg.R9, reg.R10)] == [5, 0x700_0000, USER]


def test_user_mode_loads_segments_from_a_table_that_it_may_not_read(bare: Bare) -> None:
    bare.catch_faults()
    slot = TABLES + 8192 + 8 * (GDT >> 21)
    bare.computer.memory.set_u64(slot, bare.computer.memory.u64(slot) & ~4)
    # mov eax, USER_DATA; mov ds, eax; mov r12d, ds; then a stack frame of its own, and back to ring 3 by far return
    bare.computer.memory.write(USER, bytes.fromhex("b823000000 8ed8 418cdc 6a1b 488d0503000000 50 48cb 90 ee ebfe"))
    bare.computer.memory.write(STACK - 0x100 + 16, struct.pack("<Q", 0x3202))  # with IOPL 3
    bare.cpu.set(reg.RDX, 0x507)
    bare.cpu.set(reg.RFLAGS, 0x3002)
    assert bare.run(GO_TO_USER) == "done", bare.faults
    assert bare.cpu.get(reg.R12) == USER_DATA


def test_a_turn_may_end_in_the_middle_of_a_syscall() -> None:
    machine = Bare(cpus=2)
    try:
        _prepare(machine)
        machine.cpu.write_msr(0xC000_0081, KERNEL << 32 | 8 << 48)
        machine.cpu.write_msr(0xC000_0082, HANDLER)
        machine.computer.memory.write(USER, bytes.fromhex("0f05 ebfc"))  # syscall; jmp back
        # kernel: dec ebx; jz +3; sysretq
        machine.computer.memory.write(HANDLER, bytes.fromhex("ffcb 7403 480f07" + DONE))
        machine.cpu.set(reg.RBX, 500)
        run, blocks = machine.computer.engine.run, itertools.cycle(range(12))

        def short_turn(cpu: Cpu) -> Stop:
            cpu.begin_turn(next(blocks))
            return run(cpu)

        machine.computer.engine.run = short_turn  # type: ignore[method-assign]
        assert machine.run(GO_TO_USER) == "done"
        assert machine.cpu.get(reg.RBX) == 0
    finally:
        machine.close()
