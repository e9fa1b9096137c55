"""Why a guest leaves KVM in the middle of its run."""


class CannotCarry(Exception):
    """The instruction at RIP, which has had no effect yet, needs another engine; `reason` completes "because ..."."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ManyExits(Exception):
    """The guest traps so often that a translator runs it faster. The state is between two instructions."""
