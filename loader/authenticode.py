"""Authenticode: the hash of a PE image that a signature covers, and the signatures attached to the file.

UEFI 2.10, section 32.2 (signatures, WIN_CERTIFICATE); Microsoft "Windows Authenticode Portable Executable Signature
Format", "Calculating the PE Image Hash". Nothing is verified here.
"""

import struct
from collections.abc import Iterator
from typing import Final

from loader.errors import DamagedImageError
from loader.pe import DIRECTORY_SECURITY, PeImage

WIN_CERT_TYPE_PKCS_SIGNED_DATA: Final = 0x0002
WIN_CERT_TYPE_EFI_PKCS115: Final = 0x0EF0
WIN_CERT_TYPE_EFI_GUID: Final = 0x0EF1
CERT_TYPE_PKCS7_GUID: Final = bytes.fromhex("9dd2af4adf68ee498aa9347d375665a7")
"""EFI_CERT_TYPE_PKCS7_GUID as it lies in memory."""

ALGORITHMS: Final = ("sha256", "sha1", "sha384", "sha512")

_CHECKSUM_OFFSET: Final = 24 + 64  # OptionalHeader.CheckSum, from the PE signature
_DIRECTORIES_OFFSET: Final = 24 + 112  # OptionalHeader.DataDirectory, from the PE signature
_CERTIFICATE_HEADER_SIZE: Final = 8


class Certificate:
    """One WIN_CERTIFICATE: `revision` (0x0200), `type` (WIN_CERT_TYPE_...) and `data`, the bCertificate bytes."""

    __slots__ = ("data", "revision", "type")

    def __init__(self, revision: int, kind: int, data: bytes) -> None:
        self.revision = revision
        self.type = kind
        self.data = data

    @property
    def pkcs7(self) -> bytes | None:
        """The DER of the PKCS#7 SignedData (perhaps padded at the end), None for another type of certificate."""
        if self.type == WIN_CERT_TYPE_PKCS_SIGNED_DATA:
            return self.data
        if self.type == WIN_CERT_TYPE_EFI_GUID and self.data[:16] == CERT_TYPE_PKCS7_GUID:
            return self.data[16:]
        return None


def digest(image: PeImage, algorithm: str = "sha256") -> bytes:
    """The Authenticode hash of `image` by one of ALGORITHMS.

    Covered are the headers without CheckSum and the security directory's entry, the sections' raw data by file offset,
    and what follows them in the file, without the certificate table. As in firmware an unsigned file is not padded to
    8 bytes; signing tools pad the file itself. Raises DamagedImageError if headers, sections and certificate table are
    larger than the file (they overlap), ValueError for another algorithm.
    """
    import hashlib

    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r}, want one of {', '.join(ALGORITHMS)}")
    state = hashlib.new(algorithm)
    file = image.file
    hashed = image.size_of_headers + sum(section.raw_size for section in image.sections)
    rest = len(file) - _certificate_table(image)[1]
    if hashed > rest:
        raise DamagedImageError(
            f"headers and sections have {hashed:#x} bytes, the file has {rest:#x} besides its certificate table"
        )
    checksum = image.pe_offset + _CHECKSUM_OFFSET
    state.update(file[:checksum])
    if len(image.directories) > DIRECTORY_SECURITY:
        entry = image.pe_offset + _DIRECTORIES_OFFSET + 8 * DIRECTORY_SECURITY
        state.update(file[checksum + 4 : entry])
        state.update(file[entry + 8 : image.size_of_headers])
    else:
        state.update(file[checksum + 4 : image.size_of_headers])
    for section in sorted(image.sections, key=lambda section: section.raw_offset):
        state.update(file[section.raw_offset : section.raw_offset + section.raw_size])
    # The sum, not the end of the last section, says where the rest starts: firmware counts so, gaps or not.
    state.update(file[hashed:rest])
    return state.digest()


def certificates(image: PeImage) -> Iterator[Certificate]:
    """The entries of the certificate table, in file order; nothing for an unsigned image.

    Raises DamagedImageError for a table outside the file and for an entry that overruns the table.
    """
    offset, size = _certificate_table(image)
    end = offset + size
    while offset < end:
        if end - offset < _CERTIFICATE_HEADER_SIZE:
            raise DamagedImageError(
                f"certificate at file offset {offset:#x} has {end - offset} bytes left, want {_CERTIFICATE_HEADER_SIZE}"
            )
        length, revision, kind = struct.unpack_from("<IHH", image.file, offset)
        if not _CERTIFICATE_HEADER_SIZE <= length <= end - offset:
            raise DamagedImageError(
                f"certificate at file offset {offset:#x} has dwLength {length:#x}, "
                f"want {_CERTIFICATE_HEADER_SIZE:#x} to {end - offset:#x}"
            )
        yield Certificate(revision, kind, bytes(image.file[offset + _CERTIFICATE_HEADER_SIZE : offset + length]))
        offset += (length + 7) & ~7


def _certificate_table(image: PeImage) -> tuple[int, int]:
    """File offset and size in bytes of the certificate table, (0, 0) if there is none."""
    offset, size = image.directory(DIRECTORY_SECURITY)
    if not size:
        return 0, 0
    if offset + size > len(image.file):
        raise DamagedImageError(
            f"truncated: the certificate table at file offset {offset:#x} to {offset + size:#x}, "
            f"the file ends at {len(image.file):#x}"
        )
    return offset, size
