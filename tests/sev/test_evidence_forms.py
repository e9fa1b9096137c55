"""The report in every form that is in the field, and what is refused: two reports, swapped bytes, cut ones, other vendors'."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sev.certificates import ARK
from sev.errors import MalformedReport, SevError
from sev.evidence import Evidence, add_certificates, read_evidence
from sev.evidence.fields import assemble
from sev.kds import pem
from sev.platform import Platform
from sev.report import SIZE, Report
from sev.verifier import verify
from tests.sev import evidence_forms as forms


def _raw(platform: Platform, **fields: object) -> bytes:
    filled = {"report_data": bytes(range(64)), "guest_svn": 7, "family_id": bytes(range(16))} | fields
    return platform.sign_report(platform.report(**filled).encode())  # type: ignore[arg-type]


@pytest.mark.parametrize("product", ["milan", "turin"])
def test_every_form_gives_the_report(product: str, platforms: dict[str, Platform]) -> None:
    platform = platforms[product]
    raw = _raw(platform)
    for name, data in forms.all_forms(platform, raw).items():
        evidence = read_evidence(data)
        assert evidence.report == raw, name
        assert evidence.form, name


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_decoded_reports_of_every_version(version: int, turin: Platform) -> None:
    raw = _raw(turin, version=version)
    for data in (
        forms.sevsnp_report(raw),
        forms.sevsnp_text(raw),
        json.dumps(forms.decoded_by_protojson(raw)).encode(),
    ):
        assert read_evidence(data).report == raw
    assert assemble(forms.decoded_by_sidecar(raw)) == raw


@pytest.mark.parametrize(
    "words",
    [
        *(["xxd"], ["xxd", "-p"], ["xxd", "-c", "32"], ["xxd", "-g", "1"], ["xxd", "-i"], ["hexdump", "-C"]),
        *(["od", "-An", "-v", "-tx1"], ["od", "-tx1"], ["od", "-Ax", "-tx1"], ["od", "-Ad", "-v", "-tx1"], ["base64"]),
        *(["base64", "-w0"], ["basenc", "--base64url"], ["openssl", "base64"]),
    ],
    ids=" ".join,
)
def test_dumps_of_real_tools(words: list[str], turin: Platform) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    raw = _raw(turin)
    text = subprocess.run(words, input=raw, capture_output=True, check=True).stdout
    assert read_evidence(text).report == raw
    assert read_evidence(text.replace(b"\n", b"\r\n")).report == raw


def test_what_came_along_is_found_too(turin: Platform) -> None:
    raw, vcek = _raw(turin), turin.leaf("vcek").der
    issued = turin.authority().certificates
    chain = b"".join(pem("CERTIFICATE", each.der) for each in (turin.leaf("vcek"), *issued.values()))
    found = {
        name: sorted(certificate.kind for certificate in read_evidence(json.dumps(value).encode()).certificates)
        for name, value in forms.json_forms(raw, vcek, chain).items()
    }
    assert found["trustee"] == found["kbs"] == found["attestation service"] == found["attestation-rs"] == ["VCEK"]
    assert found["azure attestation"] == found["az-snp-vtpm 0"] == found["hex"] == ["ARK", "ASK", "ASVK", "VCEK"]
    whole = read_evidence(forms.sevsnp_attestation(raw, vcek, issued["ASK"].der, issued[ARK].der))
    assert [certificate.kind for certificate in whole.certificates] == ["VCEK", "ASK", "ARK"]
    assert verify(whole.report, whole.certificates, roots=[issued[ARK]]).verified
    among = read_evidence(
        b"\xd9\x01\x02" + b"\0" * 9 + raw + b"\x59\x05" + vcek + b"\x59\x06" + issued["ASK"].der + b"\xff"
    )
    assert [certificate.kind for certificate in among.certificates] == ["VCEK", "ASK"]
    text = read_evidence(forms.sevsnp_text(raw, vcek))
    assert (text.report, [certificate.der for certificate in text.certificates]) == (raw, [vcek])


def test_collateral_in_every_form(turin: Platform) -> None:
    vcek, issued = turin.leaf("vcek").der, turin.authority().certificates
    chain = pem("CERTIFICATE", issued["ASK"].der) + pem("CERTIFICATE", issued[ARK].der)
    thim = {"vcekCert": pem("CERTIFICATE", vcek).decode(), "tcbm": "1", "certificateChain": chain.decode()}
    for data, kinds in (
        (json.dumps(thim).encode(), "VCEK ASK ARK"),
        (forms.oak_endorsements(vcek), "VCEK"),
        (f'tee_certificate: "{forms.escaped(vcek)}"'.encode(), "VCEK"),
        (chain.replace(b"\n", b"\r\n"), "ASK ARK"),
        (b"\xef\xbb\xbf" + chain, "ASK ARK"),
        (b"subject=CN\n" + chain + b"trailing text\n", "ASK ARK"),
        (pem("CERTIFICATE", vcek) + chain, "VCEK ASK ARK"),
        (vcek + issued["ASK"].der + issued[ARK].der, "VCEK ASK ARK"),
        (vcek + b"\0\0\n", "VCEK"),
        (vcek.hex().encode(), "VCEK"),
        (forms._b64(chain).encode(), "ASK ARK"),
        (forms._b64(vcek).encode(), "VCEK"),
        (turin.certificate_table(), "VCEK ASK ARK"),
        (_mixed_endian(turin.certificate_table()), "VCEK ASK ARK"),
        (forms.sevsnp_attestation(_raw(turin), vcek), "VCEK"),
    ):
        evidence = Evidence(b"")
        add_certificates(evidence, data)
        assert [certificate.kind for certificate in evidence.certificates] == kinds.split(), data[:60]


def _mixed_endian(table: bytes) -> bytes:
    """The table with its GUIDs in the other byte order."""
    out = bytearray(table)
    for at in range(0, 72, 24):
        out[at : at + 16] = (
            table[at : at + 4][::-1]
            + table[at + 4 : at + 6][::-1]
            + table[at + 6 : at + 8][::-1]
            + table[at + 8 : at + 16]
        )
    return bytes(out)


def test_certificates_of_others_are_left_out_and_said(turin: Platform) -> None:
    other = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-nodes",
            "-keyout",
            "/dev/null",
            "-subj",
            "/CN=Global Virtual TPM CA",
        ],
        capture_output=True,
        check=True,
    ).stdout
    evidence = Evidence(b"")
    add_certificates(evidence, other + pem("CERTIFICATE", turin.leaf("vcek").der))
    assert [certificate.kind for certificate in evidence.certificates] == ["VCEK"]
    assert "left out: certificate of 'Global Virtual TPM CA'" in evidence.notes[0]
    with pytest.raises(SevError, match="Global Virtual TPM CA"):
        add_certificates(Evidence(b""), other)
    # A malformed certificate of AMD's names is no such thing.
    with pytest.raises(SevError, match="serial number -1"):
        add_certificates(
            evidence,
            turin.leaf("vcek").der.replace(b"\x02\x01\x02\x02\x01\x00\x30", b"\x02\x01\x02\x02\x01\xff\x30", 1),
        )


def test_text_may_be_as_long_as_a_report(turin: Platform) -> None:
    raw = _raw(turin)
    chain = pem("CERTIFICATE", turin.leaf("vcek").der)
    assert len(chain) > SIZE
    for text in (b"x" * SIZE, json.dumps({"a": "b" * (SIZE - 9)}).encode(), b"11" * (SIZE // 2)):
        assert len(text) == SIZE
        with pytest.raises(MalformedReport, match=r"no report|text of"):
            read_evidence(text)
    assert read_evidence(forms.RESPONSE + raw + turin.certificate_table()).certificates[0].kind == "VCEK"


def test_two_reports_are_no_choice_of_ours(turin: Platform) -> None:
    one, two = _raw(turin), _raw(turin, guest_svn=8)
    for data in (
        one.hex().encode() + b"\n--\n" + two.hex().encode() + b"\n--",
        json.dumps([forms._b64(one), forms._b64(two)]).encode(),
        b"\xff\0" * 20 + one + two,
        json.dumps({"a": forms._b64(one), "b": forms.decoded_by_sidecar(two)}).encode(),
    ):
        with pytest.raises(MalformedReport, match="2 different reports"):
            read_evidence(data)
    # The same one twice is one.
    assert read_evidence(json.dumps({"a": forms._b64(one), "b": one.hex()}).encode()).report == one


def test_what_is_no_report_is_named(turin: Platform) -> None:
    raw = _raw(turin)
    words = b"".join(raw[at : at + 2][::-1] for at in range(0, SIZE, 2))
    crlf = bytes(raw[:0x50]) + b"\n" * 4 + raw[0x54:]
    for data, reason in (
        (raw[:-100], "cut off: 1084 of its 1184 bytes"),
        (raw[:900].hex().encode(), "cut off: 900 of its 1184 bytes"),
        (raw + b"x" * 9, "9 bytes behind the 1184"),
        (words, "swapped in groups of 2: hexdump without -C"),
        (words.hex().encode(), "swapped in groups of 2"),
        (b"".join(raw[at : at + 4][::-1] for at in range(0, SIZE, 4)), "swapped in groups of 4"),
        (raw.decode("utf-8", "replace").encode(), "conversion to UTF-8"),
        (crlf.replace(b"\n", b"\r\n"), "line ends were converted"),
        (b"\x04\x00\x02\x00\x81\x00\x00\x00" + bytes(5000), "Intel TDX quote"),
        (forms.packed(raw), "gzip: unpack it first"),
        (bytes(1216), "zero bytes: the request for a report failed"),
        (forms.hcl(raw, kind=4), "Intel TDX"),
        (forms.hcl(raw)[:1200], "HCL blob of 1200 bytes"),
        (b'{"report": "AA", "report": "BB"}', "stands twice"),
        (b'{"a":' * 5000, "nested too deeply"),
        (b"[" * 200 + b"]" * 200, "nested too deeply"),
        (pem("CERTIFICATE", turin.leaf("vcek").der), "no report, only 1 certificates"),
        (b'report {\n  version: 5\n  report_data: "x"\n  romes: 1\n}', 'has no field named "romes"'),
        (forms.sevsnp_text(raw).replace(b"vmpl", b"vmpx") + b"\nreport_data: 5", "text of a sevsnp message"),
        (forms.sevsnp_report(raw)[:-1], "no report"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "without its end"),
        (_DISPLAYED.encode(), "as a tool displays it to people"),
    ):
        with pytest.raises(SevError, match=reason) as caught:
            read_evidence(data)
        assert "\n" not in str(caught.value)


_DISPLAYED = """Attestation Report:

Version:                      3

Guest SVN:                    0

Guest Policy (0x30000):
  SMT Allowed:   true

Measurement:
03 67 be e6 78 b3 3a 4a 0f b2 cf 38 1d 55 ef ce
7f a7 dc 9f 2a 96 d0 ff 2c 3d ee 33 1a 6e 71 0b
a7 c9 0d 51 ba d2 ad 23 12 2d 91 f5 22 7c 05 e1

Host Data:
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
"""


def test_a_decoded_report_without_a_field_is_named(turin: Platform) -> None:
    value = forms.decoded_by_sev_crate(_raw(turin))
    for name in ("host_data", "reported_tcb", "current"):
        with pytest.raises(MalformedReport, match=r"decoded report without|no number"):
            assemble({key: item for key, item in value.items() if key != name})
    for name, bad in (
        *(("policy", -1), ("policy", True), ("vmpl", 1 << 32), ("host_data", [1] * 31), ("host_data", [256] * 32)),
        *(("chip_id", "zz"), ("signature", {"r": [0] * 72}), ("reported_tcb", {"fmc": 300}), ("reported_tcb", "zz")),
    ):
        with pytest.raises(MalformedReport, match=f"decoded report(:| without) {name}"):
            assemble(value | {name: bad})


def test_layers_and_pieces_are_bounded() -> None:
    text = "x"
    for _ in range(12):
        text = json.dumps({"pad": "p" * 300, "inner": text})
    with pytest.raises(MalformedReport, match=r"no report|layers"):
        read_evidence(text.encode())
    inner = bytes(300)
    for _ in range(30):
        inner = forms.field(1, inner)
    with pytest.raises(MalformedReport, match="layers"):
        read_evidence(inner)
    with pytest.raises(MalformedReport, match="too many pieces"):
        read_evidence(json.dumps(["A" * 256] * 9000).encode())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_changed_file_is_read_or_refused_and_never_verifies_changed(data: st.DataObject, turin: Platform) -> None:
    """Bytes are changed, cut out, doubled. What is then found is the same report, or one that does not verify."""
    raw = _CACHE.setdefault("raw", _raw(turin))
    made = _CACHE.setdefault("forms", forms.all_forms(turin, raw))
    text = bytearray(made[data.draw(st.sampled_from(sorted(made)))])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        size = data.draw(st.integers(0, 40))
        match data.draw(st.integers(0, 3)):
            case 0:
                text[at] = data.draw(st.integers(0, 255))
            case 1 if size < len(text):
                del text[at : at + size]
            case 2:
                text[at:at] = text[at : at + size]
            case _:
                text[at : at + 4] = data.draw(st.binary(max_size=6))
        if not text:
            return
    try:
        evidence = read_evidence(bytes(text))
    except SevError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
        return
    assert len(evidence.report) == SIZE
    certificates = turin.certificates()
    verdict = verify(evidence.report, certificates, roots=[turin.authority().certificates[ARK]])
    assert verdict.verified == (evidence.report == raw)


_CACHE: dict[str, object] = {}


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_json_is_read_or_refused(value: object) -> None:
    with pytest.raises(SevError) as caught:
        read_evidence(json.dumps(value).encode())
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_decoded_fields_are_a_report_or_refused(data: st.DataObject, turin: Platform) -> None:
    value = forms.decoded_by_sev_crate(_raw(turin))
    name = data.draw(st.sampled_from(sorted(value)))
    anything = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.lists(st.integers())
        | st.dictionaries(st.text(), st.integers())
    )
    try:
        raw = assemble(value | {name: data.draw(anything)})
    except MalformedReport as error:
        assert "\n" not in str(error)
    else:
        assert len(raw) == SIZE


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"\x0a", b"\x08", b"HCLA", b"\x30\x82", b"-----BEGIN ", b"report {\nreport_data", b""]),
    st.binary(max_size=3000),
)
def test_any_bytes_are_read_or_refused(head: bytes, data: bytes) -> None:
    try:
        evidence = read_evidence(head + data)
    except SevError as error:
        assert "\n" not in str(error)
    else:
        assert len(evidence.report) == SIZE


def _verify(*words: object, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "cvmboot", "attest", "verify", "--offline", *map(str, words)]
    return subprocess.run(command, input=typed, capture_output=True, timeout=60, check=False)


def test_a_folder_of_configfs_tsm(turin: Platform, tmp_path: Path) -> None:
    entry, root = tmp_path / "entry", tmp_path / "ark.der"
    entry.mkdir()
    raw, table = _raw(turin), turin.certificate_table()
    (entry / "outblob").write_bytes(raw)
    (entry / "auxblob").write_bytes(table)
    (entry / "provider").write_text("sev_guest\n")
    root.write_bytes(turin.authority().certificates[ARK].der)
    done = _verify(entry, "--trust-root", root)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, b"VERIFIED (EMULATED: VCEK Turin)"), done
    (entry / "auxblob").write_bytes(b"")
    assert _verify(entry, "--trust-root", root).returncode == 5
    table_file = tmp_path / "aux"
    table_file.write_bytes(table)
    assert _verify(entry / "outblob", "--certs", table_file, "--trust-root", root).returncode == 0
    (entry / "outblob").write_bytes(raw[:-1])
    done = _verify(entry, "--trust-root", root)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1) and b"cut off" in done.stderr


def test_a_folder_with_one_report_and_certificates(turin: Platform, tmp_path: Path) -> None:
    (tmp_path / "report.bin").write_bytes(_raw(turin))
    (tmp_path / "vcek.der").write_bytes(turin.leaf("vcek").der)
    (tmp_path / "notes.md").write_text("nothing")
    for name, certificate in turin.authority().certificates.items():
        (tmp_path / f"{name}.pem").write_bytes(pem("CERTIFICATE", certificate.der))
    assert _verify(tmp_path, "--trust-root", tmp_path / "ARK.pem").returncode == 0
    (tmp_path / "other").write_bytes(_raw(turin, guest_svn=9))
    done = _verify(tmp_path)
    assert done.returncode == 3 and b"2 different reports in this folder" in done.stderr


def test_runtime_data_must_be_bound(turin: Platform, tmp_path: Path) -> None:
    import hashlib

    bound = hashlib.sha256(forms.RUNTIME).digest().ljust(64, b"\0")
    raw = _raw(turin, report_data=bound)
    maa = {"report": forms._url(raw), "runtimeData": {"data": forms._url(forms.RUNTIME), "dataType": "JSON"}}
    for data, status in (
        (forms.hcl(raw), 0),
        (forms.hcl(raw, runtime=forms.RUNTIME.replace(b"true", b"null")), 4),
        (json.dumps(maa).encode(), 0),
        (json.dumps({"snp_report": raw.hex(), "runtime_data": forms.RUNTIME.decode()}).encode(), 0),
        (json.dumps({"snp_report": raw.hex(), "runtime_data": "another"}).encode(), 4),
    ):
        done = _verify("-", "--platform", turin.folder, "--json", typed=data)
        verdict = json.loads(done.stdout)
        (check,) = [check for check in verdict["checks"] if check["name"] == "runtime data"]
        assert (done.returncode, check["outcome"]) == (status, "failed" if status else "passed"), verdict["reason"]
    done = _verify("-", "--platform", turin.folder, "--json", typed=raw)
    assert [c["outcome"] for c in json.loads(done.stdout)["checks"] if c["name"] == "runtime data"] == ["not asked"]


def test_a_batch_takes_every_json(turin: Platform, tmp_path: Path) -> None:
    raw, vcek = _raw(turin), turin.leaf("vcek").der
    values = forms.json_forms(raw, vcek, pem("CERTIFICATE", vcek))
    del values["array"]  # a record is an object or a text
    del values["hex"]  # a record of the batch's own, with members that it does not have
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(value) + "\n" for value in values.values()))
    runtime = {name for name in values if "vtpm" in name}
    done = _verify("--batch", lines, "--platform", turin.folder)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    seen = {
        name: record["status"] for name, record in zip(values, sorted(records, key=lambda r: r["index"]), strict=True)
    }
    # The runtime data of these are not those that this report binds.
    assert seen == {name: 4 if name in runtime else 0 for name in values}, records
    typo = tmp_path / "typo.jsonl"
    typo.write_text(json.dumps({"evidence": raw.hex(), "mesurement": "00" * 48, "platform": "snp"}) + "\n")
    assert _verify("--batch", typo, "--platform", turin.folder).returncode == 3


def test_show_can_be_verified(turin: Platform) -> None:
    """What `attest show --json` writes holds the whole report, reserved bytes too."""
    raw = _raw(turin, reserved={0x208: b"\x05" * 0x98})
    command = [sys.executable, "-m", "cvmboot", "attest", "show", "-", "--json"]
    shown = subprocess.run(command, input=raw, capture_output=True, timeout=60, check=True).stdout
    assert read_evidence(shown).report == raw
    assert Report.decode(raw).reserved
