"""Debian's kernel as a SEV-SNP guest: it knows what it is, its driver gets a report that verifies, its network bounces."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from linux_guest import PATIENCE, PROMPT, ask, find_linux
from test_linux_network import LEASE, TROUBLE

from cvmboot import VirtualMachine
from sev.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 200)]

SEV_GUEST = ("ghash-generic", "ctr", "gcm", "sev-guest")
VIRTIO = ("virtio_pci", "virtio_net")
SOURCE = Path(__file__).with_name("linux_sev_report.c")
REPORT_DATA = (b"report me" * 8)[:64]

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def compiled(source: Path, to: Path) -> bytes:
    """A static program without a library; skips the test if nothing here compiles it."""
    compiler = shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("neither clang nor gcc")
    options = ("-O2", "-Wall", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector")
    subprocess.run([compiler, *options, "-o", to, source], check=True, timeout=60)
    return to.read_bytes()


@pytest.mark.parametrize("newer", [False, True], ids=["6.1", "newer"])
def test_linux_asks_for_its_report(
    cvmboot: Run, esp: Callable[..., Path], boot: Callable[..., VirtualMachine], tmp_path: Path, newer: bool
) -> None:
    linux = find_linux(newer)
    platform = tmp_path / "platform"
    Platform.new(platform, "milan")
    files = {"report": compiled(SOURCE, tmp_path / "report"), "lease": LEASE}
    sev_guest, virtio = linux.loadable(*SEV_GUEST), linux.loadable(*VIRTIO)
    initrd = linux.initrd((*sev_guest, *virtio), files)
    folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": initrd})
    vm = boot(
        folder / "vmlinuz.efi",
        esp=folder,
        args="console=ttyS0 initrd=\\initrd.gz",
        timeout=2 * PATIENCE,
        snp=True,
        snp_check="strict",
        platform=platform,
        nic="virtio",
        net="user:builtin",
    )
    vm.expect_exact("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP", timeout=PATIENCE)
    vm.expect_exact("SEV: Using SNP CPUID table", timeout=PATIENCE)
    vm.expect_exact("SEV: SNP guest platform device initialized", timeout=PATIENCE)
    vm.expect(PROMPT, timeout=PATIENCE)

    for module in sev_guest:
        assert ask(vm, f"insmod /modules/{module}.ko") == ""
    report = ask(vm, "/report")
    evidence = tmp_path / "report.hex"
    evidence.write_text(report)
    words = ("attest", "verify", evidence, "--offline", "--report-data", REPORT_DATA.hex())
    verdict = cvmboot(*words, "--platform", platform)
    assert verdict.returncode == 0, verdict
    assert b"EMULATED" in verdict.stdout
    assert cvmboot(*words).returncode != 0

    for module in virtio:
        assert ask(vm, f"insmod /modules/{module}.ko") == ""
    assert ask(vm, "cut -c 33-34 /sys/bus/virtio/devices/virtio0/features") == "11"  # VERSION_1, ACCESS_PLATFORM
    assert ask(vm, "ip link set eth0 up") == ""
    assert "lease of 10.0.2.15 obtained from 10.0.2.2" in ask(vm, "udhcpc -i eth0 -s /lease -n -q -t 9")
    assert "5 packets received" in ask(vm, "ping -c 5 -i 0.1 -W 9 10.0.2.2")
    log = ask(vm, "dmesg")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)], log
    vm.sendline("poweroff -f")
    assert vm.wait(60) == 0
