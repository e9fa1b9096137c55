"""Guests in ring 0 on a KVM with VT-x or SVM; where there is none, `test_svm.py` runs these in a machine that has one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cvmboot import VirtualMachine
from tests.engines import needs_hardware

pytestmark = needs_hardware

PROMPT = r"\x1b\[31m> \x1b\[0m|\n\r?> "
PATIENCE = 150
CPUS = 2


@pytest.fixture
def boot() -> Iterator[Callable[..., VirtualMachine]]:
    """Boot an image in ring 0; at the end of the test it is there still, and nobody was told anything else."""
    machines: list[VirtualMachine] = []

    def start(image: Path, **options: Any) -> VirtualMachine:
        vm = VirtualMachine(image, engine="kvm-ring0", timeout=PATIENCE, **options)
        machines.append(vm)
        return vm

    yield start
    for vm in machines:
        vm.close()
        assert not [line for line in vm.warnings if "scale its TSC" not in line]


def test_the_firmwares_self_test_passes(
    boot: Callable[..., VirtualMachine], sample: Callable[[str], Path], esp: Callable[..., Path]
) -> None:
    folder = esp({f"{name}.efi": sample(name) for name in ("child", "driver")})
    vm = boot(sample("everything"), esp=folder)
    vm.expect(r"passed ([0-9]+) failed 0\b")
    assert int(vm.match[1]) > 900
    assert vm.wait() == 0


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("page", "page fault (vector 14, error code 0x2) at 0x600000000000"),
        ("divide", "divide error (vector 0)"),
        ("ud2", "invalid opcode (vector 6)"),
        ("gp", "general protection fault (vector 13, error code 0x0)"),
        ("int3", "breakpoint (vector 3)"),
    ],
)
def test_an_exception_that_the_processor_delivered_to_the_firmware_ends_the_guest(
    boot: Callable[..., VirtualMachine], sample: Callable[[str], Path], death: str, said: str
) -> None:
    vm = boot(sample("faults"), args=death)
    assert vm.wait() == 4
    assert vm.report[0].startswith(f"the guest crashed: {said}")
    assert "faults.efi+0x" in vm.report[0]


@pytest.mark.guests
@pytest.mark.parametrize("name", ["go-boot", "tamago-sev-example"])
def test_tamago_to_its_prompt_and_on(
    boot: Callable[..., VirtualMachine], program: Callable[..., Path], name: str
) -> None:
    vm = boot(program(f"{name}.efi"))
    vm.expect(PROMPT)
    vm.sendline("info")
    vm.expect("EPYC-Milan Processor")
    vm.expect(PROMPT)
    vm.sendline("shutdown")
    assert vm.wait() == 0


@pytest.mark.guests
def test_tamago_on_several_processors(boot: Callable[..., VirtualMachine], program: Callable[..., Path]) -> None:
    """Other processors begin in real mode, go to long mode by themselves, and send each other interrupts."""
    vm = boot(program("tamago-sev-example.efi"), cpus=CPUS)
    vm.expect(PROMPT)
    vm.sendline("smp 16")
    vm.expect(f"{CPUS} cores detected, launching 16 goroutines")
    vm.expect(r"Total +16")
    vm.expect(PROMPT)
