"""The emulated KDS, asked over HTTP as AMD's is."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.certificate_files import split_certificates
from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.kds import KdsServer, KeyService
from sev.platform import Platform
from sev.revocation import Crl
from sev.verifier import verify

MILAN_LEVELS = "blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
TURIN_LEVELS = "fmcSPL=01&blSPL=03&teeSPL=02&snpSPL=06&ucodeSPL=117"


class Client:
    """Asks one server."""

    def __init__(self, server: KdsServer) -> None:
        self._place = urlsplit(server.url).netloc

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._place, timeout=20)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), body


@contextmanager
def _serve(platform: Platform, interval: float = 0.0) -> Iterator[KdsServer]:
    with KdsServer(platform, interval=interval) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def milan_kds(milan: Platform) -> Iterator[KdsServer]:
    """A running KDS of an emulated Milan."""
    with _serve(milan) as server:
        yield server


@pytest.fixture(scope="module")
def turin_kds(turin: Platform) -> Iterator[KdsServer]:
    """A running KDS of an emulated Turin."""
    with _serve(turin) as server:
        yield server


def test_a_report_verifies_with_what_the_service_gives(turin: Platform, turin_kds: KdsServer) -> None:
    client = Client(turin_kds)
    status, headers, der = client.get(f"/vcek/v1/Turin/{turin.settings.hwid.hex().upper()}?{TURIN_LEVELS}")
    assert status == 200
    assert headers["Content-Type"] == "application/pkix-cert"
    status, headers, chain = client.get("/vcek/v1/Turin/cert_chain")
    assert status == 200
    assert b"\r\n" in chain
    found = [Certificate.decode(each) for _, each in split_certificates(chain)]
    assert [certificate.kind for certificate in found] == [ASK, ARK]
    status, headers, crl = client.get("/vcek/v1/Turin/crl")
    assert headers["Content-Type"] == "application/pkix-crl"
    raw = turin.sign_report(turin.report().encode())
    verdict = verify(raw, [Certificate.decode(der), *found], roots=[found[1]], crls=[Crl.decode(crl)])
    assert verdict.verified, verdict.reason


def test_milan_s_addresses(milan: Platform, milan_kds: KdsServer) -> None:
    client = Client(milan_kds)
    status, _, chain = client.get("/vlek/v1/Milan/cert_chain")
    assert status == 200
    assert b"\r" not in chain
    assert [Certificate.decode(each).kind for _, each in split_certificates(chain)] == [ASVK, ARK]
    assert client.get("/vlek/v1/Milan/crl")[0] == 200
    status, _, der = client.get(f"/vcek/v1/Milan/{milan.settings.hwid.hex()}?{MILAN_LEVELS}")
    assert status == 200
    assert Certificate.decode(der).spl == {"boot_loader": 4, "tee": 0, "snp": 24, "microcode": 219}
    _, _, der = client.get(f"/vcek/v1/Milan/{milan.settings.hwid.hex()}?blSPL=3&teeSPL=0&snpSPL=8&ucodeSPL=115")
    assert Certificate.decode(der).spl["microcode"] == 115


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/vcek/v1/Milan", 404),
        ("/vcek/v2/Milan/crl", 404),
        ("/vcek/v1/Genoa/cert_chain", 404),
        ("/vcek/v1/milan/cert_chain", 404),
        ("/vlek/v1/Milan/HWID?" + MILAN_LEVELS, 404),
        ("/vcek/v1/Milan/" + "00" * 64 + "?" + MILAN_LEVELS, 404),
        ("/vcek/v1/Milan/" + "00" * 8 + "?" + MILAN_LEVELS, 400),
        ("/vcek/v1/Milan/" + "zz" * 64 + "?" + MILAN_LEVELS, 400),
        ("/vcek/v1/Milan/HWID", 400),
        ("/vcek/v1/Milan/HWID?blSPL=4", 400),
        ("/vcek/v1/Milan/HWID?fmcSPL=1&" + MILAN_LEVELS, 400),
        ("/vcek/v1/Milan/HWID?blSPL=4&" + MILAN_LEVELS, 400),
        ("/vcek/v1/Milan/HWID?blSPL=256&teeSPL=0&snpSPL=24&ucodeSPL=219", 400),
        ("/vcek/v1/Milan/HWID?blSPL=0x4&teeSPL=0&snpSPL=24&ucodeSPL=219", 400),
        ("/vcek/v1/Milan/HWID?blSPL=-1&teeSPL=0&snpSPL=24&ucodeSPL=219", 400),
        ("/vcek/v1/Milan/HWID?;;", 400),
    ],
)
def test_what_there_is_not(path: str, status: int, milan: Platform, milan_kds: KdsServer) -> None:
    assert Client(milan_kds).get(path.replace("HWID", milan.settings.hwid.hex()))[0] == status


def test_only_get(milan_kds: KdsServer) -> None:
    for method in ("POST", "DELETE", "HEAD"):
        assert Client(milan_kds).get("/vcek/v1/Milan/crl", method)[0] == 501


def test_who_asks_too_fast_gets_429(milan: Platform) -> None:
    with _serve(milan, interval=60) as server:
        client = Client(server)
        path = f"/vcek/v1/Milan/{milan.settings.hwid.hex()}?{MILAN_LEVELS}"
        assert client.get(path)[0] == 200
        status, headers, _ = client.get(path)
        assert status == 429
        assert 1 <= int(headers["Retry-After"]) <= 60
        assert client.get("/vcek/v1/Milan/cert_chain")[0] == 200


def test_a_client_that_says_nothing_or_nonsense_stops_nobody(milan_kds: KdsServer) -> None:
    place = milan_kds.server_address
    silent = [socket.create_connection((str(place[0]), int(place[1]))) for _ in range(8)]
    with socket.create_connection((str(place[0]), int(place[1]))) as noisy:
        noisy.sendall(b"\x16\x03\x01" + b"A" * 70000 + b"\r\n\r\n")
    assert Client(milan_kds).get("/vcek/v1/Milan/crl")[0] == 200
    for connection in silent:
        connection.close()


@settings(max_examples=300, deadline=None)
@given(what=st.text(max_size=60), query=st.text(max_size=30))
def test_any_address_has_an_answer(what: str, query: str, milan: Platform) -> None:
    service = KeyService(milan)
    for target in (what, f"/vcek/v1/Milan/{what}", f"/vcek/v1/Milan/{milan.settings.hwid.hex()}?{query}"):
        assert service.answer(target).status in (200, 400, 404)
