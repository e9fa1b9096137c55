"""What a verifier asks of a report: each of a policy's checks passes, fails for its reason, or was not asked for."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sev.appraisal import appraise
from sev.attestation_policy import KEYS, BadPolicy, Policy
from sev.certificates import ARK, ASK
from sev.platform import VCEK, Platform
from sev.platform.issue import issue_crl
from sev.report import Report
from sev.revocation import Crl
from sev.verdict import FAILED, MISSING, NOT_ASKED, PASSED, POLICY, REVOKED, SKIPPED, Check, Verdict
from sev.verifier import verify

_FIELDS = {
    "measurement": (48, "measurement"),
    "id_key_digest": (48, "id key"),
    "author_key_digest": (48, "author key"),
    "report_data": (64, "report data"),
    "host_data": (32, "host data"),
    "family_id": (16, "family id"),
    "image_id": (16, "image id"),
}


def _judged(platform: Platform, policy: Policy, crls: tuple[Crl, ...] = (), **fields: Any) -> Verdict:
    raw = platform.sign_report(platform.report(**fields).encode())
    report = Report.decode(raw)
    issued = platform.authority().certificates
    certificates = [*issued.values(), platform.leaf(VCEK, report.reported_tcb)]
    verdict = verify(raw, certificates, roots=[issued[ARK]], crls=crls)
    appraise(verdict, report, policy)
    return verdict


def _check(verdict: Verdict, name: str) -> Check:
    (check,) = [check for check in verdict.checks if check.name == name]
    return check


@pytest.mark.parametrize("key", _FIELDS)
def test_bytes_are_compared(key: str, turin: Platform) -> None:
    size, title = _FIELDS[key]
    fields: dict[str, Any] = {key: b"\x5a" * size, "key_info": 1}
    assert _check(_judged(turin, Policy(), **fields), title).outcome == NOT_ASKED
    passed = _judged(turin, Policy.of({key: "5A" * size}), **fields)
    assert passed.verified and _check(passed, title).outcome == PASSED
    failed = _judged(turin, Policy.of({key: "5b" * size}), **fields)
    check = _check(failed, title)
    assert (failed.status, check.outcome, check.field) == (POLICY, FAILED, key.upper())
    assert (check.wanted, check.seen) == ("5b" * size, "5a" * size)
    assert failed.reason.startswith(f"{key.upper()} 5a5a")
    for bad in ("5a" * (size - 1), "5a" * size + "0", "zz" * size, "", 5, ["5a", "5a" * size], True):
        with pytest.raises(BadPolicy, match=key):
            Policy.of({key: bad})


def test_a_set_lets_any_of_its_members_pass(turin: Platform) -> None:
    policy = Policy.of({"measurement": ["01" * 48, "02" * 48]})
    assert _judged(turin, policy, measurement=b"\x02" * 48).verified
    failed = _judged(turin, policy, measurement=b"\x03" * 48)
    assert failed.status == POLICY and "one of the 2 wanted" in failed.reason
    with pytest.raises(BadPolicy, match="empty list"):
        Policy.of({"measurement": []})


def test_an_author_key_digest_needs_an_author_key(turin: Platform) -> None:
    policy = Policy.of({"author_key_digest": "11" * 48})
    failed = _judged(turin, policy, author_key_digest=b"\x11" * 48, key_info=0)
    assert failed.status == POLICY and "AUTHOR_KEY_EN" in failed.reason


def test_minimums_are_inclusive(turin: Platform) -> None:
    # The emulated Turin: fmcSPL=1 blSPL=3 teeSPL=2 snpSPL=6 ucodeSPL=117.
    report = turin.report()
    major, minor, build = report.current_version
    for values, good in (
        ({"min_guest_svn": 7}, True),
        ({"min_guest_svn": 8}, False),
        ({"min_tcb": {"snpSPL": 6, "microcode": 117, "FMCspl": 1}}, True),
        ({"min_tcb": {"snpSPL": 7}}, False),
        ({"min_tcb": {"snpSPL": 1, "blSPL": 4}}, False),
        ({"min_firmware": f"{major}.{minor}"}, True),
        ({"min_firmware": f"{major}.{minor}.{build}"}, True),
        ({"min_firmware": f"{major}.{minor}.{build + 1}"}, False),
        ({"min_firmware": f"{major}.{minor + 1}"}, False),
        ({"min_firmware": f"{major + 1}.0.0"}, False),
        ({"min_firmware": f"{major - 1}.255.255"}, True),
    ):
        verdict = _judged(turin, Policy.of(values), guest_svn=7)
        assert verdict.status == (0 if good else POLICY), (values, verdict.reason)


def test_a_minimum_of_an_spl_that_the_line_lacks_fails(milan: Platform) -> None:
    verdict = _judged(milan, Policy.of({"min_tcb": {"fmcSPL": 0}}))
    assert verdict.status == POLICY
    assert verdict.reason == "Milan has no fmcSPL, only blSPL, teeSPL, snpSPL, ucodeSPL"


def test_the_vmpl_wanted(turin: Platform) -> None:
    for wanted, seen, good in ((0, 0, True), (1, 1, True), (1, 0, False), (0, 2, False), ("any", 3, True)):
        verdict = _judged(turin, Policy.of({"vmpl": wanted}), vmpl=seen)
        assert verdict.verified == good, (wanted, seen)
    with pytest.raises(BadPolicy, match="give one"):
        Policy.of({"vmpl": 1, "allow": ["vmpl"]})


def test_a_crl_is_required_or_not_looked_at(turin: Platform) -> None:
    required, off = Policy.of({"crl": "required"}), Policy.of({"crl": "off"})
    current = Crl.decode(turin.crl())
    assert _check(_judged(turin, Policy()), "revocation").outcome == SKIPPED
    missing = _judged(turin, required)
    assert missing.status == MISSING and missing.reason.startswith("a CRL is required: no CRL of")
    assert _judged(turin, required, (current,)).verified
    assert _check(_judged(turin, off, (current,)), "revocation").outcome == NOT_ASKED
    now, authority = datetime.now(UTC), turin.authority()
    for begin, end, revoked, seen in (
        (-9, -2, False, {"required": MISSING, "if-present": 0, "off": 0}),
        (-9, 9, True, {"required": REVOKED, "if-present": REVOKED, "off": 0}),
    ):
        times = now + timedelta(days=begin), now + timedelta(days=end)
        serials = {authority.certificates[ASK].serial: now} if revoked else {}
        crl = Crl.decode(issue_crl(turin.settings.line, authority.key(ARK), 9, times, serials))
        for when, status in seen.items():
            assert _judged(turin, Policy.of({"crl": when}), (crl,)).status == status, (when, begin)


def _values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100)
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(), _values()))
def test_any_plain_data_is_a_policy_or_refused_in_one_line(values: dict[str, Any]) -> None:
    try:
        Policy.of(values)
    except BadPolicy as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600


def _verify(*words: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "cvmboot", "attest", "verify", "--offline", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


@pytest.fixture
def asked(turin: Platform, tmp_path: Path) -> list[object]:
    """The words by which a report of the emulated Turin verifies."""
    file = tmp_path / "report.bin"
    file.write_bytes(turin.sign_report(turin.report(measurement=b"\x77" * 48, guest_svn=3).encode()))
    return [file, "--platform", turin.folder]


def test_options_of_the_command_line(asked: list[object]) -> None:
    measurement = ("--measurement", "00" * 48, "--measurement", "77" * 48)
    tcb = ("--min-tcb", "snpSPL=6,blSPL=3", "--min-tcb", "fmcSPL=1")
    done = _verify(*asked, *measurement, *tcb, "--min-guest-svn", 3, "--vmpl", "any", "--crl", "off")
    assert done.returncode == 0, done
    assert re.search(rb"ok +measurement", done.stdout)
    assert re.search(rb"not asked +revocation", done.stdout)
    done = _verify(*asked, "--measurement", "00" * 48)
    assert done.returncode == 7
    assert done.stdout.startswith(b"NOT VERIFIED: MEASUREMENT 7777777777777777... is not 0000000000000000...\n")
    assert _verify(*asked, "--vmpl", 2).returncode == 7


def test_wrong_options_are_usage_errors_in_one_line(asked: list[object]) -> None:
    for words, said in (
        (("--measurement", "77"), b"--measurement: 2 hex digits; wanted 96"),
        (("--min-tcb", "romeSPL=1"), b"--min-tcb romeSPL: no such SPL"),
        (("--min-tcb", "snpSPL=256"), b"--min-tcb snpSPL: 256; wanted 0 to 255"),
        (("--min-tcb", "snpSPL"), b"--min-tcb snpSPL: wanted NAME=N"),
        (("--min-firmware", "1"), b"--min-firmware: '1'; wanted MAJOR.MINOR"),
        (("--min-guest-svn", "-1"), b"--min-guest-svn: '-1'; wanted 0 to"),
        (("--vmpl", "4"), b"--vmpl: 4; wanted 0 to 3, or any"),
        (("--crl", "maybe"), b"--crl: 'maybe'; wanted required"),
        (("--allow", "all"), b"--allow: 'all'; wanted debug"),
    ):
        done = _verify(*asked, *words)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done
        assert said in done.stderr
