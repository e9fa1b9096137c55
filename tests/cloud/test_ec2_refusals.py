"""Whatever AWS, the network, the disk or a person refuses: one line that says what, where and what to do, and no secret."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from clouds import Command, Ran
from strict_aws.world import Answer, CutOff, Request
from test_ec2_deploy import NOTHING, everything

if TYPE_CHECKING:
    from strict_aws.world import World

SECRETS = ("wJalrXUtnFEMI", "session-token-that-must-not-be-shown", "AKIDEXAMPLE")


def refused(ran: Ran, state: Path, *words: str, status: int = 1) -> str:
    """The line of a refusal, which holds all of `words` and no secret, nor does anything else that was written."""
    assert ran.status == status, ran.err
    line = ran.last_line
    assert line.startswith("cvmboot: ") and "Traceback" not in ran.err and "internal error" not in line, ran.err
    for word in words:
        assert word in line, line
    written = [file.read_text() for file in state.glob("*") if file.suffix == ".json"]
    for text in (ran.out, ran.err, *written):
        assert not [secret for secret in SECRETS if secret in text]
    return line


def answering(operation: str, answer: Answer, times: int = 10**6) -> Callable[[Request], Answer | None]:
    """An accident: an operation is answered so, for a number of times."""
    left = times

    def accident(request: Request) -> Answer | None:
        nonlocal left
        if request.operation != operation or left <= 0:
            return None
        left -= 1
        return answer

    return accident


SIGNED = (
    "The request signature we calculated does not match the signature you provided. The Canonical String should have been "
    "'POST x-amz-security-token:session-token-that-must-not-be-shown AKIDEXAMPLE'"
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(403, "ExpiredToken", SIGNED), ("the credentials have expired (ExpiredToken)", "aws sso login")),
        (Answer(403, "SignatureDoesNotMatch", SIGNED), ("not accepted (SignatureDoesNotMatch)", "AWS_PROFILE")),
        (Answer(403, "SignatureDoesNotMatch", SIGNED, skew=7200), ("clock is 7", "seconds behind", "set the clock")),
        (Answer(403, "RequestExpired", SIGNED, skew=-7200), ("seconds ahead", "set the clock")),
        (Answer(403, "InvalidClientTokenId", SIGNED), ("not accepted", "aws sts get-caller-identity")),
    ],
)
def test_credentials_and_clock(
    deploy: Command, application: Path, world: "World", state: Path, answer: Answer, words: tuple[str, ...]
) -> None:
    for operation in ("GetCallerIdentity", "DescribeInstances"):
        world.accidents.append(answering(operation, answer))
    refused(deploy("ec2", application), state, *words)


def test_no_credentials_at_all(
    deploy: Command, application: Path, world: "World", state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    refused(deploy("ec2", application), state, "no usable credentials", "sign in")


def test_a_profile_or_region_that_is_none(
    deploy: Command, application: Path, world: "World", state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(deploy("ec2", application, "--profile", "nobody"), state, "nobody", "--profile")
    monkeypatch.delenv("AWS_REGION")
    refused(deploy("ec2", application), state, "no region", "--region us-east-2")


DENIED = "User: arn:aws:iam::123456789012:user/u is not authorized. Encoded authorization failure message: c2VjcmV0"


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        pytest.param(
            "StartSnapshot",
            Answer(403, "AccessDeniedException", DENIED, "UNAUTHORIZED_ACCOUNT"),
            marks=pytest.mark.slow,
        ),
        ("PutSnapshotBlock", Answer(403, "AccessDeniedException", DENIED, "UNAUTHORIZED_ACCOUNT")),
        pytest.param(
            "CompleteSnapshot",
            Answer(403, "AccessDeniedException", DENIED, "DEPENDENCY_ACCESS_DENIED"),
            marks=pytest.mark.slow,
        ),
        pytest.param("RegisterImage", Answer(403, "UnauthorizedOperation", DENIED), marks=pytest.mark.slow),
        ("RunInstances", Answer(403, "UnauthorizedOperation", DENIED)),
    ],
)
def test_what_is_not_allowed_is_said_at_once_and_never_tried_again(
    deploy: Command, application: Path, world: "World", state: Path, operation: str, answer: Answer
) -> None:
    from cloud.ec2.ebs_upload import WORKERS

    world.accidents.append(answering(operation, answer))
    line = refused(deploy("ec2", application), state, f"AWS {operation}: not allowed", f"must allow {operation}")
    assert "Encoded" not in line and "c2VjcmV0" not in line
    assert world.count(operation) <= (2 * WORKERS if operation == "PutSnapshotBlock" else 1)
    world.accidents.clear()
    assert deploy("ec2", application).status == 0
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]


def test_a_look_that_is_not_allowed_is_a_warning(deploy: Command, application: Path, world: "World") -> None:
    world.accidents.append(answering("GetServiceQuota", Answer(400, "AccessDeniedException", DENIED)))
    ran = deploy("ec2", application)
    assert ran.status == 0 and re.search("warning +vCPU quota: not looked at", ran.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        ("RunInstances", "VcpuLimitExceeded", ("Service Quotas",)),
        ("RunInstances", "InsufficientInstanceCapacity", ("--zone", "--machine-type")),
        ("StartSnapshot", "ConcurrentLimitExceededException", ("quota",)),
        ("StartSnapshot", "ServiceQuotaExceededException", ("quota",)),
    ],
)
def test_quotas_and_capacity(
    deploy: Command, application: Path, world: "World", state: Path, operation: str, code: str, words: tuple[str, ...]
) -> None:
    world.accidents.append(answering(operation, Answer(400, code, "Enough is enough.")))
    refused(deploy("ec2", application), state, code, "Enough is enough.", *words)
    world.accidents.clear()
    assert deploy("ec2", application).status == 0
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]


def test_throttling_is_waited_out_and_told(deploy: Command, application: Path, world: "World") -> None:
    world.accidents.append(answering("RegisterImage", Answer(503, "RequestLimitExceeded", "slow down"), times=2))
    ran = deploy("ec2", application)
    assert ran.status == 0 and "AWS RegisterImage: try 3 of 8" in ran.err
    assert len(everything()["images"]) == 1


# Before anything costs money


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--machine-type", "m5.large", "--snp"), "SEV-SNP: m5.large has none in this region; wanted m6a, c6a and r6a"),
        (("--snp", "--region", "us-west-2"), "SEV-SNP: c6a.large has none in this region"),
        (("--machine-type", "z9.huge"), "machine type: us-east-2 has no z9.huge"),
        (("--machine-type", "m6g.large"), "m6g.large is no x86-64 machine"),
        (("--machine-type", "p3dn.24xlarge"), "TPM: p3dn.24xlarge has no NitroTPM; say --no-tpm"),
        (("--machine-type", "m1.small", "--no-tpm"), "firmware: m1.small boots by legacy-bios, the image by uefi"),
        (("--zone", "us-east-2z"), "zone: t3.micro is not offered in us-east-2z; it is in us-east-2a"),
        (("--subnet", "subnet-0123456789abcdef0"), "network: subnet-0123456789abcdef0: InvalidSubnetID.NotFound"),
        (("--security-group", "sg-0123456789abcdef0"), "network: sg-0123456789abcdef0: InvalidGroup"),
        (("--copy-to", "mars-north-1"), "copy to mars-north-1: there is no such region"),
        (("--copy-to", "ap-east-2"), "copy to ap-east-2: the account has not opted in to that region"),
        (("--copy-to", "us-east-2"), "the image is made there"),
        (("--via", "s3", "--bucket", "no-such-bucket-here"), "bucket: no-such-bucket-here is not there; make it first"),
    ],
)
def test_what_is_seen_before_anything_is_made(
    deploy: Command, application: Path, world: "World", state: Path, words: tuple[str, ...], text: str
) -> None:
    refused(deploy("ec2", application, *words), state, text, "nothing was made")
    assert not [request for request in world.requests if request.operation.startswith(("Start", "Put", "Reg", "Run"))]
    assert not state.exists()


def test_a_vcpu_quota_that_is_used_up(deploy: Command, application: Path, world: "World", state: Path) -> None:
    world.vcpu_quota = 3
    assert deploy("ec2", application, "--name", "first").status == 0
    refused(deploy("ec2", application), state, "vCPU quota: 2 of 3 needed, 2 in use; free some, or ask for more")


def test_a_name_that_someone_else_has(
    deploy: Command, application: Path, world: "World", state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import image

    monkeypatch.setattr(image, "_FRESH_SECONDS", 0.2)
    assert deploy("ec2", application, "--image-only").status == 0
    ec2 = boto3.client("ec2", region_name="us-east-2")
    snapshot = everything()["snapshots"][0]
    disk = [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}]
    theirs = ec2.register_image(
        Name="taken", Architecture="x86_64", BootMode="uefi", RootDeviceName="/dev/xvda", BlockDeviceMappings=disk
    )["ImageId"]
    words = ("--name", "other", "--image-name", "taken")
    refused(deploy("ec2", application, *words), state, "image name: taken is taken", theirs, "--image-name")
    # And when it is taken between the look and the deed:
    world.accidents.append(answering("RegisterImage", Answer(400, "InvalidAMIName.Duplicate", "taken")))
    line = refused(
        deploy("ec2", application, "--name", "third"), state, "InvalidAMIName.Duplicate", "another --image-name"
    )
    assert theirs not in line


@pytest.mark.parametrize(
    "words",
    [
        ("--name", "Bad Name"),
        ("--name", "x" * 41),
        ("--via", "ftp"),
        ("--via", "s3"),
        ("--bucket", "b"),
        ("--on-shutdown", "explode"),
        ("--image-only", "--snp"),
        ("--image-only", "--console"),
        ("--size", "big"),
        ("--add", "nothing"),
        ("--timeout", "0"),
        ("--no-such-option",),
    ],
)
def test_options_that_make_no_sense(
    deploy: Command, application: Path, world: "World", state: Path, words: tuple[str, ...]
) -> None:
    refused(deploy("ec2", application, *words), state, words[0], status=2)
    assert not world.requests


def test_size_and_add_are_not_for_images(
    deploy: Command, application: Path, world: "World", tmp_path: Path, state: Path
) -> None:
    from images.build import build

    build(application, tmp_path / "disk.raw", size=70 << 20)
    refused(deploy("ec2", tmp_path / "disk.raw", "--size", "1G"), state, "--size and --add", status=2)


# What AWS begins and does not end well


def test_a_machine_that_is_not_confidential_though_asked_for_is_an_error(
    deploy: Command, application: Path, world: "World", state: Path
) -> None:
    world.without_snp = True
    line = refused(deploy("ec2", application, "--snp"), state, "runs without SEV-SNP", "deploy destroy")
    run = re.search("destroy ([a-z2-7]{10})", line)
    assert run and deploy("destroy", run[1]).status == 0 and everything() == NOTHING


def test_a_snapshot_that_fails_is_made_anew_the_next_time(
    deploy: Command, application: Path, world: "World", state: Path
) -> None:
    world.fail_snapshots = True
    refused(deploy("ec2", application), state, "ended in an error", "run the same command again")
    world.fail_snapshots = False
    assert deploy("ec2", application).status == 0
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]


def test_what_takes_too_long_is_said_and_waited_for_the_next_time(
    deploy: Command, application: Path, world: "World", state: Path
) -> None:
    world.slowness = 10**6
    refused(deploy("ec2", application, "--timeout", "1"), state, "waited 1 seconds for snapshot snap-", "--timeout")
    world.slowness = 0
    world.looks.clear()
    assert deploy("ec2", application, "--timeout", "60").status == 0
    assert world.count("StartSnapshot") == 1


def test_a_fresh_snapshot_that_ebs_does_not_know_yet(deploy: Command, application: Path, world: "World") -> None:
    world.fresh_blindness = 12
    assert deploy("ec2", application).status == 0
    assert world.count("StartSnapshot") == 1


@pytest.mark.parametrize("operation", ["DescribeInstances", "DescribeImages"])
def test_what_was_just_made_and_is_not_shown_everywhere_yet_is_not_made_twice(
    deploy: Command,
    application: Path,
    world: "World",
    state: Path,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kill it, in effect, when the answer to RunInstances or RegisterImage has come; EC2 shows the thing a while later."""
    from cloud.ec2.image import ImageStep
    from cloud.ec2.instance import InstanceStep

    maker = {"DescribeInstances": "RunInstances", "DescribeImages": "RegisterImage"}[operation]
    not_found = {"DescribeInstances": "InvalidInstanceID.NotFound", "DescribeImages": "InvalidAMIID.NotFound"}[
        operation
    ]
    wanted = {"DescribeInstances": "InstanceId.1", "DescribeImages": "ImageId.1"}[operation]

    def blind(request: Request) -> Answer | None:
        nonlocal looks
        if request.operation != operation or wanted not in request.parameters:
            return None
        looks += 1
        return Answer(400, not_found, "The ID does not exist") if looks < 8 else None

    looks = 0
    world.accidents[:] = [
        lambda request: (
            Answer(403, "UnauthorizedOperation", "no")
            if request.operation == operation and world.count(maker)
            else None
        )
    ]
    assert deploy("ec2", application).status == 1
    world.accidents[:] = [blind]
    step: Any = {"DescribeInstances": InstanceStep, "DescribeImages": ImageStep}[operation]
    find = step.find
    monkeypatch.setattr(step, "find", lambda self, made: find(self, made) if looks >= 8 else None)  # lists lag, too
    ran = deploy("ec2", application)
    assert ran.status == 0, ran.err
    assert looks >= 8 and world.count(maker) == 1
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]


# The network


def test_a_network_that_is_not_there(
    deploy: Command, application: Path, world: "World", state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import session

    monkeypatch.setattr(session, "TRIES", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused(deploy("ec2", application), state, "no answer", "check the network")


def test_an_upload_that_is_cut_goes_on_where_it_was(
    deploy: Command, world: "World", state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ec2 import ebs_upload, session
    from cloud.ec2.ebs_upload import Indexes

    monkeypatch.setattr(session, "TRIES", 2)
    monkeypatch.setattr(ebs_upload, "WORKERS", 2)
    image = noisy_image(tmp_path, blocks=30)
    put = 0

    def cut(request: Request) -> None:
        nonlocal put
        if request.operation == "PutSnapshotBlock":
            put += 1
            if put > 12:
                raise CutOff

    world.accidents.append(cut)
    refused(deploy("ec2", image, "--image-only"), state, "no answer", "goes on where it was")
    noted = json.loads(next(state.glob("*.json")).read_text())["steps"]["snapshot"]
    assert noted["state"] == "made" and noted["facts"]["sent"]
    world.accidents.clear()
    world.requests.clear()
    ran = deploy("ec2", image, "--image-only")
    assert ran.status == 0, ran.err
    again = [request.parameters["BlockIndex"] for request in world.requests if request.operation == "PutSnapshotBlock"]
    before = Indexes(noted["facts"]["sent"])
    assert len(before) > 8 and not [index for index in again if int(index) in before]
    assert len(again) == len(set(again)) and len(again) + len(before) == 35
    assert world.count("StartSnapshot") == 0
    assert [len(things) for things in everything().values()] == [0, 1, 1, 0, 0]


def noisy_image(folder: Path, blocks: int) -> Path:
    """A disk image that boots and has so many more blocks of noise."""
    from random import Random

    from clouds import ROOT

    from images.build import build

    noise = folder / "noise"
    noise.write_bytes(Random(1).randbytes(blocks << 19))
    path = folder / "noisy.raw"
    build(ROOT / "samples" / "built" / "hello.efi", path, size=100 << 20, add=[(noise, "/noise")])
    return path


def test_an_image_that_changes_while_it_is_sent_makes_nothing_usable(
    deploy: Command, world: "World", state: Path, tmp_path: Path
) -> None:
    image = noisy_image(tmp_path, blocks=10)

    def change(request: Request) -> None:
        if request.operation == "PutSnapshotBlock":
            os.utime(image, (1, 1))

    world.accidents.append(change)
    refused(deploy("ec2", image, "--image-only"), state, "has changed while it was sent", "run this again")
    assert world.count("CompleteSnapshot") == world.count("RegisterImage") == 0


# The journal


def test_a_journal_that_cannot_be_written(deploy: Command, application: Path, world: "World", state: Path) -> None:
    state.parent.mkdir(exist_ok=True)
    state.write_text("a file in the way")
    ran = deploy("ec2", application)
    assert ran.status == 1 and "--state" in ran.last_line and "Traceback" not in ran.err
    assert everything() == NOTHING


def test_a_disk_that_is_full_in_the_middle(
    deploy: Command, application: Path, world: "World", state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.journal import Journal

    write: Any = Journal._write

    def full(journal: Journal, record: Any) -> None:
        if "image" in record.steps:
            raise journal._failure(OSError(28, "No space left on device", str(journal.folder)))
        write(journal, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_write", full)
        refused(deploy("ec2", application), state, "No space left on device", "make room")
    assert deploy("ec2", application).status == 0
    assert [len(things) for things in everything().values()] == [1, 1, 1, 1, 1]


def test_a_record_that_cannot_be_written_is_said_before_anything_is_made(
    deploy: Command, application: Path, world: "World", state: Path, tmp_path: Path
) -> None:
    refused(deploy("ec2", application, "--record", tmp_path / "no" / "folder" / "r.json"), state, "--record")
    assert not world.requests
