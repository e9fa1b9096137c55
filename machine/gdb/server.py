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
        self.port: int = self._listener.getsockname()[1]
        self.stub = GdbStub(self._send, kill, monitor) if judge is None else GdbStub(self._send, kill, monitor, judge)
        self._post = post
        self._client: socket.socket | None = None
        self._served: socket.socket | None = None
        """The one that the machine's thread is at: what an earlier one has said may still wait there when the next one comes."""
        self._acknowledged = True
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="cvmboot-gdb", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up and stop listening."""
        self._closed = True
        for each in (self._client, self._listener):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

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
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.settimeout(_SEND_SECONDS)
                self._client = client
                self._acknowledged = True
                self._post(partial(self._begin, client))
                self._talk(client)
                self._client = None
            self._post(self._end)

    def _begin(self, client: socket.socket) -> None:
        self._served = client
        self.stub.connected()

    def _end(self) -> None:
        self._served = None
        self.stub.disconnected()

    def _talk(self, client: socket.socket) -> None:
        reader = Reader()
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(client, selectors.EVENT_READ)
                selector.register(self._listener, selectors.EVENT_READ)
            except (OSError, ValueError):  # closed meanwhile
                return
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
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
