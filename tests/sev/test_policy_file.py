"""Policy files: read, refused with key and line, written from reports; whatever is in one, it is no crash."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sev.policy_file
from sev.appraisal import appraise
from sev.attestation_policy import ALL, BITS, KEYS, SETS, VALUES, Policy
from sev.platform import Platform
from sev.policy_file import LARGEST, BadPolicyFile, commented_policy, read_policy, read_values
from sev.report import Report
from sev.tcb import KDS_NAMES
from sev.verdict import PASSED, Verdict


def _refusal(text: str | bytes) -> str:
    with pytest.raises(BadPolicyFile) as caught:
        read_policy(text.encode() if isinstance(text, str) else text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_key_is_read() -> None:
    policy = read_policy(
        f"""\ufeff# all of them
measurement = ["{"01" * 48}",
  "{"02" * 48}"]
id_key_digest = "{"03" * 48}"
author_key_digest = ["{"04" * 48}"]
report_data = "{"05" * 64}"
host_data = "{"06" * 32}"
family_id = '{"07" * 16}'
image_id = "{"08" * 16}"
min_guest_svn = 9\r
min_firmware = "1.55"
vmpl = "any"
crl = "required"
allow = ["debug", "reserved"]
[min_tcb]
blSPL = 10
microcode = 11
""".encode()
    )
    assert policy.measurement == {b"\x01" * 48, b"\x02" * 48}
    assert policy.id_key_digest == {b"\x03" * 48}
    assert policy.author_key_digest == {b"\x04" * 48}
    assert (policy.report_data, policy.host_data) == (b"\x05" * 64, b"\x06" * 32)
    assert (policy.family_id, policy.image_id, policy.min_guest_svn) == (b"\x07" * 16, b"\x08" * 16, 9)
    assert (policy.min_firmware, policy.vmpl, policy.crl) == ((1, 55), None, "required")
    assert policy.allow == {"debug", "reserved"}
    assert policy.min_tcb == {"boot_loader": 10, "microcode": 11}


def test_what_is_wrong_is_named_with_its_line() -> None:
    for text, wanted in (
        ("vmpl = 0\n\nmesurement = 1\n", "line 3: mesurement: no such key"),
        ("# mesurement = 2\nvmpl = 0\n'mesurement' = 1\n", "line 3: mesurement: no such key"),
        ("allow = [\n]\n[extra]\nvmpl = 1\n", "line 3: extra: no such key"),
        ("a.b.c = 1", "line 1: a: no such key"),
        ("vmpl = 0\n[min_tcb]\nblSPL = 1\nrome = 2\n", "line 4: min_tcb.rome: no such SPL"),
        ("\nmin_tcb = { rome = 2 }\n", "line 2: min_tcb.rome: no such SPL"),
        ("min_tcb.blSPL = 1\nmin_tcb.snpSPL = 256\n", "line 2: min_tcb.snpSPL: 256; wanted 0 to 255"),
        ('[min_tcb]\nsnpSPL = "8"\n', "line 2: min_tcb.snpSPL: '8'; wanted 0 to 255"),
        ("crl = 'if-present'\nvmpl = true\n", "line 2: vmpl: True; wanted"),
        ("measurement = []", "line 1: measurement: an empty list"),
        ("vmpl = 1\nallow = ['vmpl']\n", "line 1: vmpl: asked for, and allow has vmpl"),
        ("vmpl = 0\nvmpl = 1\n", "no TOML: Cannot overwrite a value (at line 2"),
        ("vmpl == 0\n", "no TOML: Invalid value (at line 1"),
        ('"x\\ny" = 1', "'x\\ny': no such key"),
        (b"vmpl = 0\n# \xff\n", "line 2: byte 0xff is no UTF-8"),
        ("vmpl = 0\na" + ".a" * 65 + " = 1", "line 2: more than 64 dots in a line"),
        ("#" * (LARGEST + 1), f"more than {LARGEST} bytes"),
    ):
        assert _refusal(text).startswith(wanted), (text, _refusal(text))


def test_hostile_files_are_bounded() -> None:
    half = LARGEST // 2
    for text in (
        "a=" + "[" * (LARGEST - 2),
        "a=" + "{a=" * (LARGEST // 3 - 2),
        "a" + ".a" * (half - 4) + "=1",
        "[" + "a." * (half - 4) + "a]",
        "vmpl = " + "9" * (LARGEST - 10),
        "vmpl = 0x" + "f" * (LARGEST - 10),
        "a = 9999-99-99",
        "[[a]]\n" * (LARGEST // 6),
        "a = '''" + "\na = 1" * (LARGEST // 7),
        "".join(f"a{number}=1\n" for number in range(3000)),
        "vmpl = 9 # vmpl\n" + "# vmpl\n" * 4000,
        "x = [\n" + "'x = 1',\n" * 3000 + "]",
    ):
        assert len(text) <= LARGEST
        begin = time.process_time()
        _refusal(text)
        assert time.process_time() - begin < 2, text[:20]


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@example(b"min_tcb = { 'a.b' = 1 }")
def test_any_bytes_are_a_policy_or_refused(data: bytes) -> None:
    try:
        read_policy(data)
    except BadPolicyFile as error:
        assert "\n" not in str(error)


@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=4))
def test_a_changed_file_is_a_policy_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(commented_policy(Report(guest_svn=2, measurement=b"\x09" * 48)).encode())
    for place, value in changes:
        data[place % len(data)] = value
    try:
        read_policy(bytes(data))
    except BadPolicyFile as error:
        assert "\n" not in str(error)


def test_a_report_passes_the_policy_written_from_it(platforms: dict[str, Platform]) -> None:
    for platform in platforms.values():
        fields = {"measurement": b"\x33" * 48, "host_data": b"\x44" * 32, "id_key_digest": b"\x55" * 48}
        report = Report.decode(platform.report(**fields).encode())  # type: ignore[arg-type]
        line = platform.settings.line
        text = commented_policy(report, line.name)
        assert "NOTE" not in text
        verdict = Verdict()
        verdict.line = line.name
        appraise(verdict, report, read_policy(text.encode()))
        assert not verdict.failed
        outcomes = {check.name: check.outcome for check in verdict.checks}
        for name in ("measurement", "host data", "id key", "guest svn", "minimum snpSPL", "minimum firmware"):
            assert outcomes[name] == PASSED, name
        assert {"measurement", "host_data", "id_key_digest", "min_tcb"} <= set(read_values(text.encode()))


def test_a_report_that_fails_the_default_policy_is_not_let_pass_by_init(turin: Platform) -> None:
    text = commented_policy(turin.report(policy=0xB0000, vmpl=2))
    assert "NOTE: this very report fails, see allow: the guest policy allows DEBUG" in text
    assert "NOTE: this very report fails, see vmpl:" in text
    policy = read_policy(text.encode())
    assert (policy.vmpl, policy.allow) == (0, frozenset())


def test_real_reports_give_policies(real_pairs: list[Path]) -> None:
    for pair in real_pairs:
        read_policy(commented_policy(Report.decode((pair / "report.bin").read_bytes())).encode())


def test_the_schema_says_what_the_reader_does() -> None:
    schema = json.loads((Path(sev.policy_file.__file__).parent / sev.policy_file.SCHEMA).read_text())
    properties = schema["properties"]
    assert set(properties) == set(KEYS)
    assert schema["additionalProperties"] is False
    for name, size in VALUES.items():
        assert f"{{{2 * size}}}" in properties[name]["pattern"]
    for name, size in SETS.items():
        assert f"{{{2 * size}}}" in properties[name]["oneOf"][1]["items"]["pattern"]
    assert set(properties["min_tcb"]["properties"]) == set(KDS_NAMES.values())
    assert tuple(properties["allow"]["oneOf"][0]["enum"]) == ALL
    for field, kind in BITS.items():
        assert set(properties[field]["properties"]) == set(kind.NAMES.values()) - {"RESERVED_ONE"}
    for vmpl in properties["vmpl"]["enum"]:
        Policy.of({"vmpl": vmpl})


def _attest(*words: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "cvmboot", "attest", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_the_command_line(turin: Platform, tmp_path: Path) -> None:
    file, policy, bad = tmp_path / "report.bin", tmp_path / "policy.toml", tmp_path / "bad.toml"
    file.write_bytes(turin.sign_report(turin.report(measurement=b"\x77" * 48).encode()))
    assert _attest("policy", "init", file, "-o", policy).returncode == 0
    assert _attest("policy", "init", file).stdout == policy.read_bytes()
    again = _attest("policy", "init", file, "-o", policy)
    assert (again.returncode, again.stderr.count(b"\n")) == (1, 1)
    done = _attest("policy", "check", policy)
    assert done.returncode == 0 and b"asks for measurement, min_guest_svn, min_tcb" in done.stdout, done
    asked = ("verify", file, "--platform", turin.folder, "--offline", "--policy")
    assert _attest(*asked, policy).returncode == 0
    assert _attest(*asked, policy, "--measurement", "00" * 48).returncode == 7
    policy.write_text(policy.read_text().replace("77" * 48, "78" * 48))
    done = _attest(*asked, policy)
    assert done.returncode == 7 and b"MEASUREMENT" in done.stdout.splitlines()[0]
    assert _attest(*asked, policy, "--measurement", "77" * 48).returncode == 0
    bad.write_text("vmpl = 0\nmesurement = ''\n")
    for words in (("policy", "check", bad), (*asked, bad)):
        done = _attest(*words)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done
        assert b"bad.toml: line 2: mesurement: no such key" in done.stderr
    assert _attest("policy", "check", tmp_path / "none").returncode == 1
    assert json.loads(_attest("policy", "schema").stdout)["type"] == "object"
