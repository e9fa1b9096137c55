"""What can be wrong with a snapshot."""

from cvmboot.errors import CvmbootError


def printable(text: object) -> str:
    """Words from a file as they may go to a terminal: who made the file up does not write on it."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))


class SnapshotError(CvmbootError):
    """A machine cannot be frozen, or a file is no snapshot that can be restored: one line that says what to do."""


class BadState(Exception):
    """The state in a snapshot makes no machine: the file is damaged, or somebody made it up."""


class NotState(Exception):
    """Something in a machine is not known to be state: a mistake in this program. The message says where it hangs."""
