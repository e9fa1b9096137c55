"""What a policy asks of the platform: bits of POLICY and PLATFORM_INFO by name, TCBs and how they relate, firmware, mitigations.

AMD 56860, tables "Guest Policy", "PLATFORM_INFO", "TCB_VERSION" and "ATTESTATION_REPORT Structure".
"""

from collections.abc import Mapping

from sev.attestation_policy import (
    ANY,
    AT_MOST_CURRENT,
    BITS,
    FORBID,
    REQUIRE,
    RESERVED,
    TCB_NAMES,
    Policy,
)
from sev.bits import Bits
from sev.product import Line, line_named
from sev.report import Report
from sev.tcb import KDS_NAMES, Tcb, places_of
from sev.verdict import NOT_ASKED, POLICY, Check, Verdict

_FIELDS = {"guest_policy": "POLICY", "platform_info": "PLATFORM_INFO"}
_TITLES = {"guest_policy": "guest policy", "platform_info": "platform info"}
_WHY = {
    "DEBUG": "the guest policy allows DEBUG: the host can read and change the guest's memory",
    "MIGRATE_MA": "the guest policy allows a migration agent (MIGRATE_MA)",
}
# Most reports are asked about few bits. Nothing changes these checks, so that all verdicts share them.
_NOT_ASKED = {
    (field, bit): Check(f"{_TITLES[field]} {bit}", NOT_ASKED, field=_FIELDS[field])
    for field, kind in BITS.items()
    for bit in kind.NAMES.values()
}


def check_platform(verdict: Verdict, report: Report, policy: Policy) -> None:
    """Add the checks of PLATFORM_INFO, TCBs, firmware and mitigation vectors."""
    check_bits(verdict, report.platform_info, "platform_info", policy)
    _check_unknown(verdict, report, policy)
    line = line_named(verdict.line)
    for name in TCB_NAMES:
        _check_relation(verdict, report, name, policy.tcb_relations[name], line)
    _check_min_tcb(verdict, report, policy.min_tcb, line)
    _check_firmware(verdict, "minimum firmware", "CURRENT_VERSION", report.current_version, policy.min_firmware)
    committed = policy.min_committed_firmware
    _check_firmware(verdict, "minimum committed firmware", "COMMITTED_VERSION", report.committed_version, committed)
    _check_committed(verdict, report, policy.tcb_relations["committed"])
    _check_mitigations(verdict, report, "launch", report.launch_mit_vector, policy.launch_mitigations)
    _check_mitigations(verdict, report, "current", report.current_mit_vector, policy.current_mitigations)


def check_bits(verdict: Verdict, bits: Bits, field: str, policy: Policy) -> None:
    """Add a check for each bit of a field that has a name, and for those without one that the policy speaks of."""
    for number, bit in bits.NAMES.items():
        if bit == "RESERVED_ONE":
            continue
        rule = policy.bit_rule(field, bit)
        if rule == ANY:
            verdict.checks.append(_NOT_ASKED[field, bit])
        else:
            _check_bit(verdict, bool(bits >> number & 1), field, bit, rule)
    rules: Mapping[str, str] = getattr(policy, field)
    for bit, rule in rules.items():
        if bit.startswith("bit") and rule != ANY:
            _check_bit(verdict, bool(bits >> int(bit[3:]) & 1), field, bit, rule)


def _check_bit(verdict: Verdict, is_set: bool, field: str, bit: str, rule: str) -> None:
    wanted, seen = ("set" if rule == REQUIRE else "clear"), ("set" if is_set else "clear")
    reason = f"{bit} of {_FIELDS[field]} is {seen}; wanted {wanted}"
    verdict.add(
        f"{_TITLES[field]} {bit}",
        wanted == seen,
        field=_FIELDS[field],
        wanted=f"{bit} {wanted}",
        seen=f"{bit} {seen}",
        reason=_WHY.get(bit, reason) if rule == FORBID else reason,
        status=POLICY,
    )


def unknown_bits(bits: Bits, rules: Mapping[str, str]) -> list[int]:
    """Numbers of the bits that are set, have no name, and are not allowed by one of a policy's rules."""
    unknown = bits.unknown
    return [number for number in unknown if rules.get(f"bit{number}", FORBID) == FORBID] if unknown else unknown


def _check_unknown(verdict: Verdict, report: Report, policy: Policy) -> None:
    if RESERVED in policy.allow:
        verdict.not_asked("platform info unknown bits", "PLATFORM_INFO")
        return
    unknown = unknown_bits(report.platform_info, policy.platform_info)
    names = ", ".join(f"bit{number}" for number in unknown)
    verdict.add(
        "platform info unknown bits",
        not unknown,
        field="PLATFORM_INFO",
        wanted="no unknown bit",
        seen=str(report.platform_info),
        reason=f"PLATFORM_INFO {report.platform_info}: {names} set, which nobody has named; allow it by name "
        "(--platform-info bitN=any), or all of them (--allow reserved)",
        status=POLICY,
    )


def _check_relation(verdict: Verdict, report: Report, name: str, rule: str, line: Line | None) -> None:
    """One of the report's TCBs against CURRENT_TCB, level by level."""
    title, field = f"{name} tcb", f"{name.upper()}_TCB"
    if rule == ANY:
        verdict.not_asked(title, field)
        return
    raw: bytes = getattr(report, f"{name}_tcb")
    current = report.current_tcb
    good = raw == current or (rule == AT_MOST_CURRENT and all(a <= b for a, b in zip(raw, current, strict=True)))
    mine, theirs = (_tcb_text(each, line) for each in (raw, current))
    wanted = "at most" if rule == AT_MOST_CURRENT else "the same as"
    verdict.add(
        title,
        good,
        field=field,
        wanted=f"{wanted} CURRENT_TCB {theirs}",
        seen=mine,
        reason="" if good else f"{field} {mine} is not {wanted} CURRENT_TCB {theirs}",
        status=POLICY,
    )


def _tcb_text(raw: bytes, line: Line | None) -> str:
    return str(Tcb(raw, line)) if line else raw.hex()


def _check_min_tcb(verdict: Verdict, report: Report, least: dict[str, int], line: Line | None) -> None:
    """REPORTED_TCB against the minimum: it is the one that the leaf's key stands for."""
    if not least:
        verdict.not_asked("minimum tcb", "REPORTED_TCB")
        return
    if line is None:
        verdict.add("minimum tcb", False, field="REPORTED_TCB", reason="the line is not known", status=POLICY)
        return
    levels = Tcb(report.reported_tcb, line).spl
    for name, wanted in least.items():
        spl, seen = KDS_NAMES[name], levels.get(name)
        known = ", ".join(KDS_NAMES[place] for place in places_of(line))
        verdict.add(
            f"minimum {spl}",
            seen is not None and seen >= wanted,
            field="REPORTED_TCB",
            wanted=f"{wanted} or more",
            seen="none" if seen is None else str(seen),
            reason=f"{line.name} has no {spl}, only {known}"
            if seen is None
            else f"{spl} of REPORTED_TCB is {seen}; wanted {wanted} or more",
            status=POLICY,
        )


def _check_firmware(
    verdict: Verdict, title: str, field: str, version: tuple[int, int, int], least: tuple[int, ...] | None
) -> None:
    if least is None:
        verdict.not_asked(title, field)
        return
    wanted, seen = _dotted(least), _dotted(version)
    verdict.add(
        title,
        version[: len(least)] >= least,
        field=field,
        wanted=f"{wanted} or later",
        seen=seen,
        reason=f"{'the firmware' if field == 'CURRENT_VERSION' else field} is {seen}; wanted {wanted} or later",
        status=POLICY,
    )


def _check_committed(verdict: Verdict, report: Report, rule: str) -> None:
    """COMMITTED_VERSION against CURRENT_VERSION: older means that the firmware that runs is provisional."""
    if rule == ANY:
        verdict.not_asked("committed firmware", "COMMITTED_VERSION")
        return
    committed, current = report.committed_version, report.current_version
    good = committed == current or (rule == AT_MOST_CURRENT and committed < current)
    wanted = "at most" if rule == AT_MOST_CURRENT else "the same as"
    verdict.add(
        "committed firmware",
        good,
        field="COMMITTED_VERSION",
        wanted=f"{wanted} CURRENT_VERSION {_dotted(current)}",
        seen=_dotted(committed),
        reason=""
        if good
        else f"COMMITTED_VERSION {_dotted(committed)} is not {wanted} CURRENT_VERSION {_dotted(current)}",
        status=POLICY,
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _check_mitigations(verdict: Verdict, report: Report, which: str, vector: int, needed: int | None) -> None:
    title, field = f"{which} mitigations", f"{which.upper()}_MIT_VECTOR"
    if needed is None:
        verdict.not_asked(title, field)
        return
    missing = needed & ~vector
    old = f": a report of version {report.version} has no such field" if report.version < 5 else ""
    verdict.add(
        title,
        not missing,
        field=field,
        wanted=f"{needed:#x} set",
        seen=f"{vector:#x}",
        reason=f"{field} {vector:#x} lacks {missing:#x}{old}",
        status=POLICY,
    )
