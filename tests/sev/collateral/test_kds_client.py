"""The KDS client against real sockets: our own KDS, and servers that answer in every wrong way."""

import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from kds_servers import Server, answer

from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK
from sev.collateral.errors import KdsError, KdsNotFound, KdsUnreachable
from sev.collateral.kds_client import AMD, LARGEST_CHAIN, KdsClient, retry_after, vcek_path
from sev.collateral.pieces import LeafKey
from sev.kds import pem
from sev.platform import Platform
from sev.product import GENOA, MILAN, TURIN, VENICE
from sev.tcb import Tcb

Serve = Callable[..., Server]


def _client(url: str, **settings: Any) -> tuple[KdsClient, list[float]]:
    """A client that does not really wait, and the pauses that it would have made."""
    pauses: list[float] = []
    return KdsClient(url, pause=pauses.append, **settings), pauses


def _key(platform: Platform, **spl: int) -> LeafKey:
    line = platform.settings.line
    tcb = Tcb.of(line, **spl) if spl else Tcb(platform.settings.reported_tcb, line)
    return LeafKey(VCEK, line, platform.settings.hwid, tcb.spl)


def test_everything_from_our_own_kds(platforms: dict[str, Platform], kds: Callable[..., Any]) -> None:
    for platform in platforms.values():
        line = platform.settings.line
        with KdsClient(kds(platform).url) as client:
            leaf = client.vcek(_key(platform))
            assert leaf.der == platform.leaf(VCEK.lower()).der
            chain = client.chain(line)
            assert [c.kind for c in chain] == [ASK, ARK]
            assert leaf.signature_problem(chain[0]) is None
            assert [c.kind for c in client.chain(line, VLEK)] == [ASVK, ARK]
            assert client.crl(line).signature_problem(chain[1]) is None
            other = LeafKey(VCEK, line, bytes(line.hwid_size), leaf.spl)
            with pytest.raises(KdsNotFound, match="HTTP 404"):
                client.vcek(other)
            with pytest.raises(KdsError, match="cloud provider"):
                client.vcek(LeafKey(VLEK, line, b"", leaf.spl))
            with pytest.raises(KdsNotFound):
                client.chain(VENICE)


def test_paths_of_each_line() -> None:
    milan = LeafKey(VCEK, MILAN, b"\xab" * 64, {"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 115})
    assert vcek_path(milan) == f"/vcek/v1/Milan/{'ab' * 64}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"
    turin = LeafKey(
        VCEK,
        TURIN,
        bytes.fromhex("631fe8a14126299e"),
        {"fmc": 1, "boot_loader": 3, "tee": 2, "snp": 6, "microcode": 117},
    )
    assert vcek_path(turin) == "/vcek/v1/Turin/631fe8a14126299e?fmcSPL=01&blSPL=03&teeSPL=02&snpSPL=06&ucodeSPL=117"


def test_429_is_waited_out(milan: Platform, kds: Callable[..., Any]) -> None:
    """Our KDS gives one VCEK a second, and the client really waits for it."""
    with KdsClient(kds(milan, interval=1.0).url) as client:
        began = time.monotonic()
        for microcode in (1, 2):
            assert client.vcek(_key(milan, microcode=microcode)).spl["microcode"] == microcode
        assert 0.5 < time.monotonic() - began < 10


def test_429_for_ever_ends(serve: Serve, milan: Platform) -> None:
    server = serve(lambda target: answer(429, b"slow down"))
    client, pauses = _client(server.url)
    with pytest.raises(KdsError, match=r"HTTP 429\) \(\d tries\); try again in a minute"):
        client.vcek(_key(milan))
    assert 2 <= len(pauses) == len(server.targets) - 1 < 8
    assert pauses == sorted(pauses)
    assert sum(pauses) <= client.patience
    server = serve(lambda target: answer(429, b"", "Retry-After: 1"))
    client, pauses = _client(server.url)
    with pytest.raises(KdsError, match="429"):
        client.vcek(_key(milan))
    assert set(pauses) == {1.0}
    assert len(server.targets) == 8


def test_a_long_retry_after_is_not_waited_for(serve: Serve, milan: Platform) -> None:
    for header in ("86400", formatdate(time.time() + 86400, usegmt=True), "9" * 400):
        server = serve(lambda target, header=header: answer(429, b"", f"Retry-After: {header}"))
        client, pauses = _client(server.url)
        with pytest.raises(KdsError, match="429"):
            client.vcek(_key(milan))
        assert not pauses
        assert len(server.targets) == 1


def test_retry_after_values() -> None:
    assert retry_after("7") == 7
    assert retry_after("0") == 1
    assert 5 < retry_after(formatdate(time.time() + 9, usegmt=True)) <= 9
    assert retry_after(formatdate(time.time() - 9000, usegmt=True)) == 1
    for nonsense in ("", "soon", "-5", "1.5", "Mon, 99 Foo 2026", "٣"):
        assert retry_after(nonsense) == 0


def test_5xx_is_tried_again_and_then_given_up(serve: Serve, milan: Platform) -> None:
    good = milan.crl()
    answers = iter([answer(503), answer(500), answer(200, good)])
    server = serve(lambda target: next(answers))
    client, pauses = _client(server.url)
    assert client.crl(MILAN).der == good
    assert len(pauses) == 2
    server = serve(lambda target: answer(502, b"<html>bad gateway</html>"))
    client, pauses = _client(server.url)
    with pytest.raises(KdsUnreachable, match=r"HTTP 502 \(3 tries\)"):
        client.crl(MILAN)
    assert len(server.targets) == 3


def test_other_statuses_are_final(serve: Serve, milan: Platform) -> None:
    for status, kind, words in (
        (404, KdsNotFound, "does not know"),
        (400, KdsNotFound, "does not know"),
        (403, KdsError, "HTTP 403"),
        (204, KdsError, "HTTP 204"),
        (302, KdsError, "redirection, which is not followed"),
    ):
        server = serve(lambda target, status=status: answer(status, b"", "Location: http://127.0.0.1:1/"))
        with pytest.raises(kind, match=words):
            _client(server.url)[0].vcek(_key(milan))
        assert len(server.targets) == 1


def test_answers_that_are_no_certificate(serve: Serve, milan: Platform) -> None:
    leaf = milan.leaf(VCEK.lower()).der
    for body, words in (
        (b"<html><body>Welcome to the hotel's network</body></html>", "a web page"),
        (b"", "0 bytes"),
        (leaf[: len(leaf) // 2], "no certificate"),
        (leaf + b"\0", "no certificate"),
        (bytes(1000), "no certificate"),
    ):
        server = serve(lambda target, body=body: answer(200, body, "Content-Type: text/html"))
        with pytest.raises(KdsError, match=words) as caught:
            _client(server.url)[0].vcek(_key(milan))
        assert "\n" not in str(caught.value)
        assert "text/html" in str(caught.value)
        for ask in ("chain", "crl"):
            with pytest.raises(KdsError):
                getattr(_client(server.url)[0], ask)(MILAN)


def test_another_certificate_than_was_asked_for(
    serve: Serve, milan: Platform, turin: Platform, platforms: dict[str, Platform]
) -> None:
    key = _key(milan)
    twin = Platform.load(milan.folder, hwid=b"\x77" * 64)
    for wrong, words in (
        (milan.leaf("vcek", Tcb.of(MILAN, microcode=9).raw), "for blSPL=0 teeSPL=0 snpSPL=0 ucodeSPL=9; asked for"),
        (twin.leaf("vcek"), "chip 7777777777777777"),
        (turin.leaf("vcek"), "Turin VCEK"),
        (milan.leaf("vlek"), "gave SEV-VLEK"),
        (milan.authority().certificates[ASK], "gave SEV-Milan"),
    ):
        server = serve(lambda target, wrong=wrong: answer(200, wrong.der))
        with pytest.raises(KdsError, match=words):
            _client(server.url)[0].vcek(key)
    issued = milan.authority().certificates
    genoa = platforms["genoa"].authority().certificates
    for chain in (
        [issued[ASK]],
        [issued[ARK]],
        [issued[ASVK], issued[ARK]],
        [issued[ASK], issued[ASK]],
        [issued[ASK], issued[ARK], issued[ARK]],
        [genoa[ASK], genoa[ARK]],
        [issued[ASK], genoa[ARK]],
    ):
        body = b"".join(pem("CERTIFICATE", certificate.der) for certificate in chain)
        server = serve(lambda target, body=body: answer(200, body))
        with pytest.raises(KdsError, match="wanted ASK and ARK of Milan"):
            _client(server.url)[0].chain(MILAN)
    whole = b"".join(pem("CERTIFICATE", issued[kind].der) for kind in (ASK, ARK))
    server = serve(lambda target: answer(200, whole[: len(whole) * 3 // 4]))
    with pytest.raises(KdsError, match="gave SEV-Milan; wanted"):
        _client(server.url)[0].chain(MILAN)
    server = serve(lambda target: answer(200, milan.crl()))
    with pytest.raises(KdsError, match="wanted ARK-Genoa's"):
        _client(server.url)[0].crl(GENOA)


def test_a_chain_of_two_families_of_one_name(serve: Serve, milan: Platform, tmp_path: Any) -> None:
    impostor = Platform.new(tmp_path / "impostor", "milan").authority().certificates
    body = pem("CERTIFICATE", milan.authority().certificates[ASK].der) + pem("CERTIFICATE", impostor[ARK].der)
    server = serve(lambda target: answer(200, body))
    with pytest.raises(KdsError, match="the ASK: the signature is not by the key"):
        _client(server.url)[0].chain(MILAN)


def test_too_much_is_not_taken(serve: Serve, milan: Platform) -> None:
    sent = threading.Event()

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(10_000):
            connection.sendall(bytes(1 << 16))
        sent.set()

    server = serve(lambda target: flood)
    with pytest.raises(KdsError, match=f"more than {LARGEST_CHAIN} bytes"):
        _client(server.url)[0].chain(MILAN)
    assert not sent.is_set()
    server = serve(lambda target: answer(200, b"x", length=10 << 20))
    with pytest.raises(KdsError, match="10485760 bytes; at most 16384"):
        _client(server.url)[0].vcek(_key(milan))
    server = serve(lambda target: answer(200, bytes(100), "Content-Encoding: gzip"))
    with pytest.raises(KdsError, match="gzip"):
        _client(server.url)[0].vcek(_key(milan))
    server = serve(lambda target: answer(200, b"x", f"X-Much: {'y' * 500_000}"))
    with pytest.raises(KdsError):
        _client(server.url)[0].vcek(_key(milan))


def test_an_answer_that_breaks_off(serve: Serve, milan: Platform) -> None:
    leaf = milan.leaf("vcek").der
    broken = answer(200, leaf[:700], length=len(leaf))
    answers = iter([broken, b"", answer(200, leaf)])
    server = serve(lambda target: next(answers))
    client, pauses = _client(server.url)
    assert client.vcek(_key(milan)).der == leaf
    assert len(pauses) == 2
    for nonsense in (broken, b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"):
        server = serve(lambda target, nonsense=nonsense: nonsense)
        with pytest.raises(KdsError, match="broke off"):
            _client(server.url)[0].vcek(_key(milan))
        assert len(server.targets) == 3


def test_silence_and_drips_end(serve: Serve, milan: Platform) -> None:
    over = threading.Event()

    def silent(connection: socket.socket) -> None:
        over.wait(20)

    def drip(head: bytes) -> Callable[[socket.socket], None]:
        def behave(connection: socket.socket) -> None:
            connection.sendall(head)
            while not over.is_set():
                connection.sendall(b"a")
                time.sleep(0.02)

        return behave

    length = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n"
    until_closed = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    try:
        for behave, words in (
            (silent, "no answer within 0.2 s"),
            (drip(length), "no whole answer within 0.4 s"),
            (drip(until_closed), "no whole answer within 0.4 s"),
            (drip(b"HTTP/1.1 200 OK\r\nX: "), "no whole answer within 0.4 s"),
        ):
            server = serve(lambda target, behave=behave: behave)
            began = time.monotonic()
            with pytest.raises(KdsUnreachable, match=words):
                _client(server.url, timeout=0.2, longest=0.4)[0].vcek(_key(milan))
            assert time.monotonic() - began < 5
            assert len(server.targets) == 3
    finally:
        over.set()


def test_who_waits_for_long_is_told(serve: Serve, milan: Platform) -> None:
    told: list[str] = []

    def slow(connection: socket.socket) -> None:
        time.sleep(2.3)
        connection.sendall(answers.pop(0))

    crl = milan.crl()
    answers = [answer(503), answer(200, crl)]
    client = KdsClient(serve(lambda target: slow).url, pause=lambda seconds: None, log=told.append)
    assert client.crl(MILAN).der == crl
    assert [text.partition("/crl: ")[2] for text in told] == [
        *(
            "no answer yet; waiting for at most 30 s",
            "HTTP 503; next try in 0.5 s",
            "no answer yet; waiting for at most 30 s",
        )
    ]
    told.clear()
    busy = [answer(429), answer(200, crl)]
    client = KdsClient(serve(lambda target: busy.pop(0)).url, pause=lambda seconds: None, log=told.append)
    client.crl(MILAN)
    assert [text.partition("/crl: ")[2] for text in told] == ["too many requests (HTTP 429); next try in 5 s"]


def test_nobody_listens(milan: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client, pauses = _client(f"http://127.0.0.1:{port}")
    with pytest.raises(KdsUnreachable, match="refused"):
        client.vcek(_key(milan))
    assert not pauses
    client, _ = _client("http://no-such-host.invalid")
    with pytest.raises(KdsUnreachable):
        client.vcek(_key(milan))


def test_tls_with_who_speaks_none(serve: Serve, milan: Platform) -> None:
    server = serve(lambda target: answer(200))
    client, _ = _client(server.url.replace("http:", "https:"), timeout=1.0, longest=1.0)
    with pytest.raises(KdsError):
        client.vcek(_key(milan))


def test_one_request_in_flight(serve: Serve, milan: Platform) -> None:
    # Counted until the answer begins: when it has been sent the client may already ask again.
    waiting, most = [0], [0]
    lock = threading.Lock()

    def slow(connection: socket.socket) -> None:
        with lock:
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
        time.sleep(0.05)
        with lock:
            waiting[0] -= 1
        connection.sendall(answer(200, milan.crl()))

    milan.crl()
    server = serve(lambda target: slow)
    client, _ = _client(server.url)
    threads = [threading.Thread(target=client.crl, args=(MILAN,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.targets) == 6
    assert most == [1]


def test_addresses() -> None:
    assert KdsClient().is_amd
    assert KdsClient(AMD + "/").is_amd
    for wrong in (
        *("", "kds.example", "ftp://kds.example", "http://", "http://a:b@kds.example", "http://kds.example/?q"),
        *("http://kds.example:0", "http://kds.example:99999", "http://kds.example:x", "http://[::1", "http://a b"),
        *("http://kds.example/#f", "file:///etc/passwd", "http://kds.example/\n", "http://k\x00"),
    ):
        with pytest.raises(KdsError, match="KDS address"):
            KdsClient(wrong)
