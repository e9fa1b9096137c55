"""The second way to a snapshot: a bucket and ImportSnapshot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from clouds import Command
from strict_aws import ebs
from strict_aws.world import Answer, CutOff, Request
from test_ec2_deploy import NOTHING, everything
from test_ec2_killed import BUCKET
from test_ec2_refusals import noisy_image

from images.build import build

if TYPE_CHECKING:
    from strict_aws.world import World

WORDS = ("--via", "s3", "--bucket", BUCKET)


@pytest.fixture
def s3(world: "World") -> Any:
    """The bucket's owner."""
    client = boto3.client("s3", region_name="us-east-2")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-east-2"})
    return client


def test_the_imported_snapshot_holds_the_disk_and_the_object_is_gone(
    deploy: Command, application: Path, world: "World", s3: Any, tmp_path: Path, tool: Any
) -> None:
    tool("qemu-img")  # without it the stand-in cannot look into a VMDK
    ran = deploy("ec2", application, *WORDS, "--encrypt", "--json")
    assert ran.status == 0, ran.err
    record = json.loads(ran.out)
    build(application, tmp_path / "disk.raw", size=70 << 20)
    disk = (tmp_path / "disk.raw").read_bytes()
    assert ebs.contents("us-east-2", record["resources"]["snapshot"]["id"])[: len(disk)] == disk
    ec2 = boto3.client("ec2", region_name="us-east-2")
    snapshot = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"][0]
    assert snapshot["Encrypted"] and {"Key": "cvmboot-run", "Value": record["run"]} in snapshot["Tags"]
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]
    assert deploy("destroy", "hello").status == 0 and everything() == NOTHING


def test_an_import_that_fails_is_not_polled_for_ever_and_tried_anew_the_next_time(
    deploy: Command, application: Path, world: "World", s3: Any
) -> None:
    world.fail_import = "ClientError: Disk validation failed [Unsupported format]"
    ran = deploy("ec2", application, *WORDS, "--image-only")
    assert ran.status == 1 and "Disk validation failed" in ran.last_line and "--via ebs" in ran.last_line
    assert world.count("DescribeImportSnapshotTasks") < 20
    world.fail_import = ""
    assert deploy("ec2", application, *WORDS, "--image-only").status == 0
    assert world.count("ImportSnapshot") == 2
    assert [len(things) for things in everything().values()] == [0, 1, 1, 0, 0]
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_what_a_broken_off_import_has_left_is_destroyed(
    deploy: Command, application: Path, world: "World", s3: Any
) -> None:
    world.accidents.append(
        lambda request: Answer(403, "UnauthorizedOperation", "no") if request.operation == "ImportSnapshot" else None
    )
    assert deploy("ec2", application, *WORDS).status == 1
    assert len(s3.list_objects_v2(Bucket=BUCKET)["Contents"]) == 1
    world.accidents.clear()
    assert "object" in deploy("status").out
    assert deploy("destroy", "hello").status == 0
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET) and everything() == NOTHING


def test_a_bucket_that_is_gone_does_not_keep_a_run_from_being_destroyed(
    deploy: Command, application: Path, world: "World", s3: Any
) -> None:
    assert deploy("ec2", application, *WORDS, "--image-only").status == 0
    s3.delete_bucket(Bucket=BUCKET)
    assert "available" in deploy("status").out
    assert deploy("destroy", "hello").status == 0 and everything() == NOTHING


def test_an_upload_in_parts_that_is_cut_leaves_no_parts(
    deploy: Command, world: "World", s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import s3_import, session

    monkeypatch.setattr(s3_import, "_PART", 5 << 20)
    monkeypatch.setattr(session, "TRIES", 2)
    image = noisy_image(tmp_path, blocks=24)

    def cut(request: Request) -> None:
        if request.operation == "PutObjectPart" and request.parameters["partNumber"] == "2":
            raise CutOff
        if request.operation == "DeleteObjectPart":
            raise CutOff  # the SDK cannot clean up behind it either

    world.accidents.append(cut)
    ran = deploy("ec2", image, *WORDS, "--image-only")
    assert ran.status == 1 and "run the same command again" in ran.last_line and "Traceback" not in ran.err
    assert len(s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 1
    world.accidents.clear()
    assert deploy("ec2", image, *WORDS, "--image-only").status == 0
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    assert [len(things) for things in everything().values()] == [0, 1, 1, 0, 0]
