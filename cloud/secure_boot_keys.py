"""Secure Boot keys from a folder: PK, KEK, db and dbx as the firmware of both clouds takes them.

For each variable NAME the folder may have NAME.EXT, NAME-anything.EXT, and NAME/*.EXT (as sbctl keeps them), with these EXT:
.der, .cer, .crt, .pem (X.509 certificates, DER or PEM in each), .esl (EFI_SIGNATURE_LISTs), .auth (the same, signed for
SetVariable; the signature is dropped: whoever sets up a machine needs none). Private keys (.key) are never opened.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import pack, unpack_from
from uuid import UUID

from cloud.errors import Unfit

VARIABLES = ("PK", "KEK", "db", "dbx")
OWNER = UUID("6f0c6f4e-3b0e-5a2b-9d0b-0d8a3c2f7e51")
"""SignatureOwner of certificates that come without one: this program's own."""

# UEFI 2.10, 32.4.1: EFI_CERT_X509_GUID; EFI_SIGNATURE_LIST is type, list size, header size, signature size.
CERT_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
CERT_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
_LIST_HEADER = 28
# UEFI 2.10, 8.2.2: EFI_VARIABLE_AUTHENTICATION_2 is EFI_TIME (16 bytes), then WIN_CERTIFICATE_UEFI_GUID.
_TIME_SIZE = 16
_CERT_TYPE_PKCS7 = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7").bytes_le
_WIN_CERT_REVISION, _WIN_CERT_TYPE_EFI_GUID, _WIN_CERT_HEADER = 0x0200, 0x0EF1, 24
_LARGEST_FILE = 1 << 20
_CERTIFICATES, _LISTS = (".der", ".cer", ".crt", ".pem"), (".esl", ".auth")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


@dataclass(frozen=True)
class SecureBootKeys:
    """Contents of the four variables: EFI_SIGNATURE_LISTs one after the other, b"" for one that is not to be set."""

    pk: bytes
    kek: bytes
    db: bytes
    dbx: bytes

    def items(self) -> Iterator[tuple[str, bytes]]:
        """(name, contents) of those that are to be set."""
        for name, contents in zip(VARIABLES, (self.pk, self.kek, self.db, self.dbx), strict=True):
            if contents:
                yield name, contents

    @property
    def digest(self) -> str:
        """SHA-256 of all, as hex digits."""
        return sha256(
            b"".join(pack("<I", len(each)) + each for each in (self.pk, self.kek, self.db, self.dbx))
        ).hexdigest()


def read_keys(folder: Path) -> SecureBootKeys:
    """The keys in a folder. Unfit, with the file at fault, unless PK, KEK and db are there and all is well-formed."""
    found = {name: b"".join(_lists_in(path) for path in _files(folder, name)) for name in VARIABLES}
    missing = [name for name in ("PK", "KEK", "db") if not found[name]]
    if missing:
        raise Unfit(
            f"no {' and no '.join(missing)}",
            where=str(folder),
            next_step=f"put {missing[0]}.der (or .pem, .crt, .esl, .auth) there; Secure Boot needs PK, KEK and db",
        )
    keys = SecureBootKeys(*(found[name] for name in VARIABLES))
    entries = list(signatures(keys.pk))
    if len(entries) != 1 or entries[0][0] != CERT_X509:
        raise Unfit(
            f"PK has {len(entries)} entries, wanted one X.509 certificate (UEFI 2.10, 32.3.1)", where=str(folder)
        )
    return keys


def signatures(lists: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(type, owner, data) of each entry of EFI_SIGNATURE_LISTs: GUIDs as 16 bytes on disk. ValueError if they are malformed."""
    offset = 0
    while offset < len(lists):
        if len(lists) - offset < _LIST_HEADER:
            raise ValueError(f"{len(lists) - offset} bytes behind the last list")
        kind = lists[offset : offset + 16]
        size, header, each = unpack_from("<III", lists, offset + 16)
        body = size - _LIST_HEADER - header
        if size < _LIST_HEADER or size > len(lists) - offset or each <= 16 or body <= 0 or body % each:
            raise ValueError(f"list at {offset}: sizes {size}, {header} and {each} do not fit into {len(lists)} bytes")
        for start in range(offset + _LIST_HEADER + header, offset + size, each):
            yield kind, lists[start : start + 16], lists[start + 16 : start + each]
        offset += size


def certificate_list(der: bytes) -> bytes:
    """The EFI_SIGNATURE_LIST of one X.509 certificate."""
    return CERT_X509 + pack("<III", _LIST_HEADER + 16 + len(der), 0, 16 + len(der)) + OWNER.bytes_le + der


def _files(folder: Path, name: str) -> list[Path]:
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.is_file() and (path.stem == name or path.stem.startswith(f"{name}-"))
        ]
        if (folder / name).is_dir():
            paths += [path for path in (folder / name).iterdir() if path.is_file()]
    except OSError as error:
        raise Unfit(
            error.strerror or "cannot be read", where=str(folder), next_step="name a folder with keys"
        ) from None
    wanted = sorted(path for path in paths if path.suffix.lower() in (*_CERTIFICATES, *_LISTS))
    # sbctl and others keep the same certificate in several forms side by side.
    best: dict[Path, Path] = {}
    for path in sorted(wanted, key=lambda path: (*_CERTIFICATES, *_LISTS).index(path.suffix.lower())):
        best.setdefault(path.with_suffix(""), path)
    return [path for path in wanted if best[path.with_suffix("")] == path]


def _lists_in(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise Unfit(error.strerror or "cannot be read", where=str(path)) from None
    if len(data) > _LARGEST_FILE:
        raise Unfit(f"more than {_LARGEST_FILE} bytes", where=str(path), next_step="this is no Secure Boot key")
    try:
        if path.suffix.lower() in _CERTIFICATES:
            return b"".join(certificate_list(der) for der in _certificates(data))
        lists = _without_signature(data) if path.suffix.lower() == ".auth" else data
        if not any(_checked(*entry) for entry in signatures(lists)):
            raise ValueError("no entries")
    except ValueError as error:
        raise Unfit(
            str(error), where=str(path), next_step=f"wanted a {path.suffix} file as efitools or sbctl write it"
        ) from None
    return lists


def _checked(kind: bytes, _owner: bytes, data: bytes) -> bool:
    if kind == CERT_X509:
        _check_certificate(data)
    return True


def _certificates(data: bytes) -> list[bytes]:
    """DER of each certificate in a file. ValueError for none, or for a private key."""
    kinds = _PEM.findall(data)
    if any(b"PRIVATE KEY" in kind for kind in kinds):
        raise ValueError("holds a private key, which must not leave your machine")
    if not kinds:
        _check_certificate(data)
        return [data]
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return [certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(data)]


def _check_certificate(der: bytes) -> None:
    from cryptography import x509

    try:
        x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise ValueError(f"no X.509 certificate: {str(error).splitlines()[0]}") from None


def _without_signature(data: bytes) -> bytes:
    """What lies behind EFI_VARIABLE_AUTHENTICATION_2. ValueError if that is none."""
    if len(data) < _TIME_SIZE + _WIN_CERT_HEADER:
        raise ValueError("too short for EFI_VARIABLE_AUTHENTICATION_2")
    size, revision, kind = unpack_from("<IHH", data, _TIME_SIZE)
    guid = data[_TIME_SIZE + 8 : _TIME_SIZE + 24]
    if (revision, kind, guid) != (_WIN_CERT_REVISION, _WIN_CERT_TYPE_EFI_GUID, _CERT_TYPE_PKCS7):
        raise ValueError("no EFI_VARIABLE_AUTHENTICATION_2 of the PKCS7 kind")
    if not _WIN_CERT_HEADER <= size <= len(data) - _TIME_SIZE:
        raise ValueError(f"its certificate of {size} bytes does not fit into {len(data)} bytes")
    return data[_TIME_SIZE + size :]
