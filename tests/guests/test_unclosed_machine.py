"""A script that forgets to close its machine ends all the same."""

import subprocess
import sys

import pytest

SCRIPT = """
import time
from cvmboot import VirtualMachine
vm = VirtualMachine({image!r}, args={args!r})
vm.expect_exact({text!r})
time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("image", "args", "text"),
    [("faults", "loop", "looping for ever"), ("faults", "hlt", "halting"), ("files_variables", "", "Type a line: ")],
)
def test_a_machine_that_nobody_closed_does_not_hold_the_script(sample, image, args, text):
    script = SCRIPT.format(image=str(sample(image)), args=args, text=text)
    done = subprocess.run([sys.executable, "-c", script], timeout=20, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
