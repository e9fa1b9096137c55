"""Listens for GDB on a TCP port of this host, one debugger at a time, and passes packets between it and the stub."""

import contextlib
import socket
import threading
from collections.abc import Callable

from machine.gdb.packets import Reader, frame
from machine.gdb.stub import GdbStub

HOST = "127.0.0.1"
_CHUNK = 1 << 16
_SEND_SECONDS = 10.0


class GdbServer:
    """A port on the loopback interface. OSError if it cannot be had; port 0 takes a free one, see `port`.

    `post` has the machine's thread call something soon, `kill` switches the machine off.
    """

    def __init__(
        self,
        port: int,
        post: Callable[[Callable[[], None]], None],
        kill: Callable[[], None],
        monitor: dict[str, Callable[[str], str]],
    ) -> None:
        self._listener = socket.create_server((HOST, port))
        self.port: int = self._listener.getsockname()[1]
        self.stub = GdbStub(self._send, kill, monitor)
        self._post = post
        self._client: socket.socket | None = None
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
        client = self._client
        if client is not None:
            with contextlib.suppress(OSError):
                client.sendall(frame(data))

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
                self._post(self.stub.connected)
                self._talk(client)
                self._client = None
            self._post(self.stub.disconnected)

    def _talk(self, client: socket.socket) -> None:
        reader = Reader()
        while not self._closed:
            try:
                data = client.recv(_CHUNK)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            packets, acknowledgements = reader.feed(data)
            if self._acknowledged and acknowledgements:
                with contextlib.suppress(OSError):
                    client.sendall(acknowledgements)
            for packet in packets:
                if packet == b"QStartNoAckMode":
                    self._acknowledged = False
                self._post(lambda packet=packet: self.stub.handle(packet))  # type: ignore[misc]
