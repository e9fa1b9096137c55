"""Waiting for something that a cloud does by itself: bounded, with a pause that grows, and told to who watches."""

import time
from collections.abc import Callable
from typing import TypeVar

from cloud.errors import TimedOut

Value = TypeVar("Value")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two looks; each is half as long again as the one before."""


class Patience:
    """How long to wait, and with which clock; tests have one of their own."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.seconds = seconds
        self.clock = clock
        self.pause = pause

    def wait_for(
        self, what: str, look: Callable[[], Value | None], where: str = "", seconds: float | None = None
    ) -> Value:
        """What `look` gives as soon as it is not None. `what` for the error: "snapshot snap-1 to be completed".

        Raises TimedOut after `seconds` (default: all patience), and whatever `look` raises.
        """
        limit = self.seconds if seconds is None else seconds
        end = self.clock() + limit
        pause = FIRST_PAUSE
        while (value := look()) is None:
            left = end - self.clock()
            if left <= 0:
                raise TimedOut(
                    f"waited {limit:.0f} seconds for {what}",
                    where=where,
                    next_step="run the same command again to go on waiting, with a longer --timeout",
                )
            self.pause(min(pause, left))
            pause = min(pause * 1.5, LONGEST_PAUSE)
        return value
