"""AWS's errors in one line each: what was refused and what to do. What AWS says is shown only where it can hold no secret."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from cloud.errors import (
    CloudError,
    Conflict,
    Denied,
    Failed,
    Gone,
    NameTaken,
    NotSignedIn,
    QuotaExceeded,
    Unreachable,
)

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_SKEW_SECONDS = 240
"""AWS refuses signatures that are five minutes off."""
_MESSAGE = 300

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_BAD_CREDENTIALS = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "OptInRequired", "UnauthorizedOperation", "Unauthorized"}
_CAPACITY = {"InsufficientInstanceCapacity", "InsufficientHostCapacity", "Unsupported"}
_QUOTAS = {
    "AddressLimitExceeded",
    "ConcurrentLimitExceededException",
    "ConcurrentSnapshotLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "PendingSnapshotLimitExceeded",
    "ResourceCountExceeded",
    "ResourceLimitExceeded",
    "ServiceQuotaExceededException",
    "SnapshotCreationPerVolumeRateExceeded",
    "SnapshotLimitExceeded",
    "VcpuLimitExceeded",
    "VolumeLimitExceeded",
}
_THROTTLED = {
    "EC2ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_GONE = re.compile(r"(.*\.NotFound|ResourceNotFoundException|NoSuchKey|NoSuchUpload|InvalidAMIID\.Unavailable|404)")


def code_of(error: "ClientError") -> str:
    """AWS's name of the error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def aws_words() -> Iterator[None]:
    """Turns the SDK's exceptions into CloudError. Works as a decorator too."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise refusal(error) from None
    except BotoCoreError as error:
        raise _of_the_sdk(error) from None


def refusal(error: "ClientError") -> CloudError:
    """The CloudError for an answer of AWS."""
    code, operation = code_of(error), str(error.operation_name)
    where = f"AWS {operation}"
    if code in _EXPIRED | _BAD_CREDENTIALS:
        return _not_signed_in(error, code, where)
    if code in _DENIED:
        return Denied(
            f"not allowed ({code})",
            where=where,
            next_step=f"the account's policies must allow {operation}; docs/deploy.md lists the permissions needed",
        )
    said = f"{code}: {_message(error)}"
    if code in _QUOTAS:
        return QuotaExceeded(
            said, where=where, next_step="ask for a higher quota (Service Quotas), or free what is not needed"
        )
    if code in _CAPACITY:
        return QuotaExceeded(said, where=where, next_step="try another --zone, --machine-type or --region")
    if code in _THROTTLED:
        return Unreachable(
            f"{code}, in every try", where=where, next_step="wait a while and run the same command again"
        )
    if code == "InvalidAMIName.Duplicate":
        return NameTaken(said, where=where, next_step="say another --image-name, or delete that image")
    if code in ("IdempotentParameterMismatch", "ConflictException"):
        return Conflict(
            said, where=where, next_step="the run was begun with other options: destroy it, then deploy again"
        )
    if _GONE.fullmatch(code):
        return Gone(said, where=where)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500:
        return Unreachable(said, where=where, next_step="AWS has trouble: run the same command again later")
    return Failed(said, where=where)


def _message(error: "ClientError") -> str:
    text = str(error.response.get("Error", {}).get("Message", ""))
    return text.partition("Encoded authorization failure message")[0].strip()[:_MESSAGE]


def _not_signed_in(error: "ClientError", code: str, where: str) -> CloudError:
    """AWS's message may quote the signed request, session token and all: it is not shown."""
    skew = _skew(error.response)
    if abs(skew) >= _SKEW_SECONDS:
        return NotSignedIn(
            f"this machine's clock is {abs(skew)} seconds {'behind' if skew > 0 else 'ahead'} ({code})",
            where=where,
            next_step="set the clock: AWS takes no signature that is five minutes off",
        )
    if code in _EXPIRED:
        return NotSignedIn(
            f"the credentials have expired ({code})",
            where=where,
            next_step="sign in again (`aws sso login`, or new keys), then run the same command again",
        )
    return NotSignedIn(
        f"the credentials were not accepted ({code})",
        where=where,
        next_step="check AWS_PROFILE, AWS_ACCESS_KEY_ID or ~/.aws with `aws sts get-caller-identity`",
    )


def _skew(response: Any) -> int:
    """Seconds that AWS's clock is ahead of ours; 0 if it does not say."""
    moment = server_time(response)
    return round(moment - datetime.now(UTC).timestamp()) if moment else 0


def server_time(response: Any) -> int:
    """Seconds since 1970 by the clock of who answered; 0 if the answer has no date."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return int(parsedate_to_datetime(headers.get("date", "")).timestamp())
    except (ValueError, TypeError):
        return 0


def _of_the_sdk(error: Exception) -> CloudError:
    from botocore import exceptions

    name = type(error).__name__
    if isinstance(
        error,
        exceptions.NoCredentialsError
        | exceptions.PartialCredentialsError
        | exceptions.CredentialRetrievalError
        | exceptions.TokenRetrievalError
        | exceptions.UnauthorizedSSOTokenError
        | exceptions.SSOTokenLoadError
        | exceptions.NoAuthTokenError,
    ):
        return NotSignedIn(
            f"no usable credentials ({name})",
            where="AWS",
            next_step="sign in (`aws configure`, `aws sso login`) or set AWS_PROFILE or AWS_ACCESS_KEY_ID",
        )
    if isinstance(error, exceptions.ProfileNotFound | exceptions.ConfigParseError | exceptions.ConfigNotFound):
        return NotSignedIn(str(error), where="AWS", next_step="name a profile of ~/.aws/config with --profile")
    if isinstance(error, exceptions.NoRegionError | exceptions.InvalidRegionError):
        return CloudError("no region", where="AWS", next_step="say --region, such as --region us-east-2")
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        address = error.kwargs.get("endpoint_url", "")
        return Unreachable(
            f"no answer ({name}){f' from {address}' if address else ''}",
            where="AWS",
            next_step="check the network and --region, then run the same command again: it goes on where it was",
        )
    return Failed(f"{name}: {str(error)[:_MESSAGE]}", where="AWS")
