"""The processor of an SNP guest, by machine code: CPUID, MSRs, PVALIDATE, RMPADJUST, VMMCALL, the pages of the launch."""

from collections.abc import Callable, Iterator

import pytest

from machine import registers as reg
from sev.platform import Platform
from tests.engines import ENGINES
from tests.machine.bare import STACK, TABLES
from tests.sev.guest.snp_machine import (
    CF,
    DATA,
    GHCB,
    PVALIDATE,
    RMPADJUST,
    VMMCALL,
    ZF,
    SnpMachine,
)

CPUID, RDMSR, WRMSR = "0fa2", "0f32", "0f30"


@pytest.fixture(params=ENGINES)
def machine(turin: Platform, request: pytest.FixtureRequest) -> Iterator[SnpMachine]:
    made = SnpMachine(turin, engine=request.param)
    yield made
    made.close()


@pytest.fixture(params=ENGINES)
def make(turin: Platform, request: pytest.FixtureRequest) -> Iterator[Callable[..., SnpMachine]]:
    made: list[SnpMachine] = []

    def build(**options: object) -> SnpMachine:
        made.append(SnpMachine(turin, engine=request.param, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_cpuid_tells_of_snp_and_the_place_of_the_c_bit(machine: SnpMachine) -> None:
    machine.instruction(CPUID, rax=0x8000001F)
    ebx = machine.cpu.get(reg.RBX)
    assert machine.cpu.get(reg.R10) & 0b11010 == 0b11010
    assert ebx & 0x3F == 51
    assert ebx >> 12 & 0xF == 4


def test_cpuid_names_the_platforms_product(machine: SnpMachine) -> None:
    signature, _ = machine.instruction(CPUID, rax=1)
    assert signature >> 8 & 0xF == 0xF
    assert (signature >> 20 & 0xFF) + 0xF == 0x1A


def test_msrs_hold_status_and_ghcb(machine: SnpMachine) -> None:
    assert machine.instruction(RDMSR, rcx=0xC0010131)[0] == 0b111
    assert machine.instruction(RDMSR, rcx=0xC0010130)[0] == GHCB
    machine.cpu.set(reg.RBX, 0)
    machine.instruction(WRMSR, rax=0x123000, rcx=0xC0010130, rdx=1)
    machine.instruction(RDMSR, rcx=0xC0010130)
    assert (machine.cpu.get(reg.R10), machine.cpu.get(reg.R8)) == (0x123000, 1)


def test_sev_status_cannot_be_written(machine: SnpMachine) -> None:
    machine.cpu.set(reg.RCX, 0xC0010131)
    assert machine.run(WRMSR) == "fault"
    assert machine.bare.faults[0].vector == 13


def test_a_page_is_taken_back_and_validated_again(machine: SnpMachine) -> None:
    assert machine.instruction(PVALIDATE, rax=DATA, rdx=0) == (0, machine.cpu.get(reg.R11) & ~CF)
    rax, flags = machine.instruction(PVALIDATE, rax=DATA, rdx=0)
    assert (rax, flags & CF) == (0, CF)
    assert machine.kinds() == {"double-rescind"}
    rax, flags = machine.instruction(PVALIDATE, rax=DATA, rdx=1)
    assert (rax, flags & (CF | ZF)) == (0, ZF)
    rax, flags = machine.instruction(PVALIDATE, rax=DATA, rdx=1)
    assert (rax, flags & CF) == (0, CF)
    assert machine.kinds() == {"double-rescind", "double-validation"}


def test_pvalidate_looks_at_the_lowest_bits_of_ecx_and_edx(machine: SnpMachine) -> None:
    """Linux from 6.12 on leaves other things above them."""
    for rdx in (0x7_5200, 0xFFFF_FFFF_0000_0001):
        rax, flags = machine.instruction(PVALIDATE, rax=DATA, rcx=0x7_5200, rdx=rdx)
        assert (rax, flags & CF) == (0, 0)
    assert machine.kinds() == set()
    assert machine.instruction(PVALIDATE, rax=DATA, rcx=0x7_5201)[0] == 1, "2 MiB from a 4 KiB address on"


def test_pvalidate_of_a_shared_page_changes_nothing_and_is_named(machine: SnpMachine) -> None:
    machine.share(DATA)
    rax, flags = machine.instruction(PVALIDATE, rax=DATA)
    assert (rax, flags & CF) == (0, CF)
    assert machine.rmp.is_shared(DATA >> 12)
    assert machine.kinds() == {"pvalidate-shared"}


def test_pvalidate_sizes(machine: SnpMachine) -> None:
    large = 0x600_0000
    assert machine.instruction(PVALIDATE, rax=large, rcx=1, rdx=0)[0] == 0
    assert machine.instruction(PVALIDATE, rax=large, rcx=1, rdx=1)[0] == 0
    assert machine.instruction(PVALIDATE, rax=large + 0x1000, rcx=1)[0] == 1
    assert machine.instruction(PVALIDATE, rax=large + 0x1000, rcx=0)[0] == 0
    assert machine.instruction(PVALIDATE, rax=large, rcx=1)[0] == 6, "the 2 MiB entry was split by the 4 KiB PVALIDATE"


def test_pvalidate_of_an_address_that_is_not_mapped_is_a_page_fault(machine: SnpMachine) -> None:
    machine.cpu.set(reg.RAX, 1 << 46)
    assert machine.run(PVALIDATE) == "fault"
    assert (machine.bare.faults[0].vector, machine.bare.faults[0].address) == (14, 1 << 46)


def test_pvalidate_is_for_vmpl0(make: Callable[..., SnpMachine]) -> None:
    lenient = make(vmpl=1)
    assert lenient.instruction(PVALIDATE, rax=DATA)[0] == 0
    assert lenient.kinds() == {"vmpl"}
    strict = make(vmpl=1, check="strict")
    strict.cpu.set(reg.RAX, DATA)
    assert strict.run(PVALIDATE) == "fault"
    assert strict.bare.faults[0].vector == 13


def test_rmpadjust_gives_rights_to_less_privileged_vmpls(machine: SnpMachine) -> None:
    assert machine.instruction(RMPADJUST, rax=DATA, rdx=1 | 0x3 << 8)[0] == 0
    assert machine.rmp.permissions(DATA >> 12, 1) == 3
    assert machine.rmp.permissions(DATA >> 12, 2) == 0
    assert machine.instruction(RMPADJUST, rax=DATA, rdx=1 | 1 << 16)[0] == 0
    assert machine.rmp.is_vmsa(DATA >> 12)
    assert machine.rmp.permissions(DATA >> 12, 1) == 0, "RMPADJUST sets permissions, it does not add any"
    machine.rmp.share(DATA >> 12)
    assert not machine.rmp.is_vmsa(DATA >> 12)


@pytest.mark.parametrize(
    ("rcx", "rdx", "result"), [(0, 0, 2), (0, 4, 1), (3, 1, 1), (0, 1 | 1 << 17, 1), (0, 1 | 0x10 << 8, 1)]
)
def test_rmpadjust_refuses(machine: SnpMachine, rcx: int, rdx: int, result: int) -> None:
    assert machine.instruction(RMPADJUST, rax=DATA, rcx=rcx, rdx=rdx)[0] == result


def test_rmpadjust_wants_a_validated_page(machine: SnpMachine) -> None:
    machine.instruction(PVALIDATE, rax=DATA)
    assert machine.instruction(RMPADJUST, rax=DATA, rdx=1)[0] == 1
    assert "rmpadjust-state" in machine.kinds()


def test_there_is_no_hypercall(machine: SnpMachine) -> None:
    assert machine.instruction(VMMCALL, rax=9)[0] == (1 << 64) - 1000


def test_the_secrets_page(machine: SnpMachine) -> None:
    page = machine.memory.read(0x80D000, 4096)
    assert page[:4] == b"\x04\0\0\0"
    assert int.from_bytes(page[8:12], "little") == machine.computer.cpuid.signature
    assert [page[0x20 + 32 * n : 0x40 + 32 * n] for n in range(4)] == machine.launch.vmpcks
    assert len(set(machine.launch.vmpcks)) == 4
    assert int.from_bytes(page[0x160:0x164], "little") == 0xC8
    assert int.from_bytes(page[0x168:0x170], "little") == 0xB
    assert not any(page[0x170:])


def test_keys_of_more_privileged_vmpls_are_not_there(make: Callable[..., SnpMachine]) -> None:
    page = make(vmpl=2).memory.read(0x80D000, 4096)
    assert [any(page[0x20 + 32 * n : 0x40 + 32 * n]) for n in range(4)] == [False, False, True, True]


def test_the_cpuid_page_says_what_cpuid_says(machine: SnpMachine) -> None:
    page = machine.memory.read(0x80E000, 4096)
    count = int.from_bytes(page[:4], "little")
    assert 10 < count <= 64
    entries = [page[16 + 48 * n : 64 + 48 * n] for n in range(count)]
    for entry in entries:
        leaf, subleaf = (int.from_bytes(entry[at : at + 4], "little") for at in (0, 4))
        answer = tuple(int.from_bytes(entry[at : at + 4], "little") for at in (24, 28, 32, 36))
        assert answer == machine.computer.cpuid(machine.cpu, leaf, subleaf)
    assert not any(page[16 + 48 * count :])


def test_a_c_bit_that_does_not_fit_the_page_is_found(machine: SnpMachine) -> None:
    load = "488b0425" + DATA.to_bytes(4, "little").hex()  # mov rax, [DATA]
    machine.rmp.share(DATA >> 12)
    machine.run(load)
    assert machine.kinds() == {"shared-as-private"}
    finding = machine.checker.findings[0]
    assert (finding.rip, finding.address, finding.pages) == (0x3000000, DATA, {DATA >> 12})


def test_a_private_page_used_as_shared_is_found_and_becomes_shared(machine: SnpMachine) -> None:
    machine.map.share([(DATA, 4096)])
    machine.run("488b0425" + DATA.to_bytes(4, "little").hex())
    assert machine.kinds() == {"private-as-shared"}
    assert machine.rmp.is_shared(DATA >> 12)
    lines = machine.checker.summary(lambda address: "somewhere")
    assert "private-as-shared" in lines[0]
    assert f"{DATA:#x}" in lines[0]
    assert "RIP 0x3000000 (somewhere)" in lines[1]


def test_strict_converts_nothing(make: Callable[..., SnpMachine]) -> None:
    machine = make(check="strict")
    machine.map.share([(DATA, 4096)])
    machine.run("488b0425" + DATA.to_bytes(4, "little").hex())
    assert machine.kinds() == {"private-as-shared"}
    assert not machine.rmp.is_shared(DATA >> 12)


def test_off_reports_nothing_and_forgives_the_same(make: Callable[..., SnpMachine]) -> None:
    machine = make(check="off")
    machine.map.share([(DATA, 4096)])
    machine.run("488b0425" + DATA.to_bytes(4, "little").hex())
    assert machine.kinds() == set()
    assert machine.rmp.is_shared(DATA >> 12)


def test_a_page_that_was_in_the_tlb_is_looked_at_again_after_pvalidate(machine: SnpMachine) -> None:
    store = "4889 0425".replace(" ", "") + DATA.to_bytes(4, "little").hex()  # mov [DATA], rax
    assert machine.kinds() == set()
    for register, value in ((reg.RAX, DATA), (reg.RCX, 0), (reg.RDX, 0)):
        machine.cpu.set(register, value)
    assert machine.run(store + PVALIDATE + store) == "done"
    assert machine.kinds() == {"not-validated"}
    assert machine.checker.findings[0].rip == 0x3000000 + 8 + 4


@pytest.mark.parametrize("code", [PVALIDATE, RMPADJUST])
def test_ring_3_may_not(machine: SnpMachine, code: str) -> None:
    memory = machine.memory
    for table in range(TABLES, TABLES + 4096 * 70, 8):
        entry = memory.u64(table)
        if entry & 1:
            memory.set_u64(table, entry | 4)
    user, stack = DATA, STACK - 0x100
    memory.write(user, bytes.fromhex(code))
    memory.write(stack, b"".join(n.to_bytes(8, "little") for n in (user, 0x1B, 2, STACK - 0x200, 0x23)))
    machine.cpu.set(reg.RSP, stack)
    machine.cpu.set(reg.RAX, 0x600_0000)
    machine.cpu.set(reg.RCX, 0)
    machine.cpu.set(reg.RDX, 0)
    assert machine.run("48cf") == "fault"
    assert (machine.bare.faults[0].vector, machine.cpu.get(reg.RIP)) == (13, user)
