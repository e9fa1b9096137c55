"""Secure Boot's decision about an image: its hash and signatures against db, dbx and dbt (UEFI 2.10, 32.4, 32.5)."""

from collections.abc import Callable, Iterable, Sequence

from uefi import guids
from uefi.security import pkcs7, signature_lists
from uefi.security.certificates import Certificate, embedded_chain, find_chain, readable
from uefi.security.errors import Pkcs7Error, SecurityDataError, VerificationError, one_line
from uefi.security.signature_lists import SignatureList
from uefi.security.timestamps import signing_time
from uefi.status import Status
from uefi.time import EfiTime

AUTH_UNTESTED = 0
AUTH_SIG_FAILED = 1
AUTH_SIG_PASSED = 2
AUTH_SIG_NOT_FOUND = 3
AUTH_SIG_FOUND = 4
"""Values of EFI_IMAGE_EXECUTION_ACTION for the image execution information table (UEFI 2.10, 32.4)."""

_IMAGE_HASHES = (
    ("sha256", guids.CERT_SHA256),
    ("sha384", guids.CERT_SHA384),
    ("sha512", guids.CERT_SHA512),
)
_CERTIFICATE_HASHES = (
    ("sha256", guids.CERT_X509_SHA256),
    ("sha384", guids.CERT_X509_SHA384),
    ("sha512", guids.CERT_X509_SHA512),
)


class Decision:
    """What LoadImage has to do: `status` for it to return, `action` for the execution table, `reason` for people."""

    __slots__ = ("action", "reason", "status")

    def __init__(self, status: int, action: int, reason: str) -> None:
        self.status = status
        self.action = action
        self.reason = reason

    @property
    def allowed(self) -> bool:
        """Whether the image may be started."""
        return self.status == Status.SUCCESS

    def __repr__(self) -> str:
        return f"<Decision {'allowed' if self.allowed else 'denied'}: {self.reason}>"


def check_image(
    digest: Callable[[str], bytes], signatures: Iterable[bytes], db: bytes, dbx: bytes, dbt: bytes = b""
) -> Decision:
    """Decide whether an image may run while Secure Boot is on.

    `digest(name)` is the image's Authenticode hash by "sha256", "sha384" or "sha512"; `signatures` are the PKCS#7 blobs
    of its certificate table; `db`, `dbx` and `dbt` the variables' values, empty if absent. What either raises comes
    through; nothing else is raised. The status is

    * SUCCESS: the hash is in db, or a good signature leads to a certificate in db;
    * ACCESS_DENIED: dbx forbids it (hash, certificate or certificate's hash), and that outweighs any permission;
    * SECURITY_VIOLATION: nothing forbids it and nothing permits it (LoadImage then keeps the handle: UEFI 2.10, 7.4.1).
    """
    check = _Check(digest, list(signatures))
    try:
        check.read(db, dbx, dbt)
    except SecurityDataError as error:
        return Decision(Status.ACCESS_DENIED, AUTH_UNTESTED, f"db, dbx or dbt cannot be read: {error}")
    return check.forbidden() or check.permitted() or check.unknown()


class _Check:
    """One run of `check_image`; the image's hashes and parsed signatures are kept between its steps."""

    def __init__(self, digest: Callable[[str], bytes], signatures: Sequence[bytes]) -> None:
        self._digest = digest
        self._digests: dict[str, bytes] = {}
        self._blobs = signatures
        self._signed: list[pkcs7.SignedData] = []
        self._complaints: list[str] = []

    def read(self, db: bytes, dbx: bytes, dbt: bytes) -> None:
        self._db = signature_lists.parse(db)
        self._dbx = signature_lists.parse(dbx)
        self._db_certificates = _certificates(self._db)
        self._dbx_certificates = _certificates(self._dbx)
        self._dbt_certificates = _certificates(signature_lists.parse(dbt))
        for index, blob in enumerate(self._blobs):
            try:
                self._signed.append(pkcs7.parse(blob))
            except Pkcs7Error as error:
                self._complaints.append(f"signature {index + 1}: {error}")

    def forbidden(self) -> Decision | None:
        """dbx comes first, and one forbidden signature is enough, as in edk2."""
        found = self._hash_in(self._dbx)
        if found:
            return Decision(Status.ACCESS_DENIED, AUTH_SIG_FOUND, f"the image's {found} is in dbx")
        for signed in self._signed:
            # The same order of search as in pkcs7.verify: what is looked at here is what would permit the image there.
            pool = [*signed.certificates, *self._db_certificates, *self._dbx_certificates]
            for signer in signed.signers:
                certificate = signer.certificate(pool)
                if certificate is None:
                    continue
                chain = find_chain(certificate, signed.certificates, self._dbx_certificates)
                if chain is not None:
                    reason = (
                        f"signed by {certificate.common_name!r}, and dbx has the certificate {chain[-1].common_name!r}"
                    )
                    return Decision(Status.ACCESS_DENIED, AUTH_SIG_FAILED, reason)
                trusted = find_chain(certificate, signed.certificates, self._db_certificates) or ()
                for each in dict.fromkeys((*embedded_chain(certificate, signed.certificates), *trusted)):
                    reason = self._revoked(each, signer)
                    if reason:
                        return Decision(Status.ACCESS_DENIED, AUTH_SIG_FAILED, reason)
        return None

    def permitted(self) -> Decision | None:
        found = self._hash_in(self._db)
        if found:
            return Decision(Status.SUCCESS, AUTH_SIG_PASSED, f"the image's {found} is in db")
        for signed in self._signed:
            try:
                self._compare_digest(signed)
                chains = pkcs7.verify(signed, self._db_certificates)
            except SecurityDataError as error:
                self._complaints.append(str(error))
                continue
            signer, anchor = chains[0][0], chains[0][-1]
            reason = f"signed by {signer.common_name!r}, and db has the certificate {anchor.common_name!r}"
            return Decision(Status.SUCCESS, AUTH_SIG_PASSED, reason)
        return None

    def unknown(self) -> Decision:
        if not self._blobs:
            image_hash = self._image_hash("sha256").hex()
            reason = f"the image is not signed, and its SHA-256 {image_hash} is not in db"
            return Decision(Status.SECURITY_VIOLATION, AUTH_UNTESTED, reason)
        action = AUTH_SIG_NOT_FOUND if self._signed else AUTH_SIG_FAILED
        return Decision(Status.SECURITY_VIOLATION, action, "no signature is trusted: " + "; ".join(self._complaints))

    def _image_hash(self, algorithm: str) -> bytes:
        if algorithm not in self._digests:
            self._digests[algorithm] = self._digest(algorithm)
        return self._digests[algorithm]

    def _hash_in(self, lists: list[SignatureList]) -> str:
        """ "SHA-256 <hex>" if the image's hash is in `lists`, else "". Only algorithms found there are computed."""
        for algorithm, kind in _IMAGE_HASHES:
            hashes = set(signature_lists.of_type(lists, kind))
            if hashes and self._image_hash(algorithm) in hashes:
                return f"SHA-{algorithm[3:]} {self._image_hash(algorithm).hex()}"
        return ""

    def _revoked(self, certificate: Certificate, signer: pkcs7.Signer) -> str:
        """Why the hash of `certificate` in dbx forbids `signer`'s signature; "" if it does not.

        A time of revocation spares signatures that a trusted time stamp dates before it (UEFI 2.10, 32.4.1).
        """
        import hashlib

        for algorithm, kind in _CERTIFICATE_HASHES:
            entries = list(signature_lists.of_type(self._dbx, kind))
            if not entries:
                continue
            tbs_hash = hashlib.new(algorithm, certificate.tbs).digest()
            for entry in entries:
                if entry[: len(tbs_hash)] != tbs_hash:
                    continue
                revoked = entry[len(tbs_hash) :]
                if not any(revoked):
                    return f"dbx has the hash of the certificate {certificate.common_name!r}"
                signed_at = signing_time(signer, self._dbt_certificates)
                if len(revoked) != 16 or signed_at is None:
                    return (
                        f"dbx revokes the certificate {certificate.common_name!r}, and no trusted time stamp spares it"
                    )
                if signed_at.sort_key() >= EfiTime.unpack(revoked).sort_key():
                    return f"dbx revokes the certificate {certificate.common_name!r} from before the time stamp"
        return ""

    def _compare_digest(self, signed: pkcs7.SignedData) -> None:
        """VerificationError unless the SpcIndirectDataContent holds this image's hash."""
        algorithm, wanted = spc_digest(signed)
        seen = self._image_hash(algorithm)
        if seen != wanted:
            raise VerificationError(f"the signature is for {algorithm} {wanted.hex()}, the image has {seen.hex()}")


def spc_digest(signed: pkcs7.SignedData) -> tuple[str, bytes]:
    """(hashlib name, hash) out of the SpcIndirectDataContent of an Authenticode signature; Pkcs7Error if there is none.

    Microsoft's "Windows Authenticode Portable Executable Signature Format"; only SHA-256, 384 and 512 are accepted.
    """
    from asn1crypto import algos, parser  # type: ignore[import-untyped]

    if signed.content_type != pkcs7.SPC_INDIRECT_DATA or signed.content is None:
        raise Pkcs7Error(f"content type {signed.content_type}, wanted SpcIndirectData ({pkcs7.SPC_INDIRECT_DATA})")
    try:
        _, _, _, header, contents, trailer = parser.parse(signed.content)
        info = algos.DigestInfo.load(signed.content[len(header) + len(contents) + len(trailer) :])
        algorithm: str = info["digest_algorithm"]["algorithm"].native
        value: bytes = info["digest"].native
    except Exception as error:  # as in pkcs7.parse
        raise Pkcs7Error(f"not an SpcIndirectDataContent: {one_line(error)}") from None
    if algorithm not in pkcs7.DIGESTS:
        raise Pkcs7Error(f"image hash algorithm {algorithm}, wanted one of {', '.join(pkcs7.DIGESTS)}")
    return algorithm, value


def _certificates(lists: list[SignatureList]) -> list[Certificate]:
    return readable(signature_lists.of_type(lists, guids.CERT_X509))
