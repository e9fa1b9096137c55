"""What a policy asks of the platform: bits by name, TCB relations, firmware, mitigation vectors, and the provider of a VLEK."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.appraisal import appraise
from sev.attestation_policy import BIT_RULES, BITS, KEYS, TCB_RULES, BadPolicy, Policy
from sev.certificates import ARK
from sev.platform import VCEK, VLEK, Platform
from sev.policy_file import SCHEMA, commented_policy, read_values
from sev.report import Report
from sev.tcb import Tcb
from sev.verdict import FAILED, NOT_ASKED, PASSED, POLICY, SKIPPED, Check, Verdict
from sev.verifier import verify


def _judged(platform: Platform, values: dict[str, Any], key: str = VCEK, **fields: Any) -> Verdict:
    raw = platform.sign_report(platform.report(key=key, **fields).encode())
    report = Report.decode(raw)
    issued = platform.authority().certificates
    verdict = verify(raw, [*issued.values(), platform.leaf(key, report.reported_tcb)], roots=[issued[ARK]])
    assert verdict.verified, verdict.reason
    appraise(verdict, report, Policy.of(values))
    return verdict


def _check(verdict: Verdict, name: str) -> Check:
    (check,) = [check for check in verdict.checks if check.name == name]
    return check


@pytest.mark.parametrize(("key", "field"), [("platform_info", "platform info"), ("guest_policy", "guest policy")])
def test_each_bit_may_be_required_and_forbidden(key: str, field: str, turin: Platform) -> None:
    kind = BITS[key]
    base = 0x30000 & ~(1 << 16) if key == "guest_policy" else 0
    member = "policy" if key == "guest_policy" else key
    for number, bit in kind.NAMES.items():
        if bit == "RESERVED_ONE":
            continue
        for is_set in (False, True):
            for rule in BIT_RULES:
                verdict = _judged(turin, {key: {bit: rule}}, **{member: base | is_set << number})
                check = _check(verdict, f"{field} {bit}")
                good = rule == "any" or (rule == "require") == is_set
                assert verdict.status == (0 if good else POLICY), (bit, is_set, rule, verdict.reason)
                assert check.outcome == (NOT_ASKED if rule == "any" else PASSED if good else FAILED)
                if not good:
                    assert bit in verdict.reason and check.seen == f"{bit} {'set' if is_set else 'clear'}"
        for bad in ("yes", True, 1, None, ["require"]):
            with pytest.raises(BadPolicy, match=rf"{key}\.{bit}"):
                Policy.of({key: {bit: bad}})


def test_unknown_bits_are_rejected_unless_allowed(turin: Platform) -> None:
    both = {"platform_info": 1 << 8 | 1 << 63}
    refused = _judged(turin, {}, **both)
    assert refused.status == POLICY and "bit8, bit63 set, which nobody has named" in refused.reason
    assert _judged(turin, {"platform_info": {"bit8": "any"}}, **both).status == POLICY
    assert _judged(turin, {"platform_info": {"bit8": "any", "bit63": "require"}}, **both).verified
    assert _judged(turin, {"allow": ["reserved"]}, **both).verified
    assert _judged(turin, {"platform_info": {"bit9": "require"}}).status == POLICY
    assert _judged(turin, {"allow": ["reserved"], "platform_info": {"bit8": "forbid"}}, **both).status == POLICY
    assert _judged(turin, {}, policy=0x30000 | 1 << 40).status == POLICY
    assert _judged(turin, {"guest_policy": {"bit40": "any"}}, policy=0x30000 | 1 << 40).verified
    for key, bit in (
        ("platform_info", "bit0"),
        ("platform_info", "bit64"),
        ("guest_policy", "bit3"),
        ("guest_policy", "rome"),
    ):
        with pytest.raises(BadPolicy, match=rf"{key}\.{bit}"):
            Policy.of({key: {bit: "any"}})


def test_values_of_platform_info_in_the_field_pass(platforms: dict[str, Platform]) -> None:
    for value in (0x01, 0x03, 0x24, 0x25, 0x27, 0x65, 0x67):
        for platform in platforms.values():
            assert _judged(platform, {}, platform_info=value).verified


def test_tcb_relations(milan: Platform) -> None:
    line = milan.settings.line
    low, high = (Tcb.of(line, boot_loader=3, tee=0, snp=snp, microcode=210).raw for snp in (8, 22))
    odd = Tcb.of(line, boot_loader=4, tee=0, snp=6, microcode=210).raw
    for name in ("committed", "reported", "launch"):
        default = "any" if name == "launch" else "at-most-current"
        for tcb, good in (
            (low, {"any", "at-most-current"}),
            (high, {"any", "at-most-current", "current"}),
            (odd, {"any"}),  # a later boot loader, an older SNP: not at most
        ):
            fields = {
                "current_tcb": high,
                "committed_tcb": high,
                "reported_tcb": high,
                "launch_tcb": high,
                f"{name}_tcb": tcb,
            }
            for rule in (*TCB_RULES, None):
                verdict = _judged(milan, {"tcb_relations": {name: rule}} if rule else {}, **fields)
                assert verdict.status == (0 if (rule or default) in good else POLICY), (name, rule, verdict.reason)
                outcome = _check(verdict, f"{name} tcb").outcome
                assert (outcome == NOT_ASKED) == ((rule or default) == "any")
    reason = _judged(milan, {}, current_tcb=low, committed_tcb=high).reason
    assert reason.startswith("COMMITTED_TCB blSPL=3 teeSPL=0 snpSPL=22 ucodeSPL=210 is not at most CURRENT_TCB blSPL=3")


def test_firmware_committed_and_current(turin: Platform) -> None:
    major, minor, build = turin.report().current_version
    provisional = {"committed_build": build - 1}
    assert _judged(turin, {}, **provisional).verified
    assert _judged(turin, {"tcb_relations": {"committed": "current"}}, **provisional).status == POLICY
    assert _judged(turin, {}, committed_build=build + 1).status == POLICY
    least = f"{major}.{minor}.{build}"
    assert _judged(turin, {"min_committed_firmware": least}).verified
    failed = _judged(turin, {"min_committed_firmware": least}, **provisional)
    assert failed.reason == f"COMMITTED_VERSION is {major}.{minor}.{build - 1}; wanted {least} or later"


def test_mitigation_vectors(turin: Platform) -> None:
    fields = {"launch_mit_vector": 0x3, "current_mit_vector": 0x3F}
    for values, good in (
        ({"launch_mitigations": "0x3"}, True),
        ({"launch_mitigations": "0x4"}, False),
        ({"launch_mitigations": 1, "current_mitigations": "0x3F"}, True),
        ({"current_mitigations": "0x40"}, False),
    ):
        assert _judged(turin, values, **fields).status == (0 if good else POLICY), values
    old = _judged(turin, {"current_mitigations": "0x1"}, version=4)
    assert old.reason == "CURRENT_MIT_VECTOR 0x0 lacks 0x1: a report of version 4 has no such field"
    for bad in ("3", "0x", "0x" + "1" * 17, -1, 1 << 63, True, [1]):
        with pytest.raises(BadPolicy, match="launch_mitigations"):
            Policy.of({"launch_mitigations": bad})


def test_the_provider_that_a_vlek_names(milan: Platform) -> None:
    loaded = Platform.load(milan.folder, load_vlek=True)
    name = loaded.settings.csp_id
    assert _judged(loaded, {"csp_id": [name, "CN=other"]}, key=VLEK).verified
    failed = _judged(loaded, {"csp_id": "CN=other"}, key=VLEK)
    assert (failed.status, failed.reason) == (POLICY, f"the VLEK is of {name}")
    assert _judged(milan, {"csp_id": name}).status == POLICY
    assert _check(_judged(milan, {}), "csp id").outcome == NOT_ASKED


def test_a_chip_may_be_asked_for(platforms: dict[str, Platform]) -> None:
    for platform in platforms.values():
        assert _judged(platform, {"chip_id": [platform.chip_id.hex(), "00" * 64]}).verified
        assert _judged(platform, {"chip_id": "00" * 64}).status == POLICY
    turin = platforms["turin"]
    assert _judged(turin, {"chip_id": turin.settings.hwid.hex()}).verified


def test_a_later_version_is_said_and_its_fields_are_not_trusted(turin: Platform) -> None:
    later = _judged(turin, {}, version=6)
    assert later.verified
    check = _check(later, "later fields")
    assert check.outcome == SKIPPED and "version 6" in check.reason
    more = _judged(turin, {}, version=6, reserved={0x208: b"\x01"})
    assert more.status == POLICY and "version 6 is newer than this program" in more.reason
    assert _judged(turin, {"allow": ["reserved"]}, version=6, reserved={0x208: b"\x01"}).verified


def test_a_host_s_own_report_is_named(turin: Platform) -> None:
    verdict = _judged(turin, {}, vmpl=0xFFFFFFFF)
    assert verdict.status == POLICY and "the host asked for it, no guest" in verdict.reason


def test_every_check_of_the_documentation_is_listed(turin: Platform) -> None:
    """Whatever is asked, the verdict has one line for each thing that could be."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "verification.md").read_text()
    for check in _judged(turin, {}).checks:
        name = (
            check.name.replace("of the VCEK", "of the ...")
            .replace("of the ASK", "of the ...")
            .replace("of the ARK", "of the ...")
        )
        for prefix in ("guest policy ", "platform info ", "tcb "):
            if name.startswith(prefix) and "unknown" not in name and name != "tcb reserved":
                name = f"{prefix}..."
        assert f"`{name}`" in text, name


def test_options_of_the_command_line(turin: Platform, tmp_path: Path) -> None:
    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report(platform_info=0x125, policy=0x30000).encode()))

    def run(*words: str) -> "subprocess.CompletedProcess[bytes]":
        command = [
            sys.executable,
            "-m",
            "cvmboot",
            "attest",
            "verify",
            "--offline",
            "--platform",
            str(turin.folder),
            str(file),
        ]
        return subprocess.run([*command, *words], capture_output=True, timeout=60, check=False)

    assert run().returncode == 7
    asked = (
        "--platform-info",
        "bit8=any,SMT_EN=require",
        "--guest-policy",
        "SINGLE_SOCKET=forbid",
        "--guest-policy",
        "SMT=require",
    )
    done = run(
        *asked,
        "--tcb-relations",
        "committed=current",
        "--current-mitigations",
        "0x1",
        "--min-committed-firmware",
        "1.55",
    )
    assert done.returncode == 0, done
    assert b"ok        platform info SMT_EN" in done.stdout and b"(wanted SMT_EN set)" in done.stdout
    assert run("--platform-info", "bit8=any", "--csp-id", "CN=x").returncode == 7
    for words, said in (
        (("--platform-info", "SMT_EN"), b"--platform-info SMT_EN: wanted BIT=RULE"),
        (("--platform-info", "ROME=any"), b"--platform-info ROME: no such bit"),
        (("--guest-policy", "SMT=maybe"), b"--guest-policy SMT: 'maybe'; wanted require"),
        (("--guest-policy", "DEBUG=any", "--allow", "debug"), b"--guest-policy DEBUG: asked for, and allow has debug"),
        (("--tcb-relations", "current=any"), b"--tcb-relations current: no such TCB"),
        (("--launch-mitigations", "3"), b"--launch-mitigations: '3'; wanted bits"),
        (("--crl", "off,stale-ok:3"), b"--crl: 'off,stale-ok:3'; wanted required"),
        (("--chip-id", "00"), b"--chip-id: 2 hex digits; wanted 128"),
    ):
        done = run(*words)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done
        assert said in done.stderr, done.stderr


_SCHEMA = jsonschema.Draft202012Validator(json.loads((Path(sys.modules["sev"].__path__[0]) / SCHEMA).read_text()))
_HEX = st.sampled_from(["00" * size for size in (8, 16, 32, 48, 64)] + ["zz", ""])
_RULE = st.sampled_from([*BIT_RULES, *TCB_RULES, "x"])
_NAMES = st.sampled_from(
    [
        *BITS["guest_policy"].NAMES.values(),
        *BITS["platform_info"].NAMES.values(),
        "bit8",
        "bit0",
        "bit63",
        "bit64",
        "bit40",
        "bit010",
    ]
)
_TABLES = (
    st.dictionaries(_NAMES, _RULE, max_size=3)
    | st.dictionaries(st.sampled_from(["committed", "reported", "launch", "current"]), _RULE, max_size=2)
    | st.dictionaries(st.sampled_from(["blSPL", "SNPspl", "microcode", "rome"]), st.integers(-1, 256), max_size=2)
)
_SOME = (
    _HEX
    | st.lists(_HEX, max_size=2)
    | st.integers(-1, 1 << 64)
    | st.booleans()
    | _TABLES
    | st.sampled_from(
        ["any", "off", "required", "required,stale-ok:9", "stale-ok:99999", "off,stale-ok:1", "if-present,", "0x3"]
    )
    | st.sampled_from(["1.55", "1.256", "1.55.255", "1", "1.2.3.4", "debug", "vmpl"])
    | st.lists(st.sampled_from(["debug", "vmpl", "migration", "reserved", "x"]), max_size=2)
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.sampled_from([*sorted(KEYS), "other"]), _SOME, max_size=3))
def test_the_schema_agrees_with_the_reader(values: dict[str, Any]) -> None:
    """Every policy that is read validates, and no other does; the schema cannot see an SPL that is named twice."""
    try:
        Policy.of(values)
    except BadPolicy as error:
        assert "twice" in str(error) or not _SCHEMA.is_valid(values), (values, str(error))
    else:
        assert _SCHEMA.is_valid(values), (values, list(_SCHEMA.iter_errors(values)))


def test_policies_from_reports_validate_and_pass_their_report(platforms: dict[str, Platform]) -> None:
    for platform in platforms.values():
        for version in (2, 3, 5):
            raw = platform.sign_report(platform.report(version=version, measurement=b"\x11" * 48, guest_svn=3).encode())
            values = read_values(commented_policy(Report.decode(raw), platform.settings.line.name).encode())
            _SCHEMA.validate(values)
            verdict = _judged(platform, values, version=version, measurement=b"\x11" * 48, guest_svn=3)
            assert verdict.verified, verdict.reason
            worse = _judged(platform, values, version=version, measurement=b"\x11" * 48, guest_svn=3, platform_info=0)
            assert worse.status == POLICY
