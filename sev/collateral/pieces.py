"""A piece of collateral, and the key by which a leaf is asked for: line, HWID, TCB.

AMD 57230 (VCEK certificate and KDS interface): a VCEK belongs to one chip and one TCB; a VLEK to one cloud provider and one TCB.
"""

from collections.abc import Iterable
from datetime import datetime

from sev.certificates import VCEK, VLEK, Certificate
from sev.collateral.errors import CollateralError
from sev.product import GENOA, MILAN, TURIN, Line, line_named
from sev.report import SIGNER_VLEK, Report
from sev.revocation import Crl
from sev.tcb import Tcb

EVIDENCE, CACHE, KDS = "the evidence", "the cache", "KDS"


class Piece:
    """A certificate or CRL, where it came from, and when KDS gave it (UTC, whole seconds; None if nobody knows)."""

    __slots__ = ("fetched", "item", "source")

    def __init__(self, item: Certificate | Crl, source: str, fetched: datetime | None = None) -> None:
        self.item = item
        self.source = source
        self.fetched = fetched.replace(microsecond=0) if fetched else None

    @property
    def kind(self) -> str:
        """ARK, ASK, ASVK, VCEK, VLEK or CRL."""
        return "CRL" if isinstance(self.item, Crl) else self.item.kind

    @property
    def line(self) -> Line:
        """The line that it is for. CollateralError for a CRL of somebody else's."""
        return line_of_crl(self.item) if isinstance(self.item, Crl) else self.item.line

    def __str__(self) -> str:
        text = f"{self.kind} {self.line.name}"
        if isinstance(self.item, Crl):
            end = self.item.next_update
            return f"{text}, {len(self.item.revoked)} revoked, next update {end:%Y-%m-%d}" if end else text
        if self.item.hwid:
            text += f" {self.item.hwid.hex()[:16]}"
        if self.item.spl:
            text += f" {Tcb.of(self.item.line, **self.item.spl)}"
        return f"{text}, valid to {self.item.not_after:%Y-%m-%d}"


def line_of_crl(crl: Crl) -> Line:
    """The line whose ARK issued a CRL, by the issuer's name. CollateralError if it is none of AMD's."""
    line = line_named(crl.issuer_cn.removeprefix("ARK-"))
    if line is None or not crl.issuer_cn.startswith("ARK-"):
        raise CollateralError(f"a CRL of {crl.issuer_cn[:40]!r}; wanted one of ARK-<line>")
    return line


class LeafKey:
    """What a leaf is for: `kind` VCEK or VLEK, `line`, `hwid` (empty for a VLEK), `tcb` with zeros in reserved bytes."""

    __slots__ = ("hwid", "kind", "line", "tcb")

    def __init__(self, kind: str, line: Line, hwid: bytes, spl: dict[str, int]) -> None:
        if len(hwid) != (line.hwid_size if kind == VCEK else 0):
            raise CollateralError(f"HWID of {len(hwid)} bytes; wanted {line.hwid_size} for a VCEK of {line.name}")
        self.kind = kind
        self.line = line
        self.hwid = hwid
        self.tcb = Tcb.of(line, **spl)

    @classmethod
    def of_certificate(cls, leaf: Certificate) -> "LeafKey":
        """The key of a VCEK or VLEK."""
        return cls(leaf.kind, leaf.line, leaf.hwid, leaf.spl)

    @classmethod
    def of_report(cls, report: Report, line: Line) -> "LeafKey":
        """The key of the leaf that signed a report, if its chip is of that line. CollateralError for a masked CHIP_ID."""
        spl = Tcb(report.reported_tcb, line).spl
        if report.signing_key == SIGNER_VLEK:
            return cls(VLEK, line, b"", spl)
        if report.chip_id_masked:
            raise CollateralError(
                "the host masks CHIP_ID, so nobody can tell which chip's VCEK it is; give the VCEK with --certs"
            )
        if any(report.chip_id[line.hwid_size :]):
            raise CollateralError(f"CHIP_ID has more than the {line.hwid_size} bytes of {line.name}'s HWID")
        return cls(VCEK, line, report.chip_id[: line.hwid_size], spl)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LeafKey) and (self.kind, self.hwid, self.tcb) == (other.kind, other.hwid, other.tcb)

    def __hash__(self) -> int:
        return hash((self.kind, self.hwid, self.tcb))

    def __str__(self) -> str:
        chip = f" of chip {self.hwid.hex()[:16]}" if self.hwid else ""
        return f"{self.line.name} {self.kind}{chip} for {self.tcb}"


def lines_of(report: Report, certificates: Iterable[Certificate] = ()) -> list[Line]:
    """The lines that a report may be of, likeliest first; none if its CPU is not known.

    From version 3 on the report says so. Before, the certificates at hand do, or the length of CHIP_ID: what is then fetched
    has to verify under the line's own chain, so that a wrong guess costs a request and nothing else.
    """
    if report.version >= 3:
        return [report.product.line] if report.product else []
    short = not any(report.chip_id[TURIN.hwid_size :]) and not report.chip_id_masked
    possible = [TURIN] if short else [MILAN, GENOA]
    at_hand = {certificate.line for certificate in certificates}
    return [line for line in possible if line in at_hand] or possible
