"""What an upload costs beside a bare loop over the SDK, with a server of this machine; and how little of a disk is sent."""

import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.figures import AT_MOST, TIMES_FASTER, Figure, Limit

SHARE, MOST_BLOCKS = 0.7, 40
_BLOCKS = 160
_SNAPSHOT = "snap-0123456789abcdef0"
# A process of its own, that takes blocks as fast as Python's own HTTP server can, and answers as EBS does.
_SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    count = 0
    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Handler.count += 1
        self.send_response(201)
        for name in ("x-amz-Checksum", "x-amz-Checksum-Algorithm"):
            self.send_header(name, self.headers[name])
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_GET(self):
        body = str(Handler.count).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def figures(runs: int, guest: Path | None, reason: str) -> Iterator[Figure]:
    """All figures of clouds; `guest` is go-boot, or None for `reason`."""
    with _server() as address, tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "noise.raw")
        disk.write_bytes(Random(1).randbytes(_BLOCKS << 19))
        client = _client(address)
        _bare(client, disk)  # connections and code are warm for both
        ours, bare = [], []
        for _ in range(max(3, runs)):
            ours.append(_seconds(lambda: _upload(client, disk)))
            bare.append(_seconds(lambda: _bare(client, disk)))
        yield Figure(
            f"upload of {_BLOCKS // 2} MiB by EBS direct, beside boto3", "s", ours, Limit(TIMES_FASTER, SHARE), bare
        )
        title = "go-boot, blocks sent of 2,048"
        if guest is None:
            yield Figure(title, "", [], skipped=reason)
            return
        before = _count(address)
        _upload(client, guest)
        yield Figure(title, "", [float(_count(address) - before)], Limit(AT_MOST, MOST_BLOCKS))


def _upload(client: Any, path: Path) -> None:
    """As `cvmboot deploy ec2` sends it: read, zeros skipped, hashed, in parallel."""
    from cloud.ec2.ebs_upload import Indexes, Upload
    from cloud.source import Source
    from cloud.wait import Patience

    Upload(client, _SNAPSHOT, Source(_device(path), _facts()), Patience(60), Indexes()).put_all()


def _device(path: Path) -> Any:
    from images.block import FileDevice
    from images.compose import compose

    return compose(path).device if path.suffix == ".efi" else FileDevice(path)


def _facts() -> Any:
    from cloud.order import ImageFacts

    return ImageFacts("00" * 32, 0, "uefi")


def _bare(client: Any, path: Path) -> None:
    """What a script does that knows no zeros and no aggregate checksum: as many threads, the same requests."""
    from cloud.ec2.ebs_upload import BLOCK, WORKERS

    def put(index: int) -> None:
        data = blocks[index * BLOCK : (index + 1) * BLOCK]
        client.put_snapshot_block(
            SnapshotId=_SNAPSHOT, BlockIndex=index, BlockData=data, DataLength=BLOCK, ChecksumAlgorithm="SHA256",
            Checksum=b64encode(sha256(data).digest()).decode(),
        )  # fmt: skip

    blocks = path.read_bytes()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(put, range(len(blocks) // BLOCK)))


def _client(address: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=32, retries={"mode": "adaptive", "total_max_attempts": 8})
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y"}
    return boto3.client("ebs", "us-east-2", endpoint_url=address, config=config, **keys)  # type: ignore[call-overload]


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _count(address: str) -> int:
    import httpx

    return int(httpx.get(address).text)


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
