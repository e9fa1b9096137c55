"""What the run loop of a computer asks of a debugger."""

from typing import Any, Protocol

from machine.cpu import Cpu, Stop


class Debugger(Protocol):
    """Called on the engine thread. While `paused` no guest code runs, but what is posted to the computer does.

    `stepping` is the index of the CPU that executes single instructions, None if none does; `runs` are all that may run, None
    for every CPU.
    """

    paused: bool
    stepping: int | None
    runs: frozenset[int] | None

    def rest(self, cpu: Cpu) -> None:
        """The guest stands still between two instructions, because of `paused`."""
        ...

    def stopped(self, cpu: Cpu, stop: Stop) -> None:
        """A run, or a step if it is this CPU that is `stepping`, has come back."""
        ...

    def ended(self, cpu: Cpu, result: Any) -> None:
        """`Computer.run` is about to give this result; it waits as long as `paused` is set."""
        ...
