"""What an account has of ours in a region, and how each kind of it is deleted."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cloud.ec2 import image, instance, snapshot
from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.s3_import import PREFIX, TASK_ENDED, abort_uploads, split_object
from cloud.ec2.session import Aws
from cloud.ec2.tags import filters, read_tags
from cloud.errors import Failed, TimedOut
from cloud.labels import NAME, RUN, TOOL, is_ours, is_run
from cloud.resource import Found, Resource
from cloud.wait import Patience

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

DELETION_ORDER = ("instance", "volume", "import-task", "image", "snapshot", "object")
_LIVE = ("pending", "running", "stopping", "stopped")
_IN_USE_SECONDS = 120
"""A volume and an image let their snapshot go a while after they are gone themselves."""


@aws_words()
def discover(aws: Aws, regions: list[str], buckets: list[str], run: str, name: str) -> list[Found]:
    """Everything with our labels in these regions; objects and import tasks only if there are buckets."""
    found = [each for region in regions for each in _in_region(aws.ec2(region), region, run, name)]
    if buckets:
        found += _import_tasks(aws.ec2(), aws.region, run, name)
    if not name:
        found += [each for bucket in buckets for each in _objects(aws, bucket, run)]
    return [each for each in found if is_ours(each.labels)]


def _in_region(ec2: "EC2Client", region: str, run: str, name: str) -> Iterator[Found]:
    wanted = filters(run, name)
    for page in ec2.get_paginator("describe_instances").paginate(Filters=wanted):
        for reservation in page["Reservations"]:
            for each in reservation["Instances"]:
                state = instance.state_of(each)
                if state != "terminated":
                    yield Found(
                        Resource("instance", each["InstanceId"], region),
                        read_tags(each.get("Tags", [])),
                        state,
                        _seconds(each.get("LaunchTime")),
                        live=state in _LIVE,
                        facts={key: value for key, value in instance.facts_of(each).items() if key != "state"},
                    )
    for images in ec2.get_paginator("describe_images").paginate(Owners=["self"], Filters=wanted):
        for ami in images["Images"]:
            yield Found(
                Resource("image", ami["ImageId"], region),
                read_tags(ami.get("Tags", [])),
                str(ami.get("State")),
                _seconds(ami.get("CreationDate")),
                facts={"name": ami.get("Name"), "boot_mode": ami.get("BootMode")},
            )
    for snapshots in ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=wanted):
        for each_snapshot in snapshots["Snapshots"]:
            yield Found(
                Resource("snapshot", each_snapshot["SnapshotId"], region),
                read_tags(each_snapshot.get("Tags", [])),
                str(each_snapshot["State"]),
                _seconds(each_snapshot.get("StartTime")),
                facts={"size_gib": each_snapshot.get("VolumeSize"), "encrypted": each_snapshot.get("Encrypted")},
            )
    for volumes in ec2.get_paginator("describe_volumes").paginate(Filters=wanted):
        for volume in volumes["Volumes"]:
            # The disk of an instance goes with it; one that is left over does not.
            if volume["State"] == "available":
                yield Found(
                    Resource("volume", volume["VolumeId"], region),
                    read_tags(volume.get("Tags", [])),
                    str(volume["State"]),
                    _seconds(volume.get("CreateTime")),
                    facts={"size_gib": volume.get("Size")},
                )


def _import_tasks(ec2: "EC2Client", region: str, run: str, name: str) -> Iterator[Found]:
    for tasks in ec2.get_paginator("describe_import_snapshot_tasks").paginate():
        for task in tasks["ImportSnapshotTasks"]:
            labels, detail = read_tags(task.get("Tags", [])), task.get("SnapshotTaskDetail", {})
            matches = run in ("", labels.get(RUN)) and name in ("", labels.get(NAME))
            if matches and detail.get("Status") not in TASK_ENDED:
                yield Found(Resource("import-task", task["ImportTaskId"], region), labels, str(detail.get("Status")), 0)


def _objects(aws: Aws, bucket: str, run: str) -> Iterator[Found]:
    if not _ignoring(lambda: aws.s3().head_bucket(Bucket=bucket), "404", "NoSuchBucket"):
        return  # a journal may know of one that is gone
    for page in aws.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{PREFIX}{run}"):
        for each in page.get("Contents", []):
            key_run = each["Key"].removeprefix(PREFIX).partition("/")[0]
            if is_run(key_run):
                labels = {TOOL: "object", RUN: key_run, NAME: "object"}
                resource = Resource("object", f"{bucket}/{each['Key']}", aws.region)
                yield Found(resource, labels, "stored", _seconds(each["LastModified"]), facts={"size": each["Size"]})


def _seconds(moment: "datetime | str | None") -> int:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return 0
    return int(moment.timestamp()) if moment else 0


def delete(aws: Aws, resource: Resource, patience: Patience) -> None:
    """Deletes it and waits until it is gone; nothing if it is gone already. Failed for a kind that is not known."""
    delete_one = {
        "instance": _delete_instance,
        "volume": _delete_volume,
        "import-task": _cancel_import,
        "image": _delete_image,
        "snapshot": _delete_snapshot,
        "object": _delete_object,
    }.get(resource.kind)
    if delete_one is None:
        raise Failed(f"a {resource.kind[:40]!r} cannot be deleted", where=resource.place)
    delete_one(aws, resource, patience)


def _ignoring(call: Callable[[], Any], *codes: str) -> bool:
    """Whether a call went through; False where AWS answered with one of `codes`."""
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        if code_of(error) in codes:
            return False
        raise
    return True


@aws_words()
def _delete_instance(aws: Aws, resource: Resource, patience: Patience) -> None:
    ec2 = aws.ec2(resource.place)
    if not _ignoring(lambda: ec2.terminate_instances(InstanceIds=[resource.id]), "InvalidInstanceID.NotFound"):
        return

    @aws_words()
    def look() -> bool | None:
        seen = instance.look_at(ec2, resource.id)
        return True if seen is None or instance.state_of(seen) == "terminated" else None

    patience.wait_for(f"instance {resource.id} to end", look, resource.place)


@aws_words()
def _delete_volume(aws: Aws, resource: Resource, patience: Patience) -> None:
    ec2 = aws.ec2(resource.place)
    _until_free(
        lambda: ec2.delete_volume(VolumeId=resource.id), resource, patience, "VolumeInUse", "InvalidVolume.NotFound"
    )


@aws_words()
def _cancel_import(aws: Aws, resource: Resource, patience: Patience) -> None:
    ec2 = aws.ec2(resource.place)
    _ignoring(
        lambda: ec2.cancel_import_task(ImportTaskId=resource.id),
        "InvalidConversionTaskId.Malformed",
        "InvalidConversionTaskId",
        "IncorrectState",
    )


@aws_words()
def _delete_image(aws: Aws, resource: Resource, patience: Patience) -> None:
    ec2 = aws.ec2(resource.place)
    seen = image.look_at(ec2, resource.id)
    if seen is not None:
        _ignoring(
            lambda: ec2.deregister_image(ImageId=resource.id), "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"
        )


@aws_words()
def _delete_snapshot(aws: Aws, resource: Resource, patience: Patience) -> None:
    ec2 = aws.ec2(resource.place)
    if snapshot.look_at(ec2, resource.id) is not None:
        _until_free(
            lambda: ec2.delete_snapshot(SnapshotId=resource.id),
            resource,
            patience,
            "InvalidSnapshot.InUse",
            "InvalidSnapshot.NotFound",
        )


@aws_words()
def _delete_object(aws: Aws, resource: Resource, patience: Patience) -> None:
    bucket, key = split_object(resource)
    s3 = aws.s3()
    if _ignoring(lambda: abort_uploads(s3, bucket, key), "NoSuchBucket"):
        s3.delete_object(Bucket=bucket, Key=key)


def _until_free(call: Callable[[], Any], resource: Resource, patience: Patience, in_use: str, gone: str) -> None:
    """Call until AWS does not say any more that it is in use; what is gone is fine."""

    @aws_words()
    def look() -> bool | None:
        return True if _ignoring(lambda: _ignoring(call, gone), in_use) else None

    try:
        patience.wait_for("", look, resource.place, _IN_USE_SECONDS)
    except TimedOut:
        raise Failed(
            f"{resource.kind} {resource.id} is in use by something that is not of this run, and stays",
            where=resource.place,
            next_step="delete what uses it (another image or machine), then run the same command again",
        ) from None
