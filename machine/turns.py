"""Turns: the CPUs of a machine share the engine's thread, one after the other.

A CPU that halts or waits for its start costs nothing. One that runs has the engine until it halts, pauses, or its turn is over.
"""

from collections.abc import Iterator

RUNNING, HALTED, WAITING = "running", "halted", "waiting"
"""Executes instructions; waits for an interrupt behind HLT; waits for a start-up IPI (or is parked by firmware)."""

TURN = 500_000
"""Nanoseconds: how long a CPU runs at most while others want to."""

FIRST_BLOCKS, MOST_BLOCKS = 1_000, 32_000
"""Blocks of code in a turn: the first after a wait is short, so that work which has just come up spreads over the CPUs; one that
is used up is followed by one twice as long, up to about TURN."""
MOST_BLOCKS_OF_ONE = 4_000
"""The same where the others only look for something to do: what this CPU makes must not be gone before they come."""
ALONE = (1 << 31) - 1
"""The same for a CPU that nobody else waits for: whoever wakes ends its turn."""

BLOCK_TIME = 16
"""Nanoseconds of virtual time that a block takes in a turn without traps."""


class Turns:
    """Who runs, who waits, whose turn it is. Plain data; the computer decides what wakes a CPU.

    `start_up` holds, for a CPU that has got a start-up IPI, the vector with which it has not begun yet. `drowsy` are CPUs
    that have nothing to do but look for something to do; `held` go on where they stopped when they get a start-up IPI;
    `halted_until` (ns of the clock) is where HLT ends by itself.
    """

    def __init__(self, count: int) -> None:
        self.states = [RUNNING] + [WAITING] * (count - 1)
        self.current = 0
        self.start_up: dict[int, int] = {}
        self.drowsy: set[int] = set()
        self.held: set[int] = set()
        self.halted_until: dict[int, int] = {}
        self.blocks = [FIRST_BLOCKS] * count
        self.over = False
        """Whether the present turn ends as soon as the engine comes back."""

    def order(self) -> Iterator[int]:
        """The CPUs in the order in which they come next."""
        count = len(self.states)
        first = self.current + self.over
        return (number % count for number in range(first, first + count))

    def begin(self, index: int) -> bool:
        """This CPU runs now; whether it is another than before, or has its turn anew."""
        anew = self.over or index != self.current
        self.over = False
        self.current = index
        return anew

    def used_up(self) -> None:
        """The present turn was used to its end. The next one is longer."""
        blocks = self.blocks[self.current]
        self.blocks[self.current] = min(2 * blocks, MOST_BLOCKS if self.others_busy() else MOST_BLOCKS_OF_ONE)
        self.over = True

    def give_way(self) -> None:
        """The CPU waits for something, or another has woken: the present turn ends when the engine comes back."""
        self.blocks[self.current] = FIRST_BLOCKS
        self.over = True

    def contended(self) -> bool:
        """Whether another CPU than the present one wants to run."""
        return any(state == RUNNING and index != self.current for index, state in enumerate(self.states))

    def others_running(self) -> list[int]:
        """The other CPUs that want to run."""
        return [index for index, state in enumerate(self.states) if state == RUNNING and index != self.current]

    def others_busy(self) -> bool:
        """Whether another CPU wants to run and has something to do."""
        return any(
            state == RUNNING and index != self.current and index not in self.drowsy
            for index, state in enumerate(self.states)
        )

    def halt(self, index: int, until: int | None) -> None:
        """HLT was executed."""
        self.states[index] = HALTED
        if until is not None:
            self.halted_until[index] = until

    def wake(self, index: int) -> None:
        """HLT is over."""
        self.states[index] = RUNNING
        self.held.discard(index)
        self.halted_until.pop(index, None)
        self.drowsy.discard(index)

    def park(self, index: int) -> None:
        """INIT, or firmware has no work for this CPU."""
        self.states[index] = WAITING
        self.held.discard(index)
        self.start_up.pop(index, None)
        self.halted_until.pop(index, None)
        self.drowsy.discard(index)

    def next_end_of_halt(self) -> int | None:
        """When the first HLT ends by itself, if none ends before (ns of the clock)."""
        return min(self.halted_until.values(), default=None)
