"""What an upload to Cloud Storage costs beside a bare loop over requests, with a server of this machine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.figures import TIMES_FASTER, Figure, Limit

SHARE = 0.7
_MIB = 96
_PART = 8 << 20
# A process of its own that opens sessions and takes bytes as fast as Python's own HTTP server can.
_SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sums = {}
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def answer(self, body, **headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = str(len(sums))
        sums[name] = given.get("crc32c", "")
        self.answer(b"", Location=f"http://{self.headers['Host']}/session?upload_id={name}")
    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.answer(json.dumps({"crc32c": sums[self.path.rpartition("=")[2]]}).encode())
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def figures(runs: int) -> Iterator[Figure]:
    """The one figure."""
    with _server() as address, tempfile.TemporaryFile() as file:
        file.write(Random(1).randbytes(_MIB << 20))
        file.flush()
        _bare(address, file.fileno())  # connections and code are warm for both
        ours, bare = [], []
        for _ in range(max(3, runs)):
            ours.append(_seconds(lambda: _upload(address, file.fileno())))
            bare.append(_seconds(lambda: _bare(address, file.fileno())))
        title = f"upload of {_MIB} MiB to Cloud Storage, beside requests"
        yield Figure(title, "s", ours, Limit(TIMES_FASTER, SHARE), bare)


def _upload(address: str, handle: int) -> None:
    """As `cvmboot deploy gce` sends it: parts, each with its CRC32C, four at a time, told to a bar."""
    import io

    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    from cloud.gce.archive import Archive
    from cloud.gce.resumable import Sender
    from cloud.gce.upload import _parts, _side_by_side
    from cloud.progress import Report
    from cloud.wait import Patience

    client = storage.Client("project", AnonymousCredentials(), client_options=ClientOptions(api_endpoint=address))
    gce: Any = SimpleNamespace(
        store=lambda call, **options: call(**options), tell=print, timeouts=(10, 60), patience=Patience(60)
    )
    archive = Archive(handle)
    bucket = client.bucket("bucket")
    with Report(io.StringIO()).transfer("upload", archive.size) as bar:
        parts = [(bucket.blob(str(index)), *part) for index, part in enumerate(_parts(archive.size))]
        _side_by_side(Sender(gce, archive), parts, bar)


def _bare(address: str, handle: int) -> None:
    """What a script does: a session and a PUT for each 8 MiB, no checksum, no progress."""
    import requests

    size = os.fstat(handle).st_size
    with requests.Session() as http:
        for start in range(0, size, _PART):
            data = os.pread(handle, _PART, start)
            url = f"{address}/upload/storage/v1/b/bucket/o?uploadType=resumable&name={start}"
            session = http.post(url, data=json.dumps({"name": str(start)})).headers["Location"]
            http.put(
                session, data=data, headers={"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
            ).raise_for_status()


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def _server() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
