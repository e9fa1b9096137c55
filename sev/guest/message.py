"""Guest messages: the header, and AES-256-GCM over it and the payload (AMD 56860, "Guest Messages").

One page holds AUTHTAG, the rest of the 96-byte header and the ciphertext. The 12 bytes of the sequence number field are the
IV, the header from ALGO on is the additional data.
"""

import struct

from sev.errors import Refused
from sev.firmware_status import INVALID_PARAM

PAGE_SIZE = 4096
HEADER_SIZE = 0x60
LARGEST_PAYLOAD = PAGE_SIZE - HEADER_SIZE
KEY_SIZE, TAG_SIZE = 32, 16
ALGO_AES_256_GCM, HEADER_VERSION = 1, 1
VMPCKS = 4

KEY_REQ, KEY_RSP = 3, 4
REPORT_REQ, REPORT_RSP = 5, 6
TSC_INFO_REQ, TSC_INFO_RSP = 17, 18
NAMES = {
    **{1: "CPUID_REQ", 3: "KEY_REQ", 5: "REPORT_REQ", 7: "EXPORT_REQ", 9: "IMPORT_REQ", 11: "ABSORB_REQ"},
    **{13: "VMRK_REQ", 15: "ABSORB_NOMA_REQ", 17: "TSC_INFO_REQ"},
}

_HEADER = struct.Struct("<32sQQBBHBBHIB35s")
_AAD, _IV, _IV_END = 0x30, 0x20, 0x2C


class Message:
    """One message: MSG_SEQNO, MSG_TYPE, MSG_VERSION, MSG_VMPCK, and its payload in the clear."""

    __slots__ = ("kind", "payload", "sequence", "version", "vmpck")

    def __init__(self, kind: int, payload: bytes, sequence: int, vmpck: int = 0, version: int = 1) -> None:
        self.kind = kind
        self.payload = payload
        self.sequence = sequence
        self.vmpck = vmpck
        self.version = version

    def seal(self, key: bytes) -> bytes:
        """Header and ciphertext, up to 4096 bytes, under the 32 bytes of a VMPCK. ValueError if the payload is too long."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(self.payload) > LARGEST_PAYLOAD:
            raise ValueError(f"payload of {len(self.payload)} bytes; at most {LARGEST_PAYLOAD} fit")
        header = _HEADER.pack(
            *(bytes(32), self.sequence, 0, ALGO_AES_256_GCM, HEADER_VERSION, HEADER_SIZE, self.kind, self.version),
            *(len(self.payload), 0, self.vmpck, bytes(35)),
        )
        sealed = AESGCM(key).encrypt(header[_IV:_IV_END], self.payload, header[_AAD:])
        return sealed[-TAG_SIZE:].ljust(32, b"\0") + header[32:] + sealed[:-TAG_SIZE]


class SealedMessage:
    """A message whose header has been read and found well-formed, and whose payload is still encrypted."""

    __slots__ = ("_page", "_size", "kind", "sequence", "version", "vmpck")

    def __init__(self, page: bytes) -> None:
        """Read a page. Refused(INVALID_PARAM) for a header that the firmware does not take."""
        tag, sequence, reserved, algo, header_version, header_size, kind, version, size, reserved_2, vmpck, rest = (
            _HEADER.unpack_from(page)
        )
        del tag
        for name, seen, wanted in (
            ("ALGO", algo, ALGO_AES_256_GCM),
            ("HDR_VERSION", header_version, HEADER_VERSION),
            ("HDR_SIZE", header_size, HEADER_SIZE),
            ("reserved field at 0x28", reserved, 0),
            ("reserved field at 0x38", reserved_2, 0),
        ):
            if seen != wanted:
                raise Refused(INVALID_PARAM, f"guest message with {name} {seen:#x}; wanted {wanted:#x}")
        if any(rest):
            raise Refused(INVALID_PARAM, "guest message with reserved header bytes from 0x3d on that are not zero")
        if size > min(LARGEST_PAYLOAD, len(page) - HEADER_SIZE):
            raise Refused(INVALID_PARAM, f"guest message with MSG_SIZE {size}; at most {LARGEST_PAYLOAD} fit")
        if vmpck >= VMPCKS:
            raise Refused(INVALID_PARAM, f"guest message with MSG_VMPCK {vmpck}; wanted 0 to 3")
        if kind not in NAMES:
            raise Refused(INVALID_PARAM, f"guest message with MSG_TYPE {kind}, which is no request")
        self.kind = kind
        self.sequence = sequence
        self.version = version
        self.vmpck = vmpck
        self._page = page
        self._size = size

    @property
    def tag(self) -> bytes:
        """AUTHTAG, 16 bytes."""
        return self._page[:TAG_SIZE]

    def open(self, key: bytes) -> bytes:
        """The payload. Refused(INVALID_PARAM) if AUTHTAG does not fit the VMPCK `key` and the message."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        page = self._page
        sealed = page[HEADER_SIZE : HEADER_SIZE + self._size] + self.tag
        try:
            return AESGCM(key).decrypt(page[_IV:_IV_END], sealed, page[_AAD:HEADER_SIZE])
        except InvalidTag:
            raise Refused(INVALID_PARAM, f"guest message whose AUTHTAG does not fit VMPCK{self.vmpck}") from None
