"""Google's errors in one line each: what was refused and what to do. No query of an address is shown: it may be a secret."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cloud.errors import CloudError, Denied, Failed, Gone, NameTaken, NotSignedIn, QuotaExceeded, Unfit, Unreachable

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError

_MESSAGE = 400
_SKEW_SECONDS = 300
_ADDRESS = re.compile(r"^(?:GET|POST|PUT|PATCH|DELETE) https?://\S+: ")
_SIGN_IN = "run `gcloud auth application-default login`"
_CLOCK = "set this machine's clock (timedatectl set-ntp true)"
_NOT_ENABLED = {"accessNotConfigured", "SERVICE_DISABLED"}
_BILLING = {"billingNotEnabled", "BILLING_DISABLED", "UREQ_PROJECT_BILLING_NOT_FOUND"}
_QUOTA = {"quotaExceeded", "QUOTA_EXCEEDED", "limitExceeded"}
_RATES = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}

_CODES: dict[str, tuple[type[CloudError], str]] = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": (QuotaExceeded, "try another --zone or --machine-type, or the same later"),
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": (
        QuotaExceeded, "try another --zone or --machine-type, or the same later",
    ),
    "QUOTA_EXCEEDED": (QuotaExceeded, "ask for a higher quota (console, IAM & Admin, Quotas), or free what is not needed"),
    "RATE_LIMIT_EXCEEDED": (Unreachable, "wait a minute and run the same command again"),
    "RESOURCE_ALREADY_EXISTS": (NameTaken, "say another --name"),
    "RESOURCE_NOT_FOUND": (Gone, "run the same command again: it is made anew"),
    "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE": (Failed, "delete what uses it, then run this again"),
    "RESOURCE_NOT_READY": (Failed, "wait a minute and run the same command again"),
    "PERMISSIONS_ERROR": (Denied, "ask for the roles that docs/deploy.md lists"),
    "CONDITION_NOT_MET": (Denied, "an organisation policy forbids it: ask who administers the organisation"),
    "UNSUPPORTED_OPERATION": (Unfit, "choose other options: this combination is not offered"),
    "INVALID_FIELD_VALUE": (Unfit, "choose other options"),
    "INTERNAL_ERROR": (Failed, "it is Google's: run the same command again"),
}  # fmt: skip
"""Codes of Operation.error, and what to do."""


@contextmanager
def gce_words() -> Iterator[None]:
    """Turns exceptions of Google's clients, of their sign-in and of the network into CloudError."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from google.protobuf.json_format import ParseError

    try:
        yield
    except (GoogleAPICallError, GoogleAuthError, RetryError, requests.exceptions.RequestException) as error:
        raise in_words(error) from None
    except (ParseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failed(
            f"an answer that cannot be read ({type(error).__name__})",
            where="Google Cloud",
            next_step="is a proxy or another server in between? Then run the same command again",
        ) from None


def in_words(error: BaseException) -> CloudError:
    """The CloudError for anything that Google's clients raise."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, RetryError) and error.cause is not None:
        return in_words(error.cause)
    if isinstance(error, GoogleAPICallError):
        return refusal(error)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return _not_signed_in(error)
    return Unreachable(
        f"Google does not answer ({type(error).__name__})",
        next_step="look at the network and any proxy, then run the same command again: it goes on where it was",
    )


def reasons(error: "GoogleAPICallError") -> set[str]:
    """The short words by which Google names what is wrong."""
    found = {str(one.get("reason", "")) for one in error.errors or () if isinstance(one, dict)}
    if error.reason:
        found.add(str(error.reason))
    return found


def refusal(error: "GoogleAPICallError") -> CloudError:
    """The CloudError for an answer of Google."""
    status = int(error.code or 0)
    why, said, where = reasons(error), _said(error), _where(error)
    if why & _NOT_ENABLED:
        service = "storage" if "storage" in where or "torage" in said else "compute"
        return Denied(
            "the API is not enabled in this project",
            where=where,
            next_step=f"run `gcloud services enable {service}.googleapis.com --project PROJECT`, wait a minute, try again",
        )
    if why & _BILLING:
        return Denied("billing is not enabled", where=where, next_step="link a billing account to the project")
    if status == 401:
        return _not_signed_in(error)
    if status == 429 or (status == 403 and why & _RATES):
        return Unreachable(
            "too many requests, in every try", where=where, next_step="wait a minute and run the same command again"
        )
    if why & _QUOTA:
        return QuotaExceeded(said, where=where, next_step=_CODES["QUOTA_EXCEEDED"][1])
    if status == 403:
        return Denied(said, where=where, next_step=_CODES["PERMISSIONS_ERROR"][1])
    if status == 404:
        return Gone(said, where=where)
    if status == 409:
        return NameTaken(said, where=where, next_step="say another name, or delete what has this one")
    if status in (400, 412, 413):
        return Unfit(said, where=where, next_step="choose other options")
    return Unreachable(
        f"Google answered {status}, in every try", where=where, next_step="wait a while and run the same command again"
    )


def operation_failure(operation: Any, where: str) -> CloudError | None:
    """The CloudError for an Operation of Compute Engine that ended badly; None for one that did not."""
    errors = list(operation.error.errors)
    if not errors and not operation.http_error_status_code:
        return None
    if not errors:
        return Failed(
            f"{operation.http_error_status_code} {operation.http_error_message}", where=where,
            next_step="run the same command again",
        )  # fmt: skip
    first = errors[0]
    kind, next_step = _CODES.get(first.code, (Failed, "run the same command again, or choose other options"))
    said = "; ".join(_one_line(f"{error.code}: {error.message}") for error in errors[:3])
    for detail in first.error_details:
        if detail.quota_info.metric_name:
            said += f" (limit {detail.quota_info.limit:g} of {detail.quota_info.metric_name})"
        if detail.localized_message.message and detail.localized_message.message not in said:
            said += f" ({_one_line(detail.localized_message.message)})"
    return kind(said, where=where, next_step=next_step)


def _not_signed_in(error: BaseException) -> NotSignedIn:
    text = str(error)
    ahead = _ahead(getattr(error, "response", None))
    if "short-lived token" in text or "iat" in text.split() or abs(ahead) > _SKEW_SECONDS:
        by = f" by {abs(ahead)} seconds" if abs(ahead) > _SKEW_SECONDS else ""
        return NotSignedIn(f"Google refuses the credentials: this machine's clock is wrong{by}", next_step=_CLOCK)
    for word, what in (
        ("invalid_rapt", "the organisation wants a fresh sign-in"),
        ("invalid_grant", "the credentials are expired or revoked"),
        ("account not found", "the account is not there any more"),
        ("invalid_client", "the credentials are of no known application"),
    ):
        if word in text:
            return NotSignedIn(what, next_step=_SIGN_IN)
    return NotSignedIn("Google does not accept the credentials", next_step=_SIGN_IN)


def _ahead(response: Any) -> int:
    """Seconds that this machine's clock is ahead of the answer's; 0 if it does not say."""
    try:
        return round(time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp())
    except (AttributeError, KeyError, ValueError, TypeError):
        return 0


def _said(error: "GoogleAPICallError") -> str:
    """What Google says, without the address."""
    return _one_line(_ADDRESS.sub("", str(error.message or "")) or f"refused ({error.code})")


def _where(error: "GoogleAPICallError") -> str:
    """What was asked for: the address's path, never its query."""
    url = getattr(getattr(error.response, "request", None), "url", None) or ""
    path = urlsplit(url).path
    for prefix in ("/compute/v1/", "/upload/storage/v1/", "/storage/v1/"):
        path = path.removeprefix(prefix)
    return path.lstrip("/")[:200] or "Google Cloud"


def _one_line(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).rstrip(".")
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]}..."
