"""What a leaf is worth: its chain to a trusted ARK, the validity of its certificates, revocation. No report is looked at.

AMD 57230 (certificate chain and CRL), RFC 5280. Trusted are AMD's ARKs, by the fingerprints in sev.certificates, and those that
are named. All this costs RSA verifications, and is the same for every report that the leaf signed: sev.verifier keeps it.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sev.certificates import AMD_ROOTS, ARK, ASK, ASVK, VLEK, Certificate, Signed
from sev.profile import check_profile
from sev.revocation import Crl
from sev.verdict import MISSING, NAMED, PINNED, REVOKED, UNKNOWN, UNTRUSTED, Check, Root, Verdict

EMULATED_REPORT = "this is an emulated platform's report"
NAME_IT = "it verifies only with its platform or root named (--platform, --trust-root)"

# Why something was not signed by a certificate; None if it was.
SignatureProblem = Callable[[Signed, Certificate], str | None]


class Standing:
    """What was found out about a leaf: `chain` are the checks of its chain, `dates` those that depend on the time.

    `lasts(moment)` says whether `dates` would read the same, word by word, at another moment.
    """

    __slots__ = ("_begin", "_end", "_moment", "chain", "dates", "emulated", "root", "stale_days")

    def __init__(
        self,
        leaf: Certificate,
        known: Sequence[Certificate],
        named: frozenset[str],
        crls: Sequence[Crl],
        moment: datetime,
        problem: SignatureProblem = Signed.signature_problem,
    ) -> None:
        """Follow `leaf` through the certificates `known` at a moment in UTC; `named` are fingerprints of ARKs trusted
        besides AMD's."""
        chain, dates = Verdict(), Verdict()
        chain.emulated = leaf.emulated
        authorities = _check_chain(chain, leaf, known, named, problem)
        for certificate in (leaf, *authorities):
            check_profile(chain, certificate)
        _check_validity(dates, [leaf, *authorities], moment)
        _check_crl(dates, authorities, crls, moment, problem)
        self.chain: tuple[Check, ...] = tuple(chain.checks)
        self.dates: tuple[Check, ...] = tuple(dates.checks)
        self.emulated, self.root, self.stale_days = chain.emulated, chain.root, dates.stale_days
        self._moment = moment
        try:
            self._begin, self._end = _around(moment, _turns([leaf, *authorities], crls, moment))
        except OverflowError:  # the last day that a datetime knows
            self._begin = self._end = moment

    def lasts(self, moment: datetime) -> bool:
        """Whether nothing begins or ends between the moment of the examination and this one, the day included."""
        return moment == self._moment or self._begin < moment < self._end


def _turns(certificates: Iterable[Certificate], crls: Iterable[Crl], moment: datetime) -> list[datetime]:
    """The moments at which a check of dates changes, as far as they are near: a stale CRL grows older by the day."""
    turns = [turn for certificate in certificates for turn in (certificate.not_before, certificate.not_after)]
    for end in (crl.next_update for crl in crls if crl.next_update is not None):
        turns.append(end)
        if end < moment:
            days = timedelta(days=(moment - end).days)
            turns += [end + days, end + days + timedelta(days=1)]
    return turns


def _around(moment: datetime, turns: list[datetime]) -> tuple[datetime, datetime]:
    """The open stretch of time around a moment without a turn or a midnight; empty if the moment is itself one."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if moment in turns or moment == day:
        return moment, moment
    begin = max([day, *(turn for turn in turns if turn < moment)])
    return begin, min([day + timedelta(days=1), *(turn for turn in turns if turn > moment)])


def _check_chain(
    verdict: Verdict,
    leaf: Certificate,
    known: Sequence[Certificate],
    named: frozenset[str],
    problem_of: SignatureProblem,
) -> list[Certificate]:
    """Follow leaf, ASK or ASVK, ARK; gives the CAs found, in that order."""
    kind = ASVK if leaf.kind == VLEK else ASK
    chain: list[Certificate] = []
    subject = leaf
    for wanted in (kind, ARK):
        candidates = [certificate for certificate in known if certificate.kind == wanted]
        same_name = [certificate for certificate in candidates if certificate.subject == subject.issuer]
        # A root that is trusted comes before one of the same name that only came along.
        same_name.sort(key=lambda certificate: not (certificate.amd_root or certificate.sha256 in named))
        problems: list[str] = []
        issuer = None
        for certificate in same_name:
            fault = problem_of(subject, certificate)
            if fault is None:
                issuer = certificate
                break
            problems.append(fault)
        if issuer is None:
            _chain_broken(verdict, subject, wanted, known, problems[0] if problems else None)
            return chain
        if not issuer.ca or not issuer.key_cert_sign:
            reason = f"the {wanted} is no certificate authority (basic constraints, key usage)"
            verdict.add("chain", False, field="certificate", wanted=wanted, seen=issuer.subject_cn, reason=reason)
            return chain
        chain.append(issuer)
        subject = issuer
    root = chain[-1]
    problem = problem_of(root, root)
    trusted = root.amd_root or root.sha256 in named
    trust = PINNED if root.amd_root else NAMED if trusted else UNKNOWN
    verdict.root = Root(root.subject_cn, root.sha256, trust)
    verdict.emulated = root.emulated
    if problem:
        reason = f"the ARK is not signed by itself: {problem}"
    elif root.emulated:
        reason = f"{EMULATED_REPORT}; {NAME_IT}" + (", and another one is named" if named else "")
    elif root.subject_cn in AMD_ROOTS.values():
        reason = f"this {root.subject_cn} with SHA-256 {root.sha256} is not AMD's"
    else:
        reason = (
            f"no {root.subject_cn} is pinned in this version; if you know that SHA-256 {root.sha256} is AMD's, name it "
        )
        reason += "(--trust-root)"
    verdict.add(
        "chain",
        trusted and problem is None,
        field="ARK",
        wanted="one of AMD's (pinned), or one that is named",
        seen=f"{'EMULATED ' if root.emulated else ''}{root.subject_cn} {root.sha256[:16]}",
        reason=reason,
    )
    return chain


def _chain_broken(
    verdict: Verdict, subject: Certificate, wanted: str, known: Sequence[Certificate], problem: str | None
) -> None:
    if problem:
        status, reason = UNTRUSTED, f"the {subject.kind} does not chain to this {wanted}: {problem}"
    elif subject.emulated:
        status, reason = UNTRUSTED, f"{EMULATED_REPORT}; {NAME_IT}"
    else:
        found = sorted({certificate.subject_cn for certificate in known if certificate.ca and certificate.kind != ARK})
        status, reason = MISSING, f"no certificate of {subject.issuer_cn} at hand to check the {subject.kind}"
        if wanted == ASVK and f"SEV-{subject.line.name}" in found:
            reason += f": SEV-{subject.line.name} is the ASK, which signs VCEKs, and a VLEK needs the ASVK"
        elif found and wanted != ARK:
            reason += f", only of {', '.join(found)}"
    verdict.add("chain", False, field="certificate", wanted=subject.issuer_cn, seen="", reason=reason, status=status)


def _check_validity(verdict: Verdict, certificates: list[Certificate], moment: datetime) -> None:
    for certificate in certificates:
        begin, end = certificate.not_before, certificate.not_after
        state = "expired" if moment > end else "is not valid yet"
        verdict.add(
            f"validity of the {certificate.kind}",
            begin <= moment <= end,
            field="validity",
            wanted=f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            seen=f"{moment:%Y-%m-%d}",
            reason=f"the {certificate.kind} {state} on {moment:%Y-%m-%d}: valid {begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            status=MISSING,
        )


def _check_crl(
    verdict: Verdict, chain: list[Certificate], crls: Sequence[Crl], moment: datetime, problem_of: SignatureProblem
) -> None:
    if len(chain) < 2:
        verdict.skip("revocation", "without a chain there is nothing to look up", "CRL")
        return
    issuer, root = chain
    lists = [crl for crl in crls if crl.covers(issuer)]
    if not lists:
        verdict.skip("revocation", f"no CRL of {root.subject_cn} at hand", "CRL")
        return
    problem = None if root.crl_sign else "the ARK may not sign CRLs"
    signed = []
    for crl in lists:
        fault = problem_of(crl, root)
        problem = problem or fault
        signed += [] if fault else [crl]
    if not signed or not root.crl_sign:
        verdict.add("revocation", False, field="CRL", wanted=f"by {root.subject_cn}", seen="", reason=f"CRL: {problem}")
        return
    latest = max(signed, key=lambda crl: crl.this_update)
    revoked = [certificate for certificate in chain if certificate.serial in latest.revoked]
    if not revoked and latest.next_update is not None and moment > latest.next_update:
        verdict.stale_days = (moment - latest.next_update).days + 1
        verdict.skip("revocation", f"the CRL is stale: next update {latest.next_update:%Y-%m-%d}", "CRL")
        return
    verdict.add(
        "revocation",
        not revoked,
        field="CRL",
        wanted="not listed",
        seen=", ".join(f"{certificate.kind} {certificate.serial:#x}" for certificate in revoked)
        or f"not in the list of {latest.this_update:%Y-%m-%d}",
        reason=", ".join(f"the {c.kind} with serial {c.serial:#x} is revoked" for c in revoked),
        status=REVOKED,
    )
