"""What a verification says: every check by itself, passed, failed, skipped or not asked, and what follows from them."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sev.report import Report

PASSED, FAILED, SKIPPED, NOT_ASKED = "passed", "failed", "skipped", "not asked"
PINNED, NAMED, UNKNOWN = "pinned", "named", "unknown"

# Exit statuses of `cvmboot attest`; what a failed check means for the whole.
VERIFIED = 0
MALFORMED = 3
UNTRUSTED = 4
MISSING = 5
REVOKED = 6
POLICY = 7


class Check:
    """One check. `field` is what was looked at, `wanted` and `seen` its values as text, `reason` why it failed or was skipped;
    `status` is what a failure makes of the verdict."""

    __slots__ = ("field", "name", "outcome", "reason", "seen", "status", "wanted")

    def __init__(
        self,
        name: str,
        outcome: str,
        *,
        field: str = "",
        wanted: str = "",
        seen: str = "",
        reason: str = "",
        status: int = UNTRUSTED,
    ) -> None:
        self.name = name
        self.outcome = outcome
        self.field = field
        self.wanted = wanted
        self.seen = seen
        self.reason = reason
        self.status = status

    def copy(self) -> "Check":
        """The same check, to be changed on its own."""
        twin = Check.__new__(Check)
        twin.name, twin.outcome, twin.field, twin.wanted = self.name, self.outcome, self.field, self.wanted
        twin.seen, twin.reason, twin.status = self.seen, self.reason, self.status
        return twin

    def to_json(self) -> dict[str, str]:
        """The check as plain data."""
        return {name: getattr(self, name) for name in ("name", "outcome", "field", "wanted", "seen", "reason")}

    def __repr__(self) -> str:
        return f"Check({self.name}: {self.outcome} {self.reason})"


# Most of what could be asked is not, and nothing changes these checks, so that all verdicts share them.
@lru_cache(maxsize=256)
def _not_asked(name: str, field: str) -> Check:
    return Check(name, NOT_ASKED, field=field)


class Root:
    """The ARK at the end of a chain: its name and SHA-256, and why it is trusted: PINNED, NAMED by the caller, or UNKNOWN."""

    __slots__ = ("name", "sha256", "trust")

    def __init__(self, name: str, sha256: str, trust: str) -> None:
        self.name = name
        self.sha256 = sha256
        self.trust = trust

    def to_json(self) -> dict[str, str]:
        """The root as plain data."""
        return {"name": self.name, "sha256": self.sha256, "trust": self.trust}


class Verdict:
    """All checks in the order in which they were made, and what is to know about the whole.

    `emulated`: what signed was, or claims to be, an emulated platform; `report`: what was judged, decoded, if that was possible;
    `csp_id`: the cloud provider that a VLEK names; `root`: the ARK at the end of the chain; `stale_days`: how old a CRL is beyond
    its next update, None if it is current or absent; `form`: where in its file the report was; `left_out`: what came along and
    does not count.
    """

    __slots__ = (
        *("checks", "csp_id", "emulated", "form", "left_out", "line", "report", "root", "signer", "stale_days"),
    )

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.emulated = False
        self.line = ""
        self.signer = ""
        self.csp_id = ""
        self.form = ""
        self.left_out: list[str] = []
        self.root: Root | None = None
        self.stale_days: int | None = None
        self.report: Report | None = None

    def add(
        self,
        name: str,
        good: bool,
        *,
        field: str = "",
        wanted: str = "",
        seen: str = "",
        reason: str = "",
        status: int = UNTRUSTED,
    ) -> bool:
        """Note a check that was made; gives back whether it passed."""
        if good:
            self.checks.append(Check(name, PASSED, field=field, wanted=wanted, seen=seen, status=status))
        else:
            self.checks.append(Check(name, FAILED, field=field, wanted=wanted, seen=seen, reason=reason, status=status))
        return good

    def skip(self, name: str, reason: str, field: str = "") -> None:
        """Note a check that could not be made, and why."""
        self.checks.append(Check(name, SKIPPED, field=field, reason=reason))

    def extend(self, checks: Iterable[Check]) -> None:
        """Take over checks that were made before; later changes to this verdict's do not reach the originals."""
        self.checks.extend([check.copy() for check in checks])

    def not_asked(self, name: str, field: str = "") -> None:
        """Note a check that nobody asked for."""
        self.checks.append(_not_asked(name, field))

    def explain_missing(self, problem: str) -> None:
        """Say why a certificate is missing, and what to do next, in the first failed check that wants one."""
        for check in self.failed:
            if problem and check.name in ("leaf", "signature", "chain"):
                check.reason = f"{check.reason}; {problem}"
                return

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == FAILED]

    @property
    def verified(self) -> bool:
        """No check failed, and signature and chain were among those that passed."""
        signature = chain = False
        for check in self.checks:
            if check.outcome == FAILED:
                return False
            if check.outcome == PASSED:
                signature = signature or check.name == "signature"
                chain = chain or check.name == "chain"
        return signature and chain

    @property
    def genuine(self) -> bool:
        """Whether signature and chain were found good, whatever else failed."""
        found = 0
        for check in self.checks:
            if check.name in ("signature", "chain"):
                if check.outcome != PASSED:
                    return False
                found += 1
        return found == 2

    @property
    def status(self) -> int:
        """The exit status: 0, or that of the first check that failed."""
        if self.verified:
            return VERIFIED
        return next((check.status for check in self.checks if check.outcome == FAILED), UNTRUSTED)

    @property
    def reason(self) -> str:
        """Why it did not verify, in one line; empty if it did."""
        if self.verified:
            return ""
        first = next((check for check in self.checks if check.outcome == FAILED), None)
        if first is None:
            return "nothing was checked"
        return first.reason or f"{first.field or first.name} is {first.seen}; wanted {first.wanted}"

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {
            "verified": self.verified,
            "status": self.status,
            "reason": self.reason,
            "emulated": self.emulated,
            "signer": self.signer,
            "line": self.line,
            "root": self.root.to_json() if self.root else None,
            "evidence": {"form": self.form, "left_out": self.left_out},
            "checks": [check.to_json() for check in self.checks],
        }
