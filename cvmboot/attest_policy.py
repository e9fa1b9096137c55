"""The options by which `cvmboot attest verify` is told what to ask of a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.errors import UsageError

if TYPE_CHECKING:
    from sev.attestation_policy import Policy

_PANEL = "What to ask of the report"


def _hex(name: str, text: str, size: int) -> Any:
    return typer.Option(f"--{name}", help=f"{text}: {size} bytes as hex.", metavar="HEX", rich_help_panel=_PANEL)


def _set(name: str, text: str) -> Any:
    help_text = f"{text}: 48 bytes as hex; repeated, one of them."
    return typer.Option(f"--{name}", help=help_text, metavar="HEX", rich_help_panel=_PANEL)


PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        help="Ask for what this file says, see `cvmboot attest policy`; options replace its keys.",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
Measurement = Annotated[list[str] | None, _set("measurement", "The launch digest")]
IdKeyDigest = Annotated[list[str] | None, _set("id-key-digest", "Digest of the key that signed the ID block")]
AuthorKeyDigest = Annotated[list[str] | None, _set("author-key-digest", "Digest of the key that signed the ID key")]
ReportData = Annotated[str | None, _hex("report-data", "What the guest had put in", 64)]
HostData = Annotated[str | None, _hex("host-data", "What the host had put in", 32)]
FamilyId = Annotated[str | None, _hex("family-id", "Family of the guest", 16)]
ImageId = Annotated[str | None, _hex("image-id", "Image of the guest", 16)]
MinGuestSvn = Annotated[
    str | None,
    typer.Option("--min-guest-svn", help="Least security version of the guest.", metavar="N", rich_help_panel=_PANEL),
]
Vmpl = Annotated[
    str | None,
    typer.Option("--vmpl", help="The VMPL wanted, or any; default 0.", metavar="N|any", rich_help_panel=_PANEL),
]
MinTcb = Annotated[
    list[str] | None,
    typer.Option(
        "--min-tcb",
        help="Least level in REPORTED_TCB, such as snpSPL=8 (fmcSPL, blSPL, teeSPL, snpSPL, ucodeSPL); may be repeated.",
        metavar="NAME=N",
        rich_help_panel=_PANEL,
    ),
]


def _firmware(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", help=text, metavar="MAJOR.MINOR[.BUILD]", rich_help_panel=_PANEL)


def _rules(name: str, text: str, metavar: str = "BIT=RULE") -> Any:
    return typer.Option(f"--{name}", help=f"{text}; may be repeated.", metavar=metavar, rich_help_panel=_PANEL)


def _mask(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", help=f"Bits that must be set in {text}.", metavar="HEX", rich_help_panel=_PANEL)


MinFirmware = Annotated[str | None, _firmware("min-firmware", "Least version of the firmware that runs.")]
MinCommittedFirmware = Annotated[
    str | None,
    _firmware("min-committed-firmware", "Least version of the firmware that the host cannot go back from."),
]
TcbRelations = Annotated[
    list[str] | None,
    _rules(
        "tcb-relations",
        "committed, reported or launch TCB against the current one: at-most-current, current, any",
        "NAME=RULE",
    ),
]
LaunchMitigations = Annotated[str | None, _mask("launch-mitigations", "LAUNCH_MIT_VECTOR")]
CurrentMitigations = Annotated[str | None, _mask("current-mitigations", "CURRENT_MIT_VECTOR")]
GuestPolicyBits = Annotated[
    list[str] | None,
    _rules("guest-policy", "A bit of POLICY by name (SMT, SINGLE_SOCKET, ...): require, forbid, any"),
]
PlatformInfoBits = Annotated[
    list[str] | None,
    _rules("platform-info", "A bit of PLATFORM_INFO by name (SMT_EN, ...), or bitN without one: require, forbid, any"),
]
CspId = Annotated[
    list[str] | None,
    typer.Option(
        "--csp-id",
        help="The cloud provider that the VLEK names; repeated, one of them.",
        metavar="TEXT",
        rich_help_panel=_PANEL,
    ),
]
ChipId = Annotated[
    list[str] | None,
    typer.Option(
        "--chip-id",
        help="CHIP_ID: 64 bytes as hex (Turin: 8 will do); repeated, one of them.",
        metavar="HEX",
        rich_help_panel=_PANEL,
    ),
]
CrlOption = Annotated[
    str | None,
    typer.Option(
        "--crl",
        help="required: fail without a current CRL; if-present (the default); off. With ,stale-ok:DAYS an old one counts, too.",
        metavar="WHEN",
        rich_help_panel=_PANEL,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Do not ask for: debug, migration, vmpl, reserved; may be repeated.",
        metavar="WHAT",
        rich_help_panel=_PANEL,
    ),
]


def policy_values(options: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """The keys of a policy: those of options, by the keys of a policy file, and of such a file, whose keys they replace.

    None and empty lists were not given. UsageError; CvmbootError if the file cannot be read.
    """
    from cvmboot.attest_policy_file import values_in

    values = {key: value for key, value in options.items() if value is not None and value != []}
    for key in ("min_guest_svn", "vmpl"):
        if key in values:
            values[key] = _number(values[key])
    for key in ("min_tcb", "tcb_relations", "guest_policy", "platform_info"):
        if key in values:
            values[key] = _pairs(key, values[key])
    return (values_in(file) if file else {}) | values


def policy_of(values: dict[str, Any]) -> "Policy":
    """The policy with these keys. UsageError."""
    from sev.attestation_policy import BadPolicy, Policy

    try:
        return Policy.of(values)
    except BadPolicy as error:
        key, dot, rest = error.key.partition(".")
        raise UsageError(f"--{key.replace('_', '-')}{' ' if dot else ''}{rest}: {error.problem}") from None


def _number(text: str) -> int | str:
    """A number, or the text as it is for the policy to judge."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else text


_EXAMPLES = {
    "min_tcb": "NAME=N such as snpSPL=8",
    "tcb_relations": "NAME=RULE such as committed=current",
    "guest_policy": "BIT=RULE such as SMT=forbid",
    "platform_info": "BIT=RULE such as SMT_EN=forbid",
}


def _pairs(key: str, words: list[str]) -> dict[str, int | str]:
    """Names and values of an option that takes NAME=VALUE, several of them apart by commas or in options of their own."""
    option = f"--{key.replace('_', '-')}"
    pairs: dict[str, int | str] = {}
    for word in (part for words_in_one in words for part in words_in_one.replace(",", " ").split()):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {word[:40]}: wanted {_EXAMPLES[key]}")
        if name in pairs:
            raise UsageError(f"{option} {name[:40]}: given twice")
        pairs[name] = _number(value)
    return pairs
