"""The exception tree of sev: what was malformed, and what the emulated secure processor refuses."""


class SevError(Exception):
    """Anything that this package refuses; the message is one line with the value seen and the value wanted."""


class MalformedReport(SevError):
    """Bytes that are no ATTESTATION_REPORT."""


class MalformedCertificate(SevError):
    """Bytes that are no certificate, CRL or certificate table of AMD's kind."""


class PlatformError(SevError):
    """A folder that is no emulated platform, or settings that no platform can have."""


class Refused(SevError):
    """What the secure processor answers instead of doing what it was asked: `status` is the firmware's status code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
