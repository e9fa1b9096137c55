"""The samples do on OVMF what they claim: a check that real firmware fails is wrong about UEFI."""

import re
from pathlib import Path

import pytest

from . import ovmf

BUILT = Path(__file__).parents[2] / "samples" / "built"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(ovmf.missing() is not None, reason=str(ovmf.missing())),
]


def boot(command: str, **more: object) -> str:
    files = {file.name: file for file in BUILT.glob("*.efi")}
    return ovmf.boot(files, command, **more)  # type: ignore[arg-type]


def test_hello_greets_and_shows_its_load_options() -> None:
    console = boot("\\hello.efi first second")
    assert "Hello from an EFI application!" in console
    assert 'options     "first second"' in console
    assert "# launcher: EFI_SUCCESS" in console


@pytest.mark.parametrize(
    ("option", "status"), [("return", "EFI_SUCCESS"), ("fail", "EFI_ABORTED"), ("other", "EFI_SUCCESS")]
)
def test_child_ends_as_asked(option: str, status: str) -> None:
    assert f"# launcher: {status}" in boot(f"\\child.efi {option}")


def test_files_variables_completes_and_echoes_a_line() -> None:
    console = boot("\\files_variables.efi", typed=[("Type a line: ", "hello worlds\b!\r")])
    assert 'You typed "hello world!", 12 characters.' in console
    assert "FAILED" not in console
    assert "# launcher: EFI_SUCCESS" in console


def check_tap(console: str) -> None:
    """Fails with the lines that begin with "not ok"; also if the plan "1..N" and the number of checks differ."""
    checks = re.findall(r"^(ok|not ok) (\d+) (.*)$", console, re.MULTILINE)
    assert [line for line in checks if line[0] == "not ok"] == []
    plan = re.search(r"^1\.\.(\d+)$", console, re.MULTILINE)
    assert plan, f"no plan in\n{console}"
    assert [int(line[1]) for line in checks] == list(range(1, int(plan[1]) + 1))
    assert f"passed {plan[1]} failed 0" in console


def test_everything_passes() -> None:
    console = boot("\\everything.efi")
    check_tap(console)
    assert "# launcher: EFI_SUCCESS" in console


def test_everything_passes_with_more_devices_and_processors() -> None:
    """No check may be skipped for want of a device that QEMU has; runtime services are moved to the upper half."""
    more = ["-smp", "4", "-device", "virtio-rng-pci", "-machine", "smbios-entry-point-type=64"]
    # romfile=: OVMF's own driver, not iPXE's, which checks next to nothing.
    more += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    console = boot("\\everything.efi exitboot", options=more)
    check_tap(console)
    assert re.findall(r"# skip (.*)", console) == [
        "timestamps: there is no timestamp protocol",
        "station addresses: they cannot be changed",
        "statistics: nothing is counted",
    ]
    assert "10.0.2.2 has answered" in console
    assert "8.4: runtime services at other addresses" in console


def test_everything_passes_with_runtime_services_where_they_were() -> None:
    check_tap(boot("\\everything.efi exitboot identity tables"))


@pytest.mark.parametrize("fault", ["double-free", "hlt", "null-pointer", "allocate-all", "protocols-100000"])
def test_faults_that_firmware_survives(fault: str) -> None:
    console = boot(f"\\faults.efi {fault}")
    assert "faults: survived" in console
    assert "# launcher: EFI_SUCCESS" in console


@pytest.mark.parametrize(
    ("fault", "exception"),
    [("divide", "#DE"), ("ud2", "#UD"), ("gp", "#GP"), ("page", "#PF"), ("int3", "#BP"), ("wild-copy", "#PF")],
)
def test_faults_that_kill(fault: str, exception: str) -> None:
    console = boot(f"\\faults.efi {fault}", until="!!!!\n", timeout=60)
    assert exception in console


@pytest.mark.parametrize("fault", ["triple", "reset-cold", "reset-warm", "reset-shutdown"])
def test_faults_that_reset(fault: str) -> None:
    """QEMU runs with -no-reboot: it ends."""
    console = boot(f"\\faults.efi {fault}", timeout=60)
    assert "faults: " in console
    assert "survived" not in console
    assert "# launcher" not in console
