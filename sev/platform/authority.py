"""The emulated key authority of one platform: ARK, ASK and ASVK with their keys, and the two leaves of its own chip.

RSA keys of 4096 bits take seconds to make, so an authority comes into being when a certificate is first wanted.
"""

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.errors import PlatformError, SevError
from sev.platform.issue import issue_ark, issue_crl, issue_intermediate
from sev.platform.store import read_file, write_folder
from sev.product import Line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_FOLDER = "authority"
_CA_YEARS = 25
_KINDS = (ARK, ASK, ASVK)


def years_after(moment: datetime, years: int) -> datetime:
    """The same day of a later year; 28 February for a 29th."""
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:
        return moment.replace(year=moment.year + years, day=28)


class Authority:
    """`certificates` are the ARK's, ASK's and ASVK's by kind."""

    __slots__ = ("_folder", "_keys", "certificates", "line")

    def __init__(self, folder: Path, line: Line, certificates: dict[str, Certificate]) -> None:
        self._folder = folder
        self._keys: dict[str, RSAPrivateKey] = {}
        self.line = line
        self.certificates = certificates

    @classmethod
    def open(cls, platform: Path, line: Line, made: datetime) -> "Authority":
        """The authority in a platform's folder; made, valid from `made` on, if there is none yet. PlatformError."""
        folder = platform / _FOLDER
        if not folder.is_dir():
            # Another process may be faster; then its authority counts.
            with contextlib.suppress(FileExistsError):
                cls._make(folder, line, made)
        certificates = {}
        for kind in _KINDS:
            path = folder / f"{kind.lower()}.der"
            try:
                certificates[kind] = Certificate.decode(read_file(path))
            except PlatformError:
                raise
            except SevError as error:
                raise PlatformError(f"{path}: {error}") from None
        for kind, certificate in certificates.items():
            problem = certificate.signature_problem(certificates[ARK])
            if certificate.kind != kind or certificate.line is not line or not certificate.emulated:
                problem = f"wanted the emulated {kind} of {line.name}, found {certificate.subject_cn}"
            if problem:
                raise PlatformError(f"{folder / kind.lower()}.der: {problem}")
        return cls(folder, line, certificates)

    @staticmethod
    def _make(folder: Path, line: Line, made: datetime) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        with ThreadPoolExecutor(len(_KINDS)) as pool:  # OpenSSL computes outside of the interpreter's lock
            ark, ask, asvk = pool.map(lambda _: rsa.generate_private_key(65537, 4096), _KINDS)
        begin = made - timedelta(days=1)  # clocks differ a little
        validity = begin, years_after(begin, _CA_YEARS)
        files = {
            "ark.der": issue_ark(line, ark, validity),
            "ask.der": issue_intermediate(line, False, ask, ark, validity),
            "asvk.der": issue_intermediate(line, True, asvk, ark, validity),
        }
        for name, key in (("ark.key", ark), ("ask.key", ask), ("asvk.key", asvk)):
            files[name] = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        write_folder(folder, files, private={"ark.key", "ask.key", "asvk.key"})

    def key(self, kind: str) -> "RSAPrivateKey":
        """The private key of ARK, ASK or ASVK. PlatformError if the file is not that."""
        if kind not in self._keys:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            path = self._folder / f"{kind.lower()}.key"
            try:
                # Our own file, compared with the certificate below; OpenSSL's tests of the primes take 0.1 s.
                key = load_pem_private_key(read_file(path, private=True), None, unsafe_skip_rsa_key_validation=True)
            except (ValueError, TypeError) as error:
                raise PlatformError(f"{path}: no private key: {' '.join(str(error).split())[:80]}") from None
            wanted = self.certificates[kind].rsa
            if not isinstance(key, RSAPrivateKey) or wanted is None or key.public_key().public_numbers().n != wanted[0]:
                raise PlatformError(f"{path}: not the key of {kind.lower()}.der")
            self._keys[kind] = key
        return self._keys[kind]

    def crl(self, now: datetime) -> bytes:
        """A CRL that revokes nothing, in DER: valid from `now` on for six weeks."""
        number = int(now.timestamp()) // 86400
        return issue_crl(self.line, self.key(ARK), number, (now, now + timedelta(weeks=6)), {})
