"""The kernel of Debian's next release, for clouds: two processors, a clock that it trusts, variables that it keeps."""

from collections.abc import Callable
from pathlib import Path

import pytest
from linux_guest import PATIENCE, PROMPT, ask, find_linux

from cvmboot import VirtualMachine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 200)]

TROUBLE = ("BUG:", "WARNING:", "Oops", "Call Trace", "Firmware Bug", "unchecked MSR", "unstable", "broken")
NAME = "CvmbootTest-12345678-9abc-def0-1234-56789abcdef0"


def test_two_processors_trust_their_clock_and_keep_variables(
    esp: Callable[..., Path], boot: Callable[..., VirtualMachine], tmp_path: Path
) -> None:
    linux = find_linux(newer=True)
    initrd = linux.initrd(linux.loadable("efivarfs"))
    folder = esp({"vmlinuz.efi": linux.kernel, "initrd.gz": initrd})
    vm = boot(
        folder / "vmlinuz.efi",
        esp=folder,
        args="console=ttyS0 initrd=\\initrd.gz",
        vars=tmp_path / "variables.json",
        cpus=2,
        timeout=PATIENCE,
    )
    vm.expect(PROMPT, timeout=PATIENCE)
    assert ask(vm, "uname -r") == linux.version
    assert ask(vm, "nproc") == "2"
    log = ask(vm, "dmesg")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)], log
    assert ask(vm, "cat /sys/devices/system/clocksource/*/current_clocksource") == "tsc"
    assert ask(vm, "cat /sys/devices/system/cpu/vulnerabilities/spec_rstack_overflow") == "Not affected"

    assert ask(vm, "insmod /modules/efivarfs.ko") == ""
    assert ask(vm, "F=/sys/firmware/efi/efivars; mount -t efivarfs none $F") == ""
    assert "SecureBoot-" in ask(vm, "ls $F")
    assert ask(vm, f"N=$F/{NAME}") == ""
    assert ask(vm, "printf '\\7\\0\\0\\0kept' > $N; tail -c 4 $N") == "kept"
    vm.sendline("poweroff -f")
    assert vm.wait(60) == 0
    assert "CvmbootTest" in (tmp_path / "variables.json").read_text()
