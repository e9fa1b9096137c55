"""Turns: the CPUs of a machine share the engine's thread, one after the other.

A CPU that halts or waits for its start costs nothing. One that runs has the engine until it halts, pauses, or its turn is over.
"""

from collections.abc import Iterator

RUNNING, HALTED, WAITING = "running", "halted", "waiting"
"""Executes instructions; waits for an interrupt behind HLT; waits for a start-up IPI (or is parked by firmware)."""

TURN = 300_000
"""Nanoseconds: how long a CPU runs at most while others want to."""

FIRST_BLOCKS, MOST_BLOCKS = 700, 32_000
"""Blocks of code in a turn: the first after a wait, or after something that the outside notices, is short, so that work which has
just come up spreads over the CPUs; one that is used up with computing is followed by one twice as long, up to about TURN."""
MOST_BLOCKS_OF_ONE = 2_000
"""The same where the others only look for something to do: what this CPU makes must not be gone before they come."""
LIVELY_TURNS = 100
"""Turns for which all stay short after one that looked for work has found some. Meanwhile who looks is not cut short at each
look: Go's scheduler reads the clock several times before it has asked all processors for work."""
NEW_BLOCKS, NEW_TURN, NEW_TURNS = 100_000, 20_000_000, 24
"""Blocks and nanoseconds in a turn of a CPU that has not come up yet, and how many of them it has at most.

It begins with nothing translated and an empty TLB, and with what a system does once for each CPU: TamaGo clears 8 MiB of stack.
With equal turns all that the others had to do has passed by before it is there. Real processors are up sooner: there, the boot
processor's UART alone is slower than this."""
ALONE = (1 << 31) - 1
"""Blocks in the turn of a CPU that nobody else waits for: whoever wakes ends its turn."""

BLOCK_TIME = 16
"""Nanoseconds of virtual time that a block takes in a turn without traps."""


class Turns:
    """Who runs, who waits, whose turn it is. Plain data; the computer decides what wakes a CPU.

    `start_up` holds, for a CPU that has got a start-up IPI, the vector with which it has not begun yet. `drowsy` are CPUs
    that have had nothing to do for so long that all may sleep, `looking` those that look for something; `held` go on where
    they stopped when they get a start-up IPI; `halted_until` (ns of the clock) is where HLT ends by itself; `new_turns` are
    the long turns that a new CPU has left.
    """

    def __init__(self, count: int) -> None:
        self.states = [RUNNING] + [WAITING] * (count - 1)
        self.current = 0
        self.start_up: dict[int, int] = {}
        self.drowsy: set[int] = set()
        self.looking: set[int] = set()
        self.held: set[int] = set()
        self.halted_until: dict[int, int] = {}
        self.blocks = [FIRST_BLOCKS] * count
        self.new_turns = [0] + [NEW_TURNS] * (count - 1)
        self.lively = 0
        """How many short turns are left."""
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

    def length(self, index: int) -> tuple[int, int]:
        """How many blocks and nanoseconds a turn of this CPU may take."""
        if self.new_turns[index]:
            return NEW_BLOCKS, NEW_TURN
        others = self.others_running()
        return min(self.blocks[index], MOST_BLOCKS_OF_ONE if self.looking.issuperset(others) else MOST_BLOCKS), TURN

    def used_up(self, acted: bool, looked: bool) -> None:
        """The present turn was used to its end. `acted`: with an effect on the outside; `looked`: with looks for work or time."""
        current = self.current
        self.over = True
        if self.new_turns[current]:
            self.new_turns[current] -= 1
            return
        if current in self.looking and not looked:
            self.looking.discard(current)
            self.lively = LIVELY_TURNS
            self.blocks = [FIRST_BLOCKS] * len(self.blocks)
        elif self.lively:
            self.lively -= 1
        short = acted or self.lively
        self.blocks[current] = FIRST_BLOCKS if short else min(2 * self.blocks[current], MOST_BLOCKS)

    def give_way(self) -> None:
        """The CPU waits for something, or another has woken: the present turn ends when the engine comes back."""
        self.blocks[self.current] = FIRST_BLOCKS
        self.over = True

    def looks(self) -> None:
        """The CPU looks for something to do: it has come up."""
        self.new_turns[self.current] = 0
        self.looking.add(self.current)

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
