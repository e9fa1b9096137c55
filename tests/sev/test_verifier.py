"""A verifier that remembers: the same verdicts as without, one signature for each report, and nothing carried over."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sev.appraisal import appraise
from sev.attestation_policy import Policy
from sev.certificates import ARK, ASK, Certificate, Signed
from sev.platform import VCEK, VLEK, Platform
from sev.platform.issue import issue_crl
from sev.report import SIZE
from sev.revocation import Crl
from sev.tcb import Tcb
from sev.verdict import MISSING, REVOKED, UNTRUSTED
from sev.verifier import Verifier, verify

# A byte of each field that a check looks at, and of r and s.
PLACES = (0x00, 0x08, 0x30, 0x34, 0x38, 0x48, 0x50, 0x90, 0x180, 0x182, 0x188, 0x1A0, 0x1E0, 0x2A0, 0x2E8, 0x330, 0x49F)


def _signed(platform: Platform, **fields: object) -> bytes:
    return platform.sign_report(platform.report(**fields).encode())  # type: ignore[arg-type]


def _ark(platform: Platform) -> Certificate:
    return platform.authority().certificates[ARK]


def _text(raw: bytes, verifier: Verifier, policy: Policy | None = None) -> str:
    verdict = verifier.verify(raw)
    if verdict.report is not None and policy is not None:
        appraise(verdict, verdict.report, policy)
    return json.dumps(verdict.to_json())


def _changed(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


def test_remembered_and_fresh_verdicts_are_equal_for_real_pairs(
    real_pairs: list[Path], amd_chain: list[Certificate], amd_crls: list[Crl]
) -> None:
    leaves = [Certificate.decode((pair / "vek.der").read_bytes()) for pair in real_pairs]
    reports = [(pair / "report.bin").read_bytes() for pair in real_pairs]
    known, at = [*leaves, *amd_chain], datetime(2026, 9, 1, tzinfo=UTC)
    verifier = Verifier(known, crls=amd_crls, at=at)
    for raw in reports:
        verifier.verify(raw)
    tampered = [_changed(raw, PLACES[number % len(PLACES)]) for number, raw in enumerate(reports)]
    good = 0
    for raw in (*reports, *tampered, bytes(SIZE), b"", reports[0]):
        fresh = verify(raw, known, crls=amd_crls, at=at)
        assert verifier.verify(raw).to_json() == fresh.to_json()
        good += fresh.verified
    assert good == len(reports)  # one VLEK has expired, and the first is there twice


def test_remembered_and_fresh_verdicts_are_equal_for_every_kind_of_change(platforms: dict[str, Platform]) -> None:
    known = [certificate for platform in platforms.values() for certificate in platform.certificates()]
    roots = [_ark(platform) for platform in platforms.values()]
    verifier = Verifier(known, roots=roots)
    policy = Policy.of({"crl": "required"})
    for platform in platforms.values():
        raw = _signed(platform)
        for report in (raw, *(_changed(raw, place) for place in PLACES), raw):
            assert _text(report, verifier, policy) == _text(report, Verifier(known, roots=roots), policy)
        assert verifier.verify(raw).verified


def test_a_known_leaf_costs_one_signature(platforms: dict[str, Platform], monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many leaves the right one is tried first, and its chain is not followed again."""
    milan = platforms["milan"]
    line, ask = milan.settings.line, milan.authority()
    others = [milan.leaf(VCEK, Tcb.of(line, boot_loader=1, snp=number, microcode=7).raw) for number in range(20)]
    verifier = Verifier([*others, *milan.certificates(), *ask.certificates.values()], roots=[_ark(milan)])
    first, second = (_signed(milan, report_data=letter * 64) for letter in (b"1", b"2"))
    assert verifier.verify(first).verified
    calls = {"ecdsa": 0, "rsa": 0}

    def counted(name: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return method(*arguments)

        return call

    monkeypatch.setattr(Certificate, "verifies", counted("ecdsa", Certificate.verifies))
    monkeypatch.setattr(Signed, "signature_problem", counted("rsa", Signed.signature_problem))
    assert verifier.verify(second).verified
    assert calls == {"ecdsa": 1, "rsa": 0}
    assert not verifier.verify(_changed(second, 0x50)).verified
    assert calls["ecdsa"] <= 20


def test_nothing_goes_from_one_verifier_to_another(milan: Platform) -> None:
    raw, known, root = _signed(milan), milan.certificates(), _ark(milan)
    assert Verifier(known, roots=[root]).verify(raw).verified
    assert Verifier(known).verify(raw).status == UNTRUSTED
    assert Verifier(roots=[root]).verify(raw).status == MISSING
    late = Verifier(known, roots=[root], at=datetime(2990, 1, 1, tzinfo=UTC))
    assert late.verify(raw).status == MISSING
    assert Verifier(known, roots=[root]).verify(raw).verified


def test_what_comes_with_one_report_is_not_there_for_the_next(milan: Platform, tmp_path: Path) -> None:
    raw, issued = _signed(milan), milan.authority().certificates
    verifier = Verifier(roots=[issued[ARK]])
    own = [milan.leaf(VCEK), issued[ASK]]
    for _ in range(2):
        assert verifier.verify(raw).status == MISSING
        assert verifier.verify(raw, own).verified
        assert not verifier.verify(raw, own[:1]).verified
    now = datetime.now(UTC).replace(microsecond=0)
    serial, key = issued[ASK].serial, milan.authority().key(ARK)
    revoking = Crl.decode(issue_crl(milan.settings.line, key, 9, (now, now + timedelta(days=9)), {serial: now}))
    assert verifier.verify(raw, own, [revoking]).status == REVOKED
    assert verifier.verify(raw, own).verified
    impostor = Platform.new(tmp_path / "impostor", "milan")
    theirs = impostor.certificates()
    assert verifier.verify(raw, [*theirs, *own]).verified  # ours are among them
    forged = _signed(impostor)
    assert verifier.verify(forged, [*theirs, *own]).status == UNTRUSTED
    assert verifier.verify(raw, own).verified


def test_changing_a_verdict_changes_no_other(milan: Platform) -> None:
    raw = _signed(milan)
    verifier = Verifier(milan.certificates(), roots=[_ark(milan)])
    before = _text(raw, verifier)
    verdict = verifier.verify(raw)
    assert verdict.report is not None
    appraise(verdict, verdict.report, Policy.of({"crl": "required"}))
    assert verdict.status == MISSING
    verdict.explain_missing("nothing")
    assert _text(raw, verifier) == before


def test_time_goes_on_for_a_verifier_without_a_time(milan: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered lasts until a certificate's or a CRL's time changes something, and no longer."""
    leaf, root = milan.leaf(VCEK), _ark(milan)
    key = milan.authority().key(ARK)
    begin = leaf.not_before + timedelta(days=2)
    crl = Crl.decode(issue_crl(milan.settings.line, key, 9, (begin, begin + timedelta(days=1, hours=12)), {}))
    known, raw = [*milan.certificates(), leaf], _signed(milan)
    own = [certificate for certificate in known if certificate.kind != "VCEK" or certificate is leaf]
    verifier = Verifier(own, roots=[root], crls=[crl])
    end = crl.next_update
    assert end is not None
    second = timedelta(seconds=1)
    moments = [
        leaf.not_before - second,
        leaf.not_before,
        begin,
        end - second,
        end,
        end + second,
        end + timedelta(hours=13),
    ]
    moments += [
        end + timedelta(days=1),
        end + timedelta(days=1) + second,
        leaf.not_after,
        leaf.not_after + second,
        begin,
    ]

    class Clock(datetime):
        moment = begin

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.moment

    monkeypatch.setattr("sev.verifier.datetime", Clock)
    seen = []
    for moment in moments:
        Clock.moment = moment
        verdict = verifier.verify(raw)
        fresh = verify(raw, own, roots=[root], crls=[crl], at=moment)
        assert verdict.to_json() == fresh.to_json(), moment
        assert verdict.stale_days == fresh.stale_days, moment
        seen.append((verdict.status, verdict.stale_days))
    assert seen[0][0] == MISSING and seen[1][0] == 0
    assert [days for _, days in seen[3:8]] == [None, None, 1, 1, 2]
    assert seen[-2][0] == MISSING and seen[-1] == seen[2]


def test_a_vlek_is_found_by_its_tcb(milan: Platform) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    raw = _signed(loaded, key=VLEK)
    line = loaded.settings.line
    others = [loaded.leaf(VLEK, Tcb.of(line, boot_loader=1, snp=n, microcode=7).raw) for n in range(3)]
    verifier = Verifier([*others, *loaded.certificates()], roots=[_ark(loaded)])
    assert verifier.verify(raw).verified
    assert verifier.verify(raw).signer == "VLEK"
