"""Listens for GDB on a TCP port of this host, one debugger at a time, and passes packets between it and the stub."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from machine.gdb.packets import Reader, frame
from machine.gdb.stub import Ending, GdbStub

HOST = "127.0.0.1"
_CHUNK = 1 << 16
_SEND_SECONDS = 10.0


class GdbServer:
    """A port on the loopback interface. OSError if it cannot be had; port 0 takes a free one, see `port`.

    `post` has the machine's thread call something soon; the rest is for GdbStub. A debugger that comes while another one is
    there is hung up on: left to wait, GDB would only tell of a target that does not answer.
    """

    def __init__(
        self,
        port: int,
        post: Callable[[Callable[[], None]], None],
        kill: Callable[[], None],
        monitor: dict[str, Callable[[str], str]],
        judge: Callable[[Any], Ending] | None = None,
    ) -> None:
        self._listener = socket.create_server((HOST, port))
        self._listener.setblocking(False)  # who knocks may have gone before we answer
        self.port: int = self._listener.getsockname()[1]
        self.stub = GdbStub(self._send, kill, monitor) if judge is None else GdbStub(self._send, kill, monitor, judge)
        self._post = post
        self._served: socket.socket | None = None
        """The one that the machine's thread is at: what an earlier one has said may still wait there when the next one comes."""
        self._acknowledged = True
        self._closed = False
        self._asleep, self._alarm = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="cvmboot-gdb", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up and stop listening."""
        self._closed = True
        self._alarm.close()  # a socket that is closed itself would wake nobody who waits for it
        if threading.current_thread() is not self._thread:
            self._thread.join(_SEND_SECONDS)

    def _send(self, data: bytes) -> None:
        """From the machine's thread. A debugger that is not there any more is noticed by the reading side."""
        client = self._served
        if client is not None:
            try:
                client.sendall(frame(data))
            except OSError:  # half of a packet may be on its way, nothing can follow it
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._listener, self._asleep, selectors.DefaultSelector() as selector:
            selector.register(self._asleep, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closed:
                selector.select()
                client = self._accept()
                if client is not None:
                    self._attend(client, selector)

    def _accept(self) -> socket.socket | None:
        """Whoever knocks, if somebody still does."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return None
        return client

    def _attend(self, client: socket.socket, selector: selectors.BaseSelector) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(_SEND_SECONDS)
            self._acknowledged = True
            self._post(partial(self._begin, client))
            selector.register(client, selectors.EVENT_READ)
            self._talk(client, selector)
            selector.unregister(client)
        self._post(self._end)

    def _begin(self, client: socket.socket) -> None:
        self._served = client
        self.stub.connected()

    def _end(self) -> None:
        self._served = None
        self.stub.disconnected()

    def _talk(self, client: socket.socket, selector: selectors.BaseSelector) -> None:
        reader = Reader()
        while not self._closed:
            ready = {key.fileobj for key, _ in selector.select()}
            if client in ready:
                if not self._take(client, reader):
                    return
            elif self._listener in ready:
                self._hang_up_on_next()

    def _take(self, client: socket.socket, reader: Reader) -> bool:
        """Pass on what the debugger has said; False if it has gone."""
        try:
            data = client.recv(_CHUNK)
        except OSError:
            return False
        packets, acknowledgements = reader.feed(data)
        if self._acknowledged and acknowledgements:
            with contextlib.suppress(OSError):
                client.sendall(acknowledgements)
        for packet in packets:
            if packet == b"QStartNoAckMode":
                self._acknowledged = False
            self._post(partial(self.stub.handle, packet))
        return bool(data)

    def _hang_up_on_next(self) -> None:
        other = self._accept()
        if other is not None:
            other.close()
