"""An emulated AMD platform: one chip, kept in a folder, that signs reports and derives keys.

platform = Platform.new(folder, product="turin")      # milan, genoa, turin; makes keys at once, RSA keys when first needed
platform = Platform.load(folder)                       # cheap: reads one small file, imports no cryptography
report = platform.report(report_data=..., vmpl=0, ...) # sev.report.Report with this platform's fields filled in
raw = platform.sign_report(report.encode(), key=VCEK)  # 1184 bytes, signed
key = platform.derive_key(KeyRequest.decode(payload, message_version), GuestFields(...))   # 32 bytes; Refused(status)
table = platform.certificate_table(key=VCEK)           # bytes for an extended guest request
"""

from pathlib import Path
from typing import Any

from sev.platform.key_request import GuestFields, KeyRequest
from sev.report import Report

VCEK = "vcek"
VLEK = "vlek"


class Platform:
    """The chip. Attributes: `product` (sev.product.Product), `hwid`, `chip_id` (64 bytes), `tcb` (8 raw bytes as in a
    report; committed_tcb, launch_tcb, reported_tcb alike), `firmware` (major, minor, build), `platform_info` (u64),
    `mitigation_vector` (u64), `cpuid` (family, model, stepping; combined values as in a report), `has_vlek` (bool)."""

    @classmethod
    def new(
        cls, folder: Path, product: str = "turin", *, with_certificates: bool = True, **settings: Any
    ) -> "Platform":
        """Make a platform in a folder that does not exist yet or is empty."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> "Platform":
        """Read a platform that `new` made. PlatformError."""
        raise NotImplementedError

    def report(self, version: int = 5, **fields: Any) -> Report:
        """An unsigned report of this platform: versions, TCBs, CPUID, chip id, platform info; other fields as named."""
        raise NotImplementedError

    def sign_report(self, report: bytes, key: str = VCEK) -> bytes:
        """The 1184 bytes with SIGNATURE filled in over 000..29F. Refused(0x27) for a VLEK that is not loaded."""
        raise NotImplementedError

    def derive_key(self, request: KeyRequest, guest: GuestFields) -> bytes:
        """MSG_KEY_REQ: 32 bytes. Refused with the firmware's status."""
        raise NotImplementedError

    def certificate_table(self, key: str = VCEK) -> bytes:
        """The certificate table of an extended guest request: leaf, ASK or ASVK, ARK. First use may take seconds (RSA)."""
        raise NotImplementedError
