"""The server: in a thread of a test, or as a process of its own (`python tests/cloud/strict_aws/server.py`)."""

import json
import os
import sys
import time
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path
from threading import Thread, local
from typing import Any
from urllib.parse import parse_qs

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from strict_aws import ebs, images, importing, instances
from strict_aws.world import WORLD, Answer, CutOff, Request, reset

for _part in (ebs, images, instances, importing):
    _part.install()


class Gate:
    """A WSGI application around moto's: notes each request, and lets a test's accidents happen."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/moto-api"):
            return self._moto(environ, start)
        request = _request(environ)
        with WORLD.lock:
            WORLD.requests.append(request)
            accidents = list(WORLD.accidents)
        if "HTTP_AUTHORIZATION" not in environ:
            return _answer(start, request, Answer(401, "AuthFailure", "no signature"))
        for accident in accidents:
            if (answer := accident(request)) is not None:
                return _answer(start, request, answer)
        body = list(self._moto(environ, start))
        for after in list(WORLD.after):
            after(request)
        return body


def _request(environ: dict[str, Any]) -> Request:
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split("/")
    service = scope[3] if len(scope) > 3 else ""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()}
    if service == "ebs":
        if method == "PUT":
            return Request(service, "PutSnapshotBlock", {"BlockIndex": path.rpartition("/")[2]})
        return Request(service, "CompleteSnapshot" if "/completion/" in path else "StartSnapshot", {})
    if service == "s3":
        part = "Part" if "uploadId" in query else ""
        return Request(service, f"{method.title()}Object{part}", {"path": path, **query})
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Request(service, target.rpartition(".")[2], {})
    import io

    data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(data)
    form = {key: values[0] for key, values in parse_qs(data.decode("latin-1")).items()}
    return Request(service, form.get("Action", ""), form)


def _answer(start: Any, request: Request, answer: Answer) -> list[bytes]:
    _clock.skew = answer.skew
    headers = []
    if request.service in ("ec2", "sts"):
        headers.append(("Content-Type", "text/xml"))
        error = f"<Error><Code>{answer.code}</Code><Message>{answer.message}</Message></Error>"
        body = (
            f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
            if request.service == "ec2"
            else f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
        ).encode()
    elif request.service == "s3":
        headers.append(("Content-Type", "application/xml"))
        body = f"<Error><Code>{answer.code}</Code><Message>{answer.message}</Message></Error>".encode()
    else:
        headers += [("Content-Type", "application/json"), ("x-amzn-ErrorType", answer.code)]
        body = json.dumps({"__type": answer.code, "Message": answer.message, "Reason": answer.reason}).encode()
    headers.append(("Content-Length", str(len(body))))
    start(f"{answer.status} {answer.code}", headers)
    return [body]


_clock = local()
"""What the thread's next answer says of the time."""


class _Handler(MotoRequestHandler):
    """HTTP/1.1, so that connections stay as they do at AWS; a CutOff closes one without an answer."""

    protocol_version = "HTTP/1.1"

    def run_wsgi(self) -> None:
        try:
            super().run_wsgi()
        except CutOff:
            self.close_connection = True

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The date in the header."""
        skew, _clock.skew = getattr(_clock, "skew", 0), 0
        return formatdate((timestamp or time.time()) + skew, usegmt=True)

    def log_request(self, *_: Any) -> None:
        """Quiet."""

    def log(self, *_: Any) -> None:
        """Quiet."""


class Server:
    """The stand-in in a thread, at `address`."""

    def __init__(self) -> None:
        self._server = make_server("127.0.0.1", 0, Gate(), threaded=True, request_handler=_Handler)
        self._server.passthrough_errors = True
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Everything as on the first day."""
        from moto.backends import get_backend
        from moto.core.base_backend import BackendDict

        for service in ("ec2", "ebs", "s3", "sts"):
            backend = get_backend(service)
            assert isinstance(backend, BackendDict)
            backend.reset()
        reset()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def environment(address: str) -> dict[str, str]:
    """What makes every AWS SDK, and Terraform, talk to the stand-in and to nothing else."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY",
        "AWS_SESSION_TOKEN": "session-token-that-must-not-be-shown",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-2",
    }


def main() -> None:
    """Serve until standard input ends; the address is the first line of standard output."""
    server = Server()
    sys.stdout.write(server.address + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
