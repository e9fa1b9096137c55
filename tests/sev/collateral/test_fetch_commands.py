"""`cvmboot attest fetch` and `attest cache` as a person runs them: with our own KDS, and with servers that answer wrongly."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kds_servers import Script, Server, answer

from cvmboot.cli import main
from sev.certificates import ARK
from sev.collateral.bundle import Bundle
from sev.platform import Platform
from sev.platform.issue import issue_crl
from sev.tcb import Tcb

Serve = Callable[[Script], Server]


class Shell:
    """Runs `cvmboot attest ...` with a cache of its own; `out` and `err` are what the last command wrote."""

    def __init__(self, capture: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capture = capture
        self.cache = folder / "cache"
        self.out = self.err = ""

    def __call__(self, *words: object, status: int = 0) -> str:
        got = main(["attest", *map(str, words), "--cache", str(self.cache)])
        self.out, self.err = self._capture.readouterr()
        assert got == status, self.err
        assert all(line.startswith("cvmboot: ") for line in self.err.splitlines()), self.err
        return self.out


@pytest.fixture
def attest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    return Shell(capsys, tmp_path)


def _report(platform: Platform, folder: Path, **fields: Any) -> Path:
    file = folder / "report.bin"
    file.write_bytes(platform.sign_report(platform.report(**fields).encode()))
    return file


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_a_bundle_verifies_offline_where_nothing_else_is(
    product: str, platforms: dict[str, Platform], kds: Callable[..., Any], attest: Shell, tmp_path: Path
) -> None:
    platform = platforms[product]
    report, bundle = _report(platform, tmp_path), tmp_path / "report.bundle"
    attest("fetch", report, "--kds", kds(platform).url, "-o", bundle)
    assert [line.split()[1] for line in attest.err.splitlines()] == ["VCEK", "ASK", "ARK", "CRL"]
    attest.cache = tmp_path / "another machine's"
    assert attest("verify", bundle, "--offline", "--platform", platform.folder).startswith("VERIFIED (EMULATED")
    assert attest("verify", bundle, "--offline", "--platform", platform.folder, "--crl", "required")
    # Who fetches from the bundle, without a network, gets the same bundle.
    attest("fetch", bundle, "--offline", "-o", tmp_path / "again.bundle")
    assert Bundle.decode((tmp_path / "again.bundle").read_bytes()).evidence().report == report.read_bytes()


def test_fetch_says_when_the_bundle_will_not_verify(
    milan: Platform, kds: Callable[..., Any], attest: Shell, tmp_path: Path
) -> None:
    report = _report(milan, tmp_path)
    changed = bytearray(report.read_bytes())
    changed[0x90] ^= 1
    report.write_bytes(changed)
    attest("fetch", report, "--kds", kds(milan).url, "-o", tmp_path / "bundle")
    assert "the VCEK did not sign this report, or the report was changed: it will not verify" in attest.err


def test_a_cache_goes_from_one_machine_to_another(
    turin: Platform, kds: Callable[..., Any], attest: Shell, tmp_path: Path
) -> None:
    report = _report(turin, tmp_path)
    attest("fetch", report, "--kds", kds(turin).url)
    listed = json.loads(attest("cache", "list", "--json"))
    assert [entry["kind"] for entry in listed] == ["ARK", "ASK", "CRL", "VCEK"]
    assert len(attest("cache", "list").splitlines()) == 4
    attest("cache", "export", tmp_path / "all.bundle")
    here, attest.cache = attest.cache, tmp_path / "there"
    assert json.loads(attest("cache", "list", "--json")) == []
    attest("cache", "import", tmp_path / "all.bundle")
    there = json.loads(attest("cache", "list", "--json"))
    keys = ("kind", "sha256", "fetched")
    assert [[entry[key] for key in keys] for entry in there] == [[entry[key] for key in keys] for entry in listed]
    assert attest("verify", report, "--offline", "--platform", turin.folder).startswith("VERIFIED")
    # A damaged file is told once, does no harm, and goes.
    leaf = Path(next(entry["path"] for entry in there if entry["kind"] == "VCEK"))
    leaf.write_bytes(leaf.read_bytes()[:-1] + b"?")
    attest("verify", report, "--offline", status=5)
    assert attest.err.count("damaged") == 1
    attest("cache", "clean")
    assert "1 removed" in attest.err
    attest("cache", "clean", "--all")
    assert "3 removed" in attest.err
    assert not [path for path in attest.cache.rglob("*") if path.is_file() and path.name != "lock"]
    assert here != attest.cache and len(list(here.rglob("*.der"))) == 3


def test_the_list_says_what_is_over(milan: Platform, attest: Shell, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for name, days in (("old.crl", -2), ("new.crl", 2)):
        times = now - timedelta(days=9), now + timedelta(days=days)
        crl = issue_crl(milan.settings.line, milan.authority().key(ARK), days + 9, times, {})
        (tmp_path / name).write_bytes(crl)
        attest("cache", "import", tmp_path / name)
    lines = attest("cache", "list").splitlines()
    assert sorted(line.endswith(", STALE") for line in lines) == [False, True]
    due = [entry["until"] for entry in json.loads(attest("cache", "list", "--json"))]
    assert sorted(due) == [f"{now + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (-2, 2)]


def _hostile(milan: Platform) -> dict[str, tuple[bytes, str]]:
    leaf = milan.leaf("vcek").der
    twin = Platform.load(milan.folder, hwid=b"\x77" * 64).leaf("vcek").der
    bomb = gzip.compress(bytes(10 << 20))
    elsewhere = "Location: http://127.0.0.1:1/"
    return {
        "404": (answer(404, b"no"), "this service does not know the line, chip or TCB"),
        "429 with a long wait": (answer(429, b"", "Retry-After: 3600"), "too many requests (HTTP 429)"),
        "half a certificate": (answer(200, leaf[: len(leaf) // 2]), "no certificate or CRL but"),
        "another chip's": (answer(200, twin), "gave the Milan VCEK of chip 7777777777777777"),
        "another TCB's": (answer(200, milan.leaf("vcek", Tcb.of(milan.settings.line, snp=1).raw).der), "asked for was"),
        "10 MB": (answer(200, bytes(10 << 20)), "10485760 bytes; at most 16384 are taken"),
        "a redirection": (answer(301, b"", elsewhere), "a redirection, which is not followed"),
        "a gzip bomb": (answer(200, bomb, "Content-Encoding: gzip"), "an answer in 'gzip', which was not asked for"),
        "a bomb that says nothing": (answer(200, bomb), "no certificate or CRL but"),
        "a page": (answer(200, b"<html>", "Content-Type: text/html"), "text/html, 6 bytes, a web page"),
        "nobody": (b"", "broke off"),
    }


def test_a_kds_that_answers_wrongly_is_named_in_one_line(
    serve: Serve, milan: Platform, attest: Shell, tmp_path: Path
) -> None:
    report = _report(milan, tmp_path)
    for what, (told, words) in _hostile(milan).items():
        server = serve(lambda target, told=told: told)
        attest("fetch", report, "--kds", server.url, "-o", tmp_path / "bundle", status=5)
        assert words in attest.err.splitlines()[-1], what
        assert not (tmp_path / "bundle").exists()
        assert not attest.cache.exists() or not list(attest.cache.rglob("*.der")), what


def test_the_type_that_a_kds_names_does_not_matter(
    serve: Serve, kds: Callable[..., Any], milan: Platform, attest: Shell, tmp_path: Path
) -> None:
    service = kds(milan).service

    def script(target: str) -> bytes:
        told = service.answer(target)
        return answer(told.status, told.body, "Content-Type: text/plain; charset=utf-8")

    attest("fetch", _report(milan, tmp_path), "--kds", serve(script).url)


def test_wrong_use(attest: Shell, tmp_path: Path, milan: Platform) -> None:
    report = _report(milan, tmp_path)
    for words, status, text in (
        (("fetch", report, "--offline", "--kds", "http://127.0.0.1:1"), 2, "--offline and --kds"),
        (("fetch", report, "--kds", "ftp://kds"), 2, "KDS address"),
        (("fetch", report, "--kds", "http://127.0.0.1:1"), 5, "is there a network"),
        (("fetch", tmp_path / "none"), 1, "No such file"),
        (("fetch", __file__), 3, "no report"),
        (("cache", "import", tmp_path / "none"), 1, "No such file"),
        (("cache", "import", report), 3, "no certificate found"),
        (("cache", "export", tmp_path / "none" / "x"), 1, "No such file"),
        (("cache", "clean", "--age", "-1"), 2, "--age"),
    ):
        attest(*words, status=status)
        assert text in attest.err
    attest.cache = report
    for words in (("cache", "list"), ("cache", "export", tmp_path / "x"), ("cache", "clean")):
        attest(*words, status=1)
        assert "report.bin: not a folder" in attest.err
