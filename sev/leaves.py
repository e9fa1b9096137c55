"""Leaves by what they are for, so that a report's own is found among a fleet's without trying them all.

AMD 57230: a VCEK belongs to one chip and one TCB, a VLEK to one TCB. HWID and SPLs in the certificate are CHIP_ID and
REPORTED_TCB in the report.
"""

from collections.abc import Iterable, Iterator

from sev.certificates import VCEK, VLEK, Certificate
from sev.product import LINES, Line
from sev.report import Report
from sev.tcb import SIZE, Tcb, places_of

MOST_STRANGERS = 16
"""How many leaves that do not fit are tried, to name what is wrong with a report."""

_ANY_CHIP = b""
_SPL_BYTES = {
    line: int.from_bytes(bytes(0xFF if place in places_of(line).values() else 0 for place in range(SIZE)), "little")
    for line in LINES
}
# Kind, line, TCB_VERSION without reserved bytes, CHIP_ID.
_Key = tuple[str, Line, int, bytes]


class Leaves:
    """The leaves among certificates, in their order; `more` are looked at after those."""

    __slots__ = ("_by_chip", "_by_key", "_more", "_of_kind")

    def __init__(self, certificates: Iterable[Certificate], more: "Leaves | None" = None) -> None:
        self._more = more
        self._of_kind: dict[str, list[Certificate]] = {VCEK: [], VLEK: []}
        self._by_key: dict[_Key, list[Certificate]] = {}
        self._by_chip: dict[bytes, list[Certificate]] = {}
        for leaf in certificates:
            if leaf.kind not in self._of_kind:
                continue
            self._of_kind[leaf.kind].append(leaf)
            tcb = int.from_bytes(Tcb.of(leaf.line, **leaf.spl).raw, "little")
            self._by_key.setdefault((leaf.kind, leaf.line, tcb, _ANY_CHIP), []).append(leaf)
            if leaf.kind == VCEK:
                chip = leaf.hwid.ljust(64, b"\0")
                self._by_key.setdefault((leaf.kind, leaf.line, tcb, chip), []).append(leaf)
                self._by_chip.setdefault(chip, []).append(leaf)

    def count(self, kind: str) -> int:
        """How many there are of a kind."""
        return len(self._of_kind[kind]) + (self._more.count(kind) if self._more else 0)

    def other(self, kind: str) -> str:
        """The other kind, if there are leaves of it; "" otherwise."""
        return next((name for name in self._of_kind if name != kind and self.count(name)), "")

    def fitting(self, kind: str, report: Report) -> Iterator[Certificate]:
        """Those for the chip and TCB that a report names, the line of its CPU first; any chip if it names none."""
        chip = _ANY_CHIP if kind == VLEK or report.chip_id_masked else report.chip_id
        tcb = int.from_bytes(report.reported_tcb, "little")
        product = report.product
        if product is not None:
            yield from self._by_key.get((kind, product.line, tcb & _SPL_BYTES[product.line], chip), ())
        for line in LINES:
            if product is None or line is not product.line:
                yield from self._by_key.get((kind, line, tcb & _SPL_BYTES[line], chip), ())
        if self._more is not None:
            yield from self._more.fitting(kind, report)

    def candidates(self, kind: str, report: Report) -> Iterator[Certificate]:
        """Those that fit, then a few that do not: of the same chip, of the same TCB, any."""
        tried = set()
        for leaf in self.fitting(kind, report):
            tried.add(leaf.der)
            yield leaf
        left = MOST_STRANGERS
        for leaf in self._strangers(kind, report):
            if not left:
                return
            if leaf.der not in tried:
                tried.add(leaf.der)
                left -= 1
                yield leaf

    def _strangers(self, kind: str, report: Report) -> Iterator[Certificate]:
        if kind == VCEK:
            yield from self._by_chip.get(report.chip_id, ())
        tcb = int.from_bytes(report.reported_tcb, "little")
        for line in LINES:
            yield from self._by_key.get((kind, line, tcb & _SPL_BYTES[line], _ANY_CHIP), ())
        yield from self._of_kind[kind]
        if self._more is not None:
            yield from self._more._strangers(kind, report)
