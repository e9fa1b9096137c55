"""A bundle: one file with a report and all that its verification needs, so that it can be verified offline and later.

JSON, described in docs/collateral.md. The same contents give the same bytes: there is no time of writing in it, only the times
at which KDS gave each piece. A bundle proves nothing by itself; what is in it is verified like everything else.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK, Certificate
from sev.collateral.errors import MalformedBundle
from sev.collateral.pieces import Piece
from sev.errors import SevError
from sev.evidence import Evidence
from sev.report import SIZE
from sev.revocation import Crl

FORMAT = "cvmboot-attestation-bundle"
VERSION = 1
LARGEST = 4 << 20
MOST_PIECES = 2048
SOURCE = "the bundle"
_CRL = "CRL"
_ORDER = (VCEK, VLEK, ASK, ASVK, ARK, _CRL)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)
_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"format\"\s*:\s*\"" + FORMAT.encode() + rb"\"")


class Bundle:
    """`report` are 1184 bytes, or None in a bundle of collateral alone; `pieces` are certificates and CRLs."""

    __slots__ = ("pieces", "report")

    def __init__(self, report: bytes | None, pieces: Iterable[Piece]) -> None:
        self.report = report
        self.pieces = list(pieces)

    def encode(self) -> bytes:
        """The file's bytes, the same for the same contents. MalformedBundle if it would be larger than is read."""
        found: dict[str, tuple[tuple[int, str], dict[str, str]]] = {}
        for piece in self.pieces:
            digest = hashlib.sha256(piece.item.der).hexdigest()
            entry = {"kind": piece.kind, "sha256": digest}
            if piece.fetched is not None:
                entry["fetched"] = piece.fetched.astimezone(UTC).strftime(_TIME)
            entry["der"] = base64.b64encode(piece.item.der).decode()
            found.setdefault(digest, ((_ORDER.index(piece.kind), digest), entry))
        plain: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        if self.report is not None:
            plain["report"] = base64.b64encode(self.report).decode()
        plain["collateral"] = [entry for _, entry in sorted(found.values(), key=lambda pair: pair[0])]
        data = json.dumps(plain, indent=1).encode() + b"\n"
        if len(data) > LARGEST or len(found) > MOST_PIECES:
            raise MalformedBundle(
                f"a bundle of {len(found)} pieces, {len(data)} bytes; at most {MOST_PIECES} and {LARGEST} are read"
            )
        return data

    @classmethod
    def decode(cls, data: bytes) -> "Bundle":
        """Read a bundle of at most 4 MiB. MalformedBundle, with what is wrong where, for anything else."""
        plain = _object(_parsed(data), "the bundle", {"format", "version", "collateral"}, {"report"})
        if plain["format"] != FORMAT:
            raise MalformedBundle(f"format {str(plain['format'])[:40]!r}; wanted {FORMAT!r}")
        if type(plain["version"]) is not int or plain["version"] != VERSION:
            raise MalformedBundle(f"bundle of version {str(plain['version'])[:20]}; wanted {VERSION}")
        report = None
        if "report" in plain:
            report = _bytes(plain["report"], "report", SIZE)
            if len(report) != SIZE:
                raise MalformedBundle(f"report of {len(report)} bytes; wanted {SIZE}")
        entries = plain["collateral"]
        if not isinstance(entries, list) or len(entries) > MOST_PIECES:
            raise MalformedBundle(f"collateral is no list of at most {MOST_PIECES} pieces")
        return cls(report, [_piece(entry, f"collateral {number}") for number, entry in enumerate(entries, 1)])

    def evidence(self) -> Evidence:
        """The report with its collateral. MalformedBundle if there is no report."""
        if self.report is None:
            raise MalformedBundle("this bundle holds collateral only, no report; hand it over with --certs")
        return Evidence(self.report, self.certificates, self.crls)

    @property
    def certificates(self) -> list[Certificate]:
        """The certificates in it."""
        return [piece.item for piece in self.pieces if isinstance(piece.item, Certificate)]

    @property
    def crls(self) -> list[Crl]:
        """The CRLs in it."""
        return [piece.item for piece in self.pieces if isinstance(piece.item, Crl)]


def is_bundle(data: bytes) -> bool:
    """Whether these bytes mean to be a bundle: its first member says so."""
    return _START.match(data[:256]) is not None


def _parsed(data: bytes) -> Any:
    if len(data) > LARGEST:
        raise MalformedBundle(f"bundle of {len(data)} bytes; at most {LARGEST} are read")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_once_each)
    except MalformedBundle:
        raise
    except UnicodeDecodeError as error:
        raise MalformedBundle(f"not a bundle: no UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise MalformedBundle(f"not a bundle: {str(error)[:100]}") from None
    except RecursionError:
        raise MalformedBundle("not a bundle: nested too deeply") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise MalformedBundle("a member stands twice in one object of the bundle")
    return names


def _object(value: Any, where: str, needed: set[str], allowed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedBundle(f"{where}: wanted a JSON object")
    if missing := needed - value.keys():
        raise MalformedBundle(f"{where}: lacks {', '.join(sorted(missing))}")
    if unknown := value.keys() - needed - allowed:
        raise MalformedBundle(f"{where}: unknown member {sorted(unknown)[0][:40]!r}")
    return value


def _bytes(value: Any, where: str, largest: int) -> bytes:
    if not isinstance(value, str) or len(value) > largest * 2:
        raise MalformedBundle(f"{where}: wanted base64 text of at most {largest} bytes")
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedBundle(f"{where}: not base64") from None


def _piece(entry: Any, where: str) -> Piece:
    _object(entry, where, {"kind", "sha256", "der"}, {"fetched"})
    der = _bytes(entry["der"], f"{where}, der", LARGEST)
    if hashlib.sha256(der).hexdigest() != entry["sha256"]:
        raise MalformedBundle(f"{where}: its SHA-256 is not {str(entry['sha256'])[:64]!r}")
    fetched = None
    if "fetched" in entry:
        fetched = _time(entry["fetched"], where)
    try:
        item: Certificate | Crl = Crl.decode(der) if entry["kind"] == _CRL else Certificate.decode(der)
        piece = Piece(item, SOURCE, fetched)
        kind, _ = piece.kind, piece.line
    except SevError as error:
        raise MalformedBundle(f"{where}: {error}") from None
    if kind != entry["kind"]:
        raise MalformedBundle(f"{where}: kind {str(entry['kind'])[:20]!r}, but it is a {kind}")
    return piece


def _time(text: Any, where: str) -> datetime:
    if isinstance(text, str) and _TIME_TEXT.match(text):
        try:
            return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise MalformedBundle(f"{where}: fetched {str(text)[:30]!r}; wanted such as 2026-08-19T12:00:00Z")
