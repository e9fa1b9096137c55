"""A client of AMD's key distribution service (KDS): one request at a time, patient with 429, never for ever, never too much.

AMD 57230 (VCEK certificate and KDS interface): GET /vcek/v1/{line}/{HWID}?{SPLs}, /vcek/v1/{line}/cert_chain and /crl, the
last two for /vlek/v1 as well. What comes is checked to be what was asked for; who signed it is checked by who uses it.
"""

import contextlib
import email.utils
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from sev.certificate_files import split_certificates
from sev.certificates import ARK, ASK, ASVK, LARGEST_CERTIFICATE, VCEK, VLEK, Certificate
from sev.collateral.errors import KdsBusy, KdsError, KdsNotFound, KdsUnreachable
from sev.collateral.pieces import LeafKey
from sev.errors import SevError
from sev.product import Line
from sev.revocation import LARGEST as LARGEST_CRL
from sev.revocation import Crl
from sev.tcb import KDS_NAMES

_Item = TypeVar("_Item")

AMD = "https://kdsintf.amd.com"
LARGEST_CHAIN = 4 * LARGEST_CERTIFICATE

# Seconds. One operation on the socket; one answer, however slowly it drips; one request with all its tries and pauses.
TIMEOUT = 10.0
LONGEST_ANSWER = 30.0
PATIENCE = 75.0
# Who waits longer is told for what.
TELL_AFTER = 2.0

MOST_TRIES = 8
MOST_FAILURES = 3
_FIRST_PAUSE = 0.5
# AMD's KDS lets a client have about one VCEK in ten seconds.
_FIRST_PAUSE_WHEN_BUSY = 5.0

VLEK_REFUSED = (
    "KDS gives a VLEK to the cloud provider only, never by chip: take it from the guest's extended request "
    "or from the provider, and give it with --certs"
)


class _TryAgain(Exception):
    """An answer that may be better next time; `pause` is what the server asks for, in seconds."""

    def __init__(self, reason: str, busy: bool = False, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.busy = busy
        self.pause = pause


class KdsClient:
    """A client of the service at `base`. `pause` is how it waits, `log` is told (one line) when it waits for long.

    The times are seconds: `timeout` for each operation, `longest` for an answer, `patience` for a request with its retries.
    """

    def __init__(
        self,
        base: str = AMD,
        *,
        timeout: float = TIMEOUT,
        longest: float = LONGEST_ANSWER,
        patience: float = PATIENCE,
        pause: Callable[[float], object] = time.sleep,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.base, self._host = _checked(base)
        self.timeout = timeout
        self.longest = longest
        self.patience = patience
        self._pause = pause
        self._log = log
        self._lock = threading.Lock()
        self._client: Any = None

    @property
    def is_amd(self) -> bool:
        """Whether this asks AMD's own service."""
        return self.base == AMD

    def vcek(self, key: LeafKey) -> Certificate:
        """The VCEK of a chip and TCB. KdsNotFound if the service does not know it; KdsError for all else that fails."""
        if key.kind != VCEK:
            raise KdsError(VLEK_REFUSED)
        address = vcek_path(key)
        leaf = self._decoded(address, Certificate.decode, LARGEST_CERTIFICATE)
        if leaf.kind != VCEK:
            raise KdsError(f"{self.base}: gave {leaf.subject_cn} when asked for a VCEK")
        given = LeafKey.of_certificate(leaf)
        if given != key:
            raise KdsError(f"{self.base}: gave the {given}; asked for was the {key}")
        return leaf

    def chain(self, line: Line, leaf: str = VCEK) -> list[Certificate]:
        """ASK and ARK of a line, or ASVK and ARK for VLEKs: the first signed by the second. KdsError."""
        wanted = ASVK if leaf == VLEK else ASK
        address = f"{_folder(line, leaf)}/cert_chain"
        given = self._decoded(
            address, lambda body: [Certificate.decode(der) for _, der in split_certificates(body)], LARGEST_CHAIN
        )
        kinds = [certificate.kind for certificate in given]
        if sorted(kinds) != sorted((wanted, ARK)) or {certificate.line for certificate in given} != {line}:
            names = ", ".join(certificate.subject_cn for certificate in given)
            raise KdsError(f"{self.base}{address}: gave {names}; wanted {wanted} and ARK of {line.name}, once each")
        chain = sorted(given, key=lambda certificate: certificate.kind == ARK)
        for certificate in chain:
            if problem := certificate.signature_problem(chain[1]):
                raise KdsError(f"{self.base}{address}: the {certificate.kind}: {problem}")
        return chain

    def crl(self, line: Line, leaf: str = VCEK) -> Crl:
        """The CRL of a line's ARK. KdsError."""
        address = f"{_folder(line, leaf)}/crl"
        crl = self._decoded(address, Crl.decode, LARGEST_CRL)
        if crl.issuer_cn != f"ARK-{line.name}":
            raise KdsError(f"{self.base}{address}: gave the CRL of {crl.issuer_cn[:40]!r}; wanted ARK-{line.name}'s")
        return crl

    def close(self) -> None:
        """Forget the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> "KdsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decoded(self, address: str, decode: Callable[[bytes], _Item], largest: int) -> _Item:
        kind, body = self._get(address, largest)
        try:
            return decode(body)
        except SevError as error:
            begin = body.lstrip()[:1]
            what = f"{kind or 'no type'}, {len(body)} bytes" + (", a web page" if begin == b"<" else "")
            raise KdsError(f"{self.base}{_short(address)}: no certificate or CRL but {what}: {error}") from None

    def _get(self, address: str, largest: int) -> tuple[str, bytes]:
        """Content type and body of an answer 200, after as many tries as patience lasts."""
        where = f"{self.base}{_short(address)}"
        with self._lock:
            left = self.patience
            failures = 0
            for number in range(MOST_TRIES):
                began = time.monotonic()
                try:
                    return self._once(self.base + address, where, largest, min(self.longest, left))
                except _TryAgain as trouble:
                    left -= time.monotonic() - began
                    if trouble.busy:
                        wait = trouble.pause or _FIRST_PAUSE_WHEN_BUSY * 2 ** (number - failures)
                    else:
                        failures += 1
                        wait = _FIRST_PAUSE * 2 ** (failures - 1)
                    if wait > left or failures >= MOST_FAILURES or number == MOST_TRIES - 1:
                        if trouble.busy:
                            raise KdsBusy(f"{where}: {trouble} ({number + 1} tries); try again in a minute") from None
                        raise KdsUnreachable(f"{where}: {trouble} ({number + 1} tries); try again later") from None
                    if time.monotonic() - began + wait > TELL_AFTER:
                        self._tell(f"{where}: {trouble}; next try in {wait:.3g} s")
                    left -= wait
                    self._pause(wait)
        raise AssertionError("the last try ends the loop")

    def _once(self, url: str, where: str, largest: int, longest: float) -> tuple[str, bytes]:
        import httpx

        watchdog = _Watchdog(
            longest, lambda: self._tell(f"{where}: no answer yet; waiting for at most {longest:.0f} s")
        )
        late = f"no whole answer within {longest:.3g} s"
        try:
            with watchdog, self._http().stream("GET", url, extensions={"trace": watchdog.trace}) as response:
                _check_status(response.status_code, response.headers, where)
                body = _limited(response, where, largest)
        except httpx.TimeoutException:
            raise _TryAgain(late if watchdog.fired else f"no answer within {self.timeout:.3g} s") from None
        except httpx.ConnectError as error:
            if watchdog.fired:
                raise _TryAgain(late) from None
            raise KdsUnreachable(f"{where}: {_first_line(error)}; is there a network, and is --kds right?") from None
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise _TryAgain(late if watchdog.fired else f"the answer broke off: {_first_line(error)}") from None
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise KdsError(f"{where}: {_first_line(error)}") from None
        if watchdog.fired:
            raise _TryAgain(late)
        return response.headers.get("content-type", "")[:40], body

    def _tell(self, text: str) -> None:
        if self._log is not None:
            self._log(text)

    def _http(self) -> Any:
        if self._client is None:
            import httpx

            self._client = httpx.Client(
                timeout=self.timeout,
                follow_redirects=False,
                # A proxy from the environment is for what lies beyond this machine.
                trust_env=self._host not in ("127.0.0.1", "::1", "localhost"),
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
                headers={"User-Agent": "cvmboot", "Accept": "*/*", "Accept-Encoding": "identity"},
            )
        return self._client


class _Watchdog:
    """Cuts the connection when an answer takes too long: httpx limits each read, which a drip of single bytes outlives.

    `slow` is called, from another thread, when there is no whole answer after TELL_AFTER seconds.
    """

    def __init__(self, seconds: float, slow: Callable[[], object]) -> None:
        self.fired = False
        self._timers = [threading.Timer(max(seconds, 0.01), self._fire)]
        if seconds > 2 * TELL_AFTER:
            self._timers.append(threading.Timer(TELL_AFTER, slow))
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's "trace" extension: hands over the connection as soon as there is one."""
        if event != "connection.connect_tcp.complete":
            return
        # A duplicate stays ours when TLS takes the descriptor over.
        mine = socket.socket(fileno=os.dup(info["return_value"].get_extra_info("socket").fileno()))
        with self._lock:
            self._socket = mine
            if self.fired:
                self._cut()

    def _fire(self) -> None:
        with self._lock:
            self.fired = True
            self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            # The other side may have been faster.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        for timer in self._timers:
            timer.daemon = True
            timer.start()

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def vcek_path(key: LeafKey) -> str:
    """Path and query of a VCEK: the SPLs in decimal, in the order of TCB_VERSION; Turin's begin with fmcSPL."""
    query = "&".join(f"{KDS_NAMES[name]}={level:02}" for name, level in key.tcb.spl.items())
    return f"{_folder(key.line, VCEK)}/{key.hwid.hex()}?{query}"


def _folder(line: Line, leaf: str) -> str:
    return f"/{'vlek' if leaf == VLEK else 'vcek'}/v1/{line.name}"


def _short(address: str) -> str:
    """An address without the query, and with no more of the HWID than a line has room for."""
    folder, _, last = address.partition("?")[0].rpartition("/")
    return f"{folder}/{last[:16]}{'...' if len(last) > 16 else ''}"


def _checked(base: str) -> tuple[str, str]:
    """The address without its last slash, and its host. KdsError for what is no http or https address of a server."""
    try:
        parts: SplitResult | None = urlsplit(base)
        host = parts.hostname or "" if parts else ""
        if parts and parts.port == 0:
            parts = None
    except ValueError:
        parts, host = None, ""
    if (
        parts is None
        or parts.scheme not in ("http", "https")
        or not host
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not all("!" <= letter <= "~" for letter in base)
    ):
        raise KdsError(f"KDS address {base[:60]!r}; wanted such as {AMD}")
    return base.rstrip("/"), host


def _check_status(status: int, headers: Any, where: str) -> None:
    if status == 200:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise KdsError(f"{where}: an answer in {headers['content-encoding'][:20]!r}, which was not asked for")
        return
    if status == 429:
        raise _TryAgain("too many requests (HTTP 429)", True, retry_after(headers.get("retry-after", "")))
    if status >= 500:
        raise _TryAgain(f"HTTP {status}")
    if status in (400, 404):
        raise KdsNotFound(f"{where}: HTTP {status}, this service does not know the line, chip or TCB")
    if 300 <= status < 400:
        raise KdsError(f"{where}: HTTP {status}, a redirection, which is not followed; name the right --kds")
    raise KdsError(f"{where}: HTTP {status}")


def retry_after(text: str) -> float:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number, or a date); 0 if it says nothing of use."""
    text = text.strip()
    if text.isdecimal() and text.isascii():
        return max(1.0, float(text[:9]))
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return max(1.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def _limited(response: Any, where: str, largest: int) -> bytes:
    body = bytearray()
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > largest:
        raise KdsError(f"{where}: an answer of {length[:20]} bytes; at most {largest} are taken")
    for part in response.iter_raw():
        body += part
        if len(body) > largest:
            raise KdsError(f"{where}: an answer of more than {largest} bytes")
    return bytes(body)


def _first_line(error: Exception) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in str(error))
    return " ".join(text.split())[:120] or type(error).__name__
