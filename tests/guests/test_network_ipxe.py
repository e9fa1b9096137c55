"""iPXE's own drivers for our devices, found through EFI_PCI_IO_PROTOCOL: independent of TamaGo's.

Each gets an address by DHCP and fetches a file over HTTP from the host.
"""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator

import pexpect
import pytest
from network_sessions import COMMAND, PATIENCE, leave

pytestmark = pytest.mark.guests

DRIVERS = {"virtio": "virtio-net", "gvnic": "gve"}
BODY = bytes(range(251)) * 2000


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every GET with BODY."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    """A web server on 127.0.0.1; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield web.server_port
        web.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "nic",
    [
        "virtio",
        "gvnic",
        pytest.param("virtio:strict", marks=pytest.mark.slow),
        pytest.param("virtio-legacy", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-rda", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-qpl", marks=pytest.mark.slow),
        pytest.param("gvnic:dqo-rda", marks=pytest.mark.slow),
        pytest.param("gvnic:dqo-qpl", marks=pytest.mark.slow),
        pytest.param("gvnic:rev1", marks=pytest.mark.slow),
        pytest.param("gvnic:gqi-qpl,rev1", marks=pytest.mark.slow),
    ],
)
def test_ipxe_gets_an_address_and_a_file(program, server, nic):
    kind = re.split("[:-]", nic)[0]
    image = program({"virtio": "ipxe-virtio-script.efi", "gvnic": "ipxe-gve-script.efi"}[kind])
    words = ["--nic", nic, "--net", "user", "--expose", str(server), str(image)]
    guest = pexpect.spawn(COMMAND[0], [*COMMAND[1:], *words], timeout=PATIENCE, encoding="utf-8")
    try:
        if guest.expect([rf"using {DRIVERS[kind]} on 0000:00:03.0", "No network devices", "iPXE> "]):
            pytest.skip("iPXE finds no device: this firmware has no EFI_PCI_IO_PROTOCOL yet")
        guest.expect(r"\.\.\. ok")
        guest.expect(r"10\.0\.2\.15/255\.255\.255\.0 gw 10\.0\.2\.2")
        guest.expect("iPXE> ")
        guest.send(f"imgfetch --name body http://10.0.2.2:{server}/ && sha256sum body\r")
        guest.expect(r"\.\.\. ok")
        guest.expect([hashlib.sha256(BODY).hexdigest(), "command not found"])
        guest.send("imgstat\r")
        guest.expect(rf"body : {len(BODY)} bytes")
        guest.send("ifstat\r")
        guest.expect(r"\[Link:up, TX:\d+ TXE:0 RX:(\d+) RXE:0\]")
        assert int(guest.match.group(1)) > len(BODY) // 1500
        assert leave(guest) == 0
    finally:
        guest.close(force=True)
