"""Finds the report in a file and what came with it; the form is recognised, never asked for.

Bytes: ATTESTATION_REPORT itself; MSG_REPORT_RSP (AMD 56860: STATUS, REPORT_SIZE, 24 reserved bytes, the report); a report with
the certificate table of an extended guest request behind it; Azure's HCL blob; protocol buffers (go-sev-guest, Oak); a report
among other bytes. Text: any of these in hex, base64, dumps or escapes; PEM with any label; text format of go-sev-guest; JSON; a
line of a console log. What is not a report is named where it can be.
"""

import base64
import binascii
import itertools
import re

from sev import certificate_table
from sev.certificate_files import looks_like_crl, split_der
from sev.certificates import LARGEST_CERTIFICATE, Certificate, ForeignCertificate
from sev.errors import MalformedCertificate, MalformedReport
from sev.evidence import shape
from sev.evidence.finds import LARGEST, Evidence, Finds
from sev.report import LAST_TOLERATED_VERSION, SIZE
from sev.revocation import Crl

_RESPONSE_HEAD = 0x20
_LARGEST_ANSWER = 0x4000
_TABLE_STARTS = certificate_table.FIRST_BYTES
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----([^-]*)-----END ([A-Z0-9 ]{1,40})-----")
_CERTIFICATE_LABELS = (b"CERTIFICATE", b"TRUSTED CERTIFICATE", b"X509 CERTIFICATE", b"X509 CRL")
_HCL = b"HCLA"
# SEQUENCE { SEQUENCE {, both with lengths of two bytes.
_DER_START = re.compile(rb"(?=\x30\x82..\x30\x82)", re.DOTALL)
_MOST_STARTS = 1000
_DISPLAYED = (b"Guest SVN:", b"Measurement:", b"Host Data:")
_AMD = b"Advanced Micro Devices"
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_evidence(data: bytes) -> Evidence:
    """Find the report in a file's bytes, at most 4 MiB. MalformedReport, MalformedCertificate for a bad certificate beside it."""
    if len(data) > LARGEST:
        raise MalformedReport(f"{len(data)} bytes of evidence; at most {LARGEST} are read")
    if not data:
        raise MalformedReport("the file is empty")
    finds = Finds()
    _Search(finds).look(data, "", True)
    return finds.evidence(len(data))


def add_certificates(evidence: Evidence, data: bytes) -> None:
    """Add the certificates and CRLs in bytes of any form that read_evidence knows. MalformedCertificate if there are none."""
    if len(data) > LARGEST:
        raise MalformedCertificate(f"{len(data)} bytes of certificates; at most {LARGEST} are read")
    finds = Finds()
    try:
        _Search(finds).look(data, "", True)
    except MalformedReport as error:
        raise MalformedCertificate(str(error)) from None
    if not finds.certificates and not finds.crls:
        raise MalformedCertificate((finds.notes or ["neither DER nor PEM: no certificate found"])[0])
    evidence.certificates += finds.certificates.values()
    evidence.crls += finds.crls.values()
    evidence.notes += finds.notes


class _Search:
    """One search; what it finds goes into `finds`."""

    def __init__(self, finds: Finds) -> None:
        self.finds = finds
        self._layer = 0

    def look(self, data: bytes, where: str, deep: bool) -> None:
        """Look at bytes for what they are; where `deep`, also at text and at what lies within."""
        if not self.finds.may_look(len(data), self._layer):
            return
        self._layer += 1
        try:
            if self._binary(data, where) or not deep:
                return
            text = _text(data)
            if text is not None:
                self._text(text, where)
            else:
                self._within(data, where)
        finally:
            self._layer -= 1

    def _binary(self, data: bytes, where: str) -> bool:
        """Whether these bytes are of a form of their own."""
        if len(data) == SIZE and b"\0" in data:  # text may be as long
            return self._report(data, where)
        head, end = data[:_RESPONSE_HEAD], _RESPONSE_HEAD + SIZE
        if len(data) >= end and head == bytes(4) + SIZE.to_bytes(4, "little") + bytes(24):
            if data[end : end + 4] in _TABLE_STARTS:
                self._table(data[end:], where)
            return self._report(data[_RESPONSE_HEAD:end], _joined(where, "MSG_REPORT_RSP"))
        if _RESPONSE_HEAD <= len(data) <= _LARGEST_ANSWER and _is_refusal(data):
            status = int.from_bytes(data[:4], "little")
            self.finds.problems.append(f"MSG_REPORT_RSP with status {status:#x}: the firmware gave no report")
            return True
        if data[:4] == _HCL:
            from sev.evidence import hcl

            report, runtime = hcl.decode(data)
            self.finds.runtime_data.append(runtime)
            return self._report(report, _joined(where, "Azure's HCL blob"))
        if data[:4] in _TABLE_STARTS and self._table(data, where):
            return True
        if data[:1] == b"\x30" and self._der(data, where):
            return True
        if len(data) > SIZE and 0 < int.from_bytes(data[:4], "little") <= LAST_TOLERATED_VERSION:
            return self._report_and_more(data, where)
        return data[:1] in (b"\x0a", b"\x08", b"\x12") and self._protobuf(data, where)

    def _report(self, raw: bytes, where: str) -> bool:
        if shape.is_plausible(raw):
            self.finds.reports.setdefault(bytes(raw), where)
        elif any(raw) and (problem := shape.misread(raw)):
            self.finds.problems.append(problem)
        else:
            self.finds.suspects.setdefault(bytes(raw), where)
        return True

    def _report_and_more(self, data: bytes, where: str) -> bool:
        """A report with a certificate table behind it, as an extended guest request gives both; or with zeros."""
        rest = data[SIZE:]
        if not any(rest):
            if not shape.is_plausible(data) and (problem := shape.misread(data)):
                self.finds.problems.append(problem)
                return True
            return self._report(data[:SIZE], where)
        if rest[:4] in _TABLE_STARTS or int.from_bytes(rest[16:20], "little") < len(rest):
            before = self.finds.count
            if self._table(rest, where):
                return self._report(data[:SIZE], _joined(where, "with a certificate table"))
            assert self.finds.count == before
        if not shape.is_plausible(data):
            return False
        from sev.evidence import hcl

        if hcl.is_rest(rest):
            if runtime := hcl.decode_rest(rest):
                self.finds.runtime_data.append(runtime)
            return self._report(data[:SIZE], _joined(where, "Azure's HCL blob without its header"))
        self.finds.problems.append(shape.misread(data))
        return True

    def _table(self, data: bytes, where: str) -> bool:
        try:
            entries = certificate_table.decode(data)
        except MalformedCertificate as error:
            if data[:4] in _TABLE_STARTS:
                self.finds.problems.append(str(error))
            return False
        for name, contents in entries:
            if name in certificate_table.GUIDS and contents:
                self._certificates(contents, _joined(where, f"{name} of the certificate table"))
        return True

    def _certificates(self, data: bytes, where: str) -> None:
        """What must be certificates or a CRL: DER or PEM."""
        if data[:1] == b"\x30":
            for der in split_der(data):
                self._certificate(der, where)
        elif not self._pem(data, where):
            raise MalformedCertificate(f"{where}: neither DER nor PEM")

    def _der(self, data: bytes, where: str) -> bool:
        """Certificates and CRLs in DER. What merely begins like DER is none of them, unless it has AMD's names in it."""
        amd = _AMD in data
        try:
            parts = split_der(data)
        except MalformedCertificate as error:
            if amd:
                raise MalformedCertificate(_prefixed(where, str(error))) from None
            return False
        if not amd and where:
            return False
        for der in parts:
            self._certificate(der, where)
        return True

    def _certificate(self, der: bytes, where: str) -> None:
        """A certificate or CRL. One that is not AMD's is left out; MalformedCertificate for one of AMD's that is none."""
        try:
            self.finds.collateral(Crl.decode(der) if looks_like_crl(der) else Certificate.decode(der))
        except ForeignCertificate as error:
            self.finds.notes.append(_prefixed(where, f"left out: {error}"))
        except MalformedCertificate as error:
            raise MalformedCertificate(_prefixed(where, str(error))) from None

    def _protobuf(self, data: bytes, where: str) -> bool:
        from sev.evidence import protobuf_form

        found = protobuf_form.from_binary(data)
        if found is not None:
            self._parts(found, _joined(where, "sevsnp protocol buffer"))
            return True
        before = self.finds.count
        for number, inner in protobuf_form.fields_of(data):
            self.look(inner, _joined(where, f"field {number}"), False)
        return self.finds.count > before

    def _parts(self, found: tuple[bytes, list[bytes]], where: str) -> None:
        report, certificates = found
        for contents in certificates:
            self._certificates(contents, where)
        self._report(report, where)

    def _text(self, text: bytes, where: str) -> None:
        from sev.evidence import dumps, json_form, protobuf_form

        bare = text.strip()
        if bare[:1] in (b"{", b"["):
            value = json_form.parse(bare)
            if value is not None:
                before = self.finds.count
                json_form.walk(self.finds, value, where or "JSON", self.look)
                if self.finds.count > before or not isinstance(value, list):
                    return
        if self._pem(text, where):
            if not self.finds.reports:
                self._among_text(_PEM.sub(b"", text), where)
            return
        before = self.finds.count
        found = protobuf_form.from_text(text.decode("utf-8", "replace"))
        if found is not None:
            self._parts(found, _joined(where, "text of a sevsnp message"))
            return
        for form in (dumps.dump, dumps.decimal, dumps.hexadecimal, dumps.base64_text):
            decoded = form(text)
            if decoded:
                name = form.__name__.removesuffix("_text")
                self.look(decoded, _joined(where, name), True)
                if self.finds.count > before:
                    return
                self.finds.problems.append(
                    shape.misread(decoded)
                    or f"text of {len(decoded)} bytes ({name}); wanted a report of {SIZE}, or something that holds one"
                )
        self._among_text(text, where)

    def _among_text(self, text: bytes, where: str) -> None:
        """Long runs in a log, in source code, in a text format that nobody knows."""
        from sev.evidence import dumps

        before = self.finds.count
        for decoded in (*dumps.quoted(text), *dumps.runs(text)):
            self.look(decoded, _joined(where, "within text"), True)
        if self.finds.count == before and all(word in text for word in _DISPLAYED):
            problem = "this is a report as a tool displays it to people (snpguest display report); hand over the report itself"
            self.finds.problems.insert(0, problem)

    def _within(self, data: bytes, where: str) -> None:
        """A report among other bytes, or a reason why these are none."""
        from sev.evidence import dumps

        places = shape.reports_within(data)
        for place in places:
            self.finds.reports.setdefault(bytes(data[place : place + SIZE]), _joined(where, f"at offset {place:#x}"))
        if places:
            self._certificates_within(data, where)
            return
        before = self.finds.count
        if problem := shape.misread(data):
            self.finds.problems.append(problem)
        elif len(data) <= LARGEST:
            for inner in (*dumps.quoted(data), *dumps.runs(data)):
                self.look(inner, _joined(where, "within other bytes"), False)
        if self.finds.count == before and not self.finds.problems:
            self._protobuf(data, where)

    def _certificates_within(self, data: bytes, where: str) -> None:
        """Certificates of AMD's among other bytes, beside a report; what only looks like one is nothing."""
        for start in itertools.islice(_DER_START.finditer(data), _MOST_STARTS):
            at = start.start()
            der = data[at : at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")]
            if len(der) <= LARGEST_CERTIFICATE and _AMD in der:
                try:
                    self._certificate(der, where)
                except MalformedCertificate:
                    continue

    def _pem(self, text: bytes, where: str) -> bool:
        """Blocks of PEM, certificates and others; also with "\\n" for line ends, as text within other text has it."""
        if b"-----BEGIN" not in text:
            return False
        blocks = 0
        for block in _PEM.finditer(text.replace(b"\\r", b"").replace(b"\\n", b"\n")):
            blocks += 1
            label = block[1]
            if label != block[3]:
                raise MalformedCertificate(_prefixed(where, "PEM blocks that do not pair up"))
            body = b"\n".join(line for line in block[2].splitlines() if b":" not in line)
            try:
                inner = base64.b64decode(b"".join(body.split()), validate=True)
            except binascii.Error as error:
                raise MalformedCertificate(_prefixed(where, f"PEM block {blocks}: {error}")) from None
            if label in _CERTIFICATE_LABELS:
                self.finds.may_look(len(inner), self._layer)
                self._certificates(inner, _joined(where, f"PEM block {blocks}"))
            elif inner[:1] != b"\x30":  # no key
                self.look(inner, _joined(where, f"PEM block {label.decode()}"), False)
        if not blocks and re.search(rb"-----BEGIN (?:CERTIFICATE|X509 CRL)-----", text):
            raise MalformedCertificate(_prefixed(where, "a PEM block without its end"))
        return blocks > 0


def _text(data: bytes) -> bytes | None:
    """The file as text in a code that contains ASCII, without a byte order mark; None if it is binary."""
    for mark, code in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(code).encode()
            except UnicodeDecodeError:
                return None
    return None if b"\0" in data else data


def _is_refusal(data: bytes) -> bool:
    return data[0] != 0 and not any(data[1:])


def _joined(where: str, what: str) -> str:
    return f"{where}, {what}" if where else what


def _prefixed(where: str, what: str) -> str:
    return f"{where}: {what}" if where else what
