"""The report in a file: raw, text, firmware answers, extended requests."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev.errors import MalformedReport, SevError
from sev.evidence import Evidence, add_certificates, read_evidence
from sev.kds import pem
from sev.platform import Platform
from sev.report import SIZE

RESPONSE = bytes(4) + SIZE.to_bytes(4, "little") + bytes(24)


def _forms(raw: bytes) -> dict[str, bytes]:
    return {
        "raw": raw,
        "hex": raw.hex().encode(),
        "upper-case hex with line ends": "\r\n".join(
            raw.hex().upper()[at : at + 64] for at in range(0, 2 * SIZE, 64)
        ).encode(),
        "base64": base64.b64encode(raw),
        "base64 in lines": base64.encodebytes(raw),
        "base64url without padding": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "byte order mark": b"\xef\xbb\xbf" + raw.hex().encode() + b"\n",
        "MSG_REPORT_RSP": RESPONSE + raw,
        "MSG_REPORT_RSP in the buffer of the ioctl": (RESPONSE + raw).ljust(4000, b"\0"),
        "MSG_REPORT_RSP as hex": (RESPONSE + raw).hex().encode(),
        "a console log": b"> sev-report raw\r\n\x1b[32mreport:\x1b[0m " + raw.hex().encode() + b"\r\n> ",
    }


def test_the_report_is_found_in_every_form(turin: Platform) -> None:
    raw = turin.sign_report(turin.report(report_data=bytes(range(64))).encode())
    for form, data in _forms(raw).items():
        assert read_evidence(data).report == raw, form


def test_a_certificate_table_behind_the_report_is_read(turin: Platform) -> None:
    raw = turin.sign_report(turin.report().encode())
    evidence = read_evidence(raw + turin.certificate_table())
    assert evidence.report == raw
    assert [certificate.kind for certificate in evidence.certificates] == ["VCEK", "ASK", "ARK"]
    assert read_evidence(raw + bytes(24)).certificates == []


def test_collateral_may_be_pem_der_or_a_table(turin: Platform) -> None:
    leaf = turin.leaf("vcek").der
    for data in (leaf, pem("CERTIFICATE", leaf), turin.certificate_table()):
        evidence = Evidence(b"")
        add_certificates(evidence, data)
        assert evidence.certificates[0].der == leaf
    evidence = Evidence(b"")
    add_certificates(evidence, turin.crl())
    assert evidence.crls[0].issuer_cn == "ARK-Turin"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x16" + bytes(SIZE + 31), "status 0x16"),
        (b"\x16" + bytes(63), "status 0x16"),
        (b"\x05" + bytes(SIZE - 2), "no report"),
        (b"aa" * 40, "text of 40 bytes"),
        (b"hello world.", "no report"),
        (b"\0" * ((4 << 20) + 1), "at most"),
    ],
)
def test_what_holds_no_report(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedReport, match=reason):
        read_evidence(data)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_file_has_evidence_or_is_refused(data: st.DataObject, turin: Platform) -> None:
    raw = turin.report().encode()
    forms = [*_forms(raw).values(), raw + turin.certificate_table()]
    text = bytearray(data.draw(st.sampled_from(forms)))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    text = text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text
    try:
        evidence = read_evidence(bytes(text))
    except SevError as error:
        assert "\n" not in str(error)
    else:
        assert len(evidence.report) == SIZE


@given(st.binary(max_size=300))
def test_random_collateral_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(SevError):
        add_certificates(Evidence(b""), data)
