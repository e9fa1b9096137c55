"""Outbound TCP, to ports of the host's loopback that the guest was given and to nothing else.

A guest is not trusted: services on 127.0.0.1 often ask for no password. So each port is named by the user.
"""

import errno
import socket
from collections.abc import Callable, Collection

from machine.net.forward import HOST
from machine.net.packets import Segment
from machine.net.poller import WRITABLE, Poller

MAXIMUM_OPENING = 64
"""Connections to the host that wait for its answer; what comes then is refused."""


class Exposed:
    """`connected(client, syn)` is called with a connected socket, `refused(syn)` if the host does not answer there."""

    def __init__(
        self,
        ports: Collection[int],
        poller: Poller,
        connected: Callable[[socket.socket, Segment], None],
        refused: Callable[[Segment], None],
    ) -> None:
        self._ports = frozenset(ports)
        self._poller = poller
        self._connected = connected
        self._refused = refused
        self._opening: dict[tuple[int, int], socket.socket] = {}

    def connect(self, syn: Segment) -> None:
        """The guest wants a connection to a port of the gateway's. A repeated SYN changes nothing."""
        key = (syn.destination, syn.source)
        if key in self._opening:
            return
        if syn.destination not in self._ports or len(self._opening) >= MAXIMUM_OPENING:
            self._refused(syn)
            return
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        error = client.connect_ex((HOST, syn.destination))
        if error == errno.EINPROGRESS:
            self._opening[key] = client
            self._poller.watch(client.fileno(), WRITABLE, lambda: self._answered(key, syn))
        else:
            self._opened(client, syn, error)

    def _answered(self, key: tuple[int, int], syn: Segment) -> None:
        client = self._opening.pop(key)
        self._poller.forget(client.fileno())
        self._opened(client, syn, client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _opened(self, client: socket.socket, syn: Segment, error: int) -> None:
        if error:
            client.close()
            self._refused(syn)
        else:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connected(client, syn)

    def close(self) -> None:
        """Give up what is being opened."""
        for client in self._opening.values():
            self._poller.forget(client.fileno())
            client.close()
        self._opening.clear()
