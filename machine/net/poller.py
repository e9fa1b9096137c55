"""Waits for the host's descriptors on a thread of its own, and has the engine thread handle what is ready."""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
_ONCE = select.EPOLLONESHOT


class Poller:
    """`watch` and `forget` belong to the engine thread; `post(action)` has that thread call `action`.

    Each watch is for one event: a descriptor that is ready does not keep the waiting thread busy while the engine
    thread has other work. The thread starts with the first watch, and sleeps until there is something.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closed = False

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        """Call back once when `descriptor` is READABLE or WRITABLE as asked, or broken. Replaces an earlier watch."""
        if self._closed:
            return
        epoll = self._epoll or self._start()
        self._callbacks[descriptor] = callback
        try:
            epoll.modify(descriptor, events | _ONCE)
        except FileNotFoundError:
            epoll.register(descriptor, events | _ONCE)

    def forget(self, descriptor: int) -> None:
        """Never call back for `descriptor` again. To be called before it is closed."""
        self._callbacks.pop(descriptor, None)
        if self._epoll is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._callbacks.clear()
        if self._thread is not None and self._epoll is not None:
            os.write(self._wake, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
            self._thread.join()
            self._thread = None
            self._epoll.close()
            os.close(self._wake)

    def _start(self) -> select.epoll:
        self._epoll = epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, args=(epoll,), name="cvmboot-network", daemon=True)
        self._thread.start()
        return epoll

    def _run(self, epoll: select.epoll) -> None:
        while not self._closed:
            ready = [descriptor for descriptor, _ in epoll.poll() if descriptor != self._wake]
            if ready:
                self._post(lambda ready=ready: self._dispatch(ready))  # type: ignore[misc]

    def _dispatch(self, ready: list[int]) -> None:
        for descriptor in ready:
            callback = self._callbacks.pop(descriptor, None)
            if callback is not None:
                callback()
