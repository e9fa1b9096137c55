"""The exception tree of the machine."""


class MachineError(Exception):
    """The machine cannot do what was asked; the message says what was seen and what was wanted."""


class BadAddress(MachineError):
    """An access outside RAM, or through a pointer that the guest's page tables do not map."""

    def __init__(self, address: int, size: int = 1) -> None:
        super().__init__(f"address {address:#x} (+{size}) is not mapped memory")
        self.address = address
        self.size = size


class BusConflict(MachineError):
    """Two devices claim the same port or address."""


class EngineError(MachineError):
    """The CPU engine is missing, failed to start, or stopped for a reason that no x64 processor has."""
