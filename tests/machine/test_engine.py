"""Guest code on the engine: instructions that trap, faults, self-modifying code, stops."""

import threading
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.clock import VirtualClock
from machine.cpu import Cpu
from machine.interrupts import apic_timer
from tests.engines import ENGINES

from .bare import CODE, DONE, Bare


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


def test_port_output_and_input_of_each_width(bare: Bare) -> None:
    # mov dx,0x500; in al,dx; mov bl,al; in eax,dx; mov ecx,eax; mov eax,0xcafe; out dx,ax
    assert bare.run("66ba0005 ec 88c3 ed 89c1 b8feca0000 66ef" + DONE) == "done"
    assert bare.cpu.get(reg.RBX) & 0xFF == 0x88
    assert bare.cpu.get(reg.RCX) == 0x55667788
    assert (0, 2, 0xCAFE) in bare.outs


def test_an_unclaimed_port_reads_all_ones(bare: Bare) -> None:
    assert bare.run("66ba7777 ed 89c3" + DONE) == "done"
    assert bare.cpu.get(reg.RBX) == 0xFFFFFFFF


def test_cpuid_is_ours(bare: Bare) -> None:
    assert bare.run("31c0 0fa2 4189d8" + DONE) == "done"  # xor eax,eax; cpuid; mov r8d,ebx
    assert bare.cpu.get(reg.R8).to_bytes(4, "little") == b"Auth"


def test_the_timing_leaf_tells_the_apic_timers_own_frequency(bare: Bare) -> None:
    assert (
        bare.run("b810000040 0fa2 4189c0 4189d9" + DONE) == "done"
    )  # mov eax,0x40000010; cpuid; mov r8d,eax; mov r9d,ebx
    assert bare.cpu.get(reg.R8) * 1000 == bare.computer.clock.tsc_frequency
    assert bare.cpu.get(reg.R9) * 1000 == apic_timer.FREQUENCY


def test_a_leaf_that_is_not_implemented_is_zero(bare: Bare) -> None:
    # mov eax,0x14; cpuid; or eax,ebx; or eax,ecx; or eax,edx; mov r8d,eax
    assert bare.run("b814000000 0fa2 09d8 09c8 09d0 4189c0" + DONE) == "done"
    assert bare.cpu.get(reg.R8) == 0


def test_rdtsc_follows_the_machines_clock() -> None:
    machine = Bare(VirtualClock())
    try:
        # rdtsc; shl rdx,32; or rax,rdx; mov r8,rax; rdtscp; shl rdx,32; or rax,rdx; mov r9,rax
        assert machine.run("0f31 48c1e220 4809d0 4989c0 0f01f9 48c1e220 4809d0 4989c1" + DONE) == "done"
        first, second = machine.cpu.get(reg.R8), machine.cpu.get(reg.R9)
        assert 0 < second - first < 1_000_000
        assert second <= machine.computer.clock.tsc()
    finally:
        machine.close()


@pytest.mark.parametrize("bare", ["unicorn"], indirect=True)  # on KVM it is the processor's own
def test_rdrand_with_prefixes_sets_its_own_register_and_carry(bare: Bare) -> None:
    bare.computer.random = lambda cpu, size: 0x1122334455667788 & ((1 << 8 * size) - 1)  # type: ignore[method-assign]
    # rdrand r9; setc r10b; rdrand cx (after mov rcx,-1); rdseed esi
    code = "490fc7f1 410f92c2 48c7c1ffffffff 660fc7f1 0fc7fe"
    assert bare.run(code + DONE) == "done"
    assert bare.cpu.get(reg.R9) == 0x1122334455667788
    assert bare.cpu.get(reg.R10) & 1 == 1
    assert bare.cpu.get(reg.RCX) == 0xFFFFFFFFFFFF7788
    assert bare.cpu.get(reg.RSI) == 0x55667788


def test_rdmsr_and_wrmsr_reach_registered_handlers(bare: Bare) -> None:
    written: list[int] = []
    bare.computer.msrs.register(0xC0010130, lambda cpu: 0x1234_5678_9ABC_DEF0, lambda cpu, v: written.append(v) or True)
    # mov ecx,0xc0010130; rdmsr; mov r8,rax; mov r9,rdx; mov eax,7; mov edx,9; wrmsr
    code = "b9300101c0 0f32 4989c0 4989d1 b807000000 ba09000000 0f30"
    assert bare.run(code + DONE) == "done"
    assert (bare.cpu.get(reg.R9), bare.cpu.get(reg.R8)) == (0x12345678, 0x9ABCDEF0)
    assert written == [0x9_0000_0007]


def test_an_msr_nobody_knows_reads_zero_and_one_that_refuses_faults(bare: Bare) -> None:
    bare.catch_faults()
    bare.computer.msrs.register(0x42, lambda cpu: None, lambda cpu, value: False)
    assert bare.run("b9ef0d0000 0f32 4989c0 b942000000 0f32") == "fault"
    assert bare.cpu.get(reg.R8) == 0
    assert (bare.faults[0].vector, bare.faults[0].error_code) == (13, 0)
    assert bare.cpu.get(reg.RIP) == CODE + 15


def test_a_trapped_instruction_across_a_page_edge_is_seen(bare: Bare) -> None:
    bare.computer.read_tsc = lambda cpu: 0xABCD_0000_1234  # type: ignore[method-assign]
    at = CODE + 0xFFF
    bare.computer.memory.write(at, bytes.fromhex("0f31 4989c0" + DONE))
    bare.cpu.set(reg.RIP, at)
    assert bare.computer.run() == "done"
    assert bare.cpu.get(reg.R8) == 0x1234


def test_code_that_rewrites_itself_into_a_trapped_instruction(bare: Bare) -> None:
    bare.computer.read_tsc = lambda cpu: 0x77  # type: ignore[method-assign]
    # The two nops at +0x20 become rdtsc, are run, and then nops again.
    # mov rbx,CODE+0x20; mov word[rbx],0x310f; xor eax,eax; call rbx; mov r8,rax; mov word[rbx],0x9090; xor eax,eax; call rbx
    code = "bb20000003 66c7030f31 31c0 ffd3 4989c0 66c7039090 31c0 ffd3" + DONE
    bare.computer.memory.write(CODE + 0x20, bytes.fromhex("9090c3"))
    assert bare.run(code, CODE + 0x1000) == "done"
    assert bare.cpu.get(reg.R8) == 0x77
    assert bare.cpu.get(reg.RAX) & 0xFFFFFFFF == 0


@pytest.mark.parametrize("second", ["31c0", "0f31"])
def test_another_page_at_the_address_of_a_trapped_instruction(bare: Bare, second: str) -> None:
    bare.computer.read_tsc = lambda cpu: 0x77  # type: ignore[method-assign]
    ram = bare.computer.memory
    entry = bare.map.base  # down to the page directory's entry of 2 MiB at CODE
    for level in (39, 30):
        entry = ram.u64(entry + (CODE >> level & 0x1FF) * 8) & 0xF_FFFF_F000
    entry += (CODE >> 21 & 0x1FF) * 8
    here, there = CODE + 0x1000, CODE + 0x20_1000
    ram.write(here, bytes.fromhex("0f31 c3"))
    ram.write(there, bytes.fromhex(second + "c3"))
    main = "31c0 bb00100003 ffd3 4989c0" + DONE  # xor eax,eax; mov ebx,CODE+0x1000; call rbx; mov r8,rax
    assert bare.run(main) == "done"
    assert bare.cpu.get(reg.R8) == 0x77
    ram.write(CODE + 0x20_0000, bytes.fromhex(main))
    ram.set_u64(entry, ram.u64(entry) + 0x20_0000)
    bare.cpu.set(reg.CR3, bare.map.base)
    bare.computer._end = None
    bare.cpu.set(reg.RIP, CODE)
    assert bare.computer.run() == "done"
    assert bare.cpu.get(reg.R8) == (0x77 if second == "0f31" else 0)


def test_code_that_the_host_rewrites_is_translated_anew(bare: Bare) -> None:
    assert bare.run("b801000000" + DONE) == "done"
    bare.computer._end = None
    assert bare.run("b802000000" + DONE) == "done"
    assert bare.cpu.get(reg.RAX) == 2


@pytest.mark.parametrize(
    ("code", "vector", "offset"),
    [
        ("31c9f7f1", 0, 2),  # xor ecx,ecx; div ecx
        ("0f0b", 6, 0),  # ud2
        ("48b8000000000000ff00 ff20", 13, 10),  # jmp [non-canonical]
        ("cc", 3, 1),
        ("cd80", 0x80, 2),
    ],
)
def test_faults_are_exact(bare: Bare, code: str, vector: int, offset: int) -> None:
    bare.catch_faults()
    assert bare.run(code) == "fault"
    assert bare.faults[0].vector == vector
    assert bare.cpu.get(reg.RIP) == CODE + offset


def test_a_page_fault_tells_address_and_error_code(bare: Bare) -> None:
    bare.catch_faults()
    assert bare.run("48a3 0000000090ffffff") == "fault"  # mov [0xffffff9000000000],rax
    fault = bare.faults[0]
    assert (fault.vector, fault.error_code, fault.address) == (14, 2, 0xFFFFFF90_00000000)


def test_an_instruction_that_the_engine_does_not_know_can_be_handled(bare: Bare) -> None:
    seen: list[bytes] = []
    bare.computer.trap_instructions[bytes.fromhex("f30f01d9")] = lambda cpu, code: seen.append(code[:4]) or 4  # VMGEXIT
    assert bare.run("f30f01d9" + DONE) == "done"
    assert seen == [bytes.fromhex("f30f01d9")]


def test_an_endless_loop_stops_when_told_from_another_thread(bare: Bare) -> None:
    timer = threading.Timer(0.1, lambda: bare.computer.finish("stopped"))
    timer.start()
    assert bare.run("ebfe") == "stopped"
    timer.join()


def test_a_posted_action_runs_on_the_engines_thread_while_guest_code_loops(bare: Bare) -> None:
    threads: list[int] = []

    def act() -> None:
        threads.append(threading.get_ident())
        bare.computer.finish("acted")

    timer = threading.Timer(0.05, lambda: bare.computer.post(act))
    timer.start()
    assert bare.run("ebfe") == "acted"
    assert threads == [threading.get_ident()]


def test_a_handlers_exception_comes_out_of_run(bare: Bare) -> None:
    def fail(_cpu: Cpu, _offset: int, _size: int, _value: int) -> None:
        raise ZeroDivisionError("by the handler")

    bare.computer.bus.add_ports(0x600, 1, lambda cpu, offset, size: 0, fail)
    with pytest.raises(ZeroDivisionError, match="by the handler"):
        bare.run("66ba0006 ee")


def test_context_saved_and_loaded_is_the_same(bare: Bare) -> None:
    # movq xmm3,rax after loading rax; fld1
    assert bare.run("48b8efcdab8967452301 66480f6ed8 d9e8" + DONE) == "done"
    state = bare.cpu.save()
    bare.cpu.set(reg.RAX, 0)
    bare.computer._end = None
    assert bare.run("0f57db ddd8" + DONE) == "done"  # xorps xmm3,xmm3; fstp st0
    bare.cpu.load(state)
    assert bare.cpu.save() == state
    assert state["xmm3"][:8] == bytes.fromhex("efcdab8967452301")


def test_the_constants_are_those_of_the_unicorn_package() -> None:
    from unicorn import unicorn_const, x86_const

    from machine.engine import unicorn_abi as abi

    for number, name in enumerate(reg.NAMES):
        wanted = getattr(x86_const, f"UC_X86_REG_{name.upper()}")
        assert abi.REGISTERS[number] == wanted, name
    for name in ("ARCH_X86", "MODE_64", "HOOK_INTR", "HOOK_INSN", "HOOK_CODE", "HOOK_INSN_INVALID", "HOOK_TLB_FILL"):
        assert getattr(abi, name) == getattr(unicorn_const, f"UC_{name}"), name
    for name in ("ERR_OK", "ERR_INSN_INVALID", "ERR_EXCEPTION", "PROT_ALL", "MEM_READ", "MEM_WRITE", "MEM_FETCH"):
        assert getattr(abi, name) == getattr(unicorn_const, f"UC_{name}"), name
    assert abi.INS_CPUID == x86_const.UC_X86_INS_CPUID
    assert abi.INS_IN == x86_const.UC_X86_INS_IN
    assert abi.INS_OUT == x86_const.UC_X86_INS_OUT
    assert abi.CPU_X86_EPYC_ROME == x86_const.UC_CPU_X86_EPYC_ROME
    assert abi.REG_XMM0 == x86_const.UC_X86_REG_XMM0
    assert abi.REG_FP0 == x86_const.UC_X86_REG_FP0
