"""Cables between machines over sockets, framed as QEMU's -netdev stream, dgram and socket do.

A stream carries each frame behind its length (4 bytes, big-endian); a datagram is a frame.
"""

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from machine.net.backend import MAXIMUM_FRAME, MINIMUM_FRAME, Backend, NetworkError
from machine.net.poller import READABLE, WRITABLE, Poller

MAXIMUM_UNSENT = 1 << 20
"""Bytes that wait for a slow other end; frames that come then are lost."""

_CHUNK = 256 << 10
_DATAGRAMS = 64
_CONNECT_SECONDS = 5.0
_LENGTH = 4

Post = Callable[[Callable[[], None]], None]


class StreamLink(Backend):
    """One connected stream socket, or a listening one that takes one peer after the other.

    When the peer goes away, or sends what is no frame, the link is down; a listening link waits for the next peer.
    """

    def __init__(self, post: Post, peer: socket.socket | None = None, server: socket.socket | None = None) -> None:
        super().__init__()
        self._poller = Poller(post)
        self._server = server
        self._peer: socket.socket | None = None
        self._unsent = bytearray()
        self._received = bytearray()
        self.link = False
        if peer is not None:
            self._attach(peer)
        elif server is not None:
            server.setblocking(False)
            self._poller.watch(server.fileno(), READABLE, self._accept)

    def send(self, frame: bytes) -> None:
        """Send as much as the socket takes; the rest follows."""
        peer = self._peer
        if peer is None or len(self._unsent) > MAXIMUM_UNSENT:
            return
        self._unsent += len(frame).to_bytes(_LENGTH, "big") + frame
        if len(self._unsent) == _LENGTH + len(frame):
            self._flush(peer)
            self._watch()

    def _flush(self, peer: socket.socket) -> None:
        try:
            while self._unsent:
                del self._unsent[: peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._detach()

    def _attach(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        if peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer
        self._unsent.clear()
        self._received.clear()
        self._watch()
        self.set_link(True)

    def _detach(self) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        self._poller.forget(peer.fileno())
        peer.close()
        self.set_link(False)
        if self._server is not None:
            self._poller.watch(self._server.fileno(), READABLE, self._accept)

    def _accept(self) -> None:
        assert self._server is not None
        try:
            peer, _ = self._server.accept()
        except OSError:
            self._poller.watch(self._server.fileno(), READABLE, self._accept)
            return
        self._attach(peer)

    def _watch(self) -> None:
        if self._peer is not None:
            self._poller.watch(self._peer.fileno(), READABLE | (WRITABLE if self._unsent else 0), self._ready)

    def _ready(self) -> None:
        peer = self._peer
        if peer is None:
            return
        if self._unsent:
            self._flush(peer)
        try:
            data = peer.recv(_CHUNK)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._detach()
            return
        if data:
            self._received += data
            self._take_frames()
        self._watch()

    def _take_frames(self) -> None:
        received, at = self._received, 0
        while len(received) - at >= _LENGTH:
            size = int.from_bytes(received[at : at + _LENGTH], "big")
            if not 0 < size <= MAXIMUM_FRAME + _LENGTH:
                self._detach()  # no frame is that long: what follows cannot be made sense of
                return
            end = at + _LENGTH + size
            if end > len(received):
                break
            frame = bytes(received[at + _LENGTH : end])
            at = end
            if MINIMUM_FRAME <= size <= MAXIMUM_FRAME:
                self.on_receive(frame)
        del received[:at]

    def close(self) -> None:
        """Hang up."""
        server, self._server = self._server, None
        self._detach()
        if server is not None:
            self._poller.forget(server.fileno())
            path = server.getsockname() if server.family == socket.AF_UNIX else ""
            server.close()
            if path:
                Path(path).unlink(missing_ok=True)
        self._poller.close()


class DatagramLink(Backend):
    """A bound datagram socket; frames go to `remote`, and are taken from nobody else."""

    def __init__(self, post: Post, local: socket.socket, remote: object) -> None:
        super().__init__()
        self._poller = Poller(post)
        self._socket = local
        self._remote = remote
        local.setblocking(False)
        self._watch()

    def _watch(self) -> None:
        self._poller.watch(self._socket.fileno(), READABLE, self._ready)

    def send(self, frame: bytes) -> None:
        """Send one datagram; lost if nobody is there."""
        with suppress(OSError):
            self._socket.sendto(frame, self._remote)  # type: ignore[call-overload]

    def _ready(self) -> None:
        for _ in range(_DATAGRAMS):
            try:
                frame, sender = self._socket.recvfrom(MAXIMUM_FRAME + 1)
            except ConnectionError:
                continue  # the other end is not there yet
            except OSError:
                break
            if sender == self._remote:
                self.on_receive(frame)
        self._watch()

    def close(self) -> None:
        """Close the socket."""
        if self._socket.fileno() < 0:
            return
        self._poller.forget(self._socket.fileno())
        path = self._socket.getsockname() if self._socket.family == socket.AF_UNIX else ""
        self._socket.close()
        if path:
            Path(path).unlink(missing_ok=True)
        self._poller.close()


def parse_address(text: str) -> "tuple[socket.AddressFamily, tuple[str, int] | str]":
    """(family, address) of "HOST:PORT" or "unix:PATH". NetworkError for anything else."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = text.rpartition(":")
    if host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536:
        host = host.removeprefix("[").removesuffix("]")
        return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port))
    raise NetworkError(f"{text!r} is no address; wanted HOST:PORT or unix:PATH")


def open_link(text: str, post: Post) -> Backend:
    """The link of "ADDRESS" (connects), "listen:ADDRESS" or "dgram:LOCAL,REMOTE". NetworkError if that fails."""
    kind, _, rest = text.partition(":")
    if kind == "dgram":
        return _open_datagram(rest, post)
    listening = kind == "listen"
    family, address = parse_address(rest if listening else text)
    link = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if listening:
            if family != socket.AF_UNIX:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(link, address)
            link.listen(1)
            return StreamLink(post, server=link)
        link.settimeout(_CONNECT_SECONDS)
        link.connect(address)
        return StreamLink(post, peer=link)
    except OSError as error:
        link.close()
        todo = "name a free address" if listening else "start the other end first, there with listen"
        raise NetworkError(f"socket {text}: {error.strerror or error}; {todo}") from None


def _bind(link: socket.socket, address: object) -> None:
    try:
        link.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not isinstance(address, str):
            raise
        # The socket file of a process that is gone can be replaced; that of a living one answers.
        with socket.socket(link.family, link.type) as probe:
            try:
                probe.connect(address)
            except ConnectionRefusedError:
                Path(address).unlink()
                link.bind(address)
            else:
                raise


def _open_datagram(text: str, post: Post) -> Backend:
    local_text, comma, remote_text = text.partition(",")
    if not comma:
        raise NetworkError(f"dgram:{text}: wanted dgram:LOCAL,REMOTE, each HOST:PORT or unix:PATH")
    family, local = parse_address(local_text)
    remote_family, remote = parse_address(remote_text)
    if family != remote_family:
        raise NetworkError(f"dgram:{text}: both addresses must be of one kind")
    link = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if family != socket.AF_UNIX:
            remote = socket.getaddrinfo(*remote, family=family, type=socket.SOCK_DGRAM)[0][4]  # type: ignore[assignment, misc]
        _bind(link, local)
        return DatagramLink(post, link, remote)
    except OSError as error:
        link.close()
        raise NetworkError(f"socket dgram:{text}: {error.strerror or error}; name an address that is free") from None
