"""PKCS#7 SignedData: good signatures of several makers verify, everything else is refused with one line."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7 as builders
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import DATA, SPC, Identity, attribute, detached, signed_data, signer_info, tlv

from uefi.security import pkcs7
from uefi.security.certificates import Certificate, embedded_chain, find_chain
from uefi.security.errors import Pkcs7Error, SecurityDataError, VerificationError

CONTENT = b"the bytes that were signed"
ROOT = Identity("root", ca=True)
MIDDLE = Identity("middle", ROOT, ca=True)
LEAF = Identity("leaf", MIDDLE)
STRANGER = Identity("strangers", ca=True)


def certificates(*identities: Identity) -> list[Certificate]:
    return [Certificate(each.der) for each in identities]


def chain_of(leaf: Identity, pool: list[Identity], *anchors: Identity) -> list[Certificate] | None:
    return find_chain(Certificate(leaf.der), certificates(*pool), certificates(*anchors))


def verified(blob: bytes, anchor: Identity, content: bytes | None = CONTENT) -> list[str]:
    """Names along the chain of the one signer."""
    [chain] = pkcs7.verify(pkcs7.parse(blob), certificates(anchor), content)
    return [each.common_name for each in chain]


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_a_detached_signature_verifies_to_its_root(wrapped: bool, attributes: bool, digest: str) -> None:
    info = signer_info(LEAF, CONTENT, attributes=attributes, digest=digest)
    blob = signed_data([info], [LEAF, MIDDLE], wrapped=wrapped)
    assert verified(blob, ROOT) == ["leaf", "middle", "root"]
    with pytest.raises(VerificationError):
        verified(blob, ROOT, CONTENT + b"!")
    with pytest.raises(VerificationError, match="leads to no trusted certificate"):
        verified(blob, STRANGER)


@pytest.mark.parametrize("anchor", [LEAF, MIDDLE, ROOT])
def test_any_certificate_may_be_the_trusted_one(anchor: Identity) -> None:
    assert verified(detached(LEAF, CONTENT, MIDDLE, ROOT), anchor)[-1] == anchor.name


def test_cryptography_signs_and_we_verify() -> None:
    for options in (
        [builders.PKCS7Options.DetachedSignature, builders.PKCS7Options.Binary],
        [builders.PKCS7Options.DetachedSignature, builders.PKCS7Options.Binary, builders.PKCS7Options.NoAttributes],
        [builders.PKCS7Options.Binary],
    ):
        blob = (
            builders.PKCS7SignatureBuilder()
            .set_data(CONTENT)
            .add_signer(LEAF.certificate, LEAF.key, hashes.SHA256())
            .add_certificate(MIDDLE.certificate)
            .sign(serialization.Encoding.DER, options)
        )
        embedded = builders.PKCS7Options.DetachedSignature not in options
        assert pkcs7.parse(blob).content == (CONTENT if embedded else None)
        assert verified(blob, ROOT, None if embedded else CONTENT)[-1] == "root"


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize("arguments", [(), ("-noattr",), ("-keyid",), ("-md", "sha512")])
def test_openssl_signs_and_we_verify(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    leaf = Identity("keyed", ROOT, key_identifier=True)
    (tmp_path / "key").write_bytes(leaf.pem_key())
    (tmp_path / "certificate").write_bytes(leaf.pem_certificate())
    (tmp_path / "content").write_bytes(CONTENT)
    command = ["openssl", "cms", "-sign", "-binary", "-in", "content", "-signer", "certificate", "-inkey", "key"]
    command += ["-outform", "DER", "-out", "signature", *arguments]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert verified((tmp_path / "signature").read_bytes(), ROOT) == ["keyed", "root"]


def test_elliptic_curve_keys_verify() -> None:
    identity = Identity("curve", key=ec.generate_private_key(ec.SECP256R1()))
    assert verified(detached(identity, CONTENT), identity) == ["curve"]


def test_padding_behind_the_signature_does_no_harm() -> None:
    assert verified(detached(LEAF, CONTENT, MIDDLE) + bytes(7), ROOT)


def test_validity_dates_do_not_matter() -> None:
    old = Identity("old", expired=True)
    assert verified(detached(old, CONTENT), old) == ["old"]


def test_sha1_is_refused_in_a_signature_but_not_in_a_chain() -> None:
    with pytest.raises(VerificationError, match="digest algorithm sha1"):
        verified(signed_data([signer_info(LEAF, CONTENT, digest="sha1")], [LEAF, MIDDLE]), ROOT)


def test_attributes_must_name_the_contents_digest_and_type() -> None:
    for arguments, message in (
        ({"signed_digest": b"\0" * 32}, "signed sha256 digest is 0000"),
        ({"signed_type": SPC}, "signed content type"),
    ):
        info = signer_info(LEAF, CONTENT, **arguments)
        with pytest.raises(VerificationError, match=message):
            verified(signed_data([info], [LEAF, MIDDLE]), ROOT)


def test_content_of_another_type_needs_attributes() -> None:
    contents = b"\x02\x01\x05"
    for attributes in (True, False):
        info = signer_info(LEAF, contents, content_type=SPC, attributes=attributes)
        blob = signed_data([info], [LEAF, MIDDLE], content_type=SPC, content=tlv(0x30, contents))
        if attributes:
            assert verified(blob, ROOT, None)
        else:
            with pytest.raises(VerificationError, match="signed without attributes"):
                verified(blob, ROOT, None)


def test_embedded_content_is_not_swapped_for_the_callers() -> None:
    blob = signed_data([signer_info(LEAF, CONTENT)], [LEAF, MIDDLE], content=tlv(0x04, CONTENT))
    assert verified(blob, ROOT, None)
    with pytest.raises(VerificationError, match="content of its own"):
        verified(blob, ROOT, b"something else")


def test_every_signer_must_be_trusted() -> None:
    infos = [signer_info(LEAF, CONTENT), signer_info(STRANGER, CONTENT)]
    blob = signed_data(infos, [LEAF, MIDDLE, STRANGER])
    with pytest.raises(VerificationError, match="strangers"):
        verified(blob, ROOT)
    chains = pkcs7.verify(pkcs7.parse(blob), certificates(ROOT, STRANGER), CONTENT)
    assert [[each.common_name for each in chain] for chain in chains] == [["leaf", "middle", "root"], ["strangers"]]


def test_no_signer_no_certificate_no_content() -> None:
    with pytest.raises(VerificationError, match="no signer"):
        verified(signed_data([], [LEAF]), ROOT)
    with pytest.raises(VerificationError, match="certificate is not in"):
        verified(signed_data([signer_info(LEAF, CONTENT)], [MIDDLE]), ROOT)
    with pytest.raises(VerificationError, match="no content was given"):
        verified(detached(LEAF, CONTENT, MIDDLE), ROOT, None)


def test_a_certificate_that_is_no_authority_cannot_sign_another() -> None:
    for anchor in (
        Identity("not a ca", ca=False),
        Identity("no constraints, not self-signed", ROOT),
        Identity("a ca without the right to sign", ca=True, key_usage=False),
    ):
        child = Identity("child", anchor)
        assert chain_of(child, [], anchor) is None
        assert chain_of(child, [anchor], ROOT) is None
    usage_only = Identity("right to sign without constraints", key_usage=True)
    assert chain_of(Identity("child", usage_only), [], usage_only)


def test_a_critical_extension_that_nobody_knows_spoils_a_certificate() -> None:
    strange = Identity("strange authority", ca=True, unknown_extension=True)
    assert chain_of(Identity("child", strange), [], strange) is None
    assert chain_of(Identity("strange child", ROOT, unknown_extension=True), [], ROOT) is None
    assert chain_of(Identity("child", ROOT), [], ROOT)


def test_an_authority_of_another_name_with_the_same_key_does_not_fit() -> None:
    assert chain_of(MIDDLE, [], Identity("root", ca=True, key=ROOT.key))
    assert chain_of(MIDDLE, [], Identity("renamed root", ca=True, key=ROOT.key)) is None


def test_a_root_without_extensions_signs_only_in_version_1() -> None:
    modern = Identity("version 3 without extensions")
    assert chain_of(Identity("child", modern), [], modern) is None
    tbs = modern.tbs
    # Without its version field and with a new signature the same certificate is one of version 1.
    body = tbs[4:].removeprefix(bytes.fromhex("a003020102"))
    assert len(body) == len(tbs) - 9
    old_tbs = tlv(0x30, body)
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    old = Certificate(tlv(0x30, old_tbs, algorithm, tlv(0x03, b"\0" + modern.sign(old_tbs))))
    assert old.signed_by(old)
    assert find_chain(Certificate(Identity("child", modern).der), [], [old])


def test_two_signature_algorithms_in_one_certificate_are_refused() -> None:
    sha256, sha384 = (bytes.fromhex("06092a864886f70d01010" + digit) for digit in "bc")
    assert LEAF.der.count(sha256) == 2
    head, tail = LEAF.der[: len(LEAF.tbs) + 4], LEAF.der[len(LEAF.tbs) + 4 :]
    with pytest.raises(Pkcs7Error, match="two signature algorithms differ"):
        Certificate(head + tail.replace(sha256, sha384))


def test_long_chains_end() -> None:
    chain = [ROOT]
    for number in range(12):
        chain.append(Identity(f"link {number}", chain[-1], ca=True))
    assert len(chain_of(chain[9], chain, ROOT) or ()) == 10
    assert chain_of(chain[10], chain, ROOT) is None


def test_the_signer_is_found_by_issuer_and_serial_number() -> None:
    twins = [Identity("twin", ROOT, serial=number, key=Identity(f"key {number}").key) for number in (1, 2)]
    for signer in twins:
        for order in (twins, twins[::-1]):
            assert verified(signed_data([signer_info(signer, CONTENT)], order), ROOT)


def test_attributes_stand_once() -> None:
    import hashlib

    again = attribute("1.2.840.113549.1.9.4", tlv(0x04, hashlib.sha256(CONTENT).digest()))
    with pytest.raises(Pkcs7Error, match=r"2 signed attributes 1\.2\.840\.113549\.1\.9\.4"):
        pkcs7.parse(signed_data([signer_info(LEAF, CONTENT, extra_attributes=again)], [LEAF]))


def test_content_in_pieces_is_refused() -> None:
    with pytest.raises(Pkcs7Error, match="in pieces"):
        pkcs7.parse(signed_data([], [], content=tlv(0x24, tlv(0x04, CONTENT))))


def test_path_length_is_kept() -> None:
    top = Identity("short", ca=True, path_length=0)
    below = Identity("below", top, ca=True)
    child = Identity("child", below)
    assert chain_of(below, [], top)
    assert chain_of(child, [below], top) is None
    assert chain_of(child, [below], below)


def test_a_namesake_with_another_key_does_not_fit() -> None:
    impostor = Identity("root", ca=True, key=STRANGER.key)
    assert impostor.key is not ROOT.key
    assert chain_of(LEAF, [MIDDLE], impostor) is None
    assert chain_of(LEAF, [MIDDLE], impostor, ROOT)


def test_many_certificates_of_one_name_are_tried_once_each() -> None:
    ring = [Identity("ring", ca=True, serial=number, key=ROOT.key) for number in range(1, 30)]
    leaf = Identity("leaf of the ring", ring[0])
    assert chain_of(leaf, [*ring], STRANGER) is None
    assert len(embedded_chain(Certificate(leaf.der), certificates(*ring))) == 2


def test_limits() -> None:
    with pytest.raises(Pkcs7Error, match="33 certificates"):
        pkcs7.parse(signed_data([], [LEAF] * 33))
    with pytest.raises(Pkcs7Error, match="9 signers"):
        pkcs7.parse(signed_data([signer_info(LEAF, CONTENT)] * 9, []))
    with pytest.raises(Pkcs7Error, match="1048577 bytes"):
        pkcs7.parse(bytes(pkcs7.MAX_SIZE + 1))
    with pytest.raises(Pkcs7Error, match="65537 bytes"):
        Certificate(bytes(65537))


def test_other_content_infos_are_named() -> None:
    with pytest.raises(Pkcs7Error, match=DATA.replace(".", r"\.")):
        pkcs7.parse(tlv(0x30, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01", tlv(0xA0, tlv(0x04, b"x"))))


def judge(blob: bytes) -> bool:
    """Whether `blob` still is a good signature of CONTENT; only the package's errors may come out."""
    try:
        return bool(verified(blob, ROOT))
    except SecurityDataError as error:
        assert "\n" not in str(error)
        return False


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(blob: bytes) -> None:
    assert not judge(blob)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_in_a_sequence_are_refused(blob: bytes) -> None:
    assert not judge(tlv(0x30, blob))
    assert not judge(tlv(0x30, b"\x02\x01\x01", blob))


GOOD = signed_data([signer_info(LEAF, CONTENT)], [LEAF, MIDDLE])


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_truncations_are_refused(size: int) -> None:
    assert judge(GOOD)
    assert not judge(GOOD[:size])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_damage_raises_only_the_packages_errors(position: int, value: int, insert: bool) -> None:
    judge(GOOD[:position] + bytes([value]) + GOOD[position + (not insert) :])


@settings(deadline=None)
@given(st.integers(0, len(LEAF.tbs) - 1), st.integers(1, 255))
def test_a_changed_certificate_leads_nowhere(position: int, flip: int) -> None:
    start = LEAF.der.index(LEAF.tbs)
    changed = bytearray(LEAF.der)
    changed[start + position] ^= flip
    try:
        leaf = Certificate(bytes(changed))
    except Pkcs7Error:
        return
    assert find_chain(leaf, certificates(MIDDLE), certificates(ROOT)) is None


def test_deep_nesting_ends() -> None:
    for tag in (b"\x30\x80", b"\xa0\x80", b"\x24\x80"):
        assert not judge(tag * 100_000)
        assert not judge(b"\x30\x80\x02\x01\x01" + tag * 100_000)
