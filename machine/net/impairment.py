"""A bad network: frames get lost or late, both ways. The same seed and the same frames lose the same ones."""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from machine.clock import Clock, Timer
from machine.net.backend import Backend

MAXIMUM_DELAYED = 4096
"""Frames on their way, per direction; what comes then is lost."""


class _Lane:
    """One direction: frames leave in the order in which they came, `delay` nanoseconds later."""

    def __init__(self, clock: Clock, delay: int) -> None:
        self._clock = clock
        self._delay = delay
        self._frames: deque[tuple[int, bytes]] = deque()
        self._timer: Timer | None = None
        self.out: Callable[[bytes], None] = lambda frame: None

    def put(self, frame: bytes) -> None:
        if not self._delay:
            self.out(frame)
        elif len(self._frames) < MAXIMUM_DELAYED:
            self._frames.append((self._clock.now() + self._delay, frame))
            self._arm()

    def _arm(self) -> None:
        if self._frames and (self._timer is None or not self._timer.active):
            self._timer = self._clock.call_at(self._frames[0][0], self._due, of_host=True)

    def _due(self) -> None:
        now = self._clock.now()
        while self._frames and self._frames[0][0] <= now:
            self.out(self._frames.popleft()[1])
        self._arm()

    def save(self) -> list[list[Any]]:
        return [list(entry) for entry in self._frames]

    def load(self, state: list[list[Any]]) -> None:
        self._frames = deque((due, frame) for due, frame in state)
        self._timer = None
        self._arm()

    def close(self) -> None:
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()


class ImpairedBackend(Backend):
    """`inner` with `loss` (0 to 1) of the frames lost and `delay` nanoseconds added, in each direction."""

    def __init__(self, inner: Backend, clock: Clock, loss: float, delay: int, seed: int | None = None) -> None:
        """`seed` makes the losses repeatable; None takes them from the host's randomness."""
        super().__init__()
        self._inner = inner
        self._loss = loss
        self._random = Random(seed)
        self._out, self._in = _Lane(clock, delay), _Lane(clock, delay)
        self._out.out = inner.send
        self._in.out = self._deliver
        self.link = inner.link
        inner.on_receive = lambda frame: self._pass(self._in, frame)
        inner.on_link = self.set_link

    def send(self, frame: bytes) -> None:
        """Lose it, or pass it on later."""
        self._pass(self._out, frame)

    def _pass(self, lane: _Lane, frame: bytes) -> None:
        if self._random.random() >= self._loss:
            lane.put(frame)

    def _deliver(self, frame: bytes) -> None:
        self.on_receive(frame)

    def close(self) -> None:
        """Lose what is on its way, and close what is behind."""
        self._out.close()
        self._in.close()
        self._inner.close()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`: frames on their way, and the state of chance."""
        version, words, gauss = self._random.getstate()
        return {
            "random": [version, list(words), gauss],
            "out": self._out.save(),
            "in": self._in.save(),
            "inner": self._inner.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
        self._out.load(state["out"])
        self._in.load(state["in"])
        self._inner.load(state["inner"])
