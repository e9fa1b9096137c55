"""What a gVNIC driver can do wrong, and the status codes of its admin queue."""

from machine.errors import MachineError

PASSED = 0x00000001
ALREADY_EXISTS = 0xFFFFFFF1
FAILED_PRECONDITION = 0xFFFFFFF5
INVALID_ARGUMENT = 0xFFFFFFF7
NOT_FOUND = 0xFFFFFFF8
OUT_OF_RANGE = 0xFFFFFFF9
RESOURCE_EXHAUSTED = 0xFFFFFFFC
UNIMPLEMENTED = 0xFFFFFFFE
"""Status of an admin command, as the device stores it in the command's slot."""


class Refused(MachineError):
    """An admin command is refused with `status`; the message is for people."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class BrokenQueue(MachineError):
    """A ring holds what no driver may put there: the device asks to be reset."""
