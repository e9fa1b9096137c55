"""The upload of blocks, request by request, with the SDK's own stubs and a clock of the test's."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from cloud.ec2 import ebs_upload
from cloud.ec2.ebs_upload import BLOCK, Indexes, Upload
from cloud.errors import Denied, Gone, Unfit, Unreachable
from cloud.order import ImageFacts
from cloud.source import Source
from cloud.wait import Patience
from images.block import MemoryDevice
from images.errors import DeviceFailure

SNAPSHOT = "snap-0123456789abcdef0"


class Clock:
    """Time that passes only when someone waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def patience(self) -> Patience:
        return Patience(1800, lambda: self.now, self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    """EBS without a network, one worker, so that the order of requests is known."""
    monkeypatch.setattr(ebs_upload, "WORKERS", 1)
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.client("ebs", "us-east-2", aws_access_key_id="x", aws_secret_access_key="y", config=once)


def disk(*blocks: bytes, size: int | None = None) -> Source:
    data = b"".join(block.ljust(BLOCK, b"\0") for block in blocks)
    data = data if size is None else data[:size]
    return Source(MemoryDevice(data), ImageFacts("00" * 32, len(data), "uefi"))


def checksum(data: bytes) -> str:
    return b64encode(sha256(data).digest()).decode()


def expect_put(stub: Stubber, index: int, data: bytes) -> None:
    data = data.ljust(BLOCK, b"\0")
    stub.add_response(
        "put_snapshot_block",
        {"Checksum": checksum(data), "ChecksumAlgorithm": "SHA256"},
        {
            "SnapshotId": SNAPSHOT,
            "BlockIndex": index,
            "BlockData": data,
            "DataLength": BLOCK,
            "Checksum": checksum(data),
            "ChecksumAlgorithm": "SHA256",
        },
    )


def test_only_blocks_with_data_are_sent_each_with_its_checksum_and_all_with_theirs(client: Any, clock: Clock) -> None:
    source = disk(b"first", b"", b"third", b"", b"last one, cut", size=4 * BLOCK + 700)
    blocks = [block.ljust(BLOCK, b"\0") for block in (b"first", b"third", b"last one, cut")]
    linear = sha256(b"".join(sha256(block).digest() for block in blocks)).digest()
    with Stubber(client) as stub:
        for index, data in ((0, b"first"), (2, b"third"), (4, b"last one, cut")):
            expect_put(stub, index, data)
        stub.add_response(
            "complete_snapshot",
            {"Status": "pending"},
            {
                "SnapshotId": SNAPSHOT,
                "ChangedBlocksCount": 3,
                "Checksum": b64encode(linear).decode(),
                "ChecksumAlgorithm": "SHA256",
                "ChecksumAggregationMethod": "LINEAR",
            },
        )
        upload = Upload(client, SNAPSHOT, source, clock.patience(), Indexes())
        upload.complete(*upload.put_all())
        stub.assert_no_pending_responses()


def test_what_was_sent_is_not_sent_again_but_counts_and_is_in_the_checksum(client: Any, clock: Clock) -> None:
    source = disk(b"a", b"b", b"c")
    with Stubber(client) as stub:
        for index, data in enumerate((b"a", b"b", b"c")):
            expect_put(stub, index, data)
        whole = Upload(client, SNAPSHOT, source, clock.patience(), Indexes()).put_all()
        expect_put(stub, 1, b"b")
        again = Upload(client, SNAPSHOT, source, clock.patience(), Indexes("0,2")).put_all()
        stub.assert_no_pending_responses()
    assert whole == again and whole[0] == 3


def test_a_snapshot_that_does_not_exist_for_two_minutes_is_waited_for(client: Any, clock: Clock) -> None:
    with Stubber(client) as stub:
        for _ in range(12):
            stub.add_client_error(
                "put_snapshot_block", "ResourceNotFoundException", "The snapshot does not exist.", 404
            )
        expect_put(stub, 0, b"a")
        Upload(client, SNAPSHOT, disk(b"a"), clock.patience(), Indexes()).put_all()
    assert 30 < clock.now < 120


def test_a_snapshot_that_vanished_is_gone_after_two_minutes(client: Any, clock: Clock) -> None:
    with Stubber(client) as stub:
        for _ in range(100):
            stub.add_client_error(
                "put_snapshot_block", "ResourceNotFoundException", "The snapshot does not exist.", 404
            )
        with pytest.raises(Gone, match=f"{SNAPSHOT} does not exist, for 120 seconds"):
            Upload(client, SNAPSHOT, disk(b"a"), clock.patience(), Indexes()).put_all()
    assert clock.now == pytest.approx(120, abs=1)


def test_an_earlier_try_of_the_same_block_that_is_still_on_its_way_is_waited_for(client: Any, clock: Clock) -> None:
    with Stubber(client) as stub:
        for reason in ("CONFLICTING_BLOCK_UPDATE", "WRITE_REQUEST_TIMEOUT"):
            stub.add_client_error(
                "put_snapshot_block", "ValidationException", "busy", 400, modeled_fields={"Reason": reason}
            )
        expect_put(stub, 0, b"a")
        Upload(client, SNAPSHOT, disk(b"a"), clock.patience(), Indexes()).put_all()
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "status", "wanted"),
    [
        ("AccessDeniedException", 403, Denied),
        ("RequestThrottledException", 400, Unreachable),
        ("InternalServerException", 500, Unreachable),
    ],
)
def test_what_nobody_should_wait_for_ends_it_and_what_was_put_is_known(
    client: Any, clock: Clock, code: str, status: int, wanted: type[Exception]
) -> None:
    sent = Indexes()
    with Stubber(client) as stub:
        expect_put(stub, 0, b"a")
        stub.add_client_error("put_snapshot_block", code, "no", status)
        for index in (2, 3):  # what may be on its way meanwhile
            expect_put(stub, index, b"d")
        with pytest.raises(wanted):
            Upload(client, SNAPSHOT, disk(b"a", b"b", b"d", b"d", b"d", b"d"), clock.patience(), sent).put_all()
    assert 0 in sent and 1 not in sent and 5 not in sent
    assert clock.now == 0


class Failing(MemoryDevice):
    """A device that cannot give all of a block."""

    def read(self, offset: int, count: int) -> bytes:
        """Fails in the second block."""
        if offset + count > BLOCK:
            raise DeviceFailure("disk.raw: ends at 600000, it had 1048576 bytes")
        return super().read(offset, count)


def test_a_block_that_cannot_be_read_whole_ends_it(client: Any, clock: Clock) -> None:
    source = Source(Failing(b"a" * 2 * BLOCK), ImageFacts("00" * 32, 2 * BLOCK, "uefi"))
    with Stubber(client) as stub:
        expect_put(stub, 0, b"a" * BLOCK)
        with pytest.raises(Unfit, match=r"disk\.raw: ends at 600000.*run this again"):
            Upload(client, SNAPSHOT, source, clock.patience(), Indexes()).put_all()


@given(st.sets(st.integers(0, 60)))
def test_indexes_are_written_as_ranges_and_read_back(numbers: set[int]) -> None:
    indexes = Indexes()
    for number in numbers:
        indexes.add(number)
    again = Indexes(str(indexes))
    assert {number for number in range(61) if number in again} == numbers == {n for n in range(61) if n in indexes}
    assert str(again) == str(indexes) and len(again) == len(numbers)


def test_a_whole_disk_is_one_range() -> None:
    indexes = Indexes()
    for number in range(2048):
        indexes.add(number)
    assert str(indexes) == "0-2047"
