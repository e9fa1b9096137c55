"""A disk into a pending snapshot by the EBS direct APIs: blocks that are zero are not sent, and everything is checked twice.

Each block goes with its SHA-256, and the snapshot is completed with the number of blocks and the SHA-256 of their digests in
index order (LINEAR), so that EBS refuses a snapshot that is not what was meant.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import TYPE_CHECKING

from cloud.ec2.refusals import aws_words, code_of
from cloud.errors import Gone, TimedOut
from cloud.source import Source
from cloud.wait import Patience

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_ebs import EBSClient

BLOCK = 512 << 10
"""Bytes: EBS knows no other block."""
WORKERS = 16
_FRESH_SECONDS = 120
"""So long some of EBS's hosts may say that a new snapshot does not exist (awslabs/coldsnap#43)."""
_AGAIN = {"CONFLICTING_BLOCK_UPDATE", "WRITE_REQUEST_TIMEOUT"}
"""Reasons of a ValidationException that say nothing about the request: an earlier try of the same block is still on its way."""


class Indexes:
    """Block indexes, written as ranges: "0-24,31"."""

    def __init__(self, text: str = "") -> None:
        """ValueError for text that is none."""
        self._known: set[int] = set()
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            self._known.update(range(int(first), int(last or first) + 1))

    def __contains__(self, index: int) -> bool:
        return index in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, index: int) -> None:
        """Add one."""
        self._known.add(index)

    def __str__(self) -> str:
        return ",".join(_ranges(sorted(self._known)))


def _ranges(indexes: Iterable[int]) -> Iterable[str]:
    first = last = -1
    for index in [*indexes, -1]:
        if first >= 0 and index == last + 1:
            last = index
            continue
        if first >= 0:
            yield f"{first}-{last}" if last > first else f"{first}"
        first = last = index


class Upload:
    """One snapshot being filled. `sent` are the blocks that an earlier try has put, or this one."""

    def __init__(self, ebs: "EBSClient", snapshot: str, source: Source, patience: Patience, sent: Indexes) -> None:
        self._ebs = ebs
        self._snapshot = snapshot
        self._source = source
        self._patience = patience
        self.sent = sent

    def put_all(self, advance: Callable[[int], None] = lambda count: None) -> tuple[int, str]:
        """Puts what was not sent yet. Gives (blocks that the snapshot has, their LINEAR checksum in base64).

        All data of the disk is read in any case: the checksum needs it. `advance(bytes)` of blocks that are put.
        Memory: two blocks for each of WORKERS. After an error nothing more is sent, and what was is in `sent`.
        """
        count, linear = 0, sha256()
        running: dict[Future[None], int] = {}
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="ebs") as pool:
            try:
                for index, data in self._source.blocks(BLOCK):
                    digest = sha256(data).digest()
                    linear.update(digest)
                    count += 1
                    if index in self.sent:
                        advance(BLOCK)
                    else:
                        running[pool.submit(self._put, index, data, digest)] = index
                    while len(running) >= 2 * WORKERS:
                        advance(self._collect(running))
                while running:
                    advance(self._collect(running))
            except BaseException:
                for future in running:
                    future.cancel()
                raise
        return count, b64encode(linear.digest()).decode()

    def _collect(self, running: dict[Future[None], int]) -> int:
        """Waits for one block or more that are put; gives their bytes. Raises what a put has raised, after noting the others."""
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: future.exception() is not None):
            index = running.pop(future)
            future.result()
            self.sent.add(index)
        return len(done) * BLOCK

    def complete(self, count: int, checksum: str) -> None:
        """Seals the snapshot; EBS then takes a while to complete it. Gone if it is not there."""
        self._patiently(
            lambda: self._ebs.complete_snapshot(
                SnapshotId=self._snapshot,
                ChangedBlocksCount=count,
                Checksum=checksum,
                ChecksumAlgorithm="SHA256",
                ChecksumAggregationMethod="LINEAR",
            )
        )

    def _put(self, index: int, data: bytes, digest: bytes) -> None:
        self._patiently(
            lambda: self._ebs.put_snapshot_block(
                SnapshotId=self._snapshot,
                BlockIndex=index,
                BlockData=data,
                DataLength=len(data),
                Checksum=b64encode(digest).decode(),
                ChecksumAlgorithm="SHA256",
            )
        )

    @aws_words()
    def _patiently(self, call: Callable[[], object]) -> None:
        from botocore.exceptions import ClientError

        def look() -> bool | None:
            try:
                call()
            except ClientError as error:
                if _is_passing(error):
                    return None
                raise
            return True

        try:
            self._patience.wait_for("", look, seconds=_FRESH_SECONDS)
        except TimedOut:
            raise Gone(
                f"snapshot {self._snapshot} does not exist, for {_FRESH_SECONDS} seconds now", where="EBS"
            ) from None


def _is_passing(error: "ClientError") -> bool:
    code, reason = code_of(error), str(error.response.get("Reason", ""))
    return code == "ResourceNotFoundException" or (code == "ValidationException" and reason in _AGAIN)
