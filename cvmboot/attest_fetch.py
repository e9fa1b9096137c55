"""`cvmboot attest fetch` and `attest cache`, and the resolver that `attest verify` takes certificates from."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmboot.attest_input import Certs, File, Json, add_collateral, evidence_in, malformed, pieces_in
from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from sev.certificates import Certificate
    from sev.collateral.cache import Cache
    from sev.collateral.pieces import Piece
    from sev.collateral.resolver import Collateral, Resolver
    from sev.evidence import Evidence
    from sev.verdict import Verdict

FETCH_STATUS = """Exit status: 0 all is there; 1 an error of ours; 2 wrong usage; 3 malformed evidence; 5 a certificate cannot
be had.
"""
_TIME = "%Y-%m-%dT%H:%M:%SZ"
cache_app = typer.Typer(help="The folder that keeps certificates and CRLs of AMD's.", no_args_is_help=True)

CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Keep certificates here; default in the user's cache folder.", metavar="DIR"),
]
KdsOption = Annotated[
    str | None, typer.Option("--kds", help="Ask this KDS, not AMD's; see `cvmboot platform kds`.", metavar="URL")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Do not use the network.")]
_Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write a bundle here; - for standard output.", metavar="BUNDLE")
]


def open_cache(folder: Path | None) -> "Cache":
    """The cache in a folder, default the user's; damage is told on standard error."""
    from cvmboot.cli import complain
    from sev.collateral.cache import Cache, default_folder

    return Cache(folder or default_folder(), complain)


def _folder_of(kept: "Cache") -> "Cache":
    """CvmbootError if what is named as the cache is something else than a folder."""
    if kept.folder.exists() and not kept.folder.is_dir():
        raise CvmbootError(f"{kept.folder}: not a folder; name the cache with --cache")
    return kept


@contextmanager
def resolver(
    cache: Path | None, kds: str | None, offline: bool, roots: "list[Certificate] | None" = None
) -> Iterator["Resolver"]:
    """Where certificates come from that are not in the evidence. UsageError for options that make no sense."""
    from cvmboot.cli import complain
    from sev.collateral.errors import KdsError
    from sev.collateral.kds_client import AMD, KdsClient
    from sev.collateral.resolver import Resolver

    if offline and kds is not None:
        raise UsageError("--offline and --kds: one forbids what the other asks for")
    try:
        client = None if offline else KdsClient(AMD if kds is None else kds, log=complain)
    except KdsError as error:
        raise UsageError(f"--kds: {error}") from None
    try:
        yield Resolver(open_cache(cache), client, roots or ())
    finally:
        if client is not None:
            client.close()


def complete(
    evidence: "Evidence",
    cache: Path | None,
    kds: str | None,
    offline: bool,
    roots: "list[Certificate]",
    at: datetime | None,
    want_crl: bool = False,
) -> "Collateral":
    """Add to the evidence what its verification needs; `want_crl` has KDS asked for a CRL that is missing or stale.

    A report that cannot be decoded is left for the verdict.
    """
    from sev.collateral.resolver import Collateral
    from sev.errors import MalformedReport

    with resolver(cache, kds, offline, roots) as source:
        try:
            return source.complete(evidence, at, want_crl)
        except MalformedReport:
            return Collateral()


def explain_missing(verdict: "Verdict", found: "Collateral") -> None:
    """Say in a verdict why a certificate is missing, and what to do next."""
    verdict.explain_missing(found.problem)


def fetch(
    file: File,
    output: _Output = None,
    kds: KdsOption = None,
    cache: CacheOption = None,
    certs: Certs = None,
    offline: OfflineOption = False,
) -> None:
    """Collect a report's certificates and CRL, from the evidence, the cache and AMD's KDS, so that it verifies offline.

    With -o, report and collateral go into one file: `cvmboot attest verify BUNDLE --offline`. Without, into the cache only.
    """
    from cvmboot.cli import complain
    from sev.collateral.bundle import Bundle
    from sev.collateral.resolver import signed_by
    from sev.errors import SevError
    from sev.verdict import MISSING

    evidence = evidence_in(file)
    add_collateral(evidence, certs or ())
    with resolver(cache, kds, offline) as source:
        try:
            found = source.complete(evidence, want_crl=True)
            if found.complete and source.cache is not None:
                source.cache.keep([piece for piece in found.pieces if piece.source == "the evidence"])
        except SevError as error:
            raise malformed(file, error) from None
    for piece in found.pieces:
        complain(f"{piece}, from {piece.source}")
    for note in found.notes:
        complain(f"without harm: {note}")
    if not found.complete:
        complain(f"{file}: {found.problem or 'nobody signed this report'}")
        raise typer.Exit(MISSING)
    if not signed_by(found.leaves[0].item, evidence.report):
        complain(f"the {found.leaves[0].kind} did not sign this report, or the report was changed: it will not verify")
    if output is not None:
        try:
            _write(output, Bundle(evidence.report, found.pieces).encode())
        except SevError as error:
            raise CvmbootError(f"{output}: {error}") from None


@cache_app.command("list")
def list_cache(cache: CacheOption = None, as_json: Json = False) -> None:
    """List what is kept."""
    kept = _folder_of(open_cache(cache))
    plain = [_plain(entry.piece, entry.path) for entry in kept.entries() if entry.piece]
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    now = datetime.now(UTC).strftime(_TIME)
    for entry in plain:
        over = "" if (entry["until"] or now) >= now else ", STALE" if entry["kind"] == "CRL" else ", EXPIRED"
        fetched, digest = str(entry["fetched"]), str(entry["sha256"])
        sys.stdout.write(f"{fetched[:10]}  {digest[:16]}  {entry['what']}{over}\n")
    sys.stderr.write(f"cvmboot: {len(plain)} in {kept.folder}\n")


@cache_app.command("import")
def import_into_cache(
    files: Annotated[
        list[Path],
        typer.Argument(help="Certificates, CRLs, certificate tables, bundles, or folders of them.", metavar="FILE..."),
    ],
    cache: CacheOption = None,
) -> None:
    """Take certificates and CRLs in. They are not trusted for it: verification follows each chain to a root of AMD's."""
    from sev.collateral.errors import CollateralError

    kept = open_cache(cache)
    count = 0
    try:
        for path in files:
            for piece in pieces_in(path):
                kept.put(piece.item, piece.fetched)
                count += 1
    except CollateralError as error:
        raise CvmbootError(str(error)) from None
    sys.stderr.write(f"cvmboot: {count} taken into {kept.folder}\n")


@cache_app.command("export")
def export_cache(
    output: Annotated[Path, typer.Argument(help="The bundle to write; - for standard output.", metavar="BUNDLE")],
    cache: CacheOption = None,
) -> None:
    """Write all that is kept into one bundle, for `attest cache import` or --certs on another machine."""
    from sev.collateral.bundle import Bundle
    from sev.errors import SevError

    kept = _folder_of(open_cache(cache))
    try:
        data = Bundle(None, [entry.piece for entry in kept.entries() if entry.piece]).encode()
    except SevError as error:
        raise CvmbootError(f"{kept.folder}: {error}") from None
    _write(output, data)


@cache_app.command("clean")
def clean_cache(
    cache: CacheOption = None,
    age: Annotated[
        int | None,
        typer.Option("--age", help="Also remove what is older than this.", min=0, max=36500, metavar="DAYS"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything that is kept.")] = False,
) -> None:
    """Remove damaged files and what interrupted writers left; with --age what is old, with --all everything."""
    from sev.collateral.cache import Cache, default_folder
    from sev.collateral.errors import CacheError

    kept = _folder_of(Cache(cache or default_folder()))
    try:
        count = kept.clean(None if age is None else timedelta(days=age), everything)
    except CacheError as error:
        raise CvmbootError(str(error)) from None
    sys.stderr.write(f"cvmboot: {count} removed from {kept.folder}\n")


def _plain(piece: "Piece", path: Path) -> dict[str, str | None]:
    """`until` is when a certificate ends, or the next CRL is due; `fetched` when KDS gave it."""
    from sev.revocation import Crl

    until = piece.item.next_update if isinstance(piece.item, Crl) else piece.item.not_after
    return {
        "kind": piece.kind,
        "line": piece.line.name,
        "what": str(piece),
        "fetched": (piece.fetched or datetime.fromtimestamp(0, UTC)).strftime(_TIME),
        "until": None if until is None else until.astimezone(UTC).strftime(_TIME),
        "sha256": path.name[:64],
        "path": str(path),
    }


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. CvmbootError."""
    from cvmboot.whole_file import write_whole

    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        write_whole(path, data)
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
