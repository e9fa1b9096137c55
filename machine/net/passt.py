"""User-mode network by passt: a process of its own that opens ordinary sockets for the guest."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence

from machine.net.addresses import USUAL, Addresses
from machine.net.backend import NetworkError
from machine.net.packets import ARP_REQUEST, BROADCAST_MAC, ETHERTYPE_ARP, Arp, ethernet
from machine.net.socket_link import StreamLink

PROGRAM = "passt"
_ARGUMENTS = (
    *("--foreground", "--quiet", "--ipv4-only", "--netmask", "255.255.255.0"),
    *("--mac-addr", "52:55:0a:00:02:02", "--mtu", "1500", "--udp-ports", "none", "--no-map-gw"),
)
_START_SECONDS = 5.0
_PROBE_MAC = bytes.fromhex("525500000001")
_STOP_SECONDS = 2.0


class PasstBackend(StreamLink):
    """A passt that serves this machine only, with `forwards` of (host port, guest port) from 127.0.0.1.

    Raises NetworkError with passt's own reason if it is missing or refuses to start.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        forwards: Sequence[tuple[int, int]],
        program: str = PROGRAM,
        at: Addresses = USUAL,
    ) -> None:
        self._at = at
        found = shutil.which(program)
        if found is None:
            raise NetworkError(f"{program} is not installed")
        ports = ",".join(f"{host}:{guest}" for host, guest in forwards)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        guest, gateway, dns = map(socket.inet_ntoa, at)
        words = [found, *_ARGUMENTS, "--address", guest, "--gateway", gateway, "--dns-forward", dns]
        words += ["--fd", str(theirs.fileno())]
        words += ["--tcp-ports", f"127.0.0.1/{ports}" if ports else "none"]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    words,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise NetworkError(f"{found}: {error.strerror or error}") from None
        self._wait_until_ready(found, ours)
        super().__init__(post, peer=ours)

    def _wait_until_ready(self, program: str, ours: socket.socket) -> None:
        """Ask for the gateway's address: passt answers once it is up, and hangs up if it refuses."""
        arp = Arp(ARP_REQUEST, _PROBE_MAC, self._at.guest, bytes(6), self._at.gateway)
        frame = ethernet(BROADCAST_MAC, _PROBE_MAC, ETHERTYPE_ARP, arp.pack())
        ours.settimeout(_START_SECONDS)
        try:
            ours.sendall(len(frame).to_bytes(4, "big") + frame)
            size = int.from_bytes(ours.recv(4, socket.MSG_WAITALL), "big")
            if size and ours.recv(size, socket.MSG_WAITALL):
                return
        except OSError:
            pass
        ours.close()
        self._stop()
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            lines = [line.strip() for line in stderr.read(4096).decode(errors="replace").splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {self._process.returncode}"
        raise NetworkError(f"{program} does not start: {reason}")

    def close(self) -> None:
        """End the process with the link."""
        super().close()
        self._stop()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _stop(self) -> None:
        """It ends by itself when the socket is closed; not wait for ever."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
