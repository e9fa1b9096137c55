"""A key distribution service for one emulated platform: answers over HTTP as AMD's KDS does, so that clients can be tested.

AMD 57230 (VCEK certificate and KDS interface): /vcek/v1/{line}/cert_chain and /crl, /vcek/v1/{line}/{hwid}?blSPL=..., the same
two of /vlek/v1. Like AMD's it wants all SPLs of the line, decimal, answers 400 to what it cannot read, 404 to another chip or
line, and 429 to who asks for VCEKs too fast. VLEKs are handed out by nobody's KDS without a contract: 404.
"""

import base64
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sev.certificates import ARK, ASK, ASVK
from sev.platform.platform import VCEK, Platform
from sev.tcb import KDS_NAMES, Tcb, places_of

HOST = "127.0.0.1"
MOST_CONNECTIONS = 32
CONNECTION_TIMEOUT = 10.0

DER = "application/pkix-cert"
PEM = "application/x-pem-file"
CRL = "application/pkix-crl"


class Answer:
    """What a request is answered with: status, content type, body, seconds to wait before the next try."""

    def __init__(self, status: int, body: bytes, kind: str = "text/plain", retry_after: int = 0) -> None:
        self.status = status
        self.body = body
        self.kind = kind
        self.retry_after = retry_after


def _refuse(status: int, reason: str) -> Answer:
    return Answer(status, reason.encode() + b"\n")


class KeyService:
    """The answers. `interval` is the least number of seconds between two VCEK requests, 0 for no limit."""

    def __init__(self, platform: Platform, interval: float = 0.0) -> None:
        self.platform = platform
        self.interval = interval
        self._lock = threading.Lock()
        self._next = 0.0

    def answer(self, target: str) -> Answer:
        """The answer to GET `target`, a path with its query."""
        try:
            parts = urlsplit(target)
            steps = parts.path.split("/")
            query = (
                parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
                if parts.query
                else []
            )
        except ValueError:
            return _refuse(400, "unreadable address")
        if len(steps) != 5 or steps[1] not in ("vcek", "vlek") or steps[2] != "v1":
            return _refuse(404, "no such resource")
        _, kind, _, line, what = steps
        if line != self.platform.settings.line.name:
            return _refuse(404, f"no line {line[:20]!r} here, only {self.platform.settings.line.name}")
        # One at a time: certificates are signed on demand.
        with self._lock:
            if what == "cert_chain":
                return Answer(200, self._chain(kind), PEM)
            if what == "crl":
                return Answer(200, self.platform.crl(), CRL)
            if kind == "vlek":
                return _refuse(404, "no such resource")
            return self._vcek(what, query)

    def _chain(self, kind: str) -> bytes:
        issued = self.platform.authority().certificates
        text = b"".join(pem("CERTIFICATE", issued[name].der) for name in (ASVK if kind == "vlek" else ASK, ARK))
        # AMD serves Turin's with the line ends of another world.
        return text.replace(b"\n", b"\r\n") if self.platform.settings.line.has_fmc else text

    def _vcek(self, hwid: str, query: list[tuple[str, str]]) -> Answer:
        settings = self.platform.settings
        now = time.monotonic()
        if self.interval and now < self._next:
            return Answer(429, b"too many requests\n", retry_after=int(self._next - now) + 1)
        self._next = now + self.interval
        if len(hwid) != 2 * settings.line.hwid_size or not hwid.isascii():
            return _refuse(400, f"HWID of {len(hwid)} digits; wanted {2 * settings.line.hwid_size}")
        try:
            asked = bytes.fromhex(hwid)
        except ValueError:
            return _refuse(400, "HWID is not hexadecimal")
        wanted = {KDS_NAMES[name]: name for name in places_of(settings.line)}
        levels: dict[str, int] = {}
        for name, text in query:
            if name not in wanted or wanted[name] in levels:
                return _refuse(400, f"parameter {name[:20]!r}: unknown or given twice")
            if not text.isdecimal() or not text.isascii() or len(text) > 3 or int(text) > 255:
                return _refuse(400, f"{name}: wanted a number from 0 to 255")
            levels[wanted[name]] = int(text)
        if missing := [name for name, level in wanted.items() if level not in levels]:
            return _refuse(400, f"{', '.join(missing)} missing")
        if asked != settings.hwid:
            return _refuse(404, "no such chip")
        leaf = self.platform.leaf(VCEK, Tcb.of(settings.line, **levels).raw)
        return Answer(200, leaf.der, DER)


def pem(kind: str, der: bytes) -> bytes:
    """PEM text of DER bytes; `kind` is CERTIFICATE or X509 CRL."""
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""]).encode()


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_TIMEOUT
    server: "KdsServer"

    def do_GET(self) -> None:
        """Answer one request."""
        answer = self.server.service.answer(self.path)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.retry_after:
            self.send_header("Retry-After", str(answer.retry_after))
        self.end_headers()
        self.wfile.write(answer.body)

    def version_string(self) -> str:
        """Server header."""
        return "cvmboot-kds"

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, if the server has somebody who wants it."""
        if self.server.log is not None:
            self.server.log(f"{self.client_address[0]} {format % args}")


class KdsServer(ThreadingHTTPServer):
    """The service on a port of 127.0.0.1; `port` 0 takes any free one. OSError if the port is taken."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, platform: Platform, port: int = 0, interval: float = 0.0, log: Any = None) -> None:
        super().__init__((HOST, port), _Handler)
        self.service = KeyService(platform, interval)
        self.log = log
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    @property
    def url(self) -> str:
        """Where clients find it, without a slash at the end."""
        return f"http://{HOST}:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or drop it if there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A client that hangs up is no news."""
        if self.log is not None:
            self.log(f"{client_address[0]}: the connection broke")
