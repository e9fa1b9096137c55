"""The resolver: evidence first, then the cache, then KDS; and for each thing missing, why and what to do."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kds_servers import Script, Server, answer

from sev.certificates import ARK, ASK, VCEK, VLEK, Certificate
from sev.collateral.bundle import Bundle
from sev.collateral.cache import Cache
from sev.collateral.kds_client import KdsClient
from sev.collateral.pieces import CACHE, EVIDENCE, KDS, LeafKey
from sev.collateral.resolver import Collateral, Resolver
from sev.evidence import Evidence
from sev.platform import Platform
from sev.platform.issue import issue_crl
from sev.revocation import Crl
from sev.tcb import Tcb
from sev.verifier import verify

Serve = Callable[[Script], Server]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache in which damage is an error."""
    return Cache(tmp_path / "cache", pytest.fail)


def _client(url: str) -> KdsClient:
    return KdsClient(url, pause=lambda seconds: None)


def _report(platform: Platform, **fields: Any) -> bytes:
    return platform.sign_report(platform.report(**fields).encode())


def _sources(found: Collateral) -> list[tuple[str, str]]:
    return [(piece.kind, piece.source) for piece in found.pieces]


def _verified(platform: Platform, evidence: Evidence) -> bool:
    roots = [platform.authority().certificates[ARK]]
    return verify(evidence.report, evidence.certificates, roots=roots, crls=evidence.crls).verified


def test_from_kds_then_from_the_cache_then_from_the_evidence(
    platforms: dict[str, Platform], kds: Callable[..., Any], cache: Cache
) -> None:
    for platform in platforms.values():
        raw = _report(platform)
        first = Evidence(raw)
        found = Resolver(cache, _client(kds(platform).url)).complete(first)
        assert not found.problem and not found.notes and found.complete
        assert _sources(found) == [(kind, KDS) for kind in (VCEK, ASK, ARK, "CRL")]
        assert _verified(platform, first)
        second = Evidence(raw)
        again = Resolver(cache, None).complete(second)
        assert _sources(again) == [(kind, CACHE) for kind in (VCEK, ASK, ARK, "CRL")]
        assert [p.item.der for p in again.pieces] == [p.item.der for p in found.pieces]
        assert _verified(platform, second)
        # From KDS and from the cache, the bundle is the same, byte for byte.
        assert Bundle(raw, found.pieces).encode() == Bundle(raw, again.pieces).encode()
        third = Resolver(None, None).complete(second)
        assert _sources(third) == [(kind, EVIDENCE) for kind in (VCEK, ASK, ARK, "CRL")]


def test_complete_evidence_asks_nobody(serve: Serve, milan: Platform) -> None:
    server = serve(lambda target: answer(500))
    evidence = Evidence(_report(milan), milan.certificates())
    found = Resolver(None, _client(server.url)).complete(evidence)
    assert found.complete
    assert not server.targets
    assert Resolver(None, _client(server.url)).complete(evidence, want_crl=True).notes
    assert len(server.targets) == 3 and all(target.endswith("/crl") for target in server.targets)


def test_offline_says_what_to_do(milan: Platform, cache: Cache) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    for raw, certificates, words in (
        (_real_looking(milan), [], "the Milan VCEK of chip 5555555555555555 for blSPL=4"),
        (_report(milan, chip_id=bytes(64)), [], "masks CHIP_ID"),
        (_report(loaded, key=VLEK.lower()), [], "KDS gives a VLEK to the cloud provider only"),
        (_report(milan, cpuid_fam_id=0x1B), [], "unknown CPU (family 0x1b"),
        (_report(milan), [], "AMD has no certificates of an emulated platform"),
        (_report(milan), [milan.leaf("vcek")], "AMD has no certificates of an emulated platform"),
    ):
        found = Resolver(cache, None).complete(Evidence(raw, certificates))
        assert words in found.problem
        assert "--" in found.problem or "unknown" in found.problem
        assert not found.complete


def _real_looking(platform: Platform) -> bytes:
    """A report of a chip that does not look emulated."""
    return _report(Platform.load(platform.folder, hwid=b"\x55" * 64))


def test_amd_is_not_asked_about_emulated_chips(milan: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    client = KdsClient()
    monkeypatch.setattr(client, "_once", lambda *a: pytest.fail("asked AMD"))
    found = Resolver(None, client).complete(Evidence(_report(milan)))
    assert "emulated platform" in found.problem


def test_a_leaf_of_another_tcb_is_not_enough(milan: Platform, kds: Callable[..., Any]) -> None:
    issued = milan.authority().certificates
    wrong = milan.leaf("vcek", Tcb.of(milan.settings.line, microcode=1).raw)
    evidence = Evidence(_report(milan), [wrong, issued[ASK], issued[ARK]])
    assert not _verified(milan, evidence)
    found = Resolver(None, _client(kds(milan).url)).complete(evidence)
    assert _sources(found)[:3] == [(VCEK, KDS), (ASK, EVIDENCE), (ARK, EVIDENCE)]
    assert _verified(milan, evidence)


def test_a_forged_leaf_in_the_cache_does_not_stand_in_the_way(
    milan: Platform, kds: Callable[..., Any], cache: Cache, tmp_path: Path
) -> None:
    forger = Platform.new(tmp_path / "forger", "milan", hwid=milan.settings.hwid)
    for certificate in forger.certificates():
        cache.put(certificate)
    raw = _report(milan)
    evidence = Evidence(raw)
    found = Resolver(cache, _client(kds(milan).url)).complete(evidence)
    assert found.leaves[0].item.der == milan.leaf("vcek").der
    assert _verified(milan, evidence)
    # Now both are there, and the right one is found without asking.
    again = Evidence(raw)
    assert Resolver(cache, None).complete(again).complete
    assert _verified(milan, again)


def test_a_changed_report_does_not_ask_for_a_genuine_leaf_again(serve: Serve, milan: Platform, cache: Cache) -> None:
    server = serve(lambda target: answer(500))
    for certificate in milan.certificates():
        cache.put(certificate)
    raw = bytearray(_report(milan))
    raw[0x50] ^= 1
    resolver = Resolver(cache, _client(server.url), [milan.authority().certificates[ARK]])
    assert resolver.complete(Evidence(bytes(raw))).complete
    assert not server.targets


def test_two_leaves_for_one_key(milan: Platform, cache: Cache) -> None:
    twin = Platform.load(milan.folder).leaf("vcek")
    for item in (*milan.certificates(), twin):
        cache.put(item)
    evidence = Evidence(_report(milan))
    found = Resolver(cache, None).complete(evidence)
    assert len(found.leaves) == 2 and found.complete
    assert _verified(milan, evidence)


def test_crls_fresh_stale_and_forged(serve: Serve, kds: Callable[..., Any], milan: Platform, cache: Cache) -> None:
    known, raw = milan.certificates(), _report(milan)
    cache.put(crl := Crl.decode(milan.crl()))
    assert crl.next_update is not None
    fresh = Resolver(cache, None).complete(Evidence(raw, list(known)), want_crl=True)
    assert not fresh.notes and [p.source for p in fresh.crls] == [CACHE]
    later = crl.next_update + timedelta(days=1)
    stale = Resolver(cache, None).complete(Evidence(raw, list(known)), at=later, want_crl=True)
    assert "CRL is stale" in stale.notes[0] and "--offline" in stale.notes[0]
    assert [p.source for p in stale.crls] == [CACHE]
    none = Resolver(None, None).complete(Evidence(raw, list(known)), want_crl=True)
    assert "CRL is missing" in none.notes[0]
    fetched = Resolver(None, _client(kds(milan).url)).complete(Evidence(raw, list(known)), want_crl=True)
    assert [p.source for p in fetched.crls] == [KDS]
    now = datetime.now(UTC).replace(microsecond=0)
    forged = issue_crl(milan.settings.line, milan.authority().key(ASK), 3, (now, now + timedelta(days=1)), {})
    server = serve(lambda target: answer(200, forged))
    evidence = Evidence(raw, list(known))
    found = Resolver(None, _client(server.url)).complete(evidence, want_crl=True)
    assert found.complete and not evidence.crls
    assert "not its own" in found.notes[0]


def test_kds_without_the_crl_is_no_failure(serve: Serve, kds: Callable[..., Any], milan: Platform) -> None:
    service = kds(milan).service

    def script(target: str) -> bytes:
        told = service.answer(target)
        return answer(404) if target.endswith("/crl") else answer(told.status, told.body)

    found = Resolver(None, _client(serve(script).url)).complete(Evidence(_report(milan)))
    assert found.complete and not found.problem
    assert "HTTP 404" in found.notes[0]


def test_what_kds_refuses_is_not_asked_for_again(serve: Serve, milan: Platform, cache: Cache) -> None:
    raw = _real_looking(milan)
    server = serve(lambda target: answer(404))
    resolver = Resolver(cache, _client(server.url))
    for _ in range(3):
        assert "does not know the line, chip or TCB" in resolver.complete(Evidence(raw)).problem
    assert len(server.targets) == 1
    server = serve(lambda target: answer(503))
    resolver = Resolver(cache, _client(server.url))
    other = _report(Platform.load(milan.folder, hwid=b"\x66" * 64))
    for each in (raw, raw, other):
        assert "HTTP 503 (3 tries)" in resolver.complete(Evidence(each)).problem
    assert len(server.targets) == 3


def test_a_cache_that_cannot_be_written_is_a_warning(milan: Platform, kds: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    warnings: list[str] = []
    resolver = Resolver(Cache(tmp_path / "file", warnings.append), _client(kds(milan).url))
    assert resolver.complete(Evidence(_report(milan))).complete
    assert warnings and "--cache" in warnings[0]


_ASKERS = """
import os, sys, time
from pathlib import Path
import httpx
from sev.collateral.bundle import Bundle
from sev.collateral.cache import Cache
from sev.collateral.kds_client import KdsClient
from sev.collateral.resolver import Resolver
from sev.evidence import Evidence
folder, url, report, count = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
for number in range(count):
    if (child := os.fork()) == 0:
        evidence = Evidence(report.read_bytes())
        found = Resolver(Cache(folder), KdsClient(url)).complete(evidence, want_crl=True)
        if found.complete:
            report.with_suffix(f".{number}").write_bytes(Bundle(evidence.report, found.pieces).encode())
        sys.stderr.write(found.problem)
        os._exit(not found.complete)
    print(child, flush=True)
sys.stdin.read()  # until then who has ended keeps its number
sys.exit(any([os.wait()[1] for number in range(count)]))
"""


def _answers(service: Any, pause: float = 0.0) -> Script:
    """The answers of our own KDS, given over a server that counts."""

    def script(target: str) -> bytes:
        time.sleep(pause)
        told = service.answer(target)
        return answer(told.status, told.body)

    return script


def test_of_twenty_processes_that_want_the_same_one_asks(
    serve: Serve, kds: Callable[..., Any], milan: Platform, cache: Cache, tmp_path: Path
) -> None:
    server = serve(_answers(kds(milan).service))
    (tmp_path / "report.bin").write_bytes(_report(milan))
    words = [sys.executable, "-c", _ASKERS, str(cache.folder), server.url, str(tmp_path / "report.bin"), "20"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert server.most_at_once == 1
    assert [target.partition("?")[0].rpartition("/")[2] for target in server.targets] == [
        *(milan.settings.hwid.hex(), "cert_chain", "crl")
    ]
    bundles = {(tmp_path / f"report.{number}").read_bytes() for number in range(20)}
    assert len(bundles) == 1
    again = Bundle.decode(bundles.pop()).evidence()
    assert _verified(milan, again)


def test_askers_killed_in_the_middle_leave_a_cache_that_serves(
    serve: Serve, kds: Callable[..., Any], milan: Platform, cache: Cache, tmp_path: Path
) -> None:
    milan.crl()
    server = serve(_answers(kds(milan).service, 0.03))
    report = tmp_path / "report.bin"
    report.write_bytes(_report(milan))
    dice = random.Random(4)
    words = [sys.executable, "-c", _ASKERS, str(cache.folder), server.url, str(report), "12"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, text=True, **pipes) as askers:
        assert askers.stdout is not None and askers.stdin is not None
        children = [int(askers.stdout.readline()) for _ in range(12)]
        for child in children[:9]:
            time.sleep(dice.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
        askers.stdin.close()
        askers.wait(timeout=100)
    # Three lived, and each of them has everything.
    whole = [number for number in range(12) if (tmp_path / f"report.{number}").exists()]
    assert set(whole) >= {9, 10, 11}
    assert all(entry.piece for entry in cache.entries())
    asked = len(server.targets)
    found = Resolver(cache, _client(server.url)).complete(Evidence(report.read_bytes()), want_crl=True)
    assert found.complete and not found.notes
    assert len(server.targets) == asked
    cache.clean(now=time.time() + 3600)
    assert Resolver(cache, None).complete(Evidence(report.read_bytes())).complete


def test_real_reports_of_every_line_and_version(
    serve: Serve, amd_script: Script, real_pairs: list[Path], cache: Cache
) -> None:
    """AMD's certificates behind a socket: each real report is completed without a hint, then offline from the cache."""
    server = serve(amd_script)
    for pair in real_pairs:
        raw = (pair / "report.bin").read_bytes()
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        at = leaf.not_before + timedelta(days=100)
        evidence = Evidence(raw)
        found = Resolver(cache, _client(server.url)).complete(evidence, at=at)
        if json.loads((pair / "expected.json").read_text())["signer"] == VLEK:
            assert "cloud provider" in found.problem
            evidence.certificates.append(leaf)
            found = Resolver(cache, _client(server.url)).complete(evidence, at=at)
        assert found.complete, (pair, found.problem)
        verdict = verify(raw, evidence.certificates, crls=evidence.crls, at=at)
        assert verdict.verified, (pair, verdict.reason)
        cache.put(leaf)
    asked = len(server.targets)
    for pair in real_pairs:
        evidence = Evidence((pair / "report.bin").read_bytes())
        assert Resolver(cache, None).complete(evidence).complete, pair
    assert len(server.targets) == asked


def test_certificates_of_all_lines_beside_a_report_of_version_2(
    real_pairs: list[Path], amd_chain: list[Certificate], cache: Cache
) -> None:
    for pair in real_pairs:
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        cache.put(leaf)
        evidence = Evidence((pair / "report.bin").read_bytes(), list(amd_chain))
        found = Resolver(cache, None).complete(evidence)
        assert found.complete, (pair, found.problem)
        assert LeafKey.of_certificate(leaf).line.name in pair.name.title()


def test_version_2_of_another_line_than_guessed_first(platforms: dict[str, Platform], kds: Callable[..., Any]) -> None:
    genoa = platforms["genoa"]
    evidence = Evidence(_report(genoa, version=2))
    found = Resolver(None, _client(kds(genoa).url)).complete(evidence)
    assert found.complete, found.problem
    assert found.leaves[0].line.name == "Genoa"
    assert _verified(genoa, evidence)
    unknown = Evidence(_report(genoa, version=2, chip_id=b"\x55" * 64))
    assert "the Genoa VCEK of chip 5555" in Resolver(None, _client(kds(genoa).url)).complete(unknown).problem


def test_the_latest_crl_is_the_one(milan: Platform, cache: Cache) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    lists = []
    for age in (5, 1, 3):
        times = now - timedelta(days=age), now + timedelta(days=9)
        lists.append(Crl.decode(issue_crl(milan.settings.line, milan.authority().key(ARK), age, times, {})))
        cache.put(lists[-1])
    found = Resolver(cache, None).complete(Evidence(_report(milan), milan.certificates()))
    assert [piece.item.der for piece in found.crls] == [lists[1].der]
