"""Who is trusted: pinned roots, named roots, a line without a pin; certificate profiles; old CRLs; changed bytes; output."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sev.appraisal import appraise
from sev.attestation_policy import Policy
from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.errors import MalformedCertificate
from sev.kds import pem
from sev.platform import VCEK, VLEK, Platform, issue
from sev.platform import der as asn1
from sev.product import VENICE
from sev.report import SIGNED_SIZE, SIZE, Report
from sev.revocation import Crl
from sev.tcb import Tcb
from sev.verdict import (
    FAILED,
    MISSING,
    NAMED,
    PASSED,
    PINNED,
    POLICY,
    REVOKED,
    SKIPPED,
    UNKNOWN,
    UNTRUSTED,
    Check,
    Verdict,
)
from sev.verifier import Verifier, verify

_SCHEMAS = Path(sys.modules["sev"].__path__[0])
_VERDICT = jsonschema.Draft202012Validator(json.loads((_SCHEMAS / "verdict.schema.json").read_text()))
_REPORT = jsonschema.Draft202012Validator(json.loads((_SCHEMAS / "report.schema.json").read_text()))


def _check(verdict: Verdict, name: str) -> Check:
    (check,) = [check for check in verdict.checks if check.name == name]
    return check


class _Venice:
    """A machine of a line whose ARK nobody has pinned yet, without any mark of an emulated platform."""

    def __init__(self, milan: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(issue, "EMULATED", "Made for a test")
        ark, ask = (milan.authority().key(kind) for kind in (ARK, ASK))
        now = datetime.now(UTC).replace(microsecond=0)
        times = now - timedelta(days=1), now + timedelta(days=900)
        key = ec.generate_private_key(ec.SECP384R1())
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        tcb = Tcb.of(VENICE, fmc=1, boot_loader=2, tee=3, snp=4, microcode=200)
        self.ark = Certificate.decode(issue.issue_ark(VENICE, ark, times))
        self.certificates = [
            Certificate.decode(issue.issue_leaf(tcb, b"\x42" * 8, point, ask, times)),
            Certificate.decode(issue.issue_intermediate(VENICE, False, ask, ark, times)),
            self.ark,
        ]
        fields: dict[str, Any] = dict.fromkeys(("current_tcb", "committed_tcb", "reported_tcb", "launch_tcb"), tcb.raw)
        fields |= {"cpuid_fam_id": 0x1A, "cpuid_mod_id": 0x50, "chip_id": (b"\x42" * 8).ljust(64, b"\0")}
        signed = Report(5, policy=0x30000, signature_algo=1, report_id_ma=b"\xff" * 32, **fields).encode()[:SIGNED_SIZE]
        numbers = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
        self.report = (signed + b"".join(number.to_bytes(72, "little") for number in numbers)).ljust(SIZE, b"\0")


def test_a_line_without_a_pinned_root_is_refused_until_it_is_named(
    milan: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    venice = _Venice(milan, monkeypatch)
    refused = verify(venice.report, venice.certificates)
    assert (refused.status, refused.emulated) == (UNTRUSTED, False)
    assert refused.reason.startswith("no ARK-Venice is pinned in this version") and "--trust-root" in refused.reason
    assert refused.root is not None and (refused.root.name, refused.root.trust) == ("ARK-Venice", UNKNOWN)
    named = verify(venice.report, venice.certificates[:2], roots=[venice.ark])
    assert (named.verified, named.emulated, named.line) == (True, False, "Venice"), named.reason
    assert named.root is not None and (named.root.sha256, named.root.trust) == (venice.ark.sha256, NAMED)
    report, chain, root = tmp_path / "report.bin", tmp_path / "chain.pem", tmp_path / "ark.pem"
    report.write_bytes(venice.report)
    chain.write_bytes(b"".join(pem("CERTIFICATE", each.der) for each in venice.certificates))
    root.write_bytes(pem("CERTIFICATE", venice.ark.der))
    done = _attest("verify", report, "--certs", chain)
    assert done.returncode == 4 and b"no ARK-Venice is pinned" in done.stdout
    done = _attest("verify", report, "--certs", chain, "--trust-root", root)
    assert done.returncode == 0, done
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "VERIFIED (VCEK Venice)"
    assert lines[1].startswith(f"NAMED ROOT: ARK-Venice {venice.ark.sha256} is trusted because you named it")
    # A file with the whole chain will do: its ARK is trusted, the rest is certificates.
    assert _attest("verify", report, "--trust-root", chain).returncode == 0
    lone = tmp_path / "ask.pem"
    lone.write_bytes(pem("CERTIFICATE", venice.certificates[1].der))
    done = _attest("verify", report, "--certs", chain, "--trust-root", lone)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1) and b"no ARK in it" in done.stderr


def test_an_emulated_root_that_is_named_stays_emulated(turin: Platform, tmp_path: Path) -> None:
    report, root, chain = tmp_path / "report.bin", tmp_path / "root.der", tmp_path / "chain.pem"
    report.write_bytes(turin.sign_report(turin.report().encode()))
    root.write_bytes(turin.authority().certificates[ARK].der)
    chain.write_bytes(b"".join(pem("CERTIFICATE", each.der) for each in turin.certificates()))
    done = _attest("verify", report, "--certs", chain, "--trust-root", root)
    assert done.stdout.splitlines()[0] == b"VERIFIED (EMULATED: VCEK Turin)", done
    assert b"EMULATED: this says nothing about real hardware." in done.stdout
    verdict = json.loads(_attest("verify", report, "--certs", chain, "--trust-root", root, "--json").stdout)
    assert (verdict["emulated"], verdict["root"]["trust"]) == (True, "named")
    done = _attest("verify", report, "--certs", chain)
    assert done.returncode == 4 and b"this is an emulated platform's report" in done.stdout.splitlines()[0]


def test_real_roots_are_pinned_and_naming_another_changes_nothing(
    real_pairs: list[Path], amd_chain: list[Certificate], turin: Platform
) -> None:
    for pair in real_pairs:
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        raw = (pair / "report.bin").read_bytes()
        at = leaf.not_before + timedelta(days=90)
        verdict = verify(raw, [leaf, *amd_chain], roots=[turin.authority().certificates[ARK]], at=at)
        assert verdict.verified and not verdict.emulated
        assert verdict.root is not None and verdict.root.trust == PINNED


def test_the_defaults_refuse_three_real_reports_only(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    """Two sketches allow DEBUG, or AWS's comes from VMPL 1; every other honest machine passes, whatever its TCBs and bits are."""
    refused = {}
    for pair in real_pairs:
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        raw = (pair / "report.bin").read_bytes()
        verdict = verify(raw, [leaf, *amd_chain], at=leaf.not_before + timedelta(days=90))
        appraise(verdict, Report.decode(raw))
        known = json.loads((pair / "expected.json").read_text())
        if verdict.status:
            refused[pair.name] = verdict.reason
            assert verdict.status == POLICY
        debug, vmpl = bool(int(known["policy"], 16) >> 19 & 1), known["vmpl"]
        assert bool(verdict.status) == (debug or vmpl != 0), (pair, verdict.reason)
        if debug:
            assert "DEBUG" in verdict.reason and [check.name for check in verdict.failed] == ["guest policy DEBUG"]
        elif vmpl:
            assert verdict.reason == f"the report was asked for at VMPL {vmpl}; wanted 0"
        _VERDICT.validate(verdict.to_json())
    assert refused


def test_an_ask_is_no_asvk(milan: Platform) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    issued = loaded.authority().certificates
    raw = loaded.sign_report(loaded.report(key=VLEK).encode())
    verdict = verify(raw, [loaded.leaf(VLEK), issued[ASK]], roots=[issued[ARK]])
    # The names of an emulated platform are told first; real ones are below.
    assert verdict.status in (UNTRUSTED, MISSING)


def test_a_real_vlek_with_an_ask_is_named(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    pair = next(pair for pair in real_pairs if "vlek" in pair.name)
    leaf = Certificate.decode((pair / "vek.der").read_bytes())
    raw = (pair / "report.bin").read_bytes()
    vcek_chain = [certificate for certificate in amd_chain if certificate.kind != ASVK]
    verdict = verify(raw, [leaf, *vcek_chain], at=leaf.not_before + timedelta(days=90))
    assert verdict.status == MISSING
    assert "SEV-Milan is the ASK, which signs VCEKs, and a VLEK needs the ASVK" in verdict.reason


def _changed(certificate: Certificate, key: Any, changes: dict[bytes, bytes], algorithm: Any = None) -> bytes:
    """DER of a certificate with bytes of its signed part changed, signed again, maybe with another hash."""
    tbs, name = certificate.tbs, hashes.SHA384() if algorithm is None else algorithm
    for old, new in changes.items():
        assert old in tbs
        tbs = tbs.replace(old, new)
    # The outer length changes with the parts.
    body = tbs[4:] if tbs[1] == 0x82 else tbs[3:]
    tbs = asn1.sequence(body)
    scheme = certificate.der[4 + len(certificate.tbs) : -(4 + 1 + len(certificate.signature))]
    if algorithm is not None:
        scheme = scheme.replace(asn1.oid(_SHA384), asn1.oid(_SHA256))
    signature = key.sign(tbs, padding.PSS(padding.MGF1(name), 48), name)
    return asn1.sequence(tbs, scheme, asn1.bits(signature))


_SHA384, _SHA256 = "2.16.840.1.101.3.4.2.2", "2.16.840.1.101.3.4.2.1"


def test_sha_256_in_place_of_sha_384_is_named(milan: Platform) -> None:
    issued, leaf = milan.authority().certificates, milan.leaf(VCEK)
    raw = milan.sign_report(milan.report().encode())
    changes = {asn1.oid(_SHA384): asn1.oid(_SHA256)}
    weak = Certificate.decode(_changed(leaf, milan.authority().key(ASK), changes, hashes.SHA256()))
    verdict = verify(raw, [weak, issued[ASK]], roots=[issued[ARK]])
    assert verdict.status == UNTRUSTED
    assert "sha256" in verdict.reason and "wanted RSASSA-PSS with SHA-384" in verdict.reason
    profile = _check(verdict, "profile of the VCEK")
    assert profile.outcome == FAILED and "it is signed with RSASSA-PSS with sha256" in profile.reason


def test_what_breaks_a_profile_is_named(milan: Platform) -> None:
    issued, leaf, key = milan.authority().certificates, milan.leaf(VCEK), milan.authority().key(ASK)
    raw = milan.sign_report(milan.report().encode())
    fine = verify(raw, [leaf, issued[ASK]], roots=[issued[ARK]])
    for kind in ("VCEK", "ASK", "ARK"):
        assert _check(fine, f"profile of the {kind}").outcome == PASSED
    spare = asn1.oid("1.3.6.1.4.1.3704.1.3.5")
    level = Certificate.decode(_changed(leaf, key, {spare + b"\x04\x03\x02\x01\x00": spare + b"\x04\x03\x02\x01\x05"}))
    verdict = verify(raw, [level, issued[ASK]], roots=[issued[ARK]])
    assert verdict.status == UNTRUSTED
    assert "SPL 1.3.6.1.4.1.3704.1.3.5 is 020105, and Milan has no such level" in verdict.reason
    # An extension that nobody knows, and that may be ignored, is no fault, and is named.
    other = Certificate.decode(_changed(leaf, key, {spare: asn1.oid("1.3.6.1.4.1.3704.1.9.5")}))
    verdict = verify(raw, [other, issued[ASK]], roots=[issued[ARK]])
    assert verdict.verified, verdict.reason
    assert "extensions that nobody knows: 1.3.6.1.4.1.3704.1.9.5" in _check(verdict, "profile of the VCEK").seen
    critical = spare + b"\x04\x03\x02\x01\x00"
    with pytest.raises(MalformedCertificate, match="unknown critical extension"):
        Certificate.decode(_with_critical(leaf, key, critical))


def _with_critical(leaf: Certificate, key: Any, extension: bytes) -> bytes:
    """The leaf with one extension marked as critical: three bytes more, and lengths that say so."""
    new = extension[: -len(b"\x04\x03\x02\x01\x00")] + b"\x01\x01\xff" + extension[-5:]
    old = asn1.sequence(extension)
    tbs = leaf.tbs
    at = tbs.index(old)
    changed = tbs[:at] + asn1.sequence(new) + tbs[at + len(old) :]
    # [3] { SEQUENCE { ... } } is the last part of the signed one.
    start = changed.rindex(b"\xa3", 0, at)
    inner = changed[start + 4 + 4 :] if changed[start + 1] == 0x82 else changed[start + 3 + 3 :]
    whole = changed[4:start] + asn1.context(3, asn1.sequence(inner))
    scheme = leaf.der[4 + len(leaf.tbs) : -(4 + 1 + len(leaf.signature))]
    signed = asn1.sequence(whole)
    signature = key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    return asn1.sequence(signed, scheme, asn1.bits(signature))


def test_malformed_certificates_end_the_command_with_their_reason(milan: Platform, tmp_path: Path) -> None:
    report, file = tmp_path / "report.bin", tmp_path / "vcek.der"
    report.write_bytes(milan.sign_report(milan.report().encode()))
    der = milan.leaf(VCEK).der
    twice = asn1.oid("1.3.6.1.4.1.3704.1.3.4"), asn1.oid("1.3.6.1.4.1.3704.1.3.5")
    for data, said in (
        (der.replace(*twice), b"extension 1.3.6.1.4.1.3704.1.3.5 twice"),
        (der.replace(b"\x02\x01\x02\x02\x01\x00\x30", b"\x02\x01\x02\x02\x01\xff\x30", 1), b"serial number -1"),
        (der[:-9], b"DER cut off"),
        (der + b"garbage", b"DER followed by 7 bytes that are none"),
        (b"-----BEGIN CERTIFICATE-----\nMIIF", b"a PEM block without its end"),
        (pem("CERTIFICATE", der).replace(b"M", b"*", 1), b"PEM block 1: Only base64 data is allowed"),
        (pem("CERTIFICATE", der).replace(b"END CERT", b"END CART"), b"PEM blocks that do not pair up"),
    ):
        file.write_bytes(data)
        done = _attest("verify", report, "--certs", file)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (3, b"", 1), (said, done)
        assert said in done.stderr, done.stderr


def test_an_old_crl_counts_for_as_long_as_it_may(milan: Platform) -> None:
    issued, key, now = (
        milan.authority().certificates,
        milan.authority().key(ARK),
        datetime.now(UTC).replace(microsecond=0),
    )
    raw = milan.sign_report(milan.report().encode())

    def judged(when: str, days_ago: int, revoked: bool = False) -> Verdict:
        times = now - timedelta(days=days_ago + 30), now - timedelta(days=days_ago)
        serials = {issued[ASK].serial: times[0]} if revoked else {}
        crl = Crl.decode(issue.issue_crl(milan.settings.line, key, 9, times, serials))
        verdict = verify(
            raw, [milan.leaf(VCEK), issued[ASK]], roots=[issued[ARK]], crls=[crl], at=now + timedelta(hours=1)
        )
        appraise(verdict, Report.decode(raw), Policy.of({"crl": when}))
        return verdict

    for when, days, status, outcome in (
        ("if-present", 9, 0, SKIPPED),
        ("required", 9, MISSING, FAILED),
        ("required,stale-ok:10", 9, 0, PASSED),
        ("stale-ok:10", 9, 0, PASSED),
        ("required,stale-ok:9", 9, MISSING, FAILED),
        ("if-present,stale-ok:9", 9, 0, SKIPPED),
        ("required,stale-ok:99999", 900, 0, PASSED),
    ):
        verdict = judged(when, days)
        assert (verdict.status, _check(verdict, "revocation").outcome) == (status, outcome), when
    assert "10 days past its next update" in _check(judged("stale-ok:10", 9), "revocation").seen
    for when in ("required", "required,stale-ok:1", "stale-ok:99", "if-present"):
        assert judged(when, 9, revoked=True).status == REVOKED
    assert judged("off", 9, revoked=True).verified


def test_genoa_s_first_ask_is_revoked(platforms: dict[str, Platform], amd_crls: list[Crl]) -> None:
    """The serial number that AMD's list has, on an emulated Genoa whose ASK has the same."""
    genoa = platforms["genoa"]
    issued, key = genoa.authority().certificates, genoa.authority().key(ARK)
    listed = next(crl for crl in amd_crls if crl.issuer_cn == "ARK-Genoa").revoked
    assert issued[ASK].serial == 0x20001 and set(listed) == {0x20001}
    now = datetime.now(UTC).replace(microsecond=0)
    crl = Crl.decode(issue.issue_crl(genoa.settings.line, key, 2, (now, now + timedelta(days=9)), listed))
    raw = genoa.sign_report(genoa.report().encode())
    verdict = verify(raw, genoa.certificates(), roots=[issued[ARK]], crls=[crl])
    assert (verdict.status, verdict.reason) == (REVOKED, "the ASK with serial 0x20001 is revoked")


@pytest.mark.parametrize("key", [VCEK, VLEK])
def test_each_signed_byte_of_an_emulated_report_counts(key: str, milan: Platform) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    raw = loaded.sign_report(loaded.report(key=key).encode())
    issued = loaded.authority().certificates
    verifier = Verifier([*issued.values(), loaded.leaf(VCEK), loaded.leaf(VLEK)], roots=[issued[ARK]])
    assert verifier.verify(raw).verified
    for place in range(SIGNED_SIZE + 4 * 72):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        verdict = verifier.verify(bytes(changed))
        assert not verdict.verified and verdict.reason and verdict.status in (3, 4, 5), hex(place)


def _attest(*words: object, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    name, *rest = map(str, words)
    command = [sys.executable, "-m", "cvmboot", "attest", name, *(["--offline"] if name == "verify" else []), *rest]
    return subprocess.run(command, input=typed, capture_output=True, timeout=60, check=False)


def test_what_is_written_for_machines_keeps_to_its_schema(turin: Platform, milan: Platform, tmp_path: Path) -> None:
    raw = turin.sign_report(turin.report().encode())
    table = turin.certificate_table()
    for data, status in (
        (raw, 0),
        (turin.sign_report(turin.report(policy=0xB0000, platform_info=1 << 20, reserved={0x208: b"\x01"}).encode()), 7),
        (raw[:0x90] + b"\xff" + raw[0x91:], 4),
        (turin.report(version=1).encode()[:0x50] + b"\x01" + bytes(SIZE - 0x51), 3),
        (bytes(SIZE), 3),
        (b"no report", 3),
        (raw + table, 0),
    ):
        done = _attest("verify", "-", "--platform", turin.folder, "--json", typed=data)
        assert done.returncode == status, done
        verdict = json.loads(done.stdout)
        _VERDICT.validate(verdict)
        assert verdict["status"] == status
        if status in (0, 7):
            _REPORT.validate(json.loads(_attest("show", "-", "--json", typed=data).stdout))
    assert _attest("show", "-", "--json", typed=bytes(SIZE)).returncode == 3
    _REPORT.validate(json.loads(_attest("show", "-", "--json", typed=milan.report(version=2).encode()).stdout))
    for name in ("report", "verdict", "policy"):
        jsonschema.Draft202012Validator.check_schema(json.loads(_attest("schema", name).stdout))
    assert _attest("schema", "rome").returncode == 2


def test_a_person_sees_plain_lines_without_a_terminal(turin: Platform, tmp_path: Path) -> None:
    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report(measurement=b"\xab" * 48).encode()))
    done = _attest("verify", file, "--platform", turin.folder, "--measurement", "cd" * 48)
    text = done.stdout.decode()
    assert "\x1b" not in text
    columns = {line.index("  ", 13) for line in text.splitlines() if line.startswith("  ok")}
    assert len({len(line[12:]) - len(line[12:].lstrip()) for line in text.splitlines() if line.startswith("  ok")}) == 1
    assert columns
    assert "FAILED" in text and "abababababababab" in text and "ab" * 20 not in text
    assert "not asked  " in text and "platform info (" in text
    shown = _attest("show", file).stdout.decode()
    assert "\x1b" not in shown and "ab" * 32 in shown


def test_a_person_sees_tables_on_a_terminal(turin: Platform, tmp_path: Path) -> None:
    import pexpect

    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report().encode()))
    for words, seen in (
        (
            ["verify", "--offline", "--platform", str(turin.folder)],
            ("VERIFIED (EMULATED: VCEK Turin)", "Wanted", "─", "\x1b[32mok"),
        ),
        (["show"], ("PLATFORM_INFO 0x25", "SMT_EN", "fmcSPL", "reported tcb", "─")),
    ):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "cvmboot", "attest", *words, str(file)],
            dimensions=(60, 140),
            timeout=60,
            encoding="utf-8",
            env={"TERM": "xterm", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        )
        text = child.read()
        child.close()
        assert child.exitstatus == 0
        for part in seen:
            assert part in text, (part, text)
