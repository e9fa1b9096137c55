"""The stand-in's sockets: one server on 127.0.0.1 for Compute Engine, Cloud Storage and sign-in, in a thread of its own.

`strike(moment, what)` is called "before" and "after" each request and with every 256 KiB ("bytes") of an upload: it may raise
Cut, which ends the connection without an answer, or Refused, or kill whoever it likes.
"""

import json
import threading
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from strict_gce.compute import Compute
from strict_gce.errors import Refused
from strict_gce.signin import SignIn
from strict_gce.storage import Storage
from strict_gce.world import World

_PIECE = 256 << 10
Strike = Callable[[str, str], None]


class Cut(Exception):
    """The connection breaks."""


def _nothing(moment: str, what: str) -> None:
    pass


class Server:
    """One stand-in. `reset()` makes a new world."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.owner = self  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self.world = World()
        self.sign_in = SignIn(self.world)
        self.strike: Strike = _nothing
        self.reset()
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def reset(self) -> World:
        """Google as on the first day."""
        self.strike = _nothing
        self.world = World()
        self.sign_in._world = self.world
        self.sign_in.revoked = False
        self.compute, self.storage = Compute(self.world), Storage(self.world)
        return self.world

    def stop(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()

    def environment(self, key: Path) -> dict[str, str]:
        """What a program needs to come here; writes the key file."""
        self.sign_in.write_key(key, self.address)
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.address}/compute/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{self.address}/storage/v1/",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def owner(self) -> Server:
        server: Server = self.server.owner  # type: ignore[attr-defined]
        return server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(self.owner.world.now() if timestamp is None else timestamp, usegmt=True)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        upload = self.command == "PUT" and "/upload/storage/" in parts.path
        length = int(self.headers.get("Content-Length") or 0)
        body = b"" if upload else self.rfile.read(length)
        what = self._what(parts.path, upload)
        try:
            try:
                self.owner.strike("before", what)
                if upload:
                    answer = self._put(parts.query, length)
                else:
                    with self.owner.world.lock:
                        answer = self._answer(parts.path, parts.query, body)
                self.owner.strike("after", what)
            except Refused as refused:
                if upload:
                    self.close_connection = True  # the rest of the body is not read
                answer = (refused.status, {}, refused.body())
            self._reply(*answer)
        except (Cut, ConnectionError):
            self.close_connection = True
            self.connection.close()

    def _what(self, path: str, upload: bool) -> str:
        if upload:
            return "upload"
        if path == "/token":
            return "token"
        if "/upload/storage/" in path:
            return "upload session"
        return f"{self.command} {path.partition('/v1/')[2] or path}"

    def _answer(self, path: str, query: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        owner = self.owner
        if path == "/token":
            status, plain = owner.sign_in.token(body)
            return status, {}, json.dumps(plain).encode()
        owner.sign_in.check(self.headers.get("Authorization"))
        if "/upload/storage/" in path:
            return (
                200,
                {"Location": owner.storage.begin(path, query, self.headers, body, f"http://{self.headers['Host']}")},
                b"",
            )
        if path.startswith("/compute/"):
            found = owner.compute.answer(self.command, path, query, body)
            return 200, {}, json.dumps(_shown(found)).encode()
        stored = owner.storage.answer(self.command, path, query, body)
        return (204, {}, b"") if stored is None else (200, {}, json.dumps(stored).encode())

    def _put(self, query: str, length: int) -> tuple[int, dict[str, str], bytes]:
        """A piece of an upload, kept as it arrives in units of 256 KiB, as Cloud Storage keeps it."""
        world, storage = self.owner.world, self.owner.storage
        if "Authorization" in self.headers:
            raise Refused(400, "badRequest", "the session's address is all that is needed")
        with world.lock:
            session = storage.session(query)
            first, total = storage.range_of(self.headers.get("Content-Range", ""), length, session)
        at = first or 0
        while first is not None and length:
            piece = self.rfile.read(min(_PIECE, length))
            whole = len(piece) == min(_PIECE, length)
            if not whole:
                raise ConnectionError
            length -= len(piece)
            with world.lock:
                # A request that broke off may still be read when the next one comes: both know where they are.
                session.data += piece[max(0, len(session.data) - at) :]
                world.bytes_received += len(piece)
            at += len(piece)
            self.owner.strike("bytes", "upload")
        with world.lock:
            made = storage.finish(session, total)
            if made is not None:
                return 200, {}, made
            last = len(session.data) - 1
            return 308, {"Range": f"bytes=0-{last}"} if last >= 0 else {}, b""

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _shown(plain: Any) -> Any:
    """Without the stand-in's own notes, which begin with an underscore."""
    if isinstance(plain, dict):
        return {name: _shown(value) for name, value in plain.items() if not name.startswith("_")}
    return [_shown(one) for one in plain] if isinstance(plain, list) else plain
