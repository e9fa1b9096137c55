"""TCP bridges between sockets of the host's and connections of the guest's, and listening sockets that make them."""

import socket
from collections.abc import Callable
from contextlib import suppress

from machine.clock import Clock, Timer
from machine.net.backend import NetworkError
from machine.net.packets import Segment
from machine.net.poller import READABLE, WRITABLE, Poller
from machine.net.tcp import CLOSED, LINGERING, TcpConnection

HOST = "127.0.0.1"
BACKLOG = 64
MAXIMUM_CONNECTIONS = 256
_CHUNK = 64 << 10
_ABORT = (1).to_bytes(4, "little") + bytes(4)
"""struct linger {on, 0 s}: closing sends RST."""


def listen(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1. NetworkError if the port cannot be had."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, port))
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        raise NetworkError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}; forward another port of the host"
        ) from None
    return server


class Bridge:
    """One connection: the host's socket on one side, our TCP towards the guest on the other. `syn` is the guest's, if it asks."""

    def __init__(
        self,
        client: socket.socket,
        tcp: TcpConnection,
        poller: Poller,
        clock: Clock,
        on_end: Callable[[], None],
        syn: Segment | None = None,
    ) -> None:
        self.tcp = tcp
        self._client: socket.socket | None = client
        self._poller = poller
        self._clock = clock
        self._on_end = on_end
        self._timer: Timer | None = None
        self._client_finished = False
        self._told_client = False
        self._watched = 0
        if syn is None:
            tcp.open()
        else:
            tcp.accept(syn)
        self._after()

    def segment_arrived(self, segment: Segment) -> None:
        """A segment from the guest."""
        self.tcp.segment_arrived(segment)
        self._after()

    def _ready(self) -> None:
        """The client's socket can be read or written, or is broken."""
        self._watched = 0
        client = self._client
        if client is not None and not self._client_finished and self.tcp.room:
            try:
                data = client.recv(min(_CHUNK, self.tcp.room))
            except BlockingIOError:
                pass
            except OSError:
                self._drop_client()
                self.tcp.abort("the client is gone")
            else:
                if data:
                    self.tcp.write(data)
                else:
                    self._client_finished = True
                    self.tcp.finish()
        self._after()

    def _after(self) -> None:
        """Whatever has happened: pass on what came, watch for what can come, and arm the timer."""
        self._pass_on()
        if self.tcp.state is CLOSED:
            self._end()
            return
        client = self._client
        if client is not None:
            if self.tcp.state is LINGERING and self._told_client:
                self._drop_client()
            else:
                events = READABLE if self.tcp.room and not self._client_finished else 0
                if self.tcp.incoming:
                    events |= WRITABLE
                if events != self._watched:
                    self._watched = events
                    if events:
                        self._poller.watch(client.fileno(), events, self._ready)
                    else:
                        self._poller.forget(client.fileno())
        self._arm()

    def _pass_on(self) -> None:
        tcp, client = self.tcp, self._client
        if client is None:
            return
        while tcp.incoming:
            try:
                with memoryview(tcp.incoming) as incoming, incoming[:_CHUNK] as part:
                    count = client.send(part)
            except BlockingIOError:
                break
            except OSError:
                self._drop_client()
                tcp.abort("the client is gone")
                return
            tcp.consumed(count)
        if tcp.peer_finished and not tcp.incoming and not self._told_client:
            self._told_client = True
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _arm(self) -> None:
        deadline = self.tcp.deadline
        timer = self._timer
        if deadline is None or (timer is not None and timer.active and timer.deadline <= deadline):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self._clock.call_at(deadline, self._due, of_host=True)

    def _due(self) -> None:
        self.tcp.timer()
        self._after()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            self._poller.forget(client.fileno())
            client.close()

    def _end(self) -> None:
        if self.tcp.problem and self._client is not None:
            with suppress(OSError):
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._drop_client()
        if self._timer is not None:
            self._timer.cancel()
        self._on_end()

    def close(self) -> None:
        """The machine ends: reset both sides."""
        self.tcp.abort("the machine has ended")
        self._end()


class Forward:
    """One listening socket. `connect(client)` is called for each connection that comes while there are not too many."""

    def __init__(
        self, server: socket.socket, guest_port: int, poller: Poller, connect: Callable[[socket.socket, int], bool]
    ) -> None:
        self._server = server
        self._guest_port = guest_port
        self._poller = poller
        self._connect = connect
        self.port: int = server.getsockname()[1]
        self._watch()

    def _watch(self) -> None:
        self._poller.watch(self._server.fileno(), READABLE, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._server.accept()
        except OSError:
            pass
        else:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._connect(client, self._guest_port):
                client.close()
        self._watch()

    def close(self) -> None:
        """Listen no more."""
        self._poller.forget(self._server.fileno())
        self._server.close()
