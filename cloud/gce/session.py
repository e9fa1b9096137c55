"""Google Cloud as Application Default Credentials open it: the official clients, with bounded, visible retries.

End points can be moved, for tests and private networks, by the variables that gcloud reads: they go to the clients as
ClientOptions(api_endpoint). google-cloud-storage reads STORAGE_EMULATOR_HOST by itself.
"""

import os
import time
import warnings
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cloud.errors import CloudError, NotSignedIn
from cloud.gce.options import Access
from cloud.gce.refusals import gce_words, reasons
from cloud.progress import Report
from cloud.wait import Patience

if TYPE_CHECKING:
    from google.cloud import storage

CONNECT_SECONDS, READ_SECONDS = 30, 60
"""Who does not answer for a minute does not at all (awslabs/coldsnap#216)."""
RETRY_SECONDS = 120
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TRANSIENT = (429, 500, 502, 503, 504)
_RATES = {"rateLimitExceeded", "userRateLimitExceeded"}


class Gce:
    """One project and zone. Clients are made when they are first asked for; not for several threads at once."""

    def __init__(self, project: str, zone: str, access: Access) -> None:
        """Asks nothing of Google. NotSignedIn without credentials, CloudError without a project."""
        self.access = access
        self.zone = zone
        self.region = zone.rpartition("-")[0]
        if not self.region:
            raise CloudError(f"no zone {zone[:60]!r}", next_step="say --zone, such as europe-west4-a")
        self.tell: Callable[[str], None] = Report().say
        self.patience = Patience(access.timeout)
        self._compute_endpoint = _endpoint("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "/compute/v1")
        self._storage_endpoint = _endpoint("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "/storage/v1")
        self._credentials, found = _credentials()
        self.project = project or found or ""
        if not self.project:
            raise CloudError("the credentials name no project", next_step="say --project")
        self._clients: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """As Order.place."""
        return f"{self.project}/{self.zone}"

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds to connect, and to wait for bytes, of one request."""
        return min(CONNECT_SECONDS, self.access.timeout), min(READ_SECONDS, self.access.timeout)

    def compute(self, name: str) -> Any:
        """A client of google.cloud.compute_v1 by its class: "ImagesClient"."""
        if name not in self._clients:
            from google.api_core.client_options import ClientOptions
            from google.cloud import compute_v1

            options = ClientOptions(api_endpoint=self._compute_endpoint or None)
            self._clients[name] = getattr(compute_v1, name)(credentials=self._credentials, client_options=options)
        return self._clients[name]

    @property
    def storage(self) -> "storage.Client":
        """Cloud Storage."""
        if "storage" not in self._clients:
            from google.api_core.client_options import ClientOptions
            from google.cloud import storage

            options = ClientOptions(api_endpoint=self._storage_endpoint or None)
            self._clients["storage"] = storage.Client(self.project, self._credentials, client_options=options)
        client: storage.Client = self._clients["storage"]
        return client

    def call(self, client: str, method: str, *, zonal: bool = False, **request: Any) -> Any:
        """Calls e.g. ("ImagesClient", "get", image=...) of this project, of this zone with `zonal`. CloudError.

        Anything that makes or deletes must carry a request_id: it is sent again when no answer comes.
        """
        with gce_words():
            bound = getattr(self.compute(client), method)
            place = {"project": self.project, **({"zone": self.zone} if zonal else {})}
            return self.retry(partial(bound, request={**place, **request}, retry=None, timeout=self.timeouts[1]))

    def listed(self, client: str, *, zonal: bool = False, **request: Any) -> list[Any]:
        """All pages of a list. CloudError."""
        with gce_words():
            bound = self.compute(client).list
            place = {"project": self.project, **({"zone": self.zone} if zonal else {})}
            pages = partial(bound, request={**place, **request}, retry=None, timeout=self.timeouts[1])
            found: list[Any] = self.retry(lambda: list(pages()))
        return found

    def store(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls a method of google-cloud-storage that may be called twice. CloudError."""
        with gce_words():
            return self.retry(partial(call, *arguments, timeout=self.timeouts, retry=None, **options))

    def retry(self, call: Callable[[], Any]) -> Any:
        """Calls again with growing pauses while the answer is that of a busy or broken server or network."""
        from google.api_core.retry import Retry

        seconds = min(RETRY_SECONDS, self.access.timeout)
        return Retry(predicate=_is_transient, initial=0.5, maximum=16, timeout=seconds, on_error=self._note)(call)()

    def _note(self, error: Exception) -> None:
        status = getattr(error, "code", None)
        what = f"answered {int(status)}" if status else "does not answer"
        self.tell(f"Google {what}; trying again")

    def clock(self) -> tuple[int, int]:
        """(seconds since 1970 by Google's clock, seconds that this machine's clock is ahead of it). CloudError."""
        with gce_words():
            from google.auth.transport.requests import AuthorizedSession

            base = self._compute_endpoint or "https://compute.googleapis.com"
            url = f"{base}/compute/v1/projects/{self.project}/zones/{self.zone}?fields=name"
            session = AuthorizedSession(self._credentials)
            answer = self.retry(partial(session.get, url, timeout=self.timeouts[1]))
            now = time.time()
        try:
            seconds = int(parsedate_to_datetime(answer.headers["Date"]).timestamp())
        except (KeyError, ValueError, TypeError):
            raise CloudError("an answer without a date", where=base, next_step="is this Google?") from None
        return seconds, round(now - seconds)


def _is_transient(error: Exception) -> bool:
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import TransportError

    if isinstance(error, GoogleAPICallError):
        return error.code in _TRANSIENT or (error.code == 403 and bool(_RATES & reasons(error)))
    return isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout | TransportError)


def _credentials() -> tuple[Any, str | None]:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "end user credentials without a quota project": the project is always named
        try:
            found: tuple[Any, str | None] = google.auth.default(scopes=[_SCOPE])
        except (DefaultCredentialsError, ValueError, OSError):
            raise NotSignedIn(
                "no usable Google credentials",
                next_step="run `gcloud auth application-default login`, or name a key file with GOOGLE_APPLICATION_CREDENTIALS",
            ) from None
    return found


def _endpoint(variable: str, path: str) -> str:
    """The address in an environment variable, "" if there is none. An access token must not leave the machine in the clear."""
    url = os.environ.get(variable, "")
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/") not in ("", path):
        raise CloudError(f"{url[:100]} is no end point", where=variable, next_step="wanted such as https://host:port")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise CloudError(f"{url[:100]}: credentials would travel unencrypted", where=variable, next_step="use https")
    return f"{parts.scheme}://{parts.netloc}"


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
