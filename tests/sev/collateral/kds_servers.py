"""An HTTP server over real sockets that answers as a test tells it, wrongly too."""

import socket
import threading
from collections.abc import Callable

Behaviour = Callable[[socket.socket], None]
Script = Callable[[str], "bytes | Behaviour"]


def answer(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """The bytes of an HTTP answer."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + body


class Server:
    """Answers each GET with what `script` gives for its target, over a real socket; `targets` are the requests so far."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.targets: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.05)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        """Take no more connections."""
        self._end.set()
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while not self._end.is_set():
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            connection.settimeout(20)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        with connection:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    part = connection.recv(4096)
                    if not part:
                        return
                    request += part
                target = request.split()[1].decode()
                with self._lock:
                    self.targets.append(target)
                told = self.script(target)
                if isinstance(told, bytes):
                    self._leave()  # when the answer has been sent, the client may already ask again
                    connection.sendall(told)
                else:
                    told(connection)
                    self._leave()
            except OSError:
                pass  # the client had enough of it

    def _leave(self) -> None:
        with self._lock:
            self._at_once -= 1
