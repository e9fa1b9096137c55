"""SNP AP creation from machine code: real mode, bad VMSAs, AP reset hold."""

import struct
from collections.abc import Iterator

import pytest

from machine import registers as reg
from machine.boards.board import Board
from machine.console import HostConsole
from machine.turns import RUNNING, WAITING
from sev.guest.ghcb_page import INVALID_INPUT
from sev.guest.rmp import VALIDATED
from sev.measure.vmsa import svsm_vmsa_page, vmsa_page
from sev.platform import Platform
from tests.engines import ENGINES
from tests.sev.guest.snp_machine import SnpMachine

AP_CREATION = 0x8000_0013
CREATE, DESTROY = 1 | 1 << 32, 2 | 1 << 32
VMSA, REAL = 0x520_1000, 0x9000
SIGNATURE = 0x00B0_0F21


@pytest.fixture(params=ENGINES)
def machine(turin: Platform, request: pytest.FixtureRequest) -> Iterator[SnpMachine]:
    made = SnpMachine(turin, cpus=2, engine=request.param)
    Board(made.computer, HostConsole(lambda data: None))
    yield made
    made.close()


def give(machine: SnpMachine, page: bytes) -> None:
    machine.memory.write(VMSA, page)
    assert machine.rmp.states[VMSA >> 12] == VALIDATED
    assert machine.instruction("f30f01fe", VMSA, 0, 1 | 1 << 16)[0] & 0xFFFF_FFFF == 0  # RMPADJUST


def real_mode(base: int, rip: int = 0) -> bytes:
    page = bytearray(vmsa_page(0xFFFF_FFF0, SIGNATURE, 1))
    struct.pack_into("<HHIQ", page, 0x10, base >> 4, 0x9B, 0xFFFF, base)
    struct.pack_into("<Q", page, 0x178, rip)
    return bytes(page)


def test_a_processor_is_created_in_real_mode(machine: SnpMachine) -> None:
    # mov cs:[0x100], edx; jmp $
    machine.memory.write(REAL + 4, bytes.fromhex("662e89160001 ebfe"))
    give(machine, real_mode(REAL, 4))
    assert machine.exit(AP_CREATION, CREATE, VMSA, rax=1) == (0, 0)
    machine.run("48bb0091000000000000 833b00 74fb")
    assert machine.memory.u32(REAL + 0x100) == SIGNATURE
    assert machine.computer.turns.states == [RUNNING, RUNNING]
    assert machine.exit(AP_CREATION, DESTROY) == (0, 0)
    assert machine.computer.turns.states[1] == WAITING


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (real_mode(0x9800), "wanted a page below 1 MiB"),
        (vmsa_page(0xFFFF_FFF0, SIGNATURE, 1), "wanted a page below 1 MiB"),
        (svsm_vmsa_page(0x1000, SIGNATURE, 1), "neither real nor 64-bit mode"),
        (vmsa_page(0xFFFF_FFF0, SIGNATURE, 5), "the VMSA has SEV_FEATURES 0x5"),
    ],
)
def test_states_that_no_processor_starts_from(machine: SnpMachine, page: bytes, words: str) -> None:
    give(machine, page)
    assert machine.exit(AP_CREATION, CREATE, VMSA, rax=1) == (2, INVALID_INPUT)
    assert words in machine.notes[-1]
    assert machine.computer.turns.states[1] == WAITING


def test_what_may_not_be_created(machine: SnpMachine) -> None:
    give(machine, real_mode(REAL))
    for info in (1, 3 | 1 << 32, 1 | 2 << 32, 1 | 1 << 16 | 1 << 32):  # itself, no request, nobody, at VMPL1
        assert machine.exit(AP_CREATION, info, VMSA, rax=1) == (2, INVALID_INPUT)
    for vmsa in (VMSA + 4096, VMSA + 8, 0x520_0000 & ~0x1F_FFFF, 1 << 44):
        assert machine.exit(AP_CREATION, CREATE, vmsa, rax=1) == (2, INVALID_INPUT)


@pytest.mark.parametrize("machine", ["unicorn"], indirect=True)  # its loop that waits is over in a millisecond on KVM
def test_a_processor_in_reset_hold_goes_on_after_a_start_up_ipi(machine: SnpMachine) -> None:
    """By the MSR protocol: the other processor asks to be held, and finds the answer in the MSR."""
    code = "b9300101c0 b806000000 31d2 0f30 f30f01d9 0f32"  # mov ecx, 0xc0010130; mov eax, 6; wrmsr; vmgexit; rdmsr
    bare = machine.bare
    cpu = bare.start(1, code + "48bb0000000500000000 8903 fa f4", 0x301_0000)
    cpu.set(reg.CR3, machine.map.base)
    startup = "b800000001 a31003e0fe00000000 b809460000 a30003e0fe00000000"
    wait = "b900001000 ffc9 75fc"
    machine.run(wait)
    assert machine.computer.turns.states[1] == WAITING
    machine.run(startup + "48bb0000000500000000 833b00 74fb")
    assert machine.memory.u32(0x500_0000) == 0x1007
