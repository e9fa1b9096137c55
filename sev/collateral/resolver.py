"""The resolver: finds what a report's verification still needs, in what came with it, in the cache, then at KDS.

    resolver = Resolver(Cache(default_folder()), KdsClient())           # None for either: do without
    found = resolver.complete(evidence)                                 # adds to evidence.certificates and evidence.crls
    found.problem                                                       # why something is missing, and what to do; or ""

Trust is none of its business: it looks for certificates that fit together, and sev.verifier decides what they are worth.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK, Certificate
from sev.collateral.cache import Cache
from sev.collateral.errors import CollateralError, KdsError, KdsNotFound, KdsUnreachable
from sev.collateral.kds_client import VLEK_REFUSED, KdsClient
from sev.collateral.pieces import EVIDENCE, KDS, LeafKey, Piece, lines_of
from sev.emulated import is_emulated_chip
from sev.evidence import Evidence
from sev.report import SIGNED_SIZE, SIGNER_VCEK, SIGNER_VLEK, Report
from sev.revocation import Crl
from sev.tcb import Tcb

_COMPONENT = 72
_OFFLINE = (
    "--offline forbids to ask KDS; fetch it where there is a network (cvmboot attest fetch), or give it with --certs"
)


class Collateral:
    """What was found for one report: `leaves`, `chain` (ASK or ASVK, then ARK), `crls`; `problem` names what is missing and
    what to do next, `notes` what went wrong without harm."""

    __slots__ = ("chain", "crls", "leaves", "notes", "problem")

    def __init__(self) -> None:
        self.leaves: list[Piece] = []
        self.chain: list[Piece] = []
        self.crls: list[Piece] = []
        self.notes: list[str] = []
        self.problem = ""

    @property
    def pieces(self) -> list[Piece]:
        """All of them."""
        return [*self.leaves, *self.chain, *self.crls]

    @property
    def complete(self) -> bool:
        """Whether there is a leaf and its chain up to an ARK."""
        return bool(self.leaves) and len(self.chain) == 2


class _Known:
    """The certificates at hand for one report, each with where it came from; what is added goes into the evidence, too."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._pieces = {certificate.der: Piece(certificate, EVIDENCE) for certificate in evidence.certificates}

    def add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if piece.item.der not in self._pieces:
                self._pieces[piece.item.der] = piece
                self.evidence.certificates.append(_certificate(piece))

    def of_kind(self, kind: str) -> list[Piece]:
        return [piece for piece in self._pieces.values() if piece.kind == kind]


class Resolver:
    """Looks in `cache`, then asks `kds`; either may be None. `roots` are ARKs trusted besides AMD's.

    May be used for many reports: what KDS refused once is not asked for again, nor is a KDS that cannot be reached.
    """

    def __init__(self, cache: Cache | None, kds: KdsClient | None, roots: Iterable[Certificate] = ()) -> None:
        self.cache = cache
        self.kds = kds
        self._roots = {root.sha256 for root in roots}
        self._refused: dict[str, KdsError] = {}
        self._unreachable: KdsUnreachable | None = None

    def complete(self, evidence: Evidence, at: datetime | None = None, want_crl: bool = False) -> Collateral:
        """Add to `evidence` what its report needs; `want_crl` asks KDS for a CRL that is missing or stale at the time `at`.

        MalformedReport if the report cannot be decoded; all that is merely missing is in the result's `problem`.
        """
        report = Report.decode(evidence.report)
        found = Collateral()
        if report.version < 2 or report.signing_key not in (SIGNER_VCEK, SIGNER_VLEK) or report.mask_chip_key:
            return found  # no certificate makes this one verify
        known = _Known(evidence)
        try:
            leaf = self._leaf(report, known, found)
            ark = self._chain(leaf, known, found)
        except CollateralError as error:
            found.problem = str(error)
        else:
            self._crl(leaf, ark, evidence, found, at or datetime.now(UTC), want_crl)
        return found

    def _leaf(self, report: Report, known: _Known, found: Collateral) -> Certificate:
        kind = VLEK if report.signing_key == SIGNER_VLEK else VCEK
        fitting = [piece for piece in known.of_kind(kind) if _fits(report, _certificate(piece))]
        if not self._settled(fitting, report, known):
            known.add(self._search(kind, report, known, fitting))
            fitting = [piece for piece in known.of_kind(kind) if _fits(report, _certificate(piece))]
        raw = known.evidence.report
        found.leaves = sorted(fitting, key=lambda piece: not _signed_by(_certificate(piece), report, raw))
        return _certificate(found.leaves[0])

    def _search(self, kind: str, report: Report, known: _Known, fitting: list[Piece]) -> list[Piece]:
        """Leaves from the cache or else from KDS. CollateralError if there is neither, and none in the evidence that fits."""
        lines = lines_of(report, known.evidence.certificates)
        if not lines:
            cpu = f"family {report.cpuid_fam_id:#x}, model {report.cpuid_mod_id:#x}"
            raise CollateralError(f"the report is of an unknown CPU ({cpu}), so nobody can tell whose KDS path to ask")
        if fitting and report.chip_id_masked:
            return []
        keys = [LeafKey.of_report(report, line) for line in lines]
        kept = self._kept(keys)
        if self._settled([*fitting, *kept], report, known):
            return kept
        try:
            return [*kept, self._ask_for_leaf(kind, report, keys)]
        except CollateralError:
            if fitting or kept:
                return kept  # what is at hand fits; verification says what is wrong with it
            raise

    def _kept(self, keys: list[LeafKey]) -> list[Piece]:
        return [piece for key in keys for piece in self.cache.leaves(key)] if self.cache else []

    def _ask_for_leaf(self, kind: str, report: Report, keys: list[LeafKey]) -> Piece:
        if kind == VLEK:
            raise CollateralError(f"no VLEK for {keys[0].tcb} at hand. {VLEK_REFUSED}")
        self._refuse_emulated(is_emulated_chip(report.chip_id))
        *guesses, last = keys
        for key in guesses:
            try:
                return self._asked_for_leaf(key)
            except KdsNotFound:
                continue  # a report of version 2 may be of another line
        return self._asked_for_leaf(last)

    def _asked_for_leaf(self, key: LeafKey) -> Piece:
        return self._asked(f"the {key}", lambda kds: [kds.vcek(key)], lambda cache: cache.leaves(key))[0]

    def _refuse_emulated(self, emulated: bool) -> None:
        if emulated and (self.kds is None or self.kds.is_amd):
            raise CollateralError("AMD has no certificates of an emulated platform; name it (--platform) or its --kds")

    def _chain(self, leaf: Certificate, known: _Known, found: Collateral) -> Certificate:
        """The ARK at the end of the leaf's chain, after adding what of it is not at hand. CollateralError."""
        subject = leaf
        for wanted in (ASVK if leaf.kind == VLEK else ASK, ARK):
            piece = self._issuer(subject, wanted, known) or self._asked_issuer(subject, wanted, leaf, known)
            found.chain.append(piece)
            subject = _certificate(piece)
        return subject

    def _asked_issuer(self, subject: Certificate, wanted: str, leaf: Certificate, known: _Known) -> Piece:
        """Who signed `subject`: from KDS, and then added to the evidence."""
        self._refuse_emulated(leaf.emulated)
        what = f"the {wanted} of {leaf.line.name}"
        fetched = self._asked(
            what,
            lambda kds: kds.chain(leaf.line, leaf.kind),
            lambda cache: [
                piece
                for kind in (ASVK if leaf.kind == VLEK else ASK, ARK)
                for piece in cache.authorities(leaf.line, kind)
                if kind != wanted or _issued(subject, _certificate(piece))
            ],
        )
        known.add(fetched)
        for piece in fetched:
            if piece.kind == wanted and _issued(subject, _certificate(piece)):
                return piece
        raise CollateralError(f"the {subject.kind} is not signed by {what} that KDS gives")

    def _issuer(self, subject: Certificate, wanted: str, known: _Known) -> Piece | None:
        """Who signed `subject`: from the evidence, or from the cache and then added to the evidence."""
        for piece in known.of_kind(wanted):
            if _issued(subject, _certificate(piece)):
                return piece
        for piece in self.cache.authorities(subject.line, wanted) if self.cache else ():
            if _issued(subject, _certificate(piece)):
                known.add([piece])
                return piece
        return None

    def _crl(
        self, leaf: Certificate, ark: Certificate, evidence: Evidence, found: Collateral, at: datetime, want: bool
    ) -> None:
        own = [Piece(crl, EVIDENCE) for crl in evidence.crls if crl.issuer == ark.subject]
        if not _fresh(own, at) and self.cache:
            known = {crl.der for crl in evidence.crls}
            own += [piece for piece in _of(self.cache.crls(ark.line), ark) if piece.item.der not in known]
        asked = any(piece.source == KDS for piece in found.pieces)
        if not _fresh(own, at) and self.kds is not None and (want or asked):
            name = f"{ark.subject_cn}'s CRL"
            try:
                own += self._asked(
                    name,
                    lambda kds: [_checked(kds.crl(ark.line, leaf.kind), ark)],
                    lambda cache: [piece for piece in _of(cache.crls(ark.line), ark) if _fresh([piece], at)],
                )
            except CollateralError as error:
                found.notes.append(str(error))
        elif want and not _fresh(own, at):
            found.notes.append(f"{ark.subject_cn}'s CRL is {'stale' if own else 'missing'}: {_OFFLINE}")
        # The latest one counts, and older ones only make a bundle larger.
        own.sort(key=lambda piece: piece.item.this_update if isinstance(piece.item, Crl) else at, reverse=True)
        found.crls = own[:1]
        evidence.crls += [p.item for p in own if isinstance(p.item, Crl) and p.source != EVIDENCE]

    def _asked(
        self,
        what: str,
        ask: Callable[[KdsClient], Sequence[Certificate | Crl]],
        look_again: Callable[[Cache], list[Piece]] | None = None,
    ) -> list[Piece]:
        """What KDS gives, then kept in the cache. One process at a time asks; who had to wait looks into the cache again.

        CollateralError, which says that `what` is missing and why.
        """
        if self.kds is None:
            raise CollateralError(f"{what} is not at hand, and {_OFFLINE}")
        if error := self._unreachable or self._refused.get(what):
            raise type(error)(f"{what} is not at hand: {error}")
        try:
            if self.cache is None:
                return [Piece(item, KDS, datetime.now(UTC)) for item in ask(self.kds)]
            with self.cache.alone(self.kds.patience) as waited:
                if waited and look_again and (found := look_again(self.cache)):
                    return found
                pieces = [Piece(item, KDS, datetime.now(UTC)) for item in ask(self.kds)]
                self.cache.keep(pieces)
                return pieces
        except KdsError as error:
            if isinstance(error, KdsUnreachable):
                self._unreachable = error
            self._refused[what] = error
            raise type(error)(f"{what} is not at hand: {error}") from None

    def _settled(self, pieces: list[Piece], report: Report, known: _Known) -> bool:
        """Whether the leaf is among these: one that signed the report, or a genuine one, and then the report was changed."""
        leaves = [_certificate(piece) for piece in pieces]
        return any(_signed_by(leaf, report, known.evidence.report) or self._genuine(leaf, known) for leaf in leaves)

    def _genuine(self, leaf: Certificate, known: _Known) -> bool:
        issuer = self._issuer(leaf, ASVK if leaf.kind == VLEK else ASK, known)
        root = self._issuer(_certificate(issuer), ARK, known) if issuer else None
        ark = _certificate(root) if root else None
        return ark is not None and (ark.amd_root or ark.sha256 in self._roots)


def _certificate(piece: Piece) -> Certificate:
    assert isinstance(piece.item, Certificate)
    return piece.item


def _fits(report: Report, leaf: Certificate) -> bool:
    """Whether a leaf is for a report's line and chip (as far as these are to be seen) and reported TCB."""
    if report.product is not None and report.product.line is not leaf.line:
        return False
    same_chip = leaf.kind == VLEK or report.chip_id_masked or leaf.hwid.ljust(64, b"\0") == report.chip_id
    return same_chip and leaf.spl == Tcb(report.reported_tcb, leaf.line).spl


def signed_by(leaf: Certificate | Crl, raw: bytes) -> bool:
    """Whether a leaf signed a report (its 1184 bytes). MalformedReport."""
    return isinstance(leaf, Certificate) and _signed_by(leaf, Report.decode(raw), raw)


def _signed_by(leaf: Certificate, report: Report, raw: bytes) -> bool:
    r, s = report.signature[:_COMPONENT], report.signature[_COMPONENT : 2 * _COMPONENT]
    return leaf.verifies(int.from_bytes(r, "little"), int.from_bytes(s, "little"), raw[:SIGNED_SIZE])


def _issued(subject: Certificate, issuer: Certificate) -> bool:
    return issuer.subject == subject.issuer and subject.signature_problem(issuer) is None


def _of(pieces: list[Piece], ark: Certificate) -> list[Piece]:
    return [piece for piece in pieces if piece.item.issuer == ark.subject]


def _checked(crl: Crl, ark: Certificate) -> Crl:
    if problem := crl.signature_problem(ark):
        raise KdsError(f"KDS gave a CRL for {ark.subject_cn} that is not its own: {problem}")
    return crl


def _fresh(pieces: list[Piece], at: datetime) -> bool:
    return any(
        isinstance(piece.item, Crl) and (piece.item.next_update is None or piece.item.next_update >= at)
        for piece in pieces
    )
