"""RFC 3161 time stamps on an image's signature, which can outlive a revoked certificate (UEFI 2.10, 32.4)."""

from collections.abc import Sequence

from uefi.security import pkcs7
from uefi.security.certificates import Certificate
from uefi.security.errors import Pkcs7Error, SecurityDataError, VerificationError, one_line
from uefi.time import EfiTime


def signing_time(signer: pkcs7.Signer, anchors: Sequence[Certificate]) -> EfiTime | None:
    """The time (UTC) that a trusted authority saw `signer`'s signature; None without a good token.

    A token is good if its imprint is the hash of the signature, its own signature verifies, and its signer leads to one
    of `anchors` (the certificates of dbt). The first good one counts.
    """
    for token in signer.timestamps:
        try:
            return _verified_time(token, signer.signature, anchors)
        except SecurityDataError:
            continue
    return None


def _verified_time(token: bytes, signature: bytes, anchors: Sequence[Certificate]) -> EfiTime:
    import hashlib

    from asn1crypto import tsp  # type: ignore[import-untyped]

    signed = pkcs7.parse(token)
    if signed.content_type != pkcs7.TST_INFO or signed.content is None:
        raise Pkcs7Error(f"time stamp token has content type {signed.content_type}, wanted {pkcs7.TST_INFO}")
    pkcs7.verify(signed, anchors)
    try:
        info = tsp.TSTInfo.load(signed.content)
        algorithm = info["message_imprint"]["hash_algorithm"]["algorithm"].native
        imprint = info["message_imprint"]["hashed_message"].native
        moment = info["gen_time"].native.utctimetuple()
    except Exception as error:  # as in pkcs7.parse
        raise Pkcs7Error(f"not a TSTInfo: {one_line(error)}") from None
    if algorithm not in pkcs7.DIGESTS or hashlib.new(algorithm, signature).digest() != imprint:
        raise VerificationError(f"the time stamp is not for this signature ({algorithm} {imprint.hex()})")
    year, month, day, hour, minute, second = moment[:6]
    return EfiTime(year, month, day, hour=hour, minute=minute, second=second)
