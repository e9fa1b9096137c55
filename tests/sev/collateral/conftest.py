"""What the tests of collateral share: servers on 127.0.0.1 that answer as a test tells them, and AMD's certificates as a KDS."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from kds_servers import Script, Server, answer

from sev.certificates import ASK, ASVK, VCEK, Certificate
from sev.kds import KdsServer, pem
from sev.platform import Platform
from sev.revocation import Crl
from sev.tcb import KDS_NAMES


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    """Start a server with a script."""
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def kds() -> Iterator[Callable[..., KdsServer]]:
    """Start our own KDS for an emulated platform."""
    servers: list[KdsServer] = []

    def start(platform: Platform, interval: float = 0.0) -> KdsServer:
        server = KdsServer(platform, 0, interval)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def amd_script(real_data: Path, real_pairs: list[Path], amd_chain: list[Certificate], amd_crls: list[Crl]) -> Script:
    """AMD's KDS as far as the real certificates at hand go: chains, CRLs, and the VCEKs of the real reports."""
    leaves = [Certificate.decode((pair / "vek.der").read_bytes()) for pair in real_pairs]

    def script(target: str) -> bytes:
        parts = urlsplit(target)
        _, kind, _, line, what = parts.path.split("/")
        if what == "cert_chain":
            wanted = (ASVK if kind == "vlek" else ASK, "ARK")
            chain = [c for name in wanted for c in amd_chain if c.line.name == line and c.kind == name]
            return answer(200, b"".join(pem("CERTIFICATE", c.der) for c in chain)) if chain else answer(404)
        if what == "crl":
            crls = [crl for crl in amd_crls if crl.issuer_cn == f"ARK-{line}"]
            return answer(200, crls[0].der) if crls else answer(404)
        names = {kds_name: name for name, kds_name in KDS_NAMES.items()}
        spl = {names[name]: int(level) for name, level in parse_qsl(parts.query)}
        for leaf in leaves:
            if (leaf.kind, leaf.line.name, leaf.hwid.hex(), leaf.spl) == (VCEK, line, what, spl):
                return answer(200, leaf.der)
        return answer(404, b"no such chip")

    return script
