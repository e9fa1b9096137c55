"""Guests on KVM that mean harm or do unusual things: the same happens as in Unicorn, or they go on there and say why."""

import threading
from collections.abc import Iterator
from struct import pack

import pytest

from machine import registers as reg
from machine.cpu import Cpu
from machine.engine import kvm_abi
from machine.engine.kvm import KvmEngine
from machine.engine.kvm_monitor import LINEAR, SYSCALL_TARGET
from machine.engine.kvm_probe import probe
from machine.engine.unicorn import UnicornEngine
from machine.errors import EngineError
from machine.exceptions import TripleFault
from machine.paging import PRESENT, WRITABLE
from tests.engines import ENGINES, needs_kvm
from tests.machine.bare import CODE, DONE, GDT, KERNEL, TABLES, Bare

DEVICE, RESULT = 0xFED0_0000, 0x500_0000


@pytest.fixture(params=ENGINES)
def bare(request: pytest.FixtureRequest) -> Iterator[Bare]:
    machine = Bare(engine=request.param)
    yield machine
    machine.close()


@pytest.fixture
def on_kvm() -> Iterator[Bare]:
    machine = Bare(engine="kvm")
    yield machine
    machine.close()


def stayed(machine: Bare) -> bool:
    """Whether the guest is on KVM, if that was asked for."""
    engine = machine.computer.engine
    return not machine.lines and (isinstance(engine, UnicornEngine) or engine.name != "unicorn")


def little(value: int, size: int = 4) -> str:
    return value.to_bytes(size, "little").hex()


# -- harm


def test_a_triple_fault_ends_the_run(bare: Bare) -> None:
    bare.cpu.set_table("idtr", 0, 0)
    with pytest.raises(TripleFault) as raised:
        bare.run("0f0b")
    assert raised.value.fault.vector == 6
    assert stayed(bare)


def test_an_endless_loop_with_interrupts_off_ends_when_somebody_says_so(bare: Bare) -> None:
    timer = threading.Timer(0.1, bare.computer.finish, ["stopped"])
    timer.start()
    assert bare.run("fa ebfe") == "stopped"  # cli; jmp $
    timer.join()
    assert stayed(bare)


@pytest.mark.parametrize("address", [LINEAR, LINEAR + 0x1000, LINEAR + 0x2000, SYSCALL_TARGET, (1 << 64) - 8])
@pytest.mark.parametrize("access", ["488901", "488b01", "ffe1"], ids=["write", "read", "jump"])
def test_the_monitor_is_not_there_for_the_guest(bare: Bare, address: int, access: str) -> None:
    bare.catch_faults()
    assert bare.run(f"48b9{little(address, 8)} {access}") == "fault"
    fault = bare.faults[0]
    assert (fault.vector, (fault.address or 0) & ~0xFFF) == (14, address & ~0xFFF)  # Unicorn tells the page
    assert fault.error_code == {"488901": 2, "488b01": 0, "ffe1": 16}[access]
    assert stayed(bare)


@needs_kvm
def test_the_monitors_physical_pages_are_nothing_to_the_guest(on_kvm: Bare) -> None:
    kvm = _kvm_of(on_kvm)
    before = bytes(kvm.monitor.view[:0x3000])
    window = 0x700_0000  # a linear address, turned to the monitor's physical pages
    _map(on_kvm, window, kvm.monitor.physical)
    # mov rcx,window; mov rax,[rcx]; mov r8,rax; mov [rcx],rcx; mov rax,[rcx]; mov r9,rax
    code = f"48b9{little(window, 8)} 488b01 4989c0 488909 488b01 4989c1"
    assert on_kvm.run(code + DONE) == "done"
    assert on_kvm.cpu.get(reg.R8) == on_kvm.cpu.get(reg.R9) == (1 << 64) - 1
    assert bytes(kvm.monitor.view[:0x3000]) == before


@needs_kvm
def test_a_guest_that_maps_the_monitors_addresses_has_them_in_unicorn(on_kvm: Bare) -> None:
    table = TABLES + 0x80_0000
    ram = on_kvm.computer.memory
    flags = PRESENT | WRITABLE
    for number in range(3):  # PDPT, page directory, page table behind the last entry of each
        ram.set_u64(
            (on_kvm.map.base if not number else table + 0x1000 * (number - 1)) + 8 * 511,
            table + 0x1000 * number | flags,
        )
    ram.set_u64(table + 0x2000 + 8 * (LINEAR >> 12 & 511), RESULT | flags)
    # mov rcx,LINEAR; mov qword [rcx],0x1234
    assert on_kvm.run(f"48b9{little(LINEAR, 8)} 48c70134120000" + DONE) == "done"
    assert ram.u64(RESULT) == 0x1234
    assert "the monitor" in on_kvm.lines[0]


# -- things that only ring 0 may do


@pytest.mark.parametrize(
    ("name", "code", "register", "expected"),
    [
        ("pushf sees interrupts off", "fa 9c 58 4989c0 49c1e809 4183e001", reg.R8, 0),
        ("pushf sees interrupts on", "fb 90 9c 58 4989c0 49c1e809 4183e001", reg.R8, 1),
        ("popf brings them back", "fb 90 9c 5b fa 53 9d 9c 58 4989c0 49c1e809 4183e001", reg.R8, 1),
        ("popf turns them off", "fb 90 9c 5b 80e7fd 53 9d 9c 58 4989c0 49c1e809 4183e001", reg.R8, 0),
        ("a debug register keeps what it is given", "b878563412 0f23c0 31c0 0f21c0 4989c0", reg.R8, 0x12345678),
        ("CR2 keeps what it is given", "b878563412 0f22d0 31c0 0f20d0 4989c0", reg.R8, 0x12345678),
        ("CR3 reads back", "0f20d8 0f22d8 0f20d8 4989c0", reg.R8, TABLES),
        ("CPUID's bytes in an instruction stay", "41b80fa20f31", reg.R8, 0x310FA20F),
        ("RDTSC's bytes in a displacement stay", "4c8d8131310f31", reg.R8, 0x310F3131),
        ("SMSW", "0f01e0 4989c0 4183e001", reg.R8, 1),
        ("LDS with a kernel selector", "b808000000 8ed8 8ec0 8ed0 41b801000000", reg.R8, 1),
        ("an empty selector", "31c0 8ee0 8ee8 41b801000000", reg.R8, 1),
    ],
)
def test_system_instructions(bare: Bare, name: str, code: str, register: int, expected: int) -> None:
    assert bare.run(code + DONE) == "done"
    assert bare.cpu.get(register) == expected, name
    assert stayed(bare)


def test_descriptor_tables_read_back(bare: Bare) -> None:
    pointer = RESULT + 0x100
    bare.computer.memory.write(pointer, pack("<HQ", 39, GDT))
    # mov ecx,pointer; lgdt [rcx]; mov ecx,RESULT; sgdt [rcx]; sidt [rcx+16]; sldt ax; mov [rcx+32],ax
    code = f"b9{little(pointer)} 0f0111 b9{little(RESULT)} 0f0101 0f014910 0f00c0 66894120"
    assert bare.run(code + DONE) == "done"
    assert bare.computer.memory.read(RESULT, 10) == pack("<HQ", 39, GDT)
    assert bare.computer.memory.read(RESULT + 16, 2) == pack("<H", 4095)
    assert bare.computer.memory.u16(RESULT + 32) == 0
    assert stayed(bare)


@pytest.mark.parametrize("how", ["jmp", "call", "ret", "iret"])
def test_far_transfers_inside_ring_0(bare: Bare, how: str) -> None:
    target = CODE + 0x200
    bare.computer.memory.write(target, bytes.fromhex("41b877000000" + DONE))
    bare.computer.memory.write(RESULT, pack("<IH", target, KERNEL))
    code = {
        "jmp": f"b9{little(RESULT)} ff29",
        "call": f"b9{little(RESULT)} ff19",
        "ret": f"6a{KERNEL:02x} 68{little(target)} 48cb",
        # mov rax,rsp; push DATA; push rax; push 2; push KERNEL; push target; iretq
        "iret": f"4889e0 6a08 50 6a02 6a{KERNEL:02x} 68{little(target)} 48cf",
    }[how]
    assert bare.run(code) == "done"
    assert bare.cpu.get(reg.R8) == 0x77
    assert stayed(bare)


def test_a_far_jump_to_nowhere_is_the_guests_mistake(bare: Bare) -> None:
    bare.catch_faults()
    bare.computer.memory.write(RESULT, pack("<IH", CODE, 0x58))
    assert bare.run(f"b9{little(RESULT)} ff29") == "fault"
    assert bare.faults[0].vector == 13
    assert bare.cpu.get(reg.RIP) == CODE + 5


@needs_kvm
def test_tamagos_request_for_its_fs_base_is_answered(on_kvm: Bare) -> None:
    # mov eax,158; mov edi,0x1002; mov esi,RESULT; syscall; mov r8,rax; mov rax,fs:[0]
    on_kvm.computer.memory.set_u64(RESULT, 0x1122_3344)
    code = f"b89e000000 bf02100000 be{little(RESULT)} 0f05 4989c0 64488b042500000000 4989c1"
    assert on_kvm.run(code + DONE) == "done"
    assert on_kvm.cpu.get(reg.R8) == 0
    assert on_kvm.cpu.get(reg.R9) == 0x1122_3344
    assert stayed(on_kvm)


def test_what_host_and_guest_see_of_replaced_code_in_memory_is_what_was_written(bare: Bare) -> None:
    code = "31c0 0fa2 0f31 9c 58"  # xor eax,eax; cpuid; rdtsc; pushf; pop rax
    assert bare.run(code + DONE) == "done"
    written = bytes.fromhex(code + DONE)
    assert bare.computer.memory.read(CODE, len(written)) == written
    assert stayed(bare)


# -- what goes on in Unicorn

STATE = (
    "dbe3 d9e8 d9ee d9eb"  # fninit; fld1; fldz; fldpi
    f"48b8{little(0x1122334455667788, 8)} 66480f6ec8 660f6cc9"  # mov rax,...; movq xmm1,rax; punpcklqdq xmm1,xmm1
    "b9000100c0 b800100005 31d2 0f30"  # wrmsr FS_BASE
    "49b8efcdab8967452301 31c0 83e801 f9"  # mov r8,...; xor eax,eax; sub eax,1; stc
)
"""x87, XMM1, FS base, R8 and flags with values of their own."""
LOOK = (
    "9c 415a"  # pushf; pop r10
    f"b9{little(RESULT)} dd19 dd5908 dd5910 0f114918"  # fstp x3, movups
    "64488b042500000000 4989c1"  # mov rax,fs:[0]; mov r9,rax
)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (f"bb{little(DEVICE)} f00fc103", "reaches a device with the instruction f00fc103"),  # lock xadd [device],eax
        (f"bb{little(DEVICE)} 0f1013", "reaches a device"),  # movups xmm2,[device]
        ("bb01000000 0f23fb", "hardware breakpoints"),  # mov dr7,rbx
        ("b98200 00c0 b834120000 31d2 0f30", "prepares for system calls"),  # wrmsr LSTAR
        ("9c fa 9d", "PUSHF right before CLI"),
    ],
    ids=["atomic", "sse", "dr7", "lstar", "pushf cli"],
)
@needs_kvm
def test_a_guest_that_cannot_be_carried_goes_on_in_unicorn_with_all_it_had(odd: str, reason: str) -> None:
    seen = []
    for engine in ("unicorn", "kvm"):
        machine = Bare(engine=engine)
        try:
            machine.computer.bus.add_mmio(DEVICE, 0x1000, lambda _cpu, _offset, size: 0x55, lambda *_: None)
            machine.computer.memory.set_u64(0x500_1000, 0xF5_BA5E)
            assert machine.run(STATE + odd + LOOK + DONE) == "done"
            assert machine.computer.engine.name == "unicorn"
            registers = [machine.cpu.get(r) for r in (reg.R8, reg.R9, reg.R10)]
            seen.append((registers, machine.computer.memory.read(RESULT, 40)))
            if engine == "kvm":
                assert len(machine.lines) == 1
                assert reason in machine.lines[0]
        finally:
            machine.close()
    assert seen[0] == seen[1]
    assert seen[0][0][1] == 0xF5_BA5E


@needs_kvm
def test_a_guest_that_rewrites_the_page_that_it_executes_is_carried_and_at_last_left_to_unicorn(on_kvm: Bare) -> None:
    # mov ecx,n; again: inc dword [rip+data]; dec ecx; jnz again ... data
    few = "b964000000 ff0580000000 ffc9 75f6"
    assert on_kvm.run(few + DONE) == "done"
    assert on_kvm.computer.memory.u32(CODE + 5 + 6 + 0x80) == 100
    assert stayed(on_kvm)
    on_kvm.computer._end = None
    assert on_kvm.run("b9 88130000 ff0580000000 ffc9 75f6" + DONE, CODE + 0x1000) == "done"
    assert on_kvm.computer.memory.u32(CODE + 0x1000 + 5 + 6 + 0x80) == 5000
    assert "keeps writing" in on_kvm.lines[0]


# -- devices


@pytest.mark.parametrize(
    ("code", "accesses"),
    [
        ("8b03", [("r", 0, 4)]),
        ("8a4301", [("r", 1, 1)]),
        ("488b03", [("r", 0, 4), ("r", 4, 4)]),
        ("0fb703", [("r", 0, 2)]),
        ("486303", [("r", 0, 4)]),
        ("c70378563412", [("w", 0, 4, 0x12345678)]),
        ("c60377", [("w", 0, 1, 0x77)]),
        ("668903", [("w", 0, 2, 0xBEEF)]),
        ("48c70378563412", [("w", 0, 4, 0x12345678), ("w", 4, 4, 0)]),
        ("834b0401", [("r", 4, 4), ("w", 4, 4, 0xA5A5A5A5)]),
        ("8103 01000000", [("r", 0, 4), ("w", 0, 4, 0xA5A5A5A6)]),
        ("2103", [("r", 0, 4), ("w", 0, 4, 0xA5A5A5A5 & 0xDEADBEEF)]),
        ("0303", [("r", 0, 4)]),
        ("8703", [("r", 0, 4), ("w", 0, 4, 0xDEADBEEF)]),
        ("f60301", [("r", 0, 1)]),
        ("8503", [("r", 0, 4)]),
        ("4889df f3ab", [("w", 0, 4, 0xDEADBEEF), ("w", 4, 4, 0xDEADBEEF)]),
        (f"4889de bf{little(RESULT)} f3a5", [("r", 0, 4), ("r", 4, 4)]),
    ],
)
def test_device_accesses(bare: Bare, code: str, accesses: list[tuple[object, ...]]) -> None:
    seen: list[tuple[object, ...]] = []

    def read(_cpu: Cpu, offset: int, size: int) -> int:
        seen.append(("r", offset, size))
        return 0xA5A5A5A5 & ((1 << 8 * size) - 1)

    def write(_cpu: Cpu, offset: int, size: int, value: int) -> None:
        seen.append(("w", offset, size, value))

    bare.computer.bus.add_mmio(DEVICE, 0x1000, read, write)
    start = f"bb{little(DEVICE)} b8efbeadde b902000000"  # mov ebx,DEVICE; mov eax,0xdeadbeef; mov ecx,2
    flags = "9c 415a 4989c0"  # pushf; pop r10; mov r8,rax
    assert bare.run(start + code + flags + DONE) == "done"
    assert seen == accesses
    assert stayed(bare)
    expected = _on_unicorn(start + code + flags)
    assert [bare.cpu.get(r) for r in (reg.R8, reg.RCX, reg.RDI, reg.RSI)] == expected[1:]
    assert (bare.cpu.get(reg.R10) ^ expected[0]) & 0x8C5 == 0  # OF, SF, ZF, PF, CF


def _on_unicorn(code: str) -> list[int]:
    machine = Bare()
    try:
        machine.computer.bus.add_mmio(
            DEVICE, 0x1000, lambda _cpu, _offset, size: 0xA5A5A5A5 & ((1 << 8 * size) - 1), lambda *_: None
        )
        assert machine.run(code + DONE) == "done"
        return [machine.cpu.get(r) for r in (reg.R10, reg.R8, reg.RCX, reg.RDI, reg.RSI)]
    finally:
        machine.close()


# -- where there is no KVM, or not one that serves


def test_no_kvm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm_abi, "DEVICE", "/nowhere/kvm")
    probe.cache_clear()
    try:
        with pytest.raises(EngineError, match="no /nowhere/kvm on this machine"):
            Bare(engine="kvm")
        machine = Bare(engine="auto")
        try:
            assert machine.run("90" + DONE) == "done"
        finally:
            machine.close()
    finally:
        probe.cache_clear()


@needs_kvm
def test_the_probe_knows_a_processor_from_an_emulator() -> None:
    found = probe()
    assert found.ring_3_ns < 100
    assert found.software == (found.ring_0_ns is None or found.ring_0_ns > 100)


def _kvm_of(machine: Bare) -> KvmEngine:
    """The engine inside, once the guest is there."""
    machine.run("90" + DONE)
    machine.computer._end = None
    kvm: KvmEngine = machine.computer.engine._kvm  # type: ignore[attr-defined]
    return kvm


def _map(machine: Bare, linear: int, physical: int) -> None:
    ram = machine.computer.memory
    slot = TABLES + 0x2000 + 8 * (linear >> 21)
    ram.set_u64(slot, physical & ~0x1F_FFFF | ram.u64(slot) & 0xFFF)
