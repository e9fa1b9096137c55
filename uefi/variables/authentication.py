"""Time-based authenticated variables: EFI_VARIABLE_AUTHENTICATION_2, and who may sign what (UEFI 2.10, 8.2)."""

from collections.abc import Callable
from struct import Struct

from uefi import guids
from uefi.guids import Guid, guid_name
from uefi.security import pkcs7, signature_lists
from uefi.security.certificates import Certificate, embedded_chain, readable
from uefi.security.errors import SecurityDataError, SignatureListError
from uefi.status import EfiError, Status
from uefi.time import SIZE as TIME_SIZE
from uefi.time import EfiTime
from uefi.variables import attributes as attr
from uefi.variables.rules import POLICY_KEYS, is_os_recovery

WIN_CERT_TYPE_EFI_GUID = 0x0EF1

_WIN_CERTIFICATE = Struct("<IHH16s")
"""WIN_CERTIFICATE_UEFI_GUID: dwLength (this header included), wRevision, wCertificateType, CertType."""

DESCRIPTOR_SIZE = TIME_SIZE + _WIN_CERTIFICATE.size
"""Bytes of an EFI_VARIABLE_AUTHENTICATION_2 without its CertData."""

_PK, _KEK = POLICY_KEYS[0], POLICY_KEYS[1]
_DBR = ("dbr", guids.IMAGE_SECURITY_DATABASE)

ReadDatabase = Callable[[str, Guid], bytes]
"""(name, GUID) -> the value of PK, KEK or dbr as it stands, empty if the variable does not exist."""


class Descriptor:
    """A parsed EFI_VARIABLE_AUTHENTICATION_2: `time`, `certificate` (the SignedData) and the `payload` behind it."""

    __slots__ = ("certificate", "payload", "time")

    def __init__(self, time: EfiTime, certificate: bytes, payload: bytes) -> None:
        self.time = time
        self.certificate = certificate
        self.payload = payload


class Authenticated:
    """What an accepted write leaves behind: its time stamp, and the hash that pins a private variable's signer."""

    __slots__ = ("signer_digest", "time")

    def __init__(self, time: EfiTime, signer_digest: bytes | None) -> None:
        self.time = time
        self.signer_digest = signer_digest


def parse_descriptor(data: bytes) -> Descriptor:
    """Split the Data of a SetVariable call with EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS.

    EfiError(SECURITY_VIOLATION) if the descriptor does not fit, is of another certificate type, or has a time stamp
    with fields set that must be zero.
    """
    if len(data) < DESCRIPTOR_SIZE:
        raise _violation(f"{len(data)} bytes, an EFI_VARIABLE_AUTHENTICATION_2 has at least {DESCRIPTOR_SIZE}")
    length, _, kind, certificate_type = _WIN_CERTIFICATE.unpack_from(data, TIME_SIZE)
    if not _WIN_CERTIFICATE.size <= length <= len(data) - TIME_SIZE:
        raise _violation(f"dwLength {length:#x}, wanted {_WIN_CERTIFICATE.size:#x} to {len(data) - TIME_SIZE:#x}")
    if kind != WIN_CERT_TYPE_EFI_GUID or certificate_type != guids.CERT_TYPE_PKCS7:
        raise _violation(
            f"certificate type {kind:#x} {guid_name(certificate_type)}, wanted 0xef1 EFI_CERT_TYPE_PKCS7_GUID"
        )
    time = EfiTime.unpack(data[:TIME_SIZE])
    if time.pad1 or time.nanosecond or time.timezone or time.daylight or time.pad2:
        raise _violation(f"time stamp {data[:TIME_SIZE].hex()}: fields other than date and time must be zero")
    end = TIME_SIZE + length
    return Descriptor(time, bytes(data[DESCRIPTOR_SIZE:end]), bytes(data[end:]))


def signed_message(name: str, guid: Guid, attributes: int, time: EfiTime, payload: bytes) -> bytes:
    """What the signature of a write covers; `attributes` as passed to SetVariable, APPEND_WRITE included."""
    return name.encode("utf-16-le", "surrogatepass") + guid + attributes.to_bytes(4, "little") + time.pack() + payload


def authenticate(
    name: str,
    guid: Guid,
    attributes: int,
    descriptor: Descriptor,
    *,
    old_time: EfiTime | None,
    old_signer: bytes | None,
    setup_mode: bool,
    signed_pk_only: bool,
    read: ReadDatabase,
) -> Authenticated:
    """Decide about a write. EfiError(SECURITY_VIOLATION) says why it is refused.

    `old_time` and `old_signer` are those of the existing variable, None if there is none. In Setup Mode the variables
    of Secure Boot need no signature, except that a signature that a new PK carries must be its own; with
    `signed_pk_only` it must carry one.
    """
    key = (name, guid)
    policy = key in POLICY_KEYS or is_os_recovery(name, guid)
    signed = _Signed(
        name, descriptor.certificate, signed_message(name, guid, attributes, descriptor.time, descriptor.payload)
    )
    if setup_mode and policy:
        if key == _PK and descriptor.payload and (descriptor.certificate or signed_pk_only):
            signed.verify(_certificates(descriptor.payload))
        return Authenticated(descriptor.time, None)
    if old_time and not attributes & attr.APPEND_WRITE and descriptor.time.sort_key() <= old_time.sort_key():
        raise _violation(f"{name}: time stamp {descriptor.time} is not later than {old_time}")
    if not policy:
        chain = signed.chain()
        digest = signer_digest(chain[0].common_name, chain[-1].tbs)
        if old_time is not None and old_signer != digest:
            raise _violation(f"{name} belongs to another signer than {chain[0].common_name!r}")
        return Authenticated(descriptor.time, digest)
    trusted = _certificates(read(*_PK))
    if key not in (_PK, _KEK):
        trusted += _certificates(read(*_KEK))
    if is_os_recovery(name, guid):
        trusted += _certificates(read(*_DBR))
    signed.verify(trusted)
    return Authenticated(descriptor.time, None)


def check_signature_lists(name: str, guid: Guid, value: bytes) -> None:
    """EfiError(INVALID_PARAMETER) unless `value` suits the variable, if that is one of PK, KEK and the databases.

    Lists must be well-formed, of types that the specification knows, hold readable certificates, and PK one signature.
    """
    if (name, guid) not in POLICY_KEYS:
        return
    try:
        lists = signature_lists.check(value, most=1 if name == "PK" else None)
        for der in signature_lists.of_type(lists, guids.CERT_X509):
            Certificate(der)
    except SecurityDataError as error:
        raise EfiError(Status.INVALID_PARAMETER, f"{name}: {error}") from None


class _Signed:
    """The signature of one write and what it must cover; a failure becomes EfiError(SECURITY_VIOLATION)."""

    def __init__(self, name: str, certificate: bytes, message: bytes) -> None:
        self._name = name
        self._certificate = certificate
        self._message = message

    def verify(self, trusted: list[bytes]) -> None:
        """By a signer that leads to one of the `trusted` DER certificates."""
        try:
            pkcs7.verify(pkcs7.parse(self._certificate), readable(trusted), self._message)
        except SecurityDataError as error:
            raise _violation(f"{self._name}: {error}") from None

    def chain(self) -> list[Certificate]:
        """By any signer; its certificate and those above it that came along."""
        try:
            signed = pkcs7.parse(self._certificate)
            signers = pkcs7.verify_signatures(signed, self._message)
        except SecurityDataError as error:
            raise _violation(f"{self._name}: {error}") from None
        return embedded_chain(signers[0], signed.certificates)


def signer_digest(common_name: str, top_tbs: bytes) -> bytes:
    """The 32 bytes that stand for a private variable's signer, as edk2 keeps them in its "certdb" variable.

    SHA-256 over the common name of the signing certificate and the TBSCertificate of the top-level one in the chain.
    """
    import hashlib

    return hashlib.sha256(common_name.encode() + top_tbs).digest()


def _certificates(database: bytes) -> list[bytes]:
    """The DER certificates in a variable's signature lists; none in a damaged one."""
    try:
        return list(signature_lists.of_type(signature_lists.parse(database), guids.CERT_X509))
    except SignatureListError:
        return []


def _violation(reason: str) -> EfiError:
    return EfiError(Status.SECURITY_VIOLATION, reason)
