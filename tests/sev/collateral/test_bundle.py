"""Bundles: the same contents give the same bytes, everything comes back, and nothing but a bundle is read."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.certificates import ARK, Certificate
from sev.collateral.bundle import LARGEST, Bundle, is_bundle
from sev.collateral.errors import MalformedBundle
from sev.collateral.pieces import KDS, Piece
from sev.errors import SevError
from sev.platform import Platform
from sev.report import SIZE
from sev.revocation import Crl
from sev.verifier import verify

FETCHED = datetime(2026, 8, 19, 12, 30, 45, tzinfo=UTC)


def _bundle(platform: Platform) -> Bundle:
    report = platform.sign_report(platform.report(report_data=b"n" * 64).encode())
    items: list[Certificate | Crl] = [*platform.certificates(), Crl.decode(platform.crl())]
    return Bundle(report, [Piece(item, KDS, FETCHED) for item in items])


@pytest.fixture(scope="module")
def made(turin: Platform) -> bytes:
    """The bytes of a bundle of an emulated Turin's report."""
    return _bundle(turin).encode()


def test_what_goes_in_comes_out_and_verifies(platforms: dict[str, Platform]) -> None:
    for platform in platforms.values():
        bundle = _bundle(platform)
        data = bundle.encode()
        assert is_bundle(data)
        again = Bundle.decode(data)
        assert again.report == bundle.report
        assert {p.item.der for p in again.pieces} == {p.item.der for p in bundle.pieces}
        assert {p.fetched for p in again.pieces} == {FETCHED}
        evidence = again.evidence()
        roots = [platform.authority().certificates[ARK]]
        verdict = verify(evidence.report, evidence.certificates, roots=roots, crls=evidence.crls)
        assert verdict.verified
        assert all(check.outcome == "passed" for check in verdict.checks if check.name == "revocation")


def test_the_same_contents_give_the_same_bytes(turin: Platform, made: bytes) -> None:
    bundle = Bundle.decode(made)
    assert Bundle(bundle.report, reversed(bundle.pieces)).encode() == made
    assert Bundle(bundle.report, bundle.pieces * 2).encode() == made
    assert Bundle.decode(b"\xef\xbb\xbf" + made.replace(b"\n", b"\r\n")).encode() == made
    assert Bundle(None, bundle.pieces).encode() != made
    shifted = [Piece(piece.item, KDS, FETCHED + timedelta(seconds=1)) for piece in bundle.pieces]
    assert Bundle(bundle.report, shifted).encode() != made


def test_a_bundle_without_a_report(turin: Platform) -> None:
    bundle = Bundle.decode(Bundle(None, _bundle(turin).pieces).encode())
    assert bundle.report is None
    assert bundle.certificates and bundle.crls
    with pytest.raises(MalformedBundle, match="no report; hand it over with --certs"):
        bundle.evidence()
    assert Bundle.decode(Bundle(None, []).encode()).pieces == []


def _changed(plain: Any, *path: Any, to: Any = None) -> None:
    *way, last = path
    for step in way:
        plain = plain[step]
    if to is None:
        del plain[last]
    else:
        plain[last] = to


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        (("format",), "another", "format 'another'"),
        (("version",), 2, "version 2; wanted 1"),
        (("version",), True, "version True"),
        (("version",), 1.0, "version 1.0"),
        (("version",), None, "lacks version"),
        (("collateral",), None, "lacks collateral"),
        (("collateral",), {}, "no list"),
        (("collateral",), [1], "collateral 1: wanted a JSON object"),
        (("collateral",), [{}] * 3000, "no list of at most"),
        (("extra",), 1, "unknown member 'extra'"),
        (("report",), 7, "report: wanted base64 text"),
        (("report",), "A" * 10000, "report: wanted base64 text of at most 1184"),
        (("report",), "AAAA", "report of 3 bytes; wanted 1184"),
        (("report",), "!!!!", "report: not base64"),
        (("report",), "ä", "report: not base64"),
        (("collateral", 0, "der"), None, "collateral 1: lacks der"),
        (("collateral", 0, "der"), "AAAA", "collateral 1: its SHA-256 is not"),
        (("collateral", 0, "sha256"), "0" * 64, "collateral 1: its SHA-256 is not"),
        (("collateral", 0, "sha256"), 5, "collateral 1: its SHA-256 is not"),
        (("collateral", 0, "kind"), "ARK", "kind 'ARK', but it is a VCEK"),
        (("collateral", 0, "kind"), "CRL", "collateral 1: no CRL in DER"),
        (("collateral", 0, "kind"), ["VCEK"], "but it is a VCEK"),
        (("collateral", 1, "fetched"), "yesterday", "collateral 2: fetched 'yesterday'"),
        (("collateral", 1, "fetched"), "2026-13-01T00:00:00Z", "collateral 2: fetched"),
        (("collateral", 1, "fetched"), 5, "collateral 2: fetched"),
        (("collateral", 1, "more"), 5, "collateral 2: unknown member 'more'"),
    ],
)
def test_what_is_wrong_is_named(made: bytes, path: tuple[Any, ...], to: Any, words: str) -> None:
    plain = json.loads(made)
    _changed(plain, *path, to=to)
    with pytest.raises(MalformedBundle) as caught:
        Bundle.decode(json.dumps(plain).encode())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_bundle(made: bytes) -> None:
    twice = made.replace(b'"version": 1,', b'"version": 1, "version": 1,')
    for data, words in (
        (b"", "not a bundle"),
        (b"\xff\xfe", "no UTF-8"),
        (b"[]", "wanted a JSON object"),
        (b"null", "wanted a JSON object"),
        (b"[" * 500_000, "nested too deeply"),
        (b"9" * 10_000, "not a bundle"),
        (made[:-20], "not a bundle"),
        (made + b"{}", "not a bundle"),
        (twice, "stands twice"),
        (b" " * (LARGEST + 1), "at most 4194304"),
    ):
        with pytest.raises(MalformedBundle, match=words):
            Bundle.decode(data)
    for data in (b"", b"{}", b'{"format": "other"}', bytes(SIZE), b"-----BEGIN CERTIFICATE-----"):
        assert not is_bundle(data)


def test_a_bundle_too_large_is_not_written(turin: Platform) -> None:
    class Huge:
        der = bytes(LARGEST)
        kind = "VCEK"
        line = turin.settings.line

    with pytest.raises(MalformedBundle, match="at most"):
        Bundle(None, [Piece(Huge(), KDS)]).encode()  # type: ignore[arg-type]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(members=st.dictionaries(st.sampled_from(["format", "version", "report", "collateral", "x"]), _JSON))
def test_any_json_is_refused_or_a_bundle(members: dict[str, Any]) -> None:
    _bundle_or_refusal(json.dumps({"format": "cvmboot-attestation-bundle", "version": 1, **members}).encode())


@settings(max_examples=300, deadline=None)
@given(entry=st.dictionaries(st.sampled_from(["kind", "sha256", "der", "fetched"]), _JSON | st.sampled_from(["VCEK"])))
def test_any_entry_is_refused(entry: dict[str, Any]) -> None:
    plain = {"format": "cvmboot-attestation-bundle", "version": 1, "collateral": [entry]}
    with pytest.raises(MalformedBundle):
        Bundle.decode(json.dumps(plain).encode())


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedBundle):
        Bundle.decode(data)


@settings(max_examples=300, deadline=None)
@given(draw=st.data())
def test_mutated_bundles(draw: st.DataObject, made: bytes, turin: Platform) -> None:
    """Flipped, cut and doubled bytes: refused, or a bundle whose certificates are the old ones, for each carries its digest."""
    data = bytearray(made)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data) - 1))
        what = draw.draw(st.sampled_from(["flip", "cut", "double", "other"]))
        if what == "flip":
            data[place] ^= 1 << draw.draw(st.integers(0, 7))
        elif what == "cut":
            del data[place : place + draw.draw(st.integers(1, 40))]
        elif what == "double":
            data[place:place] = data[place : place + draw.draw(st.integers(1, 40))]
        else:
            data[place] = draw.draw(st.sampled_from(b'"{}[],:0aA=\\\n'))
    bundle = _bundle_or_refusal(bytes(data))
    if bundle is not None:
        genuine = {piece.item.der for piece in Bundle.decode(made).pieces}
        assert {piece.item.der for piece in bundle.pieces} <= genuine
        if bundle.report is not None and bundle.report != Bundle.decode(made).report:
            roots = [turin.authority().certificates[ARK]]
            assert not verify(bundle.report, bundle.certificates, roots=roots).verified


def _bundle_or_refusal(data: bytes) -> Bundle | None:
    try:
        bundle = Bundle.decode(data)
    except SevError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 400
        return None
    assert Bundle.decode(bundle.encode()).encode() == bundle.encode()
    return bundle


def test_real_reports(real_pairs: list[Path], amd_chain: list[Certificate], amd_crls: list[Crl]) -> None:
    for pair in real_pairs:
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        raw = (pair / "report.bin").read_bytes()
        items: list[Certificate | Crl] = [leaf, *amd_chain, *amd_crls]
        data = Bundle(raw, [Piece(item, KDS, FETCHED) for item in items]).encode()
        assert base64.b64encode(raw) in data
        evidence = Bundle.decode(data).evidence()
        at = leaf.not_before + timedelta(days=100)
        assert verify(evidence.report, evidence.certificates, crls=evidence.crls, at=at).verified
