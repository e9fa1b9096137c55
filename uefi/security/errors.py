"""The errors of uefi.security: one tree, every message one line."""


class SecurityDataError(Exception):
    """Signature data is malformed or does not verify; the message names the value seen and the value wanted."""


class SignatureListError(SecurityDataError):
    """Bytes that are no well-formed sequence of EFI_SIGNATURE_LIST."""


class Pkcs7Error(SecurityDataError):
    """Bytes that are no PKCS#7 SignedData, or one that uses something unsupported."""


class VerificationError(SecurityDataError):
    """A well-formed signature that does not verify, or whose signer does not lead to a trusted certificate."""


def one_line(error: Exception) -> str:
    """A library's message as part of ours: on one line, at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__
