"""AMD's certificate revocation lists: signed by an ARK, they name revoked ASKs and ASVKs (RFC 5280, 5.1; AMD 57230)."""

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any

from sev.certificates import Certificate, Signed, is_emulated, scheme_problem
from sev.errors import MalformedCertificate
from sev.strict_der import require_der

LARGEST = 1 << 20


class Crl(Signed):
    """A decoded CRL. `revoked` maps serial numbers to the time of revocation."""

    __slots__ = ("next_update", "revoked", "this_update")

    this_update: datetime
    next_update: datetime | None
    revoked: dict[int, datetime]

    @classmethod
    def decode(cls, der: bytes) -> "Crl":
        """Read one DER CRL of at most 1 MiB. MalformedCertificate. The same bytes may give the same object again."""
        if not 0 < len(der) <= LARGEST:
            raise MalformedCertificate(f"CRL of {len(der)} bytes; wanted 1 to {LARGEST}")
        return _decoded(bytes(der))

    @classmethod
    def _decode(cls, der: bytes) -> "Crl":
        from asn1crypto import crl  # type: ignore[import-untyped]

        self = cls()
        try:
            self._read(crl.CertificateList.load(der, strict=True), der)
        except MalformedCertificate:
            raise
        except Exception as error:  # asn1crypto decodes lazily and has no exception of its own
            raise MalformedCertificate(f"no CRL in DER: {' '.join(str(error).split())[:120]}") from None
        return self

    def _read(self, parsed: Any, der: bytes) -> None:
        tbs = parsed["tbs_cert_list"]
        self.der, self.sha256 = der, hashlib.sha256(der).hexdigest()
        self.tbs = tbs.dump()
        self.issuer = tbs["issuer"].dump()
        self.issuer_cn = str(tbs["issuer"].native.get("common_name", "nobody"))
        self.emulated = is_emulated(tbs["issuer"])
        self.signature = parsed["signature"].native
        require_der(der, self.tbs, parsed["signature_algorithm"].dump(), self.signature)
        self.scheme = scheme_problem(parsed["signature_algorithm"], tbs["signature"])
        self.this_update = tbs["this_update"].native
        self.next_update = tbs["next_update"].native
        self.revoked = {}
        for entry in tbs["revoked_certificates"] or ():
            self.revoked[entry["user_certificate"].native] = entry["revocation_date"].native
        for extension in tbs["crl_extensions"] or ():
            if extension["critical"].native:
                raise MalformedCertificate(f"unknown critical extension {extension['extn_id'].dotted} in the CRL")

    def covers(self, certificate: Certificate) -> bool:
        """Whether this is the list of the certificate's issuer."""
        return self.issuer == certificate.issuer


# AMD has one CRL for each line, and each is below 2 KiB.
@lru_cache(maxsize=16)
def _decoded(der: bytes) -> Crl:
    return Crl._decode(der)
