"""Passes the guest's DNS queries on to the host's resolver, and the answers back."""

import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from machine.clock import Clock, Timer
from machine.net.poller import READABLE, Poller

PORT = 53
MAXIMUM_PENDING = 64
TIMEOUT = 10_000_000_000
"""Nanoseconds after which a query is given up."""

_SERVER_FAILURE = 2
_LONGEST = 65_507


def host_resolvers(file: Path = Path("/etc/resolv.conf")) -> list[tuple[str, int]]:
    """(address, port) of the host's resolvers, in its order; none if it has none."""
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in file.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                found.append((words[1], PORT))
    return found


def refusal(query: bytes) -> bytes:
    """SERVFAIL for `query` (RFC 1035, 4.1.1): the guest need not wait for nothing."""
    return query[:2] + bytes((query[2] & 0x79 | 0x80, _SERVER_FAILURE)) + query[4:]


class _Pending:
    __slots__ = ("reply", "resolvers", "socket", "timer")

    def __init__(self, server: socket.socket, reply: Callable[[bytes], None], timer: Timer) -> None:
        self.socket = server
        self.reply = reply
        self.timer = timer


class DnsRelay:
    """One socket for each query, so that nobody can answer in the resolver's name. Queries beyond 64 are refused."""

    def __init__(self, poller: Poller, clock: Clock, resolvers: list[tuple[str, int]] | None = None) -> None:
        self._poller = poller
        self._clock = clock
        self._resolvers = resolvers
        self._pending: OrderedDict[int, _Pending] = OrderedDict()

    def query(self, message: bytes, reply: Callable[[bytes], None]) -> None:
        """Pass on a query; `reply(message)` is called with the answer, or a refusal if the resolver is unreachable."""
        if len(message) < 12 or message[2] & 0x80:
            return  # no query
        if self._resolvers is None:
            self._resolvers = host_resolvers()
        server = self._connect(message) if len(self._pending) < MAXIMUM_PENDING else None
        if server is None:
            reply(refusal(message))
            return
        descriptor = server.fileno()
        timer = self._clock.call_at(self._clock.now() + TIMEOUT, lambda: self._forget(descriptor), of_host=True)
        self._pending[descriptor] = _Pending(server, reply, timer)
        self._poller.watch(descriptor, READABLE, lambda: self._answered(descriptor, message))

    def _connect(self, message: bytes) -> socket.socket | None:
        for address, port in self._resolvers or ():
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                server = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError:
                continue
            try:
                server.connect((address, port))
                server.send(message)
                return server
            except OSError:
                server.close()
        return None

    def _answered(self, descriptor: int, query: bytes) -> None:
        pending = self._pending[descriptor]
        try:
            answer = pending.socket.recv(_LONGEST)
        except BlockingIOError:
            self._poller.watch(descriptor, READABLE, lambda: self._answered(descriptor, query))
            return
        except OSError:
            answer = refusal(query)
        if answer[:2] != query[:2]:
            self._poller.watch(descriptor, READABLE, lambda: self._answered(descriptor, query))
            return
        self._forget(descriptor)
        pending.reply(answer)

    def _forget(self, descriptor: int) -> None:
        pending = self._pending.pop(descriptor)
        pending.timer.cancel()
        self._poller.forget(descriptor)
        pending.socket.close()

    def close(self) -> None:
        """Give up what is pending."""
        for descriptor in list(self._pending):
            self._forget(descriptor)
