"""Real guests on Unicorn and on KVM: the same bytes on the console."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmboot import VirtualMachine
from tests.engines import needs_kvm

pytestmark = [pytest.mark.guests, needs_kvm]

PROMPT = r"\x1b\[31m> \x1b\[0m|\n\r?> "
GUESTS = {
    "go-boot": (
        "go-boot.efi",
        ("info", "uefi", "memmap", "cpuid 0 0", "cpuid 8000001f 0", "lspci", "msr c0000080"),
        {},
    ),
    "tamago-sev-example": ("tamago-sev-example.efi", ("info", "help", "uefi"), {}),
    "under SEV-SNP": ("tamago-sev-example.efi", ("info", "help"), {"snp": True, "snp_check": "off"}),
    "microvm": ("tamago-example-microvm.elf", ("info", "help"), {}),
    "firecracker": ("tamago-example-firecracker.elf", ("info",), {}),
}
_CHANGES = re.compile(r"[0-9]+ (?:[a-z]+ )?ago|0x[0-9a-f]{16}\b")


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


MOST_EXITS = 1500
"""From the start to a prompt, with 2,000 bytes of output and more; 5,000 if each byte cost what the UART's registers cost."""


@pytest.mark.parametrize("name", ["go-boot", "tamago-sev-example"])
def test_output_costs_no_exits(program: Callable[..., Path], name: str) -> None:
    with VirtualMachine(program(GUESTS[name][0]), engine="kvm") as vm:
        vm.expect(PROMPT, timeout=50)
        printed = len(vm.before)
        found: list[int] = []
        vm._machine.call(lambda assembly: found.append(assembly.computer.engine._active.exits))
        vm.sendline("help")
        vm.expect(PROMPT, timeout=50)
    assert printed > MOST_EXITS
    assert found[0] < MOST_EXITS


@pytest.mark.parametrize("name", GUESTS)
def test_the_console_is_the_same(program: Callable[..., Path], name: str) -> None:
    file, commands, options = GUESTS[name]
    said = {}
    for engine in ("unicorn", "kvm"):
        with VirtualMachine(program(file), engine=engine, **options) as vm:
            vm.expect(PROMPT, timeout=50)
            answers = [vm.before]
            for command in commands:
                vm.sendline(command)
                vm.expect(PROMPT, timeout=50)
                answers.append(vm.before)
            said[engine] = [_CHANGES.sub("", answer) for answer in answers]
            if engine == "kvm":
                places = []
                vm._machine.call(lambda assembly, found=places: found.append(assembly.computer.engine.name))
                vm.sendline("help")
                vm.expect(PROMPT, timeout=50)
                assert places == ["kvm"]
                assert not [line for line in vm.warnings if "goes on in Unicorn" in line]
    assert said["kvm"] == said["unicorn"]
