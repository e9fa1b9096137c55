"""Policy files: TOML with the keys of sev.attestation_policy.KEYS; attestation_policy.schema.json says the same to editors."""

import re
import tomllib
from typing import Any

from sev.attestation_policy import ANY, DEFAULT_TCB_RULES, KEYS, REQUIRE, VMPL, BadPolicy, Policy
from sev.bits import Bits
from sev.report import Report
from sev.tcb import KDS_NAMES, Tcb
from sev.verdict import FAILED, Verdict

# 300 measurements fit.
LARGEST = 32 << 10
SCHEMA = "attestation_policy.schema.json"
# tomllib's time grows with the square of a dotted key's parts, and a key stands in one line.
MOST_DOTS = 64
_MOST_PLACES = 30
# Bits that a platform or a guest is the safer for.
_SAFER = frozenset(
    {"ECC_EN", "ALIAS_CHECK_COMPLETE", "RAPL_DIS", "CIPHERTEXT_HIDING_DRAM", "CIPHERTEXT_HIDING_DRAM_EN"}
)


class BadPolicyFile(BadPolicy):
    """A policy file that is none. `line` counts from 1; 0 if it is not known."""

    def __init__(self, key: str, problem: str, line: int = 0) -> None:
        super().__init__(key, problem)
        self.line = line

    def __str__(self) -> str:
        text = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"line {self.line}: {text}" if self.line else text


def read_values(data: bytes) -> dict[str, Any]:
    """The keys and values in a policy file of at most 32 KiB, all of them judged. BadPolicyFile."""
    if len(data) > LARGEST:
        raise BadPolicyFile("", f"more than {LARGEST} bytes")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadPolicyFile("", f"byte {data[error.start]:#04x} is no UTF-8", line) from None
    for number, row in enumerate(text.split("\n"), 1):
        if row.count(".") > MOST_DOTS:
            raise BadPolicyFile("", f"more than {MOST_DOTS} dots in a line", number)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPolicyFile("", f"no TOML: {' '.join(str(error).split())[:200]}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, dates that are none, deep nesting
        raise BadPolicyFile("", f"no TOML: {type(error).__name__}") from None
    try:
        Policy.of(values)
    except BadPolicy as error:
        raise BadPolicyFile(error.key, error.problem, _line_of(text, error.key)) from None
    return values


def read_policy(data: bytes) -> Policy:
    """The policy in a policy file of at most 32 KiB. BadPolicyFile."""
    return Policy.of(read_values(data))


def _line_of(text: str, dotted: str) -> int:
    """The line in which a key first stands; 0 if it is written in a way that this does not find.

    tomllib says no lines. A line that names the key is the one if what is before it is whole TOML without the key.
    """
    *tables, name = dotted.split(".") if _found(dotted) else [dotted]
    places = 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if name not in line:
            continue
        places += 1
        if places > _MOST_PLACES:
            return 0
        if line.lstrip().startswith("#") or not re.search(
            rf"(?:^|[\[.{{,\s\"']){re.escape(name)}[\"']?\s*[\].=]", line
        ):
            continue
        before, after = (_parsed("\n".join(lines[:end])) for end in (number, number + 1))
        if before is None or _holds(before, [*tables, name]):
            continue  # inside of a text or an array of several lines
        if after is None or _holds(after, [*tables, name]):
            return number + 1
    return 0


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _found(dotted: str) -> bool:
    return dotted.partition(".")[0] in KEYS


def _holds(values: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def commented_policy(report: Report, line: str = "") -> str:
    """A policy file that asks for what a report says, with comments; `line` as in sev.decoded.decoded."""
    from sev.appraisal import appraise
    from sev.product import line_named

    product = report.product
    known = product.line if product else line_named(line)
    lines = [
        "# What `cvmboot attest verify --policy FILE` asks of a report.",
        "# Written from one report. Nothing in that report was verified: look at each value before you trust it.",
        "# A key that is left out is not asked for; an option on the command line replaces the key of its name.",
        "",
        "# MEASUREMENT: the launch digest, 48 bytes. One of the list must be seen. `cvmboot measure` computes it.",
        "measurement = [",
        f'    "{report.measurement.hex()}",',
        "]",
        "",
        "# REPORT_DATA: 64 bytes, usually a nonce or the hash of a key: another one in each report.",
        f'# report_data = "{report.report_data.hex()}"',
    ]
    for name, meaning in (
        ("host_data", "HOST_DATA: 32 bytes that the host gave at launch."),
        ("family_id", "FAMILY_ID: 16 bytes from the ID block."),
        ("image_id", "IMAGE_ID: 16 bytes from the ID block."),
    ):
        lines += ["", f"# {meaning}", _assignment(name, getattr(report, name))]
    for name, meaning in (
        ("id_key_digest", "ID_KEY_DIGEST: SHA-384 of the key that signed the ID block; zeros without one."),
        ("author_key_digest", "AUTHOR_KEY_DIGEST: SHA-384 of the key that signed the ID key; zeros without one."),
    ):
        lines += ["", f"# {meaning}", _assignment(name, getattr(report, name), brackets=True)]
    lines += ["", "# GUEST_SVN: the least security version of the guest.", f"min_guest_svn = {report.guest_svn}", ""]
    lines += ["# REPORTED_TCB: least levels. Not every line of CPUs has every level."]
    if known is None:
        names = ", ".join(f"{name} = 0" for name in KDS_NAMES.values())
        lines += ["# The report does not say of which line its CPU is.", f"# min_tcb = {{ {names} }}"]
    else:
        spl = Tcb(report.reported_tcb, known).spl
        levels = ", ".join(f"{KDS_NAMES[name]} = {level}" for name, level in spl.items())
        lines += [f"# These are for {known.name}.", f"min_tcb = {{ {levels} }}"]
    lines += [
        "",
        "# CURRENT_VERSION: the least version of the firmware that runs.",
        f'min_firmware = "{".".join(map(str, report.current_version))}"',
        "",
        "# COMMITTED_VERSION: the least version that the host cannot go back from.",
        f'min_committed_firmware = "{".".join(map(str, report.committed_version))}"',
        "",
        "# COMMITTED_TCB, REPORTED_TCB and LAUNCH_TCB against CURRENT_TCB: at-most-current, current (the same), or any.",
        f"tcb_relations = {_inline(DEFAULT_TCB_RULES)}",
        "",
        "# Bits that must be set in LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR: mitigations that the firmware has made.",
        f'{"" if report.launch_mit_vector else "# "}launch_mitigations = "{report.launch_mit_vector:#x}"',
        f'{"" if report.current_mit_vector else "# "}current_mitigations = "{report.current_mit_vector:#x}"',
        "",
        '# Bits of POLICY, what the guest allows the host: "require", "forbid" or "any". DEBUG and MIGRATE_MA are forbidden.',
        f"guest_policy = {_inline(_rules(report.policy))}",
        "",
        "# Bits of PLATFORM_INFO, how the host's processor is set up. A bit without a name is written bit8 or so, and forbidden.",
        f"platform_info = {_inline(_rules(report.platform_info))}",
        "",
        "# The cloud provider that a VLEK names.",
        '# csp_id = "CN=cc-us-east-2.amazonaws.com"',
        "",
        "# CHIP_ID: for reports of known machines only; zeros where the host masks it.",
        f'# chip_id = ["{report.chip_id.hex()}"]',
        "",
        '# VMPL: 0 to 3, or "any".',
        "vmpl = 0",
        "",
        '# The list of revoked certificates: "required", "if-present", or "off"; "required,stale-ok:30" takes an old one, too.',
        'crl = "if-present"',
        "",
        '# What is not to be asked: "debug", "migration", "reserved".',
        "allow = []",
    ]
    verdict = Verdict()
    appraise(verdict, report)
    for check in verdict.checks:
        if check.outcome == FAILED:
            relation = check.name.endswith(" tcb") or check.name == "committed firmware"
            what = "vmpl" if check.name == VMPL else "tcb_relations" if relation else "allow"
            lines.append(f"# NOTE: this very report fails, see {what}: {check.reason}")
    return "\n".join(lines) + "\n"


def _rules(bits: Bits) -> dict[str, str]:
    """What a report's bits say, where that makes a guest's memory safer; the others may be as they like."""
    return {
        name: REQUIRE if is_set and name in _SAFER else ANY
        for name, is_set in bits.named.items()
        if name not in ("RESERVED_ONE", "DEBUG", "MIGRATE_MA")
    }


def _inline(table: dict[str, str]) -> str:
    return "{ " + ", ".join(f'{name} = "{rule}"' for name, rule in table.items()) + " }"


def _assignment(name: str, value: bytes, brackets: bool = False) -> str:
    text = f'["{value.hex()}"]' if brackets else f'"{value.hex()}"'
    return f"{'' if any(value) else '# '}{name} = {text}"
