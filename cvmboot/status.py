"""Exit statuses of `cvmboot run`, and which one an outcome of the machine has."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uefi.firmware import Outcome

SUCCESS = 0
"""The guest shut down, returned EFI_SUCCESS, or reset under --no-reboot; or a person left with Ctrl-A X."""
ERROR = 1
"""Our own error: a file that cannot be read, an image that cannot be loaded."""
USAGE = 2
"""Options that make no sense."""
GUEST_ERROR = 3
"""The image returned something else than EFI_SUCCESS."""
CRASHED = 4
"""The guest died: an exception that nobody handles, a triple fault."""
TIMED_OUT = 5
"""--timeout ran out."""
VIOLATION = 6
"""An SEV-SNP guest broke the rules under --snp-check strict."""
SIGNALED = 128
"""Plus the number of the signal that ended the run, as a shell counts it."""
HANGUP = SIGNALED + 1
"""The terminal was closed."""
INTERRUPTED = SIGNALED + 2
"""Ctrl-C."""
BROKEN_PIPE = SIGNALED + 13
"""Nobody reads the console any more."""


def of_outcome(outcome: "Outcome", violated: bool = False) -> int:
    """The exit status for how a machine ended by itself or by --timeout; `violated` is PoweredMachine's."""
    if violated:
        return VIOLATION
    if outcome.kind == "returned":
        return GUEST_ERROR if outcome.status else SUCCESS
    return {"crashed": CRASHED, "stopped": TIMED_OUT}.get(outcome.kind, SUCCESS)
