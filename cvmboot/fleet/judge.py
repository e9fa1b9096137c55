"""The verdict on a record, and the line that says it: what `attest verify` does with one file, done for many.

A judge is made of plain settings, so that a process or a machine elsewhere can make the same one. It asks nobody: a record whose
certificates are neither at hand nor in the cache goes back to who has the records, and comes again with what was found.
"""

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

from cvmboot.attest_input import evidence_of, pieces_of
from cvmboot.crew.chunk import OUR_ERROR, Reply, Settings
from cvmboot.fleet.errors import BadRecord
from cvmboot.fleet.loading import Loaded, Shelves, load
from cvmboot.fleet.records import BESIDE
from sev.appraisal import appraise
from sev.attestation_policy import CRL_REQUIRED, SETS, BadPolicy, Policy
from sev.binding import check_evidence, refusal
from sev.certificates import Certificate
from sev.collateral.cache import Cache
from sev.collateral.resolver import Collateral, Resolver
from sev.errors import MalformedReport, SevError
from sev.evidence import Evidence
from sev.evidence.shape import is_plausible
from sev.product import Line, line_named
from sev.report import SIZE, Report
from sev.revocation import Crl
from sev.tcb import Tcb
from sev.verdict import MALFORMED, POLICY, Verdict
from sev.verifier import Verifier

MOST_KEPT = 4096
MOST_NOTES = 20

# Stretches of ATTESTATION_REPORT (AMD 56860).
_VERSION, _KEY_INFO, _TCB_AND_CPU, _CHIP = slice(0x4), slice(0x48, 0x4C), slice(0x180, 0x18B), slice(0x1A0, 0x1E0)
_BASE64_SIZE = (SIZE + 2) // 3 * 4
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


class Judge:
    """Judges records under settings, which are plain data:

    `certificates`, `roots`, `crls` are lists of DER; `at` is an ISO time; `policy` the keys of a policy file; `cache` a folder
    or None; `folder` what paths are relative to; `ask` whether missing certificates are worth going back for; `full` whether
    lines hold the whole verdict; `options` a digest of all that a verdict depends on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._at = datetime.fromisoformat(settings["at"])
        self._certificates = [Certificate.decode(der) for der in settings["certificates"]]
        self._crls = [Crl.decode(der) for der in settings["crls"]]
        roots = [Certificate.decode(der) for der in settings["roots"]]
        self._verifier = Verifier(self._certificates, roots=roots, crls=self._crls, at=self._at)
        self._authorities = [*(c for c in self._certificates if not c.spl), *roots]
        self._policy = Policy.of(settings["policy"])
        self._want_crl = self._policy.crl == CRL_REQUIRED
        self._notes: list[str] = []
        cache = Cache(Path(settings["cache"]), self._note) if settings["cache"] else None
        self._resolver = Resolver(cache, None, roots)
        self._folder = Path(settings["folder"])
        self._shelves = Shelves(BESIDE)
        self._kept: OrderedDict[tuple[Any, ...], Evidence] = OrderedDict()

    def judge_all(self, records: Sequence[dict[str, Any]]) -> Reply:
        """Judge records: `lines` are those of the finished ones, `statuses` their (index, status), in the same order; `same`
        the indexes of those that an earlier run finished; `needs` what has to come again; `notes` is for a person."""
        lines: list[bytes] = []
        reply: Reply = {"statuses": [], "same": [], "needs": []}
        for record in records:
            self._judge(record, lines, reply)
        reply["lines"] = b"".join(lines)
        reply["notes"], self._notes = self._notes, []
        return reply

    def _judge(self, record: dict[str, Any], lines: list[bytes], reply: Reply) -> None:
        loaded: Loaded | None = None
        try:
            loaded = load(record, self._folder, self._shelves)
            if record.get("done") == loaded["input"]:
                reply["same"].append(record["index"])
                return
            verdict = self._verdict(record, loaded)
            if verdict is None:
                reply["needs"].append(self._needs(record, loaded))
                return
            status = verdict.status
            line = self._line(record, loaded, verdict, status)
        except BadRecord as error:
            status = error.status
            line = failure_line(record, status, str(error), self._settings, loaded, error.named)
        except SevError as error:
            assert loaded is not None  # load() raises nothing but BadRecord
            status = MALFORMED
            line = self._line(record, loaded, refusal(str(error)), status)
        except Exception as error:  # a fault of ours must not end the records behind this one
            status = OUR_ERROR
            text = f"internal error: {type(error).__name__}: {error}"
            line = failure_line(record, status, text, self._settings, loaded)
        lines.append(line)
        reply["statuses"].append((record["index"], status))

    def _verdict(self, record: dict[str, Any], loaded: Loaded) -> Verdict | None:
        """The verdict; None if certificates are missing that may be had elsewhere."""
        evidence = _evidence(loaded)
        key = self._key(evidence)
        kept = self._kept.get(key)
        if kept is not None:
            verdict = self._verified(evidence, kept)
            if verdict.genuine:
                return self._appraised(verdict, loaded)
        brought = Evidence(evidence.report)
        for data in record.get("found", ()):
            _add(brought, data)
        found = self._complete(evidence, brought)
        if self._misses(found) and self._settings["ask"] and not record.get("final"):
            return None
        verdict = self._verified(evidence, brought)
        if verdict.genuine:
            self._kept[key] = brought
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        verdict = self._appraised(verdict, loaded)
        verdict.explain_missing(record.get("problem", "") or found.problem)
        return verdict

    def _verified(self, evidence: Evidence, more: Evidence) -> Verdict:
        certificates = [*evidence.certificates, *more.certificates]
        verdict = self._verifier.verify(evidence.report, certificates, [*evidence.crls, *more.crls])
        check_evidence(verdict, evidence)
        return verdict

    def _key(self, evidence: Evidence) -> tuple[Any, ...]:
        """All that decides which certificates belong to a genuine report: what it says of line, chip, TCB and signer, and
        what came with it."""
        raw = evidence.report
        own = *(c.sha256 for c in evidence.certificates), "", *(crl.sha256 for crl in evidence.crls)
        return raw[_VERSION], raw[_KEY_INFO], raw[_TCB_AND_CPU], raw[_CHIP], own

    def _complete(self, evidence: Evidence, more: Evidence) -> Collateral:
        """Add to `more` what the cache has, and say what is missing still."""
        try:
            at_hand = self._verifier.leaves_for(Report.decode(evidence.report))
            certificates = [*evidence.certificates, *more.certificates, *at_hand, *self._authorities]
            crls = [*evidence.crls, *more.crls, *self._crls]
            whole = Evidence(evidence.report, [*certificates], [*crls])
            found = self._resolver.complete(whole, self._at, self._want_crl)
        except MalformedReport:
            return Collateral()  # the verdict says it
        more.certificates += whole.certificates[len(certificates) :]
        more.crls += whole.crls[len(crls) :]
        return found

    def _misses(self, found: Collateral) -> bool:
        if found.problem:
            return True
        if not self._want_crl or not found.complete:
            return False
        lists = [piece.item for piece in found.crls if isinstance(piece.item, Crl)]
        return not any(crl.next_update is None or crl.next_update >= self._at for crl in lists)

    def _needs(self, record: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
        """What has to come again, with the report and the certificates that came with it for who looks for others."""
        evidence = _evidence(loaded)
        again = {name: value for name, value in record.items() if name != "done"} | {"kind": "loaded", "data": loaded}
        own = [certificate.der for certificate in evidence.certificates]
        return {"record": again, "report": evidence.report, "own": own, "crls": [crl.der for crl in evidence.crls]}

    def _appraised(self, verdict: Verdict, loaded: Loaded) -> Verdict:
        report = verdict.report
        if report is not None and any(check.name == "signature" for check in verdict.checks):
            policy, conflict = self._policy, ""
            if loaded["expected"]:
                policy, conflict = _narrowed(self._policy, loaded["expected"])
            appraise(verdict, report, policy)
            if conflict:
                verdict.add("record", False, field=conflict.upper(), reason=_CONFLICT.format(conflict), status=POLICY)
        return verdict

    def _line(self, record: dict[str, Any], loaded: Loaded, verdict: Verdict, status: int) -> bytes:
        report = verdict.report
        line = line_named(verdict.line) or (report.product.line if report and report.product else None)
        plain = _head(record, self._settings, loaded)
        plain["status"] = status
        plain["verified"] = not status
        plain["reason"] = verdict.reason if status else ""
        plain["emulated"] = verdict.emulated
        plain["signer"] = verdict.signer
        plain["line"] = verdict.line
        plain["chip"] = _chip(report, line)
        plain["tcb"] = str(Tcb(report.reported_tcb, line)) if report and line else ""
        plain["failed"] = [check.name for check in verdict.failed] if status else []
        if self._settings["full"]:
            plain["verdict"] = verdict.to_json()
        return _encoded(plain, record)

    def _note(self, text: str) -> None:
        if len(self._notes) < MOST_NOTES:
            self._notes.append(text)


_CONFLICT = "the record wants another {} than the policy does"


def _chip(report: Report | None, line: Line | None) -> str:
    """CHIP_ID as hex, as long as the line's is; "" if the host masks it."""
    if report is None or report.chip_id_masked:
        return ""
    return report.chip_id[: line.hwid_size].hex() if line else report.chip_id.rstrip(b"\0").hex()


def failure_line(
    record: dict[str, Any],
    status: int,
    reason: str,
    settings: Settings,
    loaded: Loaded | None = None,
    named: str | int | None = None,
) -> bytes:
    """The line of a record that cannot be judged; `named` is its id, if that is known and nothing else."""
    plain = _head(record, settings, loaded)
    if named is not None:
        plain["id"] = named
    plain |= {"status": status, "verified": False, "reason": reason}
    plain |= {"emulated": False, "signer": "", "line": "", "chip": "", "tcb": "", "failed": []}
    if status == MALFORMED:
        verdict = refusal(reason)
        plain["failed"] = [check.name for check in verdict.failed]
        if settings["full"]:
            plain["verdict"] = verdict.to_json()
    return _encoded(plain, record)


def _head(record: dict[str, Any], settings: Settings, loaded: Loaded | None) -> dict[str, Any]:
    return {
        "index": record["index"],
        "id": loaded["id"] if loaded else record.get("id", record["source"]),
        "source": record["source"],
        "input": loaded["input"] if loaded else "",
        "options": settings["options"],
    }


def _encoded(plain: dict[str, Any], record: dict[str, Any]) -> bytes:
    if record.get("attempts", 1) > 1:
        plain["attempts"] = record["attempts"]
    return _ENCODER.encode(plain).encode() + b"\n"


def _evidence(loaded: Loaded) -> Evidence:
    """The evidence with the certificates that the record gives for it. SevError."""
    evidence = _bare(loaded["evidence"]) or evidence_of(loaded["evidence"])
    for data in loaded["certificates"]:
        _add(evidence, data)
    return evidence


def _bare(data: bytes) -> Evidence | None:
    """What evidence_of() gives for nothing but a report, in a tenth of its time; None for all else."""
    raw, form = data, "ATTESTATION_REPORT"
    try:
        if len(data) == _BASE64_SIZE and data[-1:] == b"=":
            raw, form = binascii.a2b_base64(data, strict_mode=True), "base64"
        elif len(data) == 2 * SIZE:
            raw, form = bytes.fromhex(data.decode("ascii")), "hexadecimal"
    except ValueError:  # binascii's Error and UnicodeDecodeError, too
        return None
    if len(raw) != SIZE or not is_plausible(raw):
        return None
    evidence = Evidence(raw)
    evidence.form = form
    return evidence


def _add(evidence: Evidence, data: bytes) -> None:
    """Add certificates and CRLs in PEM, DER, base64 of DER, a table or a bundle. SevError."""
    if data[:2] == b"MI":
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise BadRecord(f"certificates: no base64: {error}") from None
    for piece in pieces_of(data):
        if isinstance(piece.item, Crl):
            evidence.crls.append(piece.item)
        else:
            evidence.certificates.append(piece.item)


def _narrowed(policy: Policy, expected: dict[str, Any]) -> tuple[Policy, str]:
    """The policy with what a record expects; a record never makes it wider. Also the name of what contradicts it, or "".

    BadRecord for a value that is none.
    """
    try:
        wanted = Policy.of({name: _listed(name, value) for name, value in expected.items()})
    except BadPolicy as error:
        raise BadRecord(str(error)) from None
    narrow, conflict = copy(policy), ""
    for name in expected:
        mine, theirs = getattr(policy, name), getattr(wanted, name)
        if name in SETS and mine:
            conflict = conflict if mine & theirs else name
            theirs = mine & theirs or theirs
        elif name not in SETS and mine is not None:
            conflict = conflict if mine == theirs else name
        setattr(narrow, name, theirs)
    return narrow, conflict


def _listed(name: str, value: Any) -> Any:
    """A table has several values in one cell."""
    if name in SETS and isinstance(value, str):
        return value.replace(",", " ").split()
    return value.strip() if isinstance(value, str) else value
