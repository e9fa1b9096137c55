"""`cvmboot attest show`: a decoded report for a person, in tables on a terminal and in lines elsewhere; --json for machines.

What the JSON has is in sev/report.schema.json and docs/verification.md.
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from cvmboot.attest_input import File, Json, evidence_in, malformed

if TYPE_CHECKING:
    from rich.table import Table

_TCBS = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_FLAGS = ("policy", "platform_info")
_GROUPS = {
    "Report": (
        "version",
        "signer",
        "author_key_en",
        "mask_chip_key",
        "key_info",
        "signature_algo",
        "report_id",
        "report_id_ma",
    ),
    "Guest": (
        *("guest_svn", "vmpl", "policy", "family_id", "image_id", "measurement", "report_data", "host_data"),
        *("id_key_digest", "author_key_digest"),
    ),
    "Platform": (
        *("product_line", "cpuid", "chip_id", "platform_info", "current_version", "committed_version"),
        *("launch_mit_vector", "current_mit_vector"),
    ),
}
_LABEL = 22


def show(file: File, as_json: Json = False) -> None:
    """Decode a report. Nothing is verified.

    Exit status: 0; 1 the file cannot be read; 2 wrong usage; 3 it holds no report.
    """
    from sev.decoded import decoded, described
    from sev.errors import SevError
    from sev.report import Report

    evidence = evidence_in(file)
    # A report of version 2 does not say of which line it is, but a certificate that came with it does.
    lines = {certificate.line.name for certificate in evidence.certificates}
    try:
        plain = decoded(Report.decode(evidence.report), lines.pop() if len(lines) == 1 else "")
    except SevError as error:
        raise malformed(file, error) from None
    plain["evidence"] = {"form": evidence.form, "left_out": evidence.notes}
    plain["certificates"] = [described(certificate) for certificate in evidence.certificates]
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    elif sys.stdout.isatty():
        _print_tables(plain)
    else:
        sys.stdout.write("\n".join(_lines(plain)) + "\n")


def _lines(plain: dict[str, Any]) -> list[str]:
    lines = [f"{'evidence':{_LABEL}} {plain['evidence']['form']}"]
    for names in _GROUPS.values():
        for name in names:
            if name in plain:
                head, *rest = _text(plain[name])
                lines.append(f"{name.replace('_', ' '):{_LABEL}} {head}")
                lines.extend(f"{'':{_LABEL}} {part}" for part in rest)
    lines += [f"{name.replace('_', ' '):{_LABEL}} {_tcb(plain[name])}" for name in _TCBS]
    lines += [f"{'reserved at ' + place:{_LABEL}} {data}" for place, data in plain["reserved"].items()]
    for certificate in plain["certificates"]:
        lines.append(f"{'certificate':{_LABEL}} {_certificate(certificate)}")
    return lines


def _text(value: Any) -> list[str]:
    """A value in lines of at most 64 characters of hex; zeros at the end of long hex are left out."""
    if isinstance(value, dict) and "bits" in value:
        return [_bits(value)]
    if isinstance(value, dict):
        return [" ".join(f"{key}={item}" for key, item in value.items() if item is not None)]
    if isinstance(value, str) and len(value) > 64:
        parts = [value[at : at + 64] for at in range(0, len(value), 64)]
        while len(parts) > 1 and not parts[-1].strip("0"):
            parts.pop()
        return parts
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return ["unknown" if value is None else str(value)]


def _bits(value: dict[str, Any]) -> str:
    words = [value["value"], *(bit for bit, is_set in value["bits"].items() if is_set)]
    words += [f"bit {number} (unknown)" for number in value["unknown_bits"]]
    if "abi" in value:
        words.append(f"abi={value['abi']}")
    return " ".join(words)


def _tcb(value: dict[str, Any]) -> str:
    words = [value["raw"], *(f"{key}={item}" for key, item in value.items() if key not in ("raw", "reserved_set"))]
    if value.get("reserved_set"):
        words.append("(reserved bytes set)")
    return " ".join(words)


def _certificate(value: dict[str, Any]) -> str:
    tcb = " ".join(f"{name}={level}" for name, level in value.get("tcb", {}).items())
    dates = f"{value['not_before'][:10]} to {value['not_after'][:10]}"
    return " ".join(part for part in (value["kind"], value["line"], dates, tcb, value.get("csp_id", "")) if part)


def _print_tables(plain: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"Evidence: {plain['evidence']['form']}. Nothing was verified.", markup=False)
    for title, names in _GROUPS.items():
        table = _table(title, "", "")
        for name in names:
            if name in plain and name not in _FLAGS:
                table.add_row(name.replace("_", " "), "\n".join(_text(plain[name])))
        console.print(table)
    for name in _FLAGS:
        table = _table(f"{name.upper()} {plain[name]['value']}", "bit", "")
        for bit, is_set in plain[name]["bits"].items():
            table.add_row(bit, "[green]set[/]" if is_set else "[dim]clear[/]")
        for number in plain[name]["unknown_bits"]:
            table.add_row(f"bit {number}", "[yellow]set; nobody has named it[/]")
        console.print(table)
    levels = [key for key in plain[_TCBS[0]] if key not in ("raw", "reserved_set")]
    table = _table("TCB", "", *levels, "TCB_VERSION")
    for name in _TCBS:
        table.add_row(name.replace("_", " "), *(str(plain[name][key]) for key in levels), plain[name]["raw"])
    console.print(table)
    if plain["reserved"]:
        table = _table("Reserved bytes that are set", "at", "bytes")
        for place, data in plain["reserved"].items():
            table.add_row(place, data)
        console.print(table)
    for certificate in plain["certificates"]:
        console.print(f"Certificate: {_certificate(certificate)}", markup=False)


def _table(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.show_header = any(columns)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
