"""AMD's certificates and CRLs, and an emulated platform's beside them."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.certificate_files import split_certificates
from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK, Certificate
from sev.errors import MalformedCertificate
from sev.platform import Platform
from sev.platform import der as asn1
from sev.platform.issue import issue_leaf
from sev.product import MILAN
from sev.revocation import Crl
from sev.tcb import Tcb


def _pem(der: bytes, kind: str = "CERTIFICATE") -> bytes:
    from sev.kds import pem

    return pem(kind, der)


def test_amd_roots_are_pinned_and_sign_their_line(amd_chain: list[Certificate]) -> None:
    roots = {certificate.line: certificate for certificate in amd_chain if certificate.kind == ARK}
    assert sorted(line.name for line in roots) == ["Genoa", "Milan", "Turin"]
    assert all(root.amd_root and root.ca and root.crl_sign for root in roots.values())
    for certificate in amd_chain:
        assert certificate.signature_problem(roots[certificate.line]) is None
        assert certificate.amd_root == (certificate.kind == ARK)
        assert not certificate.emulated


def test_real_leaves_decode(real_pairs: list[Path], amd_chain: list[Certificate]) -> None:
    issuers = {certificate.subject_cn: certificate for certificate in amd_chain}
    seen = set()
    for pair in real_pairs:
        leaf = Certificate.decode((pair / "vek.der").read_bytes())
        assert leaf.serial == 0
        assert leaf.signature_problem(issuers[leaf.issuer_cn]) is None
        assert leaf.struct_version == (1 if leaf.line.name == "Turin" else 0)
        seen.add((leaf.kind, leaf.line.name, leaf.product_name, len(leaf.hwid)))
    assert seen >= {
        (VCEK, "Milan", "Milan-B0", 64),
        (VCEK, "Genoa", "Genoa", 64),
        (VCEK, "Turin", "Turin", 8),
        (VLEK, "Milan", "Milan", 0),
    }


def test_emulated_leaves_have_the_extensions_of_real_ones_byte_for_byte(real_pairs: list[Path], tmp_path: Path) -> None:
    made: dict[tuple[str, str], Platform] = {}
    for pair in real_pairs:
        real = Certificate.decode((pair / "vek.der").read_bytes())
        product = real.line.name.lower()
        given_settings = {"csp_id": real.csp_id} if real.kind == VLEK else {"hwid": real.hwid}
        name = (product, str(given_settings))
        if name not in made:
            folder = tmp_path / str(len(made))
            made[name] = Platform.new(folder, product, with_certificates=False, **given_settings)
            if len(made) > 1:  # one authority of a line will do
                known = next((p for (line, _), p in made.items() if line == product and p is not made[name]), None)
                if known:
                    made[name]._authority = known.authority()
        leaf = made[name].leaf(real.kind.lower(), Tcb.of(real.line, **real.spl).raw)
        assert list(leaf.extensions.items()) == list(real.extensions.items()), pair
        assert (leaf.kind, leaf.serial, leaf.subject_cn, leaf.issuer_cn) == (
            real.kind,
            real.serial,
            real.subject_cn,
            real.issuer_cn,
        )


@pytest.mark.parametrize("kind", [ARK, ASK, ASVK])
def test_emulated_authorities_have_the_extensions_of_real_ones(
    kind: str, amd_chain: list[Certificate], platforms: dict[str, Platform]
) -> None:
    for platform in platforms.values():
        real = next(c for c in amd_chain if c.kind == kind and c.line is platform.settings.line)
        mine = platform.authority().certificates[kind]
        assert list(mine.extensions) == list(real.extensions)
        for oid in ("2.5.29.15", "2.5.29.19"):
            assert mine.extensions[oid] == real.extensions[oid]
        assert b"cvmboot.invalid" in mine.extensions["2.5.29.31"]


def test_openssl_reads_and_verifies_what_is_issued(platforms: dict[str, Platform], tmp_path: Path) -> None:
    for platform in platforms.values():
        files = {}
        for certificate in platform.certificates():
            files[certificate.kind] = tmp_path / f"{certificate.kind}.pem"
            files[certificate.kind].write_bytes(_pem(certificate.der))
            text = subprocess.run(
                ["openssl", "x509", "-noout", "-text", "-in", files[certificate.kind]], capture_output=True, check=True
            ).stdout.decode()
            assert "cvmboot emulated platform, not AMD hardware" in text
            assert "Hash Algorithm: sha384" in text
        for leaf, issuer in ((VCEK, ASK), (VLEK, ASVK)):
            words = ["openssl", "verify", "-trusted", files[ARK], "-untrusted", files[issuer], files[leaf]]
            assert subprocess.run(words, capture_output=True, check=False).returncode == 0
        crl = subprocess.run(
            ["openssl", "crl", "-inform", "der", "-noout", "-text"],
            input=platform.crl(),
            capture_output=True,
            check=True,
        )
        assert b"No Revoked Certificates" in crl.stdout


def test_a_level_from_128_on_takes_two_bytes(milan: Platform) -> None:
    leaf = milan.leaf("vcek", Tcb.of(MILAN, boot_loader=127, tee=128, snp=0, microcode=255).raw)
    prefix = "1.3.6.1.4.1.3704.1.3."
    assert leaf.extensions[prefix + "1"].hex() == "02017f"
    assert leaf.extensions[prefix + "2"].hex() == "02020080"
    assert leaf.extensions[prefix + "8"].hex() == "020200ff"
    assert leaf.spl == {"boot_loader": 127, "tee": 128, "snp": 0, "microcode": 255}


def test_a_wrapped_hwid_is_refused(milan: Platform) -> None:
    leaf = milan.leaf("vcek")
    validity = leaf.not_before, leaf.not_after
    key = milan.authority().key(ASK)
    tcb = Tcb(milan.settings.reported_tcb, MILAN)
    assert Certificate.decode(issue_leaf(tcb, milan.settings.hwid, leaf.ec_point, key, validity)).hwid
    with pytest.raises(MalformedCertificate, match="HWID extension of 66 bytes"):
        Certificate.decode(issue_leaf(tcb, asn1.octets(milan.settings.hwid), leaf.ec_point, key, validity))


def _changed(der: bytes, old: bytes, new: bytes) -> bytes:
    assert der.count(old) >= 1
    assert len(old) == len(new)
    return der.replace(old, new)


def test_what_is_not_of_amd_s_form_is_refused(milan: Platform) -> None:
    der = milan.leaf("vcek").der
    twice = asn1.oid("1.3.6.1.4.1.3704.1.3.4"), asn1.oid("1.3.6.1.4.1.3704.1.3.5")
    with pytest.raises(MalformedCertificate, match="twice"):
        Certificate.decode(_changed(der, *twice))
    with pytest.raises(MalformedCertificate, match="product name 'Titan-B0'"):
        Certificate.decode(_changed(der, b"Milan-B0", b"Titan-B0"))
    with pytest.raises(MalformedCertificate, match="lacks the extension"):
        Certificate.decode(_changed(der, asn1.oid("1.3.6.1.4.1.3704.1.3.8"), asn1.oid("1.3.6.1.4.1.3704.1.3.9")))
    with pytest.raises(MalformedCertificate, match="SEV-XCEK"):
        Certificate.decode(_changed(der, b"SEV-VCEK", b"SEV-XCEK"))
    with pytest.raises(MalformedCertificate, match="serial number -1"):
        Certificate.decode(der.replace(b"\x02\x01\x02\x02\x01\x00\x30", b"\x02\x01\x02\x02\x01\xff\x30", 1))
    for level in ("0202007f", "020100db", "0202ffdb", "04020000"):
        with pytest.raises(MalformedCertificate, match="ucodeSPL"):
            Certificate.decode(_changed(der, bytes.fromhex("020200db"), bytes.fromhex(level)))
    with pytest.raises(MalformedCertificate, match="no certificate"):
        Certificate.decode(der + b"\0")
    with pytest.raises(MalformedCertificate, match="16384"):
        Certificate.decode(b"\x30" * 20000)


def test_the_issuer_s_name_counts(milan: Platform) -> None:
    issued = milan.authority().certificates
    problem = milan.leaf("vcek").signature_problem(issued[ASVK])
    assert problem == "issued by SEV-Milan, not by SEV-VLEK-Milan"


def test_another_hash_in_the_signature_is_named(milan: Platform) -> None:
    leaf = milan.leaf("vcek")
    sha384, sha256 = asn1.oid("2.16.840.1.101.3.4.2.2"), asn1.oid("2.16.840.1.101.3.4.2.1")
    weak = Certificate.decode(leaf.der.replace(sha384, sha256))
    problem = weak.signature_problem(milan.authority().certificates[ASK])
    assert problem is not None
    assert "sha256" in problem


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_certificate_is_refused_or_not_signed_any_more(data: st.DataObject, turin: Platform) -> None:
    leaf, issuer = turin.leaf("vcek"), turin.authority().certificates[ASK]
    der = bytearray(leaf.der)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(der) - 1))
        der[place] ^= data.draw(st.integers(1, 255))
    if der == leaf.der:
        return
    try:
        changed = Certificate.decode(bytes(der))
    except MalformedCertificate as error:
        assert "\n" not in str(error)
        return
    assert changed.signature_problem(issuer) is not None


@given(st.binary(max_size=400))
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    for decode in (Certificate.decode, Crl.decode, split_certificates):
        for lead in (b"", b"\x30\x82\x01\x00\x30\x80", b"-----BEGIN CERTIFICATE-----\n"):
            if decode is split_certificates and (lead + data)[:1] == b"\x30":
                continue
            with pytest.raises(MalformedCertificate):
                decode(lead + data)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000))
def test_a_truncated_certificate_is_refused(size: int) -> None:
    der = _AN_ARK or _make_ark()
    if size < len(der):
        with pytest.raises(MalformedCertificate):
            Certificate.decode(der[:size])


_AN_ARK = b""


def _make_ark() -> bytes:
    from datetime import UTC, datetime

    from cryptography.hazmat.primitives.asymmetric import rsa

    from sev.platform.issue import issue_ark

    global _AN_ARK  # noqa: PLW0603
    key = rsa.generate_private_key(65537, 4096)
    _AN_ARK = issue_ark(MILAN, key, (datetime(2026, 1, 1, tzinfo=UTC), datetime(2051, 1, 1, tzinfo=UTC)))
    assert Certificate.decode(_AN_ARK).not_after.year == 2051
    return _AN_ARK


def test_pem_may_have_crlf_a_byte_order_mark_and_text_around(milan: Platform) -> None:
    ders = [certificate.der for certificate in milan.certificates()]
    text = b"\xef\xbb\xbfsubject=...\r\n" + b"".join(_pem(der) for der in ders).replace(b"\n", b"\r\n")
    text += _pem(milan.crl(), "X509 CRL")
    found = split_certificates(text)
    assert [der for kind, der in found if kind == "CERTIFICATE"] == ders
    assert [kind for kind, _ in found].count("X509 CRL") == 1
    assert split_certificates(milan.crl())[0][0] == "X509 CRL"
    with pytest.raises(MalformedCertificate, match="no certificate found"):
        split_certificates(b"hello")


def test_real_crls_are_signed_and_genoa_s_revokes_the_first_ask(
    amd_crls: list[Crl], amd_chain: list[Certificate]
) -> None:
    roots = {certificate.subject_cn: certificate for certificate in amd_chain}
    for crl in amd_crls:
        assert crl.signature_problem(roots[crl.issuer_cn]) is None
        assert list(crl.revoked) == ([0x20001] if crl.issuer_cn == "ARK-Genoa" else [])
        others = [roots[name] for name in ("ARK-Milan", "ARK-Genoa") if name != crl.issuer_cn]
        assert all(crl.signature_problem(other) for other in others)
