"""What the tests of guests' networks share: a unikernel under the real command, its web page and its SSH console."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pexpect

IMAGE = "tamago-sev-example.efi"
COMMAND = [sys.executable, "-m", "cvmboot", "run"]
PATIENCE = 60.0
"""Seconds that a guest may take for an answer; its first one includes the making of an RSA key."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(found: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `found()` is true; AssertionError if that takes too long."""
    deadline = time.monotonic() + patience
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.05)


def up(nic: str, address: str = "10.0.2.15", mac: str = ":") -> str:
    """The command by which tamago-sev-example starts its network, its web page and its SSH console."""
    if nic.startswith("gvnic"):
        return f"net-gve {address}/24 10.0.2.2 debug"
    return f"net-virtio {address}/24 {mac} 10.0.2.2 debug"


@contextmanager
def running(image: Path, *words: str) -> Iterator[pexpect.spawn]:
    """`cvmboot run` with the image at its prompt, on a terminal of its own."""
    child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], *words, str(image)], timeout=PATIENCE, encoding="utf-8")
    try:
        child.expect("show system running time")
        child.expect("> ")
        yield child
    finally:
        child.close(force=True)


def leave(child: pexpect.spawn) -> int:
    """Type Ctrl-A X; the command's exit status."""
    child.send("\x01x")
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus is None
    return int(child.exitstatus)


def page(
    port: int, path: str = "/debug/pprof/", host: str = "127.0.0.1", certificate: ssl.SSLContext | None = None
) -> str:
    """What the guest's web server answers; it may not listen yet, or still be busy making its RSA key.

    With `certificate` by HTTPS, from a server that has what this trusts.
    """
    scheme, verify = ("https", certificate) if certificate is not None else ("http", True)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = httpx.get(f"{scheme}://{host}:{port}{path}", timeout=PATIENCE, verify=verify)
            assert answer.status_code == 200, answer
            return answer.text
        except httpx.TransportError as error:
            if isinstance(error.__cause__, ssl.SSLError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def ssh(port: int, host: str = "127.0.0.1", ready: str = "show system running time") -> Iterator[pexpect.spawn]:
    """A session of Debian's OpenSSH client at the guest's prompt."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    words = ["-tt", "-p", str(port), *(word for option in options for word in ("-o", option)), host]
    session = pexpect.spawn("ssh", words, timeout=PATIENCE, encoding="utf-8")
    try:
        session.expect(ready)
        session.expect("> ")
        yield session
    finally:
        session.close(force=True)


def namespace(*words: object, timeout: float = 110) -> "subprocess.CompletedProcess[str]":
    """Call a function of network_namespaces.py in network and mount namespaces of its own, as their root."""
    script = Path(__file__).with_name("network_namespaces.py")
    command = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, str(script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
