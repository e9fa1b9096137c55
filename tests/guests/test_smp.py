"""Real guests on several CPUs: TamaGo through UEFI's services and through its own trampoline, Linux."""

import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from linux_guest import PATIENCE, PROMPT, ask, find_linux

from cvmboot import VirtualMachine
from tests.engines import ENGINES, needs_kvm

Boot = Callable[..., VirtualMachine]
BOARDS = ("microvm", "firecracker", "cloud_hypervisor", "gcp")
CPUS = 4
_MOST_TRIES = 40


def _cpus_of(vm: VirtualMachine) -> set[int]:
    """Those on which the 16 goroutines of one `smp 16` ran."""
    vm.sendline("smp 16")
    vm.expect(r"(\d+) cores detected, launching 16 goroutines")
    assert int(vm.match[1]) == CPUS
    vm.expect(r"Total +16")
    told = {int(cpu): int(count) for cpu, count in re.findall(r"CPU +(\d+) +(\d+):", vm.before)}
    assert sum(told.values()) == 16
    vm.expect("> ")
    return set(told)


def _reaches_every_cpu(vm: VirtualMachine) -> None:
    """Which CPU takes a goroutine is chance, as on any machine: all do, in a few tries."""
    seen: set[int] = set()
    for _ in range(_MOST_TRIES):
        seen |= _cpus_of(vm)
        if len(seen) == CPUS:
            return
    raise AssertionError(f"only CPUs {sorted(seen)} of {CPUS} ran goroutines")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("snp", [False, True])
def test_goroutines_spread_over_all_cpus_that_uefi_starts(
    boot: Boot, program: Callable[..., Path], snp: bool, engine: str
) -> None:
    vm = boot(program("tamago-sev-example.efi"), cpus=CPUS, snp=snp, engine=engine, timeout=60)
    vm.expect("> ")
    _reaches_every_cpu(vm)
    vm.sendline("halt")
    assert vm.wait(30) == 0


def test_smp_typed_ahead_spreads_right_after_the_boot(boot: Boot, program: Callable[..., Path]) -> None:
    """The others have come up by then. Chance remains, as on any machine: all in one go, in one boot of a few."""
    seen = []
    for _ in range(5):
        with boot(program("tamago-sev-example.efi"), cpus=CPUS, timeout=60) as vm:
            seen.append(_cpus_of(vm))
        if len(seen[-1]) == CPUS:
            return
    raise AssertionError(f"the CPUs that ran goroutines, boot by boot: {seen}")


@pytest.mark.parametrize("board", BOARDS)
def test_goroutines_spread_over_all_cpus_that_tamago_starts_itself(
    boot: Boot, program: Callable[..., Path], board: str
) -> None:
    """INIT, start-up IPIs, and a trampoline from real mode to long mode."""
    vm = boot(program(f"tamago-example-{board}.elf"), cpus=CPUS, timeout=60)
    vm.expect("> ")
    _reaches_every_cpu(vm)


@needs_kvm
def test_the_same_on_kvm_which_has_no_real_mode(boot: Boot, program: Callable[..., Path]) -> None:
    """The trampoline runs in Unicorn; then all go to KVM, where an other CPU's FS base is set by a system call of TamaGo's."""
    vm = boot(program("tamago-example-microvm.elf"), board="microvm", cpus=CPUS, engine="kvm", timeout=60)
    vm.expect("> ")
    _reaches_every_cpu(vm)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 100)
def test_linux_brings_both_cpus_up(boot: Boot, esp: Callable[..., Path]) -> None:
    linux = find_linux()
    folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": linux.initrd()})
    # On a host that is busy for long Linux finds its clocks apart, and goes on with the slowest of them.
    arguments = "console=ttyS0 initrd=\\initrd.gz tsc=reliable"
    vm = boot(folder / "vmlinuz.efi", esp=folder, cpus=2, args=arguments, timeout=PATIENCE)
    vm.expect("smp: Brought up 1 node, 2 CPUs")
    vm.expect(PROMPT)
    assert ask(vm, "cat /sys/devices/system/cpu/online") == "0-1"
    assert ask(vm, "grep -c ^processor /proc/cpuinfo") == "2"
    for cpu in ("1", "0", "1"):
        assert ask(vm, f"taskset {int(cpu) + 1:x} cut -d' ' -f39 /proc/self/stat") == cpu
    log = ask(vm, "dmesg")
    for trouble in ("BUG:", "WARNING:", "Oops", "Call Trace", "rcu_sched detected stalls"):
        assert trouble not in log


_BOARDS_OF_LINUX = {
    "microvm": "found SMP MP-table at [mem 0x000f0000-",
    "firecracker": "found SMP MP-table at [mem 0x0009fc00-",
    "cloud_hypervisor": "ACPI: Using ACPI (MADT) for SMP configuration information",
    "gcp": "ACPI: Using ACPI (MADT) for SMP configuration information",
}


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 100)
@pytest.mark.parametrize("board", _BOARDS_OF_LINUX)
def test_linux_finds_the_processors_of_a_board_in_its_tables(boot: Boot, tmp_path: Path, board: str) -> None:
    """The kernel itself, taken out of its EFI file, entered by PVH."""
    data = find_linux().kernel.read_bytes()
    at = data.find(b"\xfd7zXZ\0")
    if at < 0:
        pytest.skip("the kernel is not packed with xz")
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data[at:]))
    vm = boot(kernel, board=board, cpus=3, args="console=ttyS0 nokaslr tsc=reliable", timeout=PATIENCE)
    vm.expect_exact(_BOARDS_OF_LINUX[board])
    vm.expect_exact("smpboot: Allowing 3 CPUs, 0 hotplug CPUs")
    vm.expect_exact("smp: Brought up 1 node, 3 CPUs")
