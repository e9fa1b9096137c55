"""Cloud Storage's resumable upload: one request carries all bytes; after a break the server says how far it came.

https://cloud.google.com/storage/docs/resumable-uploads. The session's address is a bearer secret: who has it can write the
object. It lives in memory only, and no message shows it.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cloud.errors import CloudError, Failed, Unreachable
from cloud.gce.archive import Archive
from cloud.gce.refusals import gce_words, refusal
from cloud.gce.session import Gce
from cloud.progress import Bar

if TYPE_CHECKING:
    from google.cloud.storage import Blob

_TRIES = 12
"""Requests in a row after which not one byte more has arrived, before giving up: two minutes."""
_SESSIONS = 3
_INCOMPLETE = 308
_GONE = (404, 410)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_CONTENT_TYPE = "application/gzip"


class _SessionLost(Exception):
    """Cloud Storage has forgotten the session: begin another."""


class _Stopped(Exception):
    """Nobody wants the rest: another part failed, or a person pressed Ctrl-C."""


class _Body:
    """Bytes for `requests`, which asks for the length first: then it sends Content-Length instead of chunks."""

    def __init__(self, archive: Archive, start: int, end: int, sent: "_Progress", stop: threading.Event) -> None:
        self._archive, self._start, self._end, self._sent, self._stop = archive, start, end, sent, stop

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[bytes]:
        for data in self._archive.pieces(self._start, self._end):
            if self._stop.is_set():
                raise _Stopped
            yield data
            self._sent.reached(self._sent.at + len(data))


class _Progress:
    """How far one object is; the bar goes back when the server says that less arrived than was sent."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self.at = 0

    def reached(self, at: int) -> None:
        self._bar.advance(at - self.at)
        self.at = at


class Sender:
    """Sends parts of an archive as objects. Several threads may send at once, each over a connection of its own."""

    def __init__(self, gce: Gce, archive: Archive) -> None:
        self._gce, self._archive = gce, archive
        self._lock = threading.Lock()
        self._local = threading.local()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends every send() that is under way, as soon as its connection lets it."""
        self._stop.set()

    def send(self, blob: "Blob", start: int, end: int, bar: Bar) -> None:
        """Makes `blob`, which must not be there, of the archive's bytes from `start` to `end`. CloudError."""
        blob.crc32c = self._archive.crc32c(start, end)
        sent = _Progress(bar)
        for _ in range(_SESSIONS):
            with self._lock:  # google-cloud-storage promises nothing about threads
                address = self._gce.store(
                    blob.create_resumable_upload_session,
                    content_type=_CONTENT_TYPE,
                    size=end - start,
                    checksum=None,
                    if_generation_match=0,
                )
            try:
                made = self._send(address, start, end, sent)
            except _SessionLost:
                self._gce.tell(f"Google lost the upload session of {blob.name}; beginning it again")
                sent.reached(0)
                continue
            if made.get("crc32c") != blob.crc32c:
                raise Failed(
                    f"CRC32C {made.get('crc32c')} arrived, {blob.crc32c} was sent",
                    where=f"{blob.bucket.name}/{blob.name}",
                    next_step="run the same command again: it is sent anew",
                )
            return
        raise Unreachable(
            "Google lost the upload session three times", where=blob.name, next_step="run the same command again"
        )

    def _send(self, address: str, start: int, end: int, sent: _Progress) -> dict[str, Any]:
        size, failures, known, last = end - start, 0, True, 0
        while failures < _TRIES:
            if self._stop.is_set():
                raise _Stopped
            arrived = sent.at
            if known:
                body = _Body(self._archive, start + arrived, end, sent, self._stop)
                answer = self._put(address, body, f"bytes {arrived}-{size - 1}/{size}" if size else "bytes */0")
            else:
                # What was sent is not what arrived: nothing more goes out before the server has said how far it is.
                answer = self._put(address, b"", f"bytes */{size}")
            if (made := self._finished(answer)) is not None:
                sent.reached(size)
                return made
            known = answer is not None and answer.status_code == _INCOMPLETE
            if known:
                now = min(_arrived(answer.headers.get("Range", "")), size)
                failures = 0 if now > last else failures + 1
                last = now
                sent.reached(now)
                self._gce.tell(f"upload broken off after {now} of {size} bytes; going on")
            else:
                failures += 1
            if failures and not self._stop.is_set():
                self._gce.patience.pause(min(0.25 * 2.0**failures, 16))
        raise Unreachable(
            "the upload broke off again and again",
            where="Cloud Storage",
            next_step="look at the network, then run the same command again: what has arrived is kept",
        )

    def _put(self, address: str, body: Any, content_range: str) -> Any:
        """The answer; None if the connection broke. `requests` puts the address into its errors: they stay here."""
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        try:
            return session.put(address, data=body, headers={"Content-Range": content_range}, timeout=self._gce.timeouts)
        except requests.exceptions.RequestException:
            session.close()
            return None

    @staticmethod
    def _finished(answer: Any) -> dict[str, Any] | None:
        """What was made; None if that is not known yet. _SessionLost, or the refusal in words."""
        if answer is None or answer.status_code in (_INCOMPLETE, *_TRANSIENT):
            return None
        if answer.ok:
            try:
                made = answer.json()
            except ValueError:
                made = None
            return made if isinstance(made, dict) else None
        if answer.status_code in _GONE:
            raise _SessionLost
        from google.api_core.exceptions import from_http_response

        with gce_words():
            error: CloudError = refusal(from_http_response(answer))
        raise error


def _arrived(text: str) -> int:
    """Bytes that arrived, from a Range header such as "bytes=0-1023"; 0 without one."""
    last = text.removeprefix("bytes=0-")
    return int(last) + 1 if last != text and last.isascii() and last.isdigit() and len(last) < 16 else 0
