"""ImportSnapshot, which moto has not: reads the object, checks that it is a disk, and takes its time."""

import secrets
import tempfile
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult
from moto.ebs.models import EBSSnapshot, ebs_backends
from moto.ec2.responses import EC2Response
from moto.s3.models import s3_backends

from strict_aws.ebs import BLOCK
from strict_aws.world import WORLD, refuse

_FORMATS = ("RAW", "VHD", "VMDK")


def _import_snapshot(self: Any) -> ActionResult:
    get = self._get_param
    container = get("DiskContainer") or {}
    bucket = container.get("UserBucket", {}).get("S3Bucket", "")
    key = container.get("UserBucket", {}).get("S3Key", "")
    if str(container.get("Format", "")).upper() not in _FORMATS:
        raise refuse("InvalidParameter", f"Format {container.get('Format')}")
    for specification in get("TagSpecifications", []):
        if specification["ResourceType"] != "import-snapshot-task":
            raise refuse("InvalidParameterValue", f"'{specification['ResourceType']}' cannot be tagged here")
    parameters = (str(container), str(get("TagSpecifications")), get("Encrypted"), get("KmsKeyId"))

    def make() -> dict[str, Any]:
        data = _object(self.current_account, self.partition, bucket, key)
        task = {
            "ImportTaskId": f"import-snap-{secrets.token_hex(8)}",
            "Description": get("Description"),
            "Tags": [tag for each in get("TagSpecifications", []) for tag in each["Tags"]],
            "SnapshotTaskDetail": {
                "Status": "active", "Progress": "3", "StatusMessage": "pending", "Format": container["Format"],
                "UserBucket": {"S3Bucket": bucket, "S3Key": key}, "Encrypted": bool(get("Encrypted")),
            },
        }  # fmt: skip
        WORLD.tasks[task["ImportTaskId"]] = {
            "task": task, "data": data, "region": self.region, "encrypted": bool(get("Encrypted")),
            "kms": get("KmsKeyId"),
        }  # fmt: skip
        return task

    task = WORLD.once("ImportSnapshot", get("ClientToken") or "", parameters, make, "IdempotentParameterMismatch")
    return ActionResult(task)


def _object(account: str, partition: str, bucket: str, key: str) -> bytes:
    found = s3_backends[account][partition].buckets.get(bucket)
    stored = found.keys.get(key) if found else None
    if stored is None:
        raise refuse("InvalidParameter", f"s3://{bucket}/{key} is not there, or vmimport may not read it")
    return bytes(stored.value)


def _describe(self: Any) -> ActionResult:
    wanted = self._get_param("ImportTaskIds", [])
    for entry in WORLD.tasks.values():
        if entry["region"] == self.region:
            _work(self, entry)
    tasks = [
        entry["task"] for name, entry in WORLD.tasks.items()
        if entry["region"] == self.region and (not wanted or name in wanted)
    ]  # fmt: skip
    if wanted and len(tasks) != len(wanted):
        raise refuse("InvalidConversionTaskId", f"The import task {wanted} does not exist")
    return ActionResult({"ImportSnapshotTasks": tasks})


def _work(response: Any, entry: dict[str, Any]) -> None:
    detail = entry["task"]["SnapshotTaskDetail"]
    if detail["Status"] != "active" or WORLD.still_working(entry["task"]["ImportTaskId"]):
        return
    if WORLD.fail_import:
        detail |= {"Status": "deleted", "StatusMessage": WORLD.fail_import}
        detail.pop("Progress", None)
        return
    disk = _disk(entry["data"], detail["Format"])
    if disk is None:
        detail |= {"Status": "deleted", "StatusMessage": "ClientError: Disk validation failed [Unsupported format]"}
        return
    ec2 = response.ec2_backend
    volume = ec2.create_volume(size=max(1, -(-len(disk) >> 30)), zone_name=f"{response.region}a")
    snapshot = ec2.create_snapshot(volume.id, f"Created by AWS-VMImport service for {entry['task']['ImportTaskId']}")
    ec2.volumes.pop(volume.id)
    snapshot.encrypted, snapshot.kms_key_id = entry["encrypted"], entry["kms"]
    kept = EBSSnapshot(response.current_account, snapshot)
    kept.status = "completed"
    for index in range(0, len(disk), BLOCK):
        if any(block := disk[index : index + BLOCK]):
            kept.put_block(index // BLOCK, block.ljust(BLOCK, b"\0"), None, None, BLOCK)
    ebs_backends[response.current_account][response.region].snapshots[snapshot.id] = kept
    detail |= {"Status": "completed", "SnapshotId": snapshot.id, "DiskImageSize": float(len(entry["data"]))}
    detail.pop("Progress", None)


def _disk(data: bytes, form: str) -> bytes | None:
    """The disk in a file of a format, read by qemu-img where there is one: not by the program under test."""
    import shutil
    import subprocess

    tool = shutil.which("qemu-img")
    if form.upper() == "RAW" or tool is None:
        return data
    with tempfile.TemporaryDirectory() as folder:
        source, raw = Path(folder) / "disk", Path(folder) / "raw"
        source.write_bytes(data)
        kind = {"VMDK": "vmdk", "VHD": "vpc"}[form.upper()]
        command = [tool, "convert", "-f", kind, "-O", "raw", str(source), str(raw)]
        return raw.read_bytes() if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def _cancel(self: Any) -> ActionResult:
    task = WORLD.tasks.get(self._get_param("ImportTaskId"))
    if task is None:
        raise refuse("InvalidConversionTaskId", "there is no such task")
    detail = task["task"]["SnapshotTaskDetail"]
    if detail["Status"] != "active":
        raise refuse("IncorrectState", f"the task is {detail['Status']}")
    before = detail["Status"]
    detail |= {"Status": "deleted", "StatusMessage": "cancelled"}
    name = task["task"]["ImportTaskId"]
    return ActionResult({"ImportTaskId": name, "State": "deleted", "PreviousState": before})


def install() -> None:
    """Give moto what it lacks."""
    EC2Response.import_snapshot = _import_snapshot  # type: ignore[attr-defined]
    EC2Response.describe_import_snapshot_tasks = _describe  # type: ignore[attr-defined]
    EC2Response.cancel_import_task = _cancel  # type: ignore[attr-defined]
