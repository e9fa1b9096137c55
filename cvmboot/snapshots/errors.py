"""What can be wrong with a snapshot."""

from cvmboot.errors import CvmbootError


class SnapshotError(CvmbootError):
    """A machine cannot be frozen, or a file is no snapshot that can be restored: one line that says what to do."""


class BadState(Exception):
    """The state in a snapshot makes no machine: the file is damaged, or somebody made it up."""


class NotState(Exception):
    """Something in a machine is not known to be state: a mistake in this program. The message says where it hangs."""
