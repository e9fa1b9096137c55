"""Verification: real pairs verify, what was changed does not, and an emulated platform only under its own name."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.appraisal import appraise
from sev.attestation_policy import ALL, Policy
from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.platform import VCEK, VLEK, Platform
from sev.platform import der as asn1
from sev.platform.issue import issue_crl, issue_leaf
from sev.report import SIGNED_SIZE, SIZE, Report
from sev.revocation import Crl
from sev.tcb import Tcb
from sev.verdict import FAILED, MALFORMED, MISSING, PASSED, POLICY, REVOKED, SKIPPED, UNTRUSTED, Verdict
from sev.verifier import verify


def _outcome(verdict: Verdict, name: str) -> str:
    return next(check.outcome for check in verdict.checks if check.name == name)


def _signed(platform: Platform, **fields: object) -> bytes:
    return platform.sign_report(platform.report(**fields).encode())  # type: ignore[arg-type]


def _ark(platform: Platform) -> Certificate:
    return platform.authority().certificates[ARK]


def test_real_pairs_verify_as_expected(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    for pair in real_pairs:
        known = json.loads((pair / "expected.json").read_text())
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        raw = (pair / "report.bin").read_bytes()
        verdict = verify(raw, [leaf, *amd_chain], at=leaf.not_before + timedelta(days=100))
        assert verdict.verified, (pair, verdict.reason)
        assert verdict.status == 0
        assert not verdict.emulated
        assert known["sig"] and _outcome(verdict, "signature") == PASSED
        assert known["chain_ok"] and _outcome(verdict, "chain") == PASSED
        assert known["tcb_ext_match"]
        assert _outcome(verdict, "hwid") == (SKIPPED if known["hwid_match"] is None else PASSED)
        assert verdict.signer == known["signer"]


def test_a_real_report_needs_its_own_leaf_and_its_own_line(
    real_pairs: list[Path], amd_chain: list[Certificate]
) -> None:
    leaves = [Certificate.decode((pair / "vek.der").read_bytes()) for pair in real_pairs]
    for pair, own in zip(real_pairs, leaves, strict=True):
        raw = (pair / "report.bin").read_bytes()
        # Its leaf among all the others is found without a hint.
        at = own.not_before + timedelta(days=100)
        assert verify(raw, [*leaves, *amd_chain], at=at).verified
        others = [leaf for leaf in leaves if leaf.ec_point != own.ec_point]
        verdict = verify(raw, [*others, *amd_chain], at=at)
        assert verdict.status in (UNTRUSTED, MISSING)
        no_chain = verify(raw, [own, *(c for c in amd_chain if c.line is not own.line)], at=at)
        assert no_chain.status == MISSING


def test_the_expired_vlek_is_named(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    pair = next(pair for pair in real_pairs if "vlek" in pair.name)
    leaf = Certificate.decode((pair / "vek.der").read_bytes())
    raw = (pair / "report.bin").read_bytes()
    verdict = verify(raw, [leaf, *amd_chain], at=datetime(2026, 8, 1, tzinfo=UTC))
    assert verdict.status == MISSING
    assert "VLEK expired" in verdict.reason
    early = verify(raw, [leaf, *amd_chain], at=datetime(2024, 1, 1, tzinfo=UTC))
    assert "not valid yet" in early.reason


def test_stale_crls_are_skipped_and_fresh_ones_count(
    real_pairs: list[Path], amd_chain: list[Certificate], amd_crls: list[Crl]
) -> None:
    pair = next(pair for pair in real_pairs if pair.name.startswith("turin"))
    leaf = Certificate.decode((pair / "vek.der").read_bytes())
    raw = (pair / "report.bin").read_bytes()
    fresh = verify(raw, [leaf, *amd_chain], crls=amd_crls, at=datetime(2026, 9, 1, tzinfo=UTC))
    assert _outcome(fresh, "revocation") == PASSED
    stale = verify(raw, [leaf, *amd_chain], crls=amd_crls, at=datetime(2027, 9, 1, tzinfo=UTC))
    assert _outcome(stale, "revocation") == SKIPPED


def test_each_signed_byte_counts(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    pair = next(pair for pair in real_pairs if pair.name.startswith("turin"))
    leaf = Certificate.decode((pair / "vek.der").read_bytes())
    raw = (pair / "report.bin").read_bytes()
    known, at = [leaf, *amd_chain], leaf.not_before + timedelta(days=1)
    assert verify(raw, known, at=at).verified
    for place in range(SIZE):
        changed = bytearray(raw)
        changed[place] ^= 0x01
        verdict = verify(bytes(changed), known, at=at)
        assert not verdict.verified, hex(place)
        assert verdict.reason


def test_an_emulated_report_verifies_only_with_its_platform_named(platforms: dict[str, Platform]) -> None:
    for platform in platforms.values():
        raw = _signed(platform, report_data=b"n" * 64)
        known = platform.certificates()
        named = verify(raw, known, roots=[_ark(platform)])
        assert named.verified, named.reason
        assert named.emulated
        for others in ([], [_ark(other) for other in platforms.values() if other is not platform]):
            verdict = verify(raw, known, roots=others)
            assert verdict.status == UNTRUSTED
            assert verdict.emulated
            assert "emulated platform's report" in verdict.reason
        nothing = verify(raw, [])
        assert nothing.status == MISSING
        assert "emulated platform's report" in nothing.reason


def test_a_vlek_signs_when_it_is_loaded(milan: Platform) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    raw = _signed(loaded, key=VLEK)
    verdict = verify(raw, loaded.certificates(), roots=[_ark(loaded)])
    assert verdict.verified, verdict.reason
    assert verdict.signer == "VLEK"
    issued = loaded.authority().certificates
    wrong = verify(raw, [loaded.leaf(VLEK), issued[ASK]], roots=[issued[ARK]])
    assert not wrong.verified
    only_vcek = verify(raw, [loaded.leaf(VCEK), *issued.values()], roots=[issued[ARK]])
    assert only_vcek.status == MISSING
    assert "only a VCEK" in only_vcek.reason


def test_the_reason_of_a_common_failure_is_named(milan: Platform, platforms: dict[str, Platform]) -> None:
    raw = _signed(milan)
    issued = milan.authority().certificates
    line = milan.settings.line
    older = milan.leaf(VCEK, Tcb.of(line, boot_loader=3, snp=8, microcode=115).raw)
    verdict = verify(raw, [older, issued[ASK]], roots=[issued[ARK]])
    assert verdict.status == UNTRUSTED
    assert "another TCB: blSPL=3 teeSPL=0 snpSPL=8 ucodeSPL=115" in verdict.reason
    assert "reported is blSPL=4 teeSPL=0 snpSPL=24 ucodeSPL=219" in verdict.reason
    unsigned = milan.report().encode()
    assert "nobody signed" in verify(unsigned, milan.certificates(), roots=[issued[ARK]]).reason
    masked = milan.report(key_info=0b11110).encode()
    assert "MASK_CHIP_KEY" in verify(milan.sign_report(masked), milan.certificates(), roots=[issued[ARK]]).reason
    assert verify(bytes(SIZE), []).status == MALFORMED
    assert "version 1" in verify(_signed(milan, version=1), milan.certificates(), roots=[issued[ARK]]).reason
    other_line = _signed(milan, cpuid_fam_id=0x1A, cpuid_mod_id=2)
    verdict = verify(other_line, milan.certificates(), roots=[issued[ARK]])
    assert verdict.status == UNTRUSTED
    assert "Turin" in verdict.reason
    unknown = verify(_signed(milan, cpuid_fam_id=0x1B), milan.certificates(), roots=[issued[ARK]])
    assert "unknown CPU" in unknown.reason
    no_issuer = verify(raw, [milan.leaf(VCEK)], roots=[issued[ARK]])
    assert not no_issuer.verified
    later = verify(_signed(milan, version=6), milan.certificates(), roots=[issued[ARK]])
    assert later.verified


def test_another_chip_of_the_same_authority_is_named(milan: Platform) -> None:
    twin = Platform.load(milan.folder, hwid=b"\x77" * 64)
    raw = _signed(milan)
    issued = milan.authority().certificates
    verdict = verify(raw, [twin.leaf(VCEK), issued[ASK]], roots=[issued[ARK]])
    # Same secret, so the signature is right; only the identity differs.
    assert _outcome(verdict, "hwid") == FAILED
    assert verdict.status == UNTRUSTED
    hidden = verify(_signed(milan, chip_id=bytes(64)), milan.certificates(), roots=[issued[ARK]])
    assert hidden.verified
    assert _outcome(hidden, "hwid") == SKIPPED


def test_a_root_of_the_same_name_is_not_the_root(milan: Platform, tmp_path: Path) -> None:
    impostor = Platform.new(tmp_path / "impostor", "milan")
    raw = _signed(impostor)
    verdict = verify(raw, [*impostor.certificates(), *milan.certificates()], roots=[_ark(milan)])
    assert not verdict.verified
    assert verdict.status == UNTRUSTED


def test_revocation(milan: Platform) -> None:
    raw, known, root = _signed(milan), milan.certificates(), _ark(milan)
    now = datetime.now(UTC).replace(microsecond=0)
    fine = verify(raw, known, roots=[root], crls=[Crl.decode(milan.crl())])
    assert _outcome(fine, "revocation") == PASSED
    key = milan.authority().key(ARK)
    serial = milan.authority().certificates[ASK].serial
    times = now, now + timedelta(days=9)
    revoking = Crl.decode(issue_crl(milan.settings.line, key, 9, times, {serial: now}))
    assert revoking.revoked == {serial: now}
    verdict = verify(raw, known, roots=[root], crls=[revoking])
    assert verdict.status == REVOKED
    assert f"{serial:#x}" in verdict.reason
    forged = Crl.decode(issue_crl(milan.settings.line, milan.authority().key(ASK), 10, times, {}))
    assert verify(raw, known, roots=[root], crls=[forged]).status == UNTRUSTED
    # A forged list beside a genuine one neither hides nor replaces it.
    assert verify(raw, known, roots=[root], crls=[forged, revoking]).status == REVOKED
    old = Crl.decode(
        issue_crl(milan.settings.line, key, 8, (now - timedelta(days=9), now - timedelta(days=2)), {serial: now})
    )
    assert verify(raw, known, roots=[root], crls=[old]).status == REVOKED


def test_an_intermediate_that_may_not_sign_is_refused(milan: Platform) -> None:
    """A leaf of the same authority in the place of an ASK, and an ASVK in the place of an ASK."""
    issued = milan.authority().certificates
    raw = _signed(milan)
    for wrong in (issued[ASVK], milan.leaf(VLEK)):
        assert not verify(raw, [milan.leaf(VCEK), wrong], roots=[issued[ARK]]).verified


def _resigned(certificate: Certificate, old: str, new: str, key: RSAPrivateKey) -> Certificate:
    """The certificate with some bytes of its signed part changed, signed again."""
    assert certificate.tbs.count(bytes.fromhex(old)) == 1
    tbs = certificate.tbs.replace(bytes.fromhex(old), bytes.fromhex(new))
    scheme = certificate.der[4 + len(tbs) : -(4 + 1 + len(certificate.signature))]
    signature = key.sign(tbs, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    return Certificate.decode(asn1.sequence(tbs, scheme, asn1.bits(signature)))


def test_the_intermediate_must_be_an_authority(milan: Platform) -> None:
    raw, issued = _signed(milan), milan.authority().certificates
    key = milan.authority().key(ARK)
    same = _resigned(issued[ASK], "0101ff020100", "0101ff020100", key)
    assert verify(raw, [milan.leaf(VCEK), same], roots=[issued[ARK]]).verified
    for old, new in (("0101ff020100", "010100020100"), ("030201" + "04", "030201" + "02")):
        wrong = _resigned(issued[ASK], old, new, key)
        assert wrong.signature_problem(issued[ARK]) is None
        verdict = verify(raw, [milan.leaf(VCEK), wrong], roots=[issued[ARK]])
        assert verdict.status == UNTRUSTED
        assert "no certificate authority" in verdict.reason


def test_a_leaf_of_the_right_key_for_another_tcb_is_refused(milan: Platform) -> None:
    leaf, issued = milan.leaf(VCEK), milan.authority().certificates
    for name in leaf.spl:
        tcb = Tcb.of(leaf.line, **{**leaf.spl, name: leaf.spl[name] + 1})
        validity = leaf.not_before, leaf.not_after
        der = issue_leaf(tcb, leaf.hwid, leaf.ec_point, milan.authority().key(ASK), validity)
        verdict = verify(_signed(milan), [Certificate.decode(der), issued[ASK]], roots=[issued[ARK]])
        assert _outcome(verdict, "signature") == PASSED
        assert verdict.status == UNTRUSTED
        assert verdict.failed[0].field == "REPORTED_TCB"


def test_the_default_policy(milan: Platform) -> None:
    def judged(*allow: str, **fields: object) -> Verdict:
        raw = _signed(milan, **fields)
        verdict = verify(raw, milan.certificates(), roots=[_ark(milan)])
        assert verdict.verified
        appraise(verdict, Report.decode(raw), Policy(frozenset(allow)))
        return verdict

    assert judged().verified
    for name, fields in (
        ("debug", {"policy": 0xB0000}),
        ("migration", {"policy": 0x70000}),
        ("migration", {"report_id_ma": b"\x01" * 32}),
        ("vmpl", {"vmpl": 1}),
        ("reserved", {"policy": 0x30000 | 1 << 26}),
        ("reserved", {"policy": 0x10000}),
        ("reserved", {"platform_info": 1 << 8}),
        ("reserved", {"reserved": {0x4C: b"\x01"}}),
        ("reserved", {"key_info": 1 << 5}),
    ):
        assert judged(**fields).status == POLICY, fields
        assert judged(name, **fields).verified
        assert judged(*(other for other in ALL if other != name), **fields).status == POLICY
    text = json.dumps(judged().to_json())
    assert '"not asked"' in text


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=SIZE + 10))
def test_random_bytes_never_verify(data: bytes, turin: Platform) -> None:
    assert not verify(data, turin.certificates(), roots=[_ark(turin)]).verified


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, SIZE - 1), flip=st.integers(1, 255), size=st.integers(0, SIZE))
def test_changes_and_truncations_never_verify(place: int, flip: int, size: int, turin: Platform) -> None:
    raw = bytearray(_signed(turin))
    known = turin.certificates()
    assert not verify(bytes(raw[:size]), known, roots=[_ark(turin)]).verified or size == SIZE
    raw[place] ^= flip
    verdict = verify(bytes(raw), known, roots=[_ark(turin)])
    assert not verdict.verified
    if SIGNED_SIZE <= place < SIZE:
        assert verdict.status == UNTRUSTED
