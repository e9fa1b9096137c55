"""Why a guest leaves KVM in the middle of its run."""

from time import thread_time


class CannotCarry(Exception):
    """The instruction at RIP, which has had no effect yet, needs another engine; `reason` completes "because ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ManyExits(Exception):
    """The guest traps so often that a translator runs it faster. The state is between two instructions."""


LOOK_AT_RATE = 512
"""Exits after which an engine on KVM that may leave looks whether it should."""
_FEW_PER_SECOND = 4000


def look_at_rate(since: float, now: float | None = None) -> float:
    """This thread's processor time in seconds, or `now` of other threads', for the next look.

    ManyExits if the last LOOK_AT_RATE exits took hardly any.
    """
    now = thread_time() if now is None else now
    if now - since < LOOK_AT_RATE / _FEW_PER_SECOND:
        raise ManyExits
    return now
