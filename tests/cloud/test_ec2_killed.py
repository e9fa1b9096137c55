"""kill -9 in the middle of a deployment, at twenty moments; the same command again: one of each thing, and nothing left over."""

import os
import signal
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from clouds import SMALL_DISK, Command
from strict_aws.world import Request
from test_ec2_deploy import NOTHING, everything

if TYPE_CHECKING:
    from strict_aws.world import World

Start = Callable[..., "subprocess.Popen[str]"]

# (operation, how many of them came before, whether AWS has carried it out when the process dies)
EBS_MOMENTS = [
    ("DescribeInstances", 0, False),
    ("GetServiceQuota", 0, True),
    ("StartSnapshot", 0, False),
    ("StartSnapshot", 0, True),
    ("PutSnapshotBlock", 0, False),
    ("PutSnapshotBlock", 1, True),
    ("PutSnapshotBlock", 2, False),
    ("PutSnapshotBlock", 3, True),
    ("PutSnapshotBlock", 4, True),
    ("CompleteSnapshot", 0, False),
    ("CompleteSnapshot", 0, True),
    ("DescribeSnapshots", 3, True),
    ("RegisterImage", 0, False),
    ("RegisterImage", 0, True),
    ("DescribeImages", 3, True),
    ("DescribeImages", 4, False),
    ("RunInstances", 0, False),
    ("RunInstances", 0, True),
    ("DescribeInstances", 3, False),
    ("DescribeInstances", 4, True),
]
S3_MOMENTS = [
    ("PutObject", 0, False),
    ("PutObject", 0, True),
    ("ImportSnapshot", 0, False),
    ("ImportSnapshot", 0, True),
    ("CreateTags", 0, False),
    ("CreateTags", 0, True),
    ("DeleteObject", 0, True),
]
BUCKET = "images-of-the-tests"


def kill_at(world: "World", process: list["subprocess.Popen[str]"], operation: str, before: int, after: bool) -> None:
    """The process dies while AWS carries the request out, or when it has but nobody has heard of it."""

    seen = count()

    def strike(request: Request) -> None:
        if request.operation == operation and next(seen) == before:
            os.kill(process[0].pid, signal.SIGKILL)

    (world.after if after else world.accidents).append(strike)


def killed(start: Start, world: "World", moment: tuple[str, int, bool], *words: object) -> None:
    processes: list[subprocess.Popen[str]] = []
    kill_at(world, processes, *moment)
    processes.append(start("ec2", *words))
    _, err = processes[0].communicate(timeout=100)
    assert processes[0].returncode == -signal.SIGKILL, f"it was not killed at {moment}: {err}"
    world.accidents.clear()
    world.after.clear()


@pytest.mark.slow
@pytest.mark.parametrize("moment", EBS_MOMENTS, ids=lambda moment: f"{moment[0]}-{moment[1]}-{moment[2]}")
def test_killed_while_it_sends_by_ebs(
    deploy: Command,
    deploy_process: Start,
    application: Path,
    world: "World",
    state: Path,
    moment: tuple[str, int, bool],
) -> None:
    words = (application, "--snp", *SMALL_DISK)
    killed(deploy_process, world, moment, *words)
    ran = deploy("ec2", *words)
    assert ran.status == 0, ran.err
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1], everything()
    assert deploy("gc", "--older-than", "0s").out == "no leftovers\n"
    assert deploy("destroy", "hello").status == 0
    assert everything() == NOTHING and not list(state.glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("moment", S3_MOMENTS, ids=lambda moment: f"{moment[0]}-{moment[1]}-{moment[2]}")
def test_killed_while_it_sends_by_s3(
    deploy: Command,
    deploy_process: Start,
    application: Path,
    world: "World",
    moment: tuple[str, int, bool],
) -> None:
    s3 = boto3.client("s3", region_name="us-east-2")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-east-2"})
    world.requests.clear()
    words = (application, "--image-only", "--via", "s3", "--bucket", BUCKET, *SMALL_DISK)
    killed(deploy_process, world, moment, *words)
    ran = deploy("ec2", *words)
    assert ran.status == 0, ran.err
    assert [len(things) for things in everything().values()] == [0, 1, 1, 0, 0], everything()
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    assert deploy("destroy", "hello").status == 0
    assert everything() == NOTHING
