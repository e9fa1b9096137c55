"""A verdict for a person: a table on a terminal, aligned lines elsewhere. For machines there is --json."""

import re
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sev.verdict import Check, Verdict

_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "not asked": "not asked"}
_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
_LONG_HEX = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{5,}\b")
_WIDEST_NAME, _WIDEST_WANTED = 28, 44


def print_verdict(verdict: "Verdict") -> None:
    """Write a verdict to standard output."""
    for line in _head(verdict):
        sys.stdout.write(f"{line}\n")
    asked = [check for check in verdict.checks if check.outcome != "not asked"]
    if sys.stdout.isatty():
        sys.stdout.flush()
        _print_table(asked)
    else:
        _print_lines(asked)
    _print_not_asked([check.name for check in verdict.checks if check.outcome == "not asked"])


def _head(verdict: "Verdict") -> list[str]:
    emulated = "EMULATED: " if verdict.emulated else ""
    signer = f"{emulated}{verdict.signer or 'no signer'} {verdict.line}".rstrip()
    lines = [f"VERIFIED ({signer})" if verdict.verified else f"NOT VERIFIED: {verdict.reason}"]
    if verdict.emulated:
        lines.append("EMULATED: this says nothing about real hardware.")
    elif verdict.root is not None and verdict.root.trust == "named":
        lines.append(
            f"NAMED ROOT: {verdict.root.name} {verdict.root.sha256} is trusted because you named it, not by this program."
        )
    if verdict.form not in ("", "ATTESTATION_REPORT"):
        lines.append(f"Evidence: {verdict.form}")
    lines += [f"Without harm: {note}" for note in verdict.left_out]
    return lines


def _shown(check: "Check") -> tuple[str, str]:
    """What was wanted, and what was seen or why it failed; long hex is shortened, --json has all of it."""
    seen = check.reason if check.outcome in ("failed", "skipped") else check.seen
    if check.field and check.field not in ("certificate", "validity", "CRL", "reserved") and check.outcome == "passed":
        seen = f"{check.field} {seen}"
    return _LONG_HEX.sub(r"\1..", check.wanted), _LONG_HEX.sub(r"\1..", seen)


def _print_lines(checks: "list[Check]") -> None:
    rows = [(_MARKS[check.outcome], check.name, *_shown(check)) for check in checks]
    width = min(max((len(row[1]) for row in rows), default=0), _WIDEST_NAME)
    for mark, name, wanted, seen in rows:
        wish = f"  (wanted {wanted})" if wanted and wanted != seen else ""
        sys.stdout.write(f"  {mark:9} {name:{width}}  {seen}{wish}".rstrip() + "\n")


def _print_table(checks: "list[Check]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "Check", "Wanted", "Seen"):
        table.add_column(title, overflow="fold", max_width=_WIDEST_WANTED if title == "Wanted" else None)
    for check in checks:
        style = _STYLES[check.outcome]
        wanted, seen = _shown(check)
        mark = Text(_MARKS[check.outcome], style=style)
        table.add_row(mark, check.name, Text(wanted), Text(seen, style=style if check.outcome != "passed" else ""))
    Console(highlight=False, soft_wrap=False).print(table)


def _print_not_asked(names: list[str]) -> None:
    """What nobody asked for, bits of one field together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        field, _, bit = name.rpartition(" ")
        groups.setdefault(field if bit.isupper() else name, []).append(bit)
    words = [f"{group} ({', '.join(bits)})" if bits[0].isupper() else group for group, bits in groups.items()]
    if words:
        text = textwrap.fill(", ".join(words), 110, initial_indent="  not asked  ", subsequent_indent=" " * 13)
        sys.stdout.write(f"{text}\n")
