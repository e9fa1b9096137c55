"""Finds the report in a file: raw, as text, as the firmware's answer, or with a certificate table behind it.

MSG_REPORT_RSP (AMD 56860, table "MSG_REPORT_RSP"): STATUS, REPORT_SIZE, 24 reserved bytes, the report. Text is hex or base64
(also base64url); a hex line may stand among others, as a console log has it.
"""

import base64
import binascii
import re

from sev import certificate_table
from sev.certificates import Certificate, split_certificates
from sev.errors import MalformedCertificate, MalformedReport
from sev.report import LAST_TOLERATED_VERSION, SIZE
from sev.revocation import Crl

LARGEST = 4 << 20
_RESPONSE_HEAD = 0x20
_HEX_LINE = re.compile(rb"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}){%d,}(?![0-9a-fA-F])" % SIZE)
_TEXT = re.compile(rb"[0-9A-Za-z+/=_\-\s]*\Z")
_TABLE_STARTS = {guid[:4] for guid in certificate_table.GUIDS.values()}
_HEX = re.compile(rb"[0-9a-fA-F]*\Z")


class Evidence:
    """`report` are the 1184 bytes, `certificates` and `crls` what came with them."""

    __slots__ = ("certificates", "crls", "report")

    def __init__(
        self, report: bytes, certificates: list[Certificate] | None = None, crls: list[Crl] | None = None
    ) -> None:
        self.report = report
        self.certificates = certificates or []
        self.crls = crls or []


def read_evidence(data: bytes) -> Evidence:
    """Find the report in a file's bytes, at most 4 MiB. MalformedReport, MalformedCertificate for a bad table behind it."""
    if len(data) > LARGEST:
        raise MalformedReport(f"{len(data)} bytes of evidence; at most {LARGEST} are read")
    if not data:
        raise MalformedReport("the file is empty")
    found = _binary(data)
    if found is not None:
        return found
    text = data.removeprefix(b"\xef\xbb\xbf").strip()
    decoded = _decoded(text)
    if decoded is not None:
        found = _binary(decoded)
        if found is not None:
            return found
        raise MalformedReport(f"text of {len(decoded)} bytes; wanted a report of {SIZE}, or an answer that holds one")
    line = _HEX_LINE.search(data)
    found = _binary(bytes.fromhex(line[0].decode())) if line else None
    if found is not None:
        return found
    raise MalformedReport(
        f"no report in {len(data)} bytes: neither {SIZE} bytes, nor MSG_REPORT_RSP, nor hex or base64 of either"
    )


def _binary(data: bytes) -> Evidence | None:
    if len(data) == SIZE:
        return Evidence(data)
    if len(data) >= _RESPONSE_HEAD + SIZE and _is_response(data):
        return Evidence(data[_RESPONSE_HEAD : _RESPONSE_HEAD + SIZE])
    if len(data) >= _RESPONSE_HEAD and len(data) <= 0x1000 and _is_refusal(data):
        status = int.from_bytes(data[:4], "little")
        raise MalformedReport(f"MSG_REPORT_RSP with status {status:#x}: the firmware gave no report")
    if len(data) > SIZE and 0 < int.from_bytes(data[:4], "little") <= LAST_TOLERATED_VERSION:
        return _with_table(data)
    return None


def _is_response(data: bytes) -> bool:
    return data[:_RESPONSE_HEAD] == bytes(4) + SIZE.to_bytes(4, "little") + bytes(24)


def _is_refusal(data: bytes) -> bool:
    return data[0] != 0 and not any(data[1:])


def _with_table(data: bytes) -> Evidence | None:
    """A report with a certificate table behind it, as an extended guest request gives both."""
    try:
        entries = certificate_table.decode(data[SIZE:])
    except MalformedCertificate:
        return None
    evidence = Evidence(data[:SIZE])
    for name, contents in entries:
        if name in certificate_table.GUIDS and contents:
            add_certificates(evidence, contents)
    return evidence


def _decoded(text: bytes) -> bytes | None:
    if not _TEXT.match(text):
        return None
    text = b"".join(text.split())
    if _HEX.match(text) and len(text) % 2 == 0:
        return bytes.fromhex(text.decode())
    try:
        padding = b"=" * (-len(text) % 4)
        return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")) + padding, validate=True)
    except binascii.Error:
        return None


def add_certificates(evidence: Evidence, data: bytes) -> None:
    """Add the certificates and CRLs in PEM or DER bytes, or in a certificate table. MalformedCertificate."""
    if data[:4] in _TABLE_STARTS:
        for name, contents in certificate_table.decode(data):
            if name in certificate_table.GUIDS and contents:
                add_certificates(evidence, contents)
        return
    for kind, der in split_certificates(data):
        if kind == "CERTIFICATE":
            evidence.certificates.append(Certificate.decode(der))
        else:
            evidence.crls.append(Crl.decode(der))
