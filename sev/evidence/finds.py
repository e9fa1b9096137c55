"""What a search through a file brings to light, within limits, and what of it becomes evidence.

A file may be nested: text in JSON in base64. Every layer is looked at, and two different reports are never a choice that this
program makes for its user.
"""

from sev.certificates import Certificate
from sev.errors import MalformedReport
from sev.revocation import Crl

LARGEST = 4 << 20
MOST_LAYERS = 8
MOST_LOOKS = 4096
MOST_BYTES = 32 << 20
MOST_COLLATERAL = 2048


class RuntimeData:
    """Bytes that came with a report and should be bound to it: `forms` are what their hash may have been taken of, `algorithm`
    is the hash (hashlib's name), `source` says where they were."""

    __slots__ = ("algorithm", "forms", "source")

    def __init__(self, source: str, forms: list[bytes], algorithm: str = "sha256") -> None:
        self.source = source
        self.forms = forms
        self.algorithm = algorithm


class Evidence:
    """`report` are the 1184 bytes, `certificates` and `crls` what came with them, `runtime_data` what REPORT_DATA should bind.

    `form` says in words where in the file the report was; `notes` what was left out.
    """

    __slots__ = ("certificates", "crls", "form", "notes", "report", "runtime_data")

    def __init__(
        self, report: bytes, certificates: list[Certificate] | None = None, crls: list[Crl] | None = None
    ) -> None:
        self.report = report
        self.certificates = certificates or []
        self.crls = crls or []
        self.runtime_data: list[RuntimeData] = []
        self.form = ""
        self.notes: list[str] = []


class Finds:
    """All that was found so far. `reports` map the bytes of what looks like a report to where it was; `suspects` are as long as
    a report and look like none; `problems` say what looked like something and was not."""

    def __init__(self) -> None:
        self.reports: dict[bytes, str] = {}
        self.suspects: dict[bytes, str] = {}
        self.certificates: dict[bytes, Certificate] = {}
        self.crls: dict[bytes, Crl] = {}
        self.runtime_data: list[RuntimeData] = []
        self.notes: list[str] = []
        self.problems: list[str] = []
        self._looks = MOST_LOOKS
        self._bytes = MOST_BYTES

    def may_look(self, size: int, layer: int) -> bool:
        """Whether `size` more bytes may be looked at, `layer` layers deep. MalformedReport where a file asks for too much."""
        if layer > MOST_LAYERS:
            raise MalformedReport(f"more than {MOST_LAYERS} layers of text, JSON and base64 in each other")
        self._looks -= 1
        self._bytes -= size
        if self._looks < 0 or self._bytes < 0:
            raise MalformedReport("too many pieces of text and bytes to look through; hand over the report alone")
        return size > 0

    def collateral(self, item: Certificate | Crl) -> None:
        """Note a certificate or CRL."""
        if len(self.certificates) + len(self.crls) >= MOST_COLLATERAL:
            raise MalformedReport(f"more than {MOST_COLLATERAL} certificates and CRLs")
        if isinstance(item, Crl):
            self.crls.setdefault(item.der, item)
        else:
            self.certificates.setdefault(item.der, item)

    @property
    def count(self) -> int:
        """How many things were found, of any kind."""
        return len(self.reports) + len(self.suspects) + len(self.certificates) + len(self.crls)

    def evidence(self, size: int) -> Evidence:
        """The one report with all that came along. MalformedReport if there is none, or more than one; `size` of the file."""
        found = self.reports or self.suspects
        if len(found) > 1:
            places = "; ".join(where or "the file itself" for where in list(found.values())[:3])
            raise MalformedReport(f"{len(found)} different reports in one file ({places}); hand over one of them")
        if not found:
            if self.problems:
                raise MalformedReport(self.problems[0])
            if self.certificates or self.crls:
                count = len(self.certificates) + len(self.crls)
                raise MalformedReport(f"no report, only {count} certificates and CRLs; hand them over with --certs")
            raise MalformedReport(f"no report in {size} bytes, in none of the forms that are known")
        report, where = next(iter(found.items()))
        evidence = Evidence(report, list(self.certificates.values()), list(self.crls.values()))
        evidence.runtime_data = self.runtime_data
        evidence.form = where or "ATTESTATION_REPORT"
        evidence.notes = self.notes
        return evidence
