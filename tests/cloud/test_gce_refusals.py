"""What Google refuses, and networks that fail: one line that says what to do; the same order again finishes the job."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gce_run import Runner
from strict_gce.errors import Refused
from strict_gce.server import Cut

from cloud.errors import (
    CloudError,
    Denied,
    Failed,
    NameTaken,
    NotSignedIn,
    QuotaExceeded,
    TimedOut,
    Unfit,
    Unreachable,
)


def failing(
    error: Exception, times: int = 10**9, *, at: str = "", moment: str = "before"
) -> Callable[[str, str], None]:
    """A strike that raises so often, for requests whose name has `at` in it."""
    left = [times]

    def strike(now: str, what: str) -> None:
        if now == moment and at in what and what != "token" and left[0] > 0:
            left[0] -= 1
            raise error

    return strike


def refused(runner: Runner, kind: type[CloudError], wanted: str, **options: Any) -> str:
    with pytest.raises(kind, match=wanted) as caught:
        runner.deploy(runner.order(**options))
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def finishes(runner: Runner) -> None:
    """The same order again: one image, one instance, one disk, and nothing else."""
    runner.google.strike = lambda moment, what: None
    run = runner.deploy()
    assert run is not None and run.state == "complete"
    assert [what.split()[0] for what in runner.google.world.left] == ["image", "instance", "disk"]


@pytest.mark.parametrize(
    ("code", "kind", "wanted"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", QuotaExceeded, "try another --zone or --machine-type, or the same later"),
        ("QUOTA_EXCEEDED", QuotaExceeded, "ask for a higher quota"),
        ("PERMISSIONS_ERROR", Denied, r"docs/deploy\.md lists"),
        ("CONDITION_NOT_MET", Denied, "organisation policy"),
        ("UNSUPPORTED_OPERATION", Unfit, "choose other options"),
        ("SOMETHING_NEW", Failed, "run the same command again"),
    ],
)
def test_an_operation_that_fails_is_told_in_words(gce: Runner, code: str, kind: type[CloudError], wanted: str) -> None:
    error = {"code": code, "message": "The zone does not have\nenough resources."}
    gce.google.world.operation_error["compute.instances.insert"] = error
    text = refused(gce, kind, wanted)
    assert f"{code}: The zone does not have enough resources" in text and "our-project/europe-west4-a" in text
    assert text in next(gce.folder.glob("*.json")).read_text()
    finishes(gce)
    assert gce.google.world.calls.count("compute.images.insert") == 1


def test_a_quota_error_names_the_quota(gce: Runner) -> None:
    detail = {"quotaInfo": {"metricName": "compute.googleapis.com/n2d_cpus", "limit": 8.0}}
    error = {"code": "QUOTA_EXCEEDED", "message": "Quota exceeded", "errorDetails": [detail]}
    gce.google.world.operation_error["compute.instances.insert"] = error
    refused(gce, QuotaExceeded, r"limit 8 of compute\.googleapis\.com/n2d_cpus")


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "QUOTA_EXCEEDED"])
def test_an_image_that_cannot_be_imported_goes_and_is_made_anew(gce: Runner, code: str) -> None:
    gce.google.world.operation_error["compute.images.insert"] = {"code": code, "message": "import failed"}
    refused(gce, CloudError, rf"{code}: import failed; ")
    assert not gce.google.world.images
    finishes(gce)


def test_an_operation_without_an_end_is_not_waited_for_for_ever(gce: Runner) -> None:
    """linuxkit polls a failed import without an end."""
    gce.google.world.looks_until_done = 10**9
    gce.timeout = 1
    refused(gce, TimedOut, r"waited 1 seconds for image app-\w+ to be made .*run the same command again to go on")
    gce.google.world.looks_until_done = 1
    gce.timeout = 20
    finishes(gce)
    assert gce.google.world.calls.count("compute.images.insert") == 1


def test_operations_go_through_pending_and_running(gce: Runner) -> None:
    gce.google.world.looks_until_done = 3
    finishes(gce)
    assert gce.google.world.calls.count("compute.globalOperations.get") == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_busy_server_is_asked_again_and_that_is_told(gce: Runner, status: int) -> None:
    gce.google.strike = failing(Refused(status, "backendError", "Backend Error"), 2, at="POST projects")
    finishes_once(gce)
    assert f"Google answered {status}; trying again" in gce.told.getvalue()


def finishes_once(runner: Runner) -> None:
    run = runner.deploy()
    assert run is not None and run.state == "complete"
    assert len(runner.google.world.bodies["compute.instances.insert"]) == 1


def test_a_server_that_stays_busy_ends_in_one_line(gce: Runner) -> None:
    gce.timeout = 1
    gce.google.strike = failing(Refused(503, "backendError", "Backend Error"))
    refused(gce, Unreachable, r"Google answered 503, in every try; wait a while and run the same command again")


def test_rate_limits_are_waited_for(gce: Runner) -> None:
    gce.google.strike = failing(Refused(403, "rateLimitExceeded", "Rate Limit Exceeded"), 1, at="/images")
    finishes_once(gce)
    gce.timeout = 1
    gce.google.strike = failing(Refused(429, "rateLimitExceeded", "Rate Limit Exceeded"))
    refused(gce, Unreachable, "too many requests, in every try; wait a minute", name="other")


@pytest.mark.parametrize("at", ["POST projects/our-project/global/images", "POST projects/our-project/zones", "POST b"])
def test_an_answer_that_is_lost_makes_nothing_twice(gce: Runner, at: str) -> None:
    gce.google.strike = failing(Cut(), 1, at=at, moment="after")
    finishes(gce)
    for method in ("storage.buckets.insert", "compute.images.insert", "compute.instances.insert"):
        assert gce.google.world.calls.count(method) <= 2
    assert gce.google.strike is not None and len(gce.google.world.operations) <= 4


@pytest.mark.parametrize("journal_is_lost", [False, True])
def test_what_was_accepted_unseen_is_not_made_twice(gce: Runner, journal_is_lost: bool) -> None:
    """The answer is lost, the process gives up, and the image is not shown yet when the next one looks.

    With the journal the requestId is the same, and so is the answer; without it the name is taken, by ourselves.
    """
    images = "projects/our-project/global/images"
    gce.timeout = 1
    gce.google.strike = failing(Cut(), at=f"POST {images}", moment="after")
    refused(gce, Unreachable, "Google does not answer")
    asked_again = []
    if journal_is_lost:
        for file in gce.folder.iterdir():
            file.unlink()

    def hide(moment: str, what: str) -> None:
        if what == f"POST {images}":
            asked_again.append(what)
        if moment == "before" and what.startswith(f"GET {images}/") and not asked_again:
            raise Refused(404, "notFound", f"The resource '{what}' was not found")

    gce.timeout, gce.google.strike = 20, hide
    run = gce.deploy()
    assert run is not None and run.state == "complete" and asked_again
    made = [one for one in gce.google.world.operations.values() if one["operationType"] == "insert"]
    assert len(made) == 2
    used = gce.google.world.request_ids["compute.images.insert"]
    assert len(used) >= 2 and len(set(used)) == (2 if journal_is_lost else 1)


def test_an_api_that_is_not_enabled(gce: Runner) -> None:
    text = "Compute Engine API has not been used in project 1 before or it is disabled."
    gce.google.strike = failing(Refused(403, "accessNotConfigured", text, "SERVICE_DISABLED"), at="zones")
    refused(
        gce, Denied, r"the API is not enabled in this project; run `gcloud services enable compute\.googleapis\.com"
    )


def test_billing_that_is_off(gce: Runner) -> None:
    gce.google.strike = failing(Refused(403, "billingNotEnabled", "Billing"), at="POST b")
    refused(gce, Denied, r"billing is not enabled; link a billing account")


def test_a_permission_that_is_missing(gce: Runner) -> None:
    text = "Required 'compute.images.create' permission for 'projects/our-project/global/images/app'"
    gce.google.strike = failing(Refused(403, "forbidden", text), at="POST projects/our-project/global/images")
    said = refused(gce, Denied, r"Required 'compute\.images\.create' permission .*docs/deploy\.md lists")
    assert gce.google.world.calls.count("compute.images.insert") == 0 and "trying again" not in gce.told.getvalue()
    assert "projects/our-project/global/images" in said
    finishes(gce)


def test_credentials_that_were_revoked(gce: Runner) -> None:
    gce.google.sign_in.revoked = True
    refused(
        gce, NotSignedIn, r"expired or revoked|does not accept the credentials.*gcloud auth application-default login"
    )


@pytest.mark.parametrize("offset", [-7200, 7200])
def test_a_clock_that_is_wrong(gce: Runner, offset: int) -> None:
    gce.google.world.clock_offset = offset
    refused(gce, NotSignedIn, r"this machine's clock is wrong.*; set this machine's clock")


@pytest.mark.parametrize("content", [None, "", "{", '{"type": "service_account"}', '{"type": "nonsense"}'])
def test_no_credentials(gce: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    if content is None:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    else:
        (tmp_path / "bad.json").write_text(content)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "bad.json"))
    refused(gce, NotSignedIn, r"no usable Google credentials; run `gcloud auth application-default login`")


def test_a_network_that_is_not_there(gce: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", address)
    gce.timeout = 1
    refused(gce, Unreachable, r"Google does not answer \(ConnectionError\); look at the network")


def test_a_server_that_never_answers(gce: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """coldsnap had no read timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kept: list[socket.socket] = []
        threading.Thread(target=_swallow, args=(silent, kept), daemon=True).start()
        monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", f"http://127.0.0.1:{silent.getsockname()[1]}")
        gce.timeout = 1
        refused(gce, Unreachable, r"Google does not answer \((ReadTimeout|ConnectionError|Timeout)\)")


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>sign in to the hotel's network</html>", b"[]", b"null", b'{"items": 7}', b'{"items": [{"id": "x"}]}'],
)
def test_a_server_that_answers_nonsense(gce: Runner, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", f"http://127.0.0.1:{server.server_port}")
    gce.timeout = 1
    try:
        refused(gce, CloudError, ".")
    finally:
        server.shutdown()
        server.server_close()


def _swallow(silent: socket.socket, kept: list[socket.socket]) -> None:
    try:
        while True:
            kept.append(silent.accept()[0])
    except OSError:
        return


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://compute.example.org", "credentials would travel unencrypted; use https"),
        ("ftp://127.0.0.1", "is no end point"),
        ("https://127.0.0.1/other/path", "is no end point"),
    ],
)
def test_a_token_goes_nowhere_in_the_clear(gce: Runner, monkeypatch: pytest.MonkeyPatch, url: str, wanted: str) -> None:
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", url)
    refused(gce, CloudError, wanted)
    assert not gce.google.world.calls


def test_a_name_that_somebody_took_in_the_middle(gce: Runner) -> None:
    """Ours was deleted, and theirs has its name, when the run goes on."""
    gce.google.world.operation_error["compute.instances.insert"] = {"code": "INTERNAL_ERROR", "message": "x"}
    refused(gce, Failed, "INTERNAL_ERROR")
    ((name, image),) = gce.google.world.images.items()
    gce.google.world.images[name] = {**image, "labels": {}}
    refused(gce, Unfit, rf"{name} is there and not made by cvmboot")
    assert name in gce.google.world.images


def test_a_bucket_name_that_somebody_in_the_world_has(gce: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.deploy.new_run", lambda: "abcdefghij")
    gce.google.world.foreign_buckets.add("cvmboot-abcdefghij")
    refused(
        gce, NameTaken, r"bucket cvmboot-abcdefghij is not ours; deploy again with another --name, or with --bucket"
    )
    assert not gce.google.world.left
