"""Both KVM engines on SVM itself: their tests run in a machine that has it, however this one is made."""

import os
import shlex
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.guests.linux_guest import find_linux
from tests.machine.engine.svm_machine import run_on_svm

HERE = Path(__file__).parents[3]
SECONDS = 900
"""How long it may take on a busy machine; beside ten other processes that compute, on two processors, it took three minutes."""
ON_HARDWARE = (
    "tests/machine/engine/test_kvm_ring0.py",
    "tests/guests/test_guests_in_ring_0.py",
    "tests/machine/test_rings.py",
)
UNDER_THE_MONITOR = ("tests/machine/engine/test_kvm.py", "tests/machine/engine/test_kvm_posted.py")
IN_REAL_TIME = (
    "tests/guests/test_guests_in_ring_0.py::test_tamago_on_several_processors",
    "tests/machine/engine/test_kvm_posted.py::test_moves_between_the_engines_in_the_middle_of_output",
    "tests/machine/engine/test_kvm_posted.py::test_a_jump_into_the_replaced_load_harms_nobody_else",
)
"""Left out: they count on how much a guest gets done in a time, and a translated machine gets a hundredth of it done."""
LEAST = {"test_kvm_ring0": 16, "test_guests_in_ring_0": 6, "test_rings": 5, "test_kvm": 50, "test_kvm_posted": 30}
"""So many tests of each have to run there, and not be skipped."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
def test_guests_run_on_svm_in_ring_0_and_under_the_monitor(tmp_path: Path) -> None:
    linux = find_linux()
    environment = {
        "HOME": "/dev/shm",
        "TMPDIR": "/dev/shm",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CVMBOOT_GUESTS": os.environ.get("CVMBOOT_GUESTS", ""),
    }
    words = [
        *(sys.executable, "-m", "pytest", "-n", "0", "-q", "--timeout", "200", "-p", "no:cacheprovider"),
        *(f"--deselect={test}" for test in IN_REAL_TIME),
        *("--junit-xml=/dev/shm/share/results.xml", "-k", "not unicorn", *ON_HARDWARE, *UNDER_THE_MONITOR),
    ]
    script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items() if value)
    script += f"cd {shlex.quote(str(HERE))} && exec {shlex.join(words)}\n"
    status, output = run_on_svm(linux, tmp_path / "share", script, SECONDS)
    assert status == 0, output[-8000:]
    cases = list(ET.parse(tmp_path / "share" / "results.xml").iter("testcase"))
    ran = [case for case in cases if case.find("skipped") is None]
    for module, least in LEAST.items():
        assert sum(str(case.get("classname")).endswith(f".{module}") for case in ran) >= least, output[-8000:]
