"""`cvmboot demo`: boots the samples that ship with the program, as a person would."""

import sys
import time
from importlib.resources import as_file, files
from pathlib import Path

from cvmboot.errors import CvmbootError
from cvmboot.options import RunOptions
from cvmboot.run import Session
from cvmboot.status import SUCCESS

STEPS = (
    ("hello.efi", "greetings from the command line", "An EFI application says where it found itself:"),
    ("files_variables.efi", "noinput", "Another one works with files and variables:"),
)


def sample(name: str) -> Path:
    """The built sample `name`: shipped within the package, or beside it in the source tree. CvmbootError if missing."""
    tree = Path(__file__).resolve().parent.parent / "samples" / "built" / name
    if tree.is_file():
        return tree
    with as_file(files("cvmboot") / "samples" / name) as packaged:
        if packaged.is_file():
            return packaged
    raise CvmbootError(f"the sample {name} is missing: neither {tree} nor {packaged} is there; install cvmboot again")


def demo() -> int:
    """Boot the samples; gives the exit status of the first that fails."""
    for name, arguments, heading in STEPS:
        image = sample(name)
        _show(f'{heading}\n\n$ cvmboot run {name} --args "{arguments}"\n')
        begin = time.perf_counter()
        result = Session(image, RunOptions(args=arguments, timeout=60.0)).run()
        if result != SUCCESS:
            return result
        _show(f"\n({name} returned EFI_SUCCESS; {time.perf_counter() - begin:.2f} s from power on to power off.)\n\n")
    _show("No firmware image, no QEMU, no root was needed. Now try an EFI application of your own: cvmboot run IMAGE\n")
    return SUCCESS


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
