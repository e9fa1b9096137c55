"""A visit to a machine that runs: something is done on its thread where no service is half done, and somebody waits for it."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cvmboot.assembly import Assembly
from cvmboot.errors import CvmbootError

if TYPE_CHECKING:
    from cvmboot.unikernel import UnikernelAssembly

_LOOK = 0.02
_AGAIN = 0.001


class Visit:
    """One attempt to call `action` on the machine's thread. `busy` names the service that was in the way, if one was."""

    def __init__(self, action: "Callable[[Assembly | UnikernelAssembly], None]") -> None:
        self._action = action
        self._lock = threading.Lock()
        self._begun = self._abandoned = False
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.busy: str | None = None

    def __call__(self, assembly: "Assembly | UnikernelAssembly") -> None:
        """On the machine's thread."""
        with self._lock:
            if self._abandoned:
                return
            self._begun = True
        try:
            self.busy = assembly.firmware.calls.busy_with if isinstance(assembly, Assembly) else None
            if self.busy is None:
                self._action(assembly)
        except BaseException as error:  # it is for who waits, not for the machine
            self.failure = error
        finally:
            self.done.set()

    def abandon(self) -> bool:
        """Whether it will never begin: the machine that it was meant for may have been reset."""
        with self._lock:
            self._abandoned = not self._begun
            return self._abandoned


def pay(
    begin: Callable[[Visit], None],
    is_on: Callable[[], bool],
    action: "Callable[[Assembly | UnikernelAssembly], None]",
    patience: float,
) -> None:
    """Visit again and again until `action` was called; raises what it raises.

    `begin` hands a visit to the machine that is on now, if there is one. CvmbootError if the machine goes off, or does not
    come to rest within `patience` seconds.
    """
    deadline = time.monotonic() + patience
    in_the_way = "something that does not end"
    while time.monotonic() < deadline:
        visit = Visit(action)
        begin(visit)
        if not visit.done.wait(_LOOK) and visit.abandon():
            if not is_on():
                raise CvmbootError("the machine is off")
            continue
        visit.done.wait()
        if visit.failure is not None:
            raise visit.failure
        if visit.busy is None:
            return
        in_the_way = visit.busy
        time.sleep(_AGAIN)
    raise CvmbootError(
        f"the machine did not come to rest within {patience:g} s, being in {in_the_way}; try again later"
    )
