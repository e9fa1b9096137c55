"""Secure Boot's decision: dbx forbids, db permits, and everything else is a security violation."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import DATA, SPC, TST_INFO, Identity, authenticode, signed_data, signer_info, timestamp_token, tlv

from uefi import guids
from uefi.guids import Guid
from uefi.security import image_policy, pkcs7, signature_lists
from uefi.security.image_policy import Decision
from uefi.security.signature_lists import Signature, SignatureList
from uefi.status import Status
from uefi.time import EfiTime

OWNER = Guid.parse("77fa9abd-0359-4d32-bd60-28f4e78f784b")
ROOT = Identity("root", ca=True)
MIDDLE = Identity("middle", ROOT, ca=True)
LEAF = Identity("leaf", MIDDLE)
OTHER = Identity("another root", ca=True)
AUTHORITY = Identity("time stamp authority", ca=True)
IMAGE = b"the covered bytes of an image"


def digest(algorithm: str) -> bytes:
    return hashlib.new(algorithm, IMAGE).digest()


def signature(signer: Identity = LEAF, *others: Identity, algorithm: str = "sha256") -> bytes:
    return authenticode(signer, digest(algorithm), *(others or (MIDDLE,)), digest=algorithm)


def database(*entries: tuple[Guid, bytes]) -> bytes:
    return signature_lists.build([SignatureList(kind, [Signature(OWNER, data)]) for kind, data in entries])


def x509(identity: Identity) -> tuple[Guid, bytes]:
    return guids.CERT_X509, identity.der


def revoked(identity: Identity, time: EfiTime | None = None, algorithm: str = "sha256") -> tuple[Guid, bytes]:
    kind = {"sha256": guids.CERT_X509_SHA256, "sha384": guids.CERT_X509_SHA384, "sha512": guids.CERT_X509_SHA512}
    return kind[algorithm], hashlib.new(algorithm, identity.tbs).digest() + (time or EfiTime()).pack()


def decide(*signatures: bytes, db: bytes = b"", dbx: bytes = b"", dbt: bytes = b"") -> Decision:
    decision = image_policy.check_image(digest, signatures, db, dbx, dbt)
    assert "\n" not in decision.reason
    return decision


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("sha256", guids.CERT_SHA256), ("sha384", guids.CERT_SHA384), ("sha512", guids.CERT_SHA512)],
)
def test_the_images_hash_permits_and_forbids(algorithm: str, kind: Guid) -> None:
    listed = database((kind, digest(algorithm)))
    decision = decide(db=listed)
    assert decision.allowed
    assert decision.action == image_policy.AUTH_SIG_PASSED
    assert digest(algorithm).hex() in decision.reason
    decision = decide(signature(), db=database(x509(ROOT), (kind, digest(algorithm))), dbx=listed)
    assert decision.status == Status.ACCESS_DENIED
    assert decision.action == image_policy.AUTH_SIG_FOUND
    other = database((kind, bytes(len(digest(algorithm)))))
    assert decide(db=other).status == Status.SECURITY_VIOLATION


def test_hashes_are_computed_only_where_a_list_has_them() -> None:
    def only_sha256(algorithm: str) -> bytes:
        assert algorithm == "sha256"
        return digest(algorithm)

    db = database((guids.CERT_SHA256, digest("sha256")))
    assert image_policy.check_image(only_sha256, [], db, b"").allowed


def test_an_unsigned_image_is_not_started() -> None:
    decision = decide(db=database(x509(ROOT)))
    assert decision.status == Status.SECURITY_VIOLATION
    assert decision.action == image_policy.AUTH_UNTESTED
    assert decision.reason == f"the image is not signed, and its SHA-256 {digest('sha256').hex()} is not in db"


@pytest.mark.parametrize("anchor", [LEAF, MIDDLE, ROOT])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_chain_to_db_permits(anchor: Identity, algorithm: str) -> None:
    decision = decide(signature(algorithm=algorithm), db=database(x509(OTHER), x509(anchor)))
    assert decision.allowed
    assert decision.reason == f"signed by 'leaf', and db has the certificate '{anchor.name}'"


def test_a_chain_to_elsewhere_does_not() -> None:
    decision = decide(signature(), db=database(x509(OTHER)))
    assert decision.status == Status.SECURITY_VIOLATION
    assert decision.action == image_policy.AUTH_SIG_NOT_FOUND
    assert "leads to no trusted certificate" in decision.reason


def test_a_signature_for_another_image_does_not_permit() -> None:
    decision = decide(authenticode(LEAF, bytes(32), MIDDLE), db=database(x509(ROOT)))
    assert decision.status == Status.SECURITY_VIOLATION
    assert f"the signature is for sha256 {bytes(32).hex()}" in decision.reason


def test_a_forged_signature_does_not_permit() -> None:
    blob = bytearray(signature())
    blob[-5] ^= 1
    decision = decide(bytes(blob), db=database(x509(ROOT)))
    assert decision.status == Status.SECURITY_VIOLATION
    assert "the signature is not by the key of 'leaf'" in decision.reason


def test_signed_content_of_another_type_does_not_permit() -> None:
    contents = digest("sha256")
    blob = signed_data([signer_info(LEAF, contents)], [LEAF, MIDDLE], content=tlv(0x04, contents))
    assert "wanted SpcIndirectData" in decide(blob, db=database(x509(ROOT))).reason
    detached = signed_data([signer_info(LEAF, contents, content_type=SPC)], [LEAF, MIDDLE], content_type=SPC)
    assert "wanted SpcIndirectData" in decide(detached, db=database(x509(ROOT))).reason


def test_sha1_does_not_permit() -> None:
    decision = decide(authenticode(LEAF, digest("sha1"), MIDDLE, digest="sha1"), db=database(x509(ROOT)))
    assert decision.status == Status.SECURITY_VIOLATION
    assert "image hash algorithm sha1" in decision.reason


@pytest.mark.parametrize("forbidden", [LEAF, MIDDLE, ROOT])
def test_a_certificate_in_dbx_forbids_what_is_below_it(forbidden: Identity) -> None:
    decision = decide(signature(), db=database(x509(ROOT)), dbx=database(x509(forbidden)))
    assert decision.status == Status.ACCESS_DENIED
    assert decision.action == image_policy.AUTH_SIG_FAILED
    assert forbidden.name in decision.reason
    assert decide(signature(), db=database(x509(ROOT)), dbx=database(x509(OTHER))).allowed


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("forbidden", [LEAF, MIDDLE, ROOT])
def test_a_certificates_hash_in_dbx_forbids(forbidden: Identity, algorithm: str) -> None:
    dbx = database(revoked(OTHER, algorithm=algorithm), revoked(forbidden, algorithm=algorithm))
    decision = decide(signature(), db=database(x509(ROOT)), dbx=dbx)
    assert decision.status == Status.ACCESS_DENIED
    assert decision.reason == f"dbx has the hash of the certificate '{forbidden.name}'"


def test_dbx_reaches_a_signer_whose_certificate_is_only_in_db() -> None:
    blob = authenticode(LEAF, digest("sha256"), embed_signer=False)
    db = database(x509(LEAF))
    assert decide(blob, db=db).allowed
    assert decide(blob, db=db, dbx=database(revoked(LEAF))).status == Status.ACCESS_DENIED
    assert decide(blob, db=db, dbx=database(x509(MIDDLE))).status == Status.ACCESS_DENIED


def test_one_of_several_signatures_is_enough_to_permit_and_to_forbid() -> None:
    ours, theirs = signature(), authenticode(OTHER, digest("sha256"))
    db = database(x509(ROOT))
    for order in ((ours, theirs), (theirs, ours), (b"garbage", ours)):
        assert decide(*order, db=db).allowed
        assert decide(*order, db=db, dbx=database(x509(ROOT))).status == Status.ACCESS_DENIED
    assert decide(ours, theirs, db=db, dbx=database(revoked(OTHER))).status == Status.ACCESS_DENIED


REVOCATION = EfiTime(2022, 6, 1, hour=12)


@pytest.mark.parametrize(
    ("moment", "trusted", "allowed"),
    [
        ("20220601115959Z", True, True),
        ("20220601120000Z", True, False),
        ("20220601120001Z", True, False),
        ("20200101000000Z", False, False),
        ("", True, False),
    ],
)
def test_a_trusted_time_stamp_spares_what_was_signed_before_the_revocation(
    moment: str, trusted: bool, allowed: bool
) -> None:
    authority = AUTHORITY if moment else None
    blob = authenticode(LEAF, digest("sha256"), MIDDLE, authority=authority, moment=moment)
    db, dbx = database(x509(ROOT)), database(revoked(MIDDLE, REVOCATION))
    decision = decide(blob, db=db, dbx=dbx, dbt=database(x509(AUTHORITY if trusted else OTHER)))
    assert decision.allowed == allowed
    if not allowed:
        assert decision.status == Status.ACCESS_DENIED
        assert "dbx revokes the certificate 'middle'" in decision.reason


def test_a_time_stamp_for_another_signature_spares_nothing() -> None:
    elsewhere = authenticode(OTHER, digest("sha256"), authority=AUTHORITY, moment="20200101000000Z")
    ours = authenticode(LEAF, digest("sha256"), MIDDLE, authority=AUTHORITY, moment="20200101000000Z")
    db, dbx, dbt = database(x509(ROOT)), database(revoked(MIDDLE, REVOCATION)), database(x509(AUTHORITY))
    assert decide(ours, db=db, dbx=dbx, dbt=dbt).allowed
    [token] = pkcs7.parse(elsewhere).signers[0].timestamps
    contents = pkcs7.parse(ours).content
    assert contents is not None
    info = signer_info(LEAF, contents, content_type=SPC, timestamp=token)
    swapped = signed_data([info], [LEAF, MIDDLE], content_type=SPC, content=tlv(0x30, contents))
    assert decide(swapped, db=db).allowed
    assert decide(swapped, db=db, dbx=dbx, dbt=dbt).status == Status.ACCESS_DENIED


def test_a_signature_of_the_authority_over_something_else_is_no_time_stamp() -> None:
    db, dbx, dbt = database(x509(ROOT)), database(revoked(MIDDLE, REVOCATION)), database(x509(AUTHORITY))
    contents = pkcs7.parse(signature()).content
    assert contents is not None
    signed = pkcs7.parse(signature()).signers[0].signature
    for content_type, allowed in ((TST_INFO, True), (DATA, False)):
        token = timestamp_token(AUTHORITY, signed, "20200101000000Z", content_type=content_type)
        info = signer_info(LEAF, contents, content_type=SPC, timestamp=token)
        blob = signed_data([info], [LEAF, MIDDLE], content_type=SPC, content=tlv(0x30, contents))
        assert decide(blob, db=db, dbx=dbx, dbt=dbt).allowed == allowed


def test_databases_that_cannot_be_read_permit_nothing() -> None:
    good = database(x509(ROOT))
    for broken in ({"db": good + b"x"}, {"db": good, "dbx": b"x"}, {"db": good, "dbt": b"x"}):
        decision = decide(signature(), **broken)
        assert decision.status == Status.ACCESS_DENIED
        assert "cannot be read" in decision.reason


def test_an_unreadable_certificate_in_db_hides_no_other() -> None:
    assert decide(signature(), db=database((guids.CERT_X509, b"not DER"), x509(ROOT))).allowed


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=3), st.binary(max_size=80), st.binary(max_size=80))
def test_garbage_is_never_started(signatures: list[bytes], db: bytes, dbx: bytes) -> None:
    for chosen_db, chosen_dbx in ((db, dbx), (database(x509(ROOT)), b"")):
        assert not decide(*signatures, db=chosen_db, dbx=chosen_dbx).allowed


GOOD = signature()
DB = database(x509(ROOT))


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_damage_is_never_a_traceback(position: int, flip: int) -> None:
    blob = bytearray(GOOD)
    blob[position] ^= flip
    decide(bytes(blob), db=DB)


@pytest.mark.parametrize("failing", [ValueError("no digest")])
def test_what_the_digest_raises_comes_through(failing: Exception) -> None:
    def broken(algorithm: str) -> bytes:
        raise failing

    call: Callable[[str], bytes] = broken
    with pytest.raises(ValueError, match="no digest"):
        image_policy.check_image(call, [], b"", b"")
