"""Finds certificates that judges miss, in one place for all of them: one request to KDS at a time, none of them twice.

AMD's KDS answers a client about one VCEK request in ten seconds. A thread asks, so that records which need nothing go on
meanwhile; what was found for a chip and TCB is kept for the others of it. An emulated platform's leaves are made here, too: its
secrets go to no judge.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sev.certificates import Certificate
from sev.errors import SevError
from sev.evidence import Evidence
from sev.report import SIGNER_VLEK, Report
from sev.revocation import Crl

if TYPE_CHECKING:
    from sev.collateral.resolver import Resolver
    from sev.platform import Platform

MOST_KEPT = 4096
MOST_WAITING = 4096
MOST_WAITING_BYTES = 64 << 20
Needs = dict[str, Any]


class Collector:
    """Answers `needs` of judges by `resolver`, or for a `platform`; `certificates` and `crls` are at hand for all.

    `wake` is called from the thread whenever an answer is ready.
    """

    def __init__(
        self,
        resolver: "Resolver",
        certificates: list[Certificate],
        crls: list[Crl],
        at: datetime,
        want_crl: bool,
        platform: "Platform | None" = None,
    ) -> None:
        self._resolver = resolver
        self._certificates = certificates
        self._crls = crls
        self._at = at
        self._want_crl = want_crl
        self._platform = platform
        self._kept: OrderedDict[tuple[Any, ...], tuple[list[bytes], str]] = OrderedDict()
        self._fetched: OrderedDict[str, Certificate | Crl] = OrderedDict()
        self._questions: queue.SimpleQueue[Needs | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.wake: Callable[[], None] = lambda: None
        self._waiting_bytes = 0
        self.open = 0
        """How many records wait for an answer."""

    @property
    def full(self) -> bool:
        """Whether so many records wait that no others should be begun."""
        return self.open >= MOST_WAITING or self._waiting_bytes >= MOST_WAITING_BYTES

    def ask(self, needs: Needs) -> None:
        """Look for what a record needs: its `report`, and the certificates `own` and `crls` that came with it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="collector", daemon=True)
            self._thread.start()
        self.open += 1
        self._waiting_bytes += _size(needs["record"])
        self._questions.put(needs)

    def answers(self) -> list[dict[str, Any]]:
        """The records for which the search is over, ready to be judged."""
        records = []
        while not self._answers.empty():
            records.append(self._answers.get())
            self._waiting_bytes -= _size(records[-1])
            self.open -= 1
        return records

    def close(self) -> None:
        """Do not begin another search."""
        self._questions.put(None)

    def _work(self) -> None:
        while (needs := self._questions.get()) is not None:
            try:
                found, problem = self._found(needs)
            except Exception as error:  # a thread that died would leave its records waiting for ever
                found, problem = [], f"internal error: {type(error).__name__}: {error}"
            record = needs["record"]
            record["found"], record["problem"], record["final"] = found, problem, True
            self._answers.put(record)
            self.wake()

    def _found(self, needs: Needs) -> tuple[list[bytes], str]:
        try:
            report = Report.decode(needs["report"])
            own = [Certificate.decode(der) for der in needs["own"]]
            crls = [Crl.decode(der) for der in needs["crls"]]
        except SevError:
            return [], ""  # the verdict says it
        product = report.product
        key = (
            report.signing_key,
            report.chip_id,
            report.reported_tcb,
            product.line.name if product else "",
            report.version >= 3,
            *(c.sha256 for c in own),
            *(crl.sha256 for crl in crls),
        )
        if key not in self._kept:
            self._kept[key] = self._search(report, Evidence(needs["report"], own, crls))
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _search(self, report: Report, evidence: Evidence) -> tuple[list[bytes], str]:
        evidence.certificates += self._certificates
        evidence.crls += self._crls
        certificates, crls = len(evidence.certificates), len(evidence.crls)
        evidence.certificates += [item for item in self._fetched.values() if isinstance(item, Certificate)]
        evidence.crls += [item for item in self._fetched.values() if isinstance(item, Crl)]
        if self._platform is not None:
            evidence.certificates += _issued(self._platform, report)
        problem = self._resolver.complete(evidence, self._at, self._want_crl).problem
        new: list[Certificate | Crl] = [*evidence.certificates[certificates:], *evidence.crls[crls:]]
        for item in new:
            if isinstance(item, Crl) or not item.spl:  # what others of the same line need, too
                self._fetched[item.sha256] = item
        return [item.der for item in new], problem


def _size(record: dict[str, Any]) -> int:
    loaded = record["data"]
    return len(loaded["evidence"]) + sum(map(len, loaded["certificates"]))


def _issued(platform: "Platform", report: Report) -> list[Certificate]:
    """What an emulated platform's own KDS would give for a report."""
    kind = "vlek" if report.signing_key == SIGNER_VLEK else "vcek"
    try:
        return [*platform.authority().certificates.values(), platform.leaf(kind, report.reported_tcb)]
    except SevError:
        return []  # a TCB that this platform cannot have: the verdict says so
