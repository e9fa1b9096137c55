"""`cvmboot attest fetch`, `attest cache` and where `attest verify` takes certificates from, as a person runs them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sev.certificates import ARK
from sev.kds import KdsServer
from sev.platform import Platform

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TIMEOUT = 60


@pytest.fixture(scope="module")
def turin(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """An emulated Turin."""
    return Platform.new(tmp_path_factory.mktemp("platforms") / "turin", "turin")


@pytest.fixture(scope="module")
def kds(turin: Platform) -> Iterator[KdsServer]:
    """Its KDS."""
    server = KdsServer(turin)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def report(turin: Platform, tmp_path: Path) -> Path:
    """A signed report in a file."""
    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report(report_data=b"n" * 64).encode()))
    return file


@pytest.fixture
def attest(tmp_path: Path) -> Run:
    """Run `cvmboot attest` with a user's cache folder of the test's own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user-cache")}

    def run(*words: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "cvmboot", "attest", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=environment,
        )

    return run


def _one_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cvmboot: ")
    return lines[0]


def test_a_fetched_bundle_verifies_offline(
    attest: Run, report: Path, turin: Platform, kds: KdsServer, tmp_path: Path
) -> None:
    bundle = tmp_path / "report.bundle"
    done = attest("fetch", report, "-o", bundle, "--kds", kds.url)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert [line.split()[1] for line in said] == ["VCEK", "ASK", "ARK", "CRL"]
    assert all(line.endswith("from KDS") for line in said)
    roots = ("--platform", turin.folder)
    done = attest("verify", bundle, "--offline", "--cache", tmp_path / "empty", *roots, "--json")
    assert done.returncode == 0, done.stdout
    verdict = json.loads(done.stdout)
    assert verdict["emulated"]
    assert "passed" in [check["outcome"] for check in verdict["checks"] if check["name"] == "revocation"]
    # The second time all comes from the cache, and the bundle is the same to the byte.
    again = tmp_path / "again.bundle"
    done = attest("fetch", report, "-o", again, "--offline")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("from the cache") == 4
    assert again.read_bytes() == bundle.read_bytes()
    done = attest("fetch", report, "-o", "-", "--offline")
    assert done.stdout.encode() == bundle.read_bytes()
    # A bundle is not trusted for being one.
    assert attest("verify", bundle, "--offline").returncode == 4
    assert json.loads(attest("show", bundle, "--json").stdout)["report_data"].startswith("6e6e")


def test_verify_takes_certificates_from_kds_and_then_from_the_cache(
    attest: Run, report: Path, kds: KdsServer, turin: Platform, tmp_path: Path
) -> None:
    """Status 4, not 5: all certificates are there, and the root is not AMD's."""
    missing = attest("verify", report)
    assert missing.returncode == 5
    assert "--platform" in missing.stdout
    assert attest("verify", report, "--offline").returncode == 5
    found = attest("verify", report, "--kds", kds.url)
    assert found.returncode == 4
    assert "emulated platform's report" in found.stdout
    kept = attest("verify", report, "--offline")
    assert kept.returncode == 4
    elsewhere = attest("verify", report, "--offline", "--cache", tmp_path / "elsewhere")
    assert elsewhere.returncode == 5


def test_a_real_looking_report_names_the_next_step(attest: Run, turin: Platform, tmp_path: Path) -> None:
    real = Platform.load(turin.folder, hwid=bytes.fromhex("631fe8a14126299e"))
    file = tmp_path / "report.bin"
    file.write_bytes(real.sign_report(real.report().encode()))
    done = attest("verify", file, "--offline")
    assert done.returncode == 5
    assert "Turin VCEK of chip 631fe8a14126299e for fmcSPL=" in done.stdout
    assert "cvmboot attest fetch" in done.stdout and "--certs" in done.stdout
    as_json = json.loads(attest("verify", file, "--offline", "--json").stdout)
    assert as_json["status"] == 5
    assert "cvmboot attest fetch" in as_json["reason"]
    done = attest("fetch", file, "--offline", "-o", tmp_path / "bundle")
    assert done.returncode == 5
    assert "--certs" in _one_line(done)
    assert not (tmp_path / "bundle").exists()
    done = attest("fetch", file, "--kds", "http://127.0.0.1:1")
    assert done.returncode == 5
    assert "is there a network" in _one_line(done)
    done = attest("verify", file, "--kds", "http://127.0.0.1:1")
    assert done.returncode == 5
    assert "is there a network" in done.stdout


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A captive portal."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_captive_portal_is_named(attest: Run, report: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        done = attest("fetch", report, "--kds", f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert done.returncode == 5
    assert "text/html, 26 bytes, a web page" in _one_line(done)


def test_the_cache_lists_exports_imports_and_cleans(
    attest: Run, report: Path, kds: KdsServer, turin: Platform, tmp_path: Path
) -> None:
    here, there = ("--cache", tmp_path / "here"), ("--cache", tmp_path / "there")
    assert attest("cache", "list", *here).stdout == ""
    assert attest("fetch", report, "--kds", kds.url, *here).returncode == 0
    listed = attest("cache", "list", *here)
    assert len(listed.stdout.splitlines()) == 4
    assert f"VCEK Turin {turin.settings.hwid.hex()} fmcSPL=" in listed.stdout
    entries = json.loads(attest("cache", "list", "--json", *here).stdout)
    assert sorted(entry["kind"] for entry in entries) == ["ARK", "ASK", "CRL", "VCEK"]
    assert {entry["line"] for entry in entries} == {"Turin"}
    assert all(Path(entry["path"]).is_file() for entry in entries)

    bundle = tmp_path / "all.bundle"
    assert attest("cache", "export", bundle, *here).returncode == 0
    assert attest("verify", bundle).returncode == 3  # no report in it
    done = attest("verify", report, "--offline", "--certs", bundle, "--platform", turin.folder, *there)
    assert done.returncode == 0, done.stdout
    done = attest("cache", "import", bundle, *there)
    assert done.returncode == 0 and "4 taken" in _one_line(done)
    moved = json.loads(attest("cache", "list", "--json", *there).stdout)
    assert [{**e, "path": ""} for e in moved] == [{**e, "path": ""} for e in entries]

    damaged = Path(entries[0]["path"])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = attest("cache", "list", *here)
    assert done.returncode == 0 and "damaged" in done.stderr.splitlines()[0]
    assert "1 removed" in _one_line(attest("cache", "clean", *here))
    assert "0 removed" in _one_line(attest("cache", "clean", "--age", "1", *here))
    assert "3 removed" in _one_line(attest("cache", "clean", "--all", *here))
    assert attest("cache", "list", *here).stdout == ""


def test_import_of_files_and_folders(attest: Run, turin: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    issued = turin.authority().certificates
    (folder / "ark.der").write_bytes(issued[ARK].der)
    (folder / "table.table").write_bytes(turin.certificate_table("vcek"))
    (folder / "list.crl").write_bytes(turin.crl())
    (folder / "broken.pem").write_text("-----BEGIN NOTHING-----")
    (folder / "notes.txt").write_text("not looked at")
    cache = ("--cache", tmp_path / "cache")
    done = attest("cache", "import", folder, *cache)
    assert done.returncode == 0, done.stderr
    left_out, taken = done.stderr.splitlines()
    assert "broken.pem: left out" in left_out and "taken into" in taken
    kinds = sorted(entry["kind"] for entry in json.loads(attest("cache", "list", "--json", *cache).stdout))
    assert kinds == ["ARK", "ASK", "CRL", "VCEK"]


def test_wrong_words_and_bad_files(attest: Run, report: Path, kds: KdsServer, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"\0" * 100)
    broken = tmp_path / "broken.bundle"
    broken.write_text('{"format": "cvmboot-attestation-bundle", "version": 9}')
    a_file = tmp_path / "a-file"
    a_file.write_text("")
    for status, words in (
        (2, ("fetch",)),
        (2, ("fetch", report, "--kds", "ftp://example")),
        (2, ("fetch", report, "--kds", kds.url, "--offline")),
        (2, ("verify", report, "--kds", kds.url, "--offline")),
        (2, ("cache", "clean", "--age", "-1")),
        (3, ("fetch", rubbish)),
        (3, ("fetch", broken)),
        (3, ("verify", broken)),
        (3, ("cache", "import", rubbish)),
        (3, ("cache", "import", broken)),
        (1, ("fetch", tmp_path / "missing")),
        (1, ("fetch", report, "--kds", kds.url, "-o", tmp_path / "no" / "folder")),
        (1, ("cache", "import", tmp_path / "missing")),
        (1, ("cache", "export", tmp_path / "no" / "folder")),
    ):
        done = attest(*words)
        assert done.returncode == status, (words, done.stderr)
        assert done.stderr.splitlines()[-1].startswith("cvmboot: ")
        assert "Traceback" not in done.stderr
    done = attest("fetch", report, "--kds", kds.url, "--cache", a_file)
    assert done.returncode == 0  # it works without, and says so
    assert "Not a directory" in done.stderr


def test_a_bundle_is_replaced_whole_or_not_at_all(attest: Run, report: Path, kds: KdsServer, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text("precious")
    assert attest("fetch", report, "-o", bundle, "--kds", "http://127.0.0.1:1").returncode == 5
    assert bundle.read_text() == "precious"
    assert attest("fetch", report, "-o", bundle, "--kds", kds.url).returncode == 0
    assert bundle.read_text().startswith('{\n "format"')
    assert bundle.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "report.bin", "user-cache"]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_real_reports_through_the_door(attest: Run, tmp_path: Path) -> None:
    """A real report with real certificates: cache import, fetch, verify, all offline, and the verdict says VERIFIED."""
    data = Path(__file__).resolve().parents[3] / "shared" / "data" / "sev"
    if not data.is_dir():
        pytest.skip("real reports are not here: ../shared/data/sev is absent")
    cache = ("--cache", tmp_path / "cache")
    pairs = [pair for pair in sorted((data / "pairs").iterdir()) if "vlek" not in pair.name]
    leaves = [pair / "vek.der" for pair in pairs]
    assert attest("cache", "import", data / "roots", data / "crl", *leaves, *cache).returncode == 0
    for pair in (pairs[0], pairs[-1], next(pair for pair in pairs if "milan-v3" in pair.name)):
        bundle = tmp_path / f"{pair.name}.bundle"
        done = attest("fetch", pair / "report.bin", "--offline", "-o", bundle, *cache)
        assert done.returncode == 0, done.stderr
        done = attest("verify", bundle, "--offline", "--at", "2026-09-01", "--cache", tmp_path / "none")
        assert done.returncode == 0, done.stdout
        assert done.stdout.startswith("VERIFIED (VCEK ")
