"""Who signed a program, and whether the signature is good: what `image inspect` says of an Authenticode signature."""

from collections.abc import Callable
from typing import Any


def signature_facts(blob: bytes, digest: Callable[[str], bytes]) -> dict[str, Any]:
    """Facts about one PKCS#7 blob of an image, whose Authenticode hash `digest` gives by algorithm.

    "problem" is None for a signature that is good by its signer's certificate and covers this image; whether anybody
    trusts that certificate is not asked.
    """
    from uefi.security import pkcs7
    from uefi.security.errors import SecurityDataError
    from uefi.security.image_policy import spc_digest

    try:
        signed = pkcs7.parse(blob)
    except SecurityDataError as error:
        return {"problem": str(error), "signers": []}
    signers = []
    for signer in signed.signers:
        certificate = signer.certificate(signed.certificates)
        signers.append(
            {
                "subject": certificate.common_name if certificate is not None else None,
                "serial": None if signer.serial is None else f"{signer.serial:x}",
                "digest_algorithm": signer.digest,
                "certificate_sha256": None if certificate is None else _sha256(certificate.der),
            }
        )
    problem = None
    try:
        pkcs7.verify_signatures(signed)
        algorithm, wanted = spc_digest(signed)
        if wanted != digest(algorithm):
            problem = f"it is over another image ({algorithm} {wanted.hex()})"
    except SecurityDataError as error:
        problem = str(error)
    return {"problem": problem, "signers": signers}


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
