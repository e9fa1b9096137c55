"""A figure: what was measured, what QEMU with OVMF needed for the same, and the limit that it is held to."""

from statistics import median
from typing import Any

AT_MOST, TIMES_FASTER = "at most", "times faster"


class Limit:
    """`value` in the figure's unit (AT_MOST), or the least ratio to the reference (TIMES_FASTER)."""

    def __init__(self, kind: str, value: float) -> None:
        self.kind = kind
        self.value = value


class Figure:
    """One line of the table. `samples` and `reference` are in `unit`, smaller is better; the figure is their median.

    With `worst` it is the largest sample. `skipped` says why there are none.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        samples: list[float],
        limit: Limit | None = None,
        reference: list[float] | None = None,
        *,
        worst: bool = False,
        skipped: str = "",
    ) -> None:
        self.name = name
        self.unit = unit
        self.samples = samples
        self.limit = limit
        self.reference = reference or []
        self.worst = worst
        self.skipped = skipped

    @property
    def value(self) -> float | None:
        """The figure itself; None if it was skipped."""
        if not self.samples:
            return None
        return max(self.samples) if self.worst else median(self.samples)

    @property
    def ratio(self) -> float | None:
        """How many times as much the reference needed; None without one."""
        return median(self.reference) / self.value if self.reference and self.value else None

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None if there is none, or nothing to judge by."""
        if self.limit is None or self.value is None:
            return None
        if self.limit.kind == AT_MOST:
            return self.value <= self.limit.value
        return None if self.ratio is None else self.ratio >= self.limit.value

    def as_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "statistic": "worst" if self.worst else "median",
            "samples": self.samples,
            "reference_samples": self.reference,
            "ratio": self.ratio,
            "limit": None if self.limit is None else {"kind": self.limit.kind, "value": self.limit.value},
            "met": self.met,
            "skipped": self.skipped or None,
        }


_HEADINGS = ("figure", "cvmboot", "QEMU+OVMF", "ratio", "limit", "")


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f} {unit}"


def table(figures: list[Figure]) -> str:
    """The figures as lines of text."""
    rows = [_HEADINGS]
    for figure in figures:
        limit = ""
        if figure.limit is not None:
            by_ratio = figure.limit.kind == TIMES_FASTER
            limit = f"{figure.limit.value:g} times" if by_ratio else f"{figure.limit.value:g} {figure.unit}"
        verdict = {True: "pass", False: "MISS", None: ""}[figure.met]
        if figure.skipped:
            verdict = f"skipped: {figure.skipped}"
        reference = _number(median(figure.reference), figure.unit) if figure.reference else ""
        ratio = "" if figure.ratio is None else f"{figure.ratio:.1f}"
        rows.append((figure.name, _number(figure.value, figure.unit), reference, ratio, limit, verdict))
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in range(1, 5)), row[5]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
