"""The upload against gcp-storage-emulator, which others wrote: a second opinion on what a good day looks like.

It is no judge of what must be refused: it asks for no sign-in, takes any field, drops a bucket's labels, ignores preconditions of
compose, says of an upload of which nothing has arrived that one byte has, and waits for ever for the rest of a broken one. So
everything else is tried against strict_gce.
"""

import io
import socket
from collections.abc import Iterator

import pytest
from gcp_storage_emulator.server import create_server
from strict_gce.server import Server
from strict_gce.storage import crc32c
from strict_gce.world import PROJECT, ZONE
from test_gce_upload import archive_bytes, big_source  # noqa: F401

from cloud.gce.bucket import BucketStep, delete_bucket
from cloud.gce.options import Access
from cloud.gce.session import Gce
from cloud.gce.upload import UploadStep
from cloud.labels import Labels
from cloud.progress import Report
from cloud.source import Source

LABELS = Labels("abcdefghij", "app", "0" * 32, 1_700_000_000, "instance", "1.0")


@pytest.fixture
def emulator() -> Iterator[int]:
    """Its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    yield port
    server.stop()


def upload(source: Source) -> tuple[Gce, dict[str, object], str]:
    """(session, facts, what was told) after a bucket and an upload."""
    told = io.StringIO()
    gce = Gce(PROJECT, ZONE, Access(timeout=20))
    gce.tell = Report(told).say
    gce.patience.pause = lambda seconds: None
    BucketStep(gce, LABELS).create({}, "token")
    step = UploadStep(gce, LABELS, source, Report(told), None)
    assert step.find({}) is None
    facts = step.finish(step.create({}, "token"), {}, lambda facts: None)
    return gce, facts, told.getvalue()


def test_what_the_emulator_has_is_what_was_sent(
    google: Server,
    emulator: int,
    big_source: Source,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", f"http://127.0.0.1:{emulator}")
    gce, facts, _ = upload(big_source)
    whole = archive_bytes(big_source)
    bucket = gce.storage.bucket("cvmboot-abcdefghij")
    (blob,) = list(bucket.list_blobs())
    assert blob.name == "cvmboot/abcdefghij/app.tar.gz" and blob.download_as_bytes() == whole
    assert facts["crc32c"] == crc32c(whole) and facts["bytes"] == len(whole)
    delete_bucket(gce, bucket.name)
    assert not list(gce.storage.list_buckets())
