"""The second way to a snapshot: a VMDK into a bucket, then ImportSnapshot. Needs a bucket, and the role vmimport."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.snapshot import find_snapshot, gibibytes, look_at, wait_completed
from cloud.ec2.step import Context, Ec2Step
from cloud.ec2.tags import read_tags, specifications, tags_of
from cloud.errors import CloudError, Failed, Gone
from cloud.labels import RUN
from cloud.resource import Resource
from cloud.steps import Made, Note

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ImportSnapshotTaskTypeDef
    from mypy_boto3_s3 import S3Client

PREFIX = "cvmboot/"
"""All our objects begin so; then comes the run."""
_PART = 16 << 20
_DIGEST = "cvmboot-disk-sha256"
_FAILED = ("deleted", "deleting", "failed")
TASK_ENDED = ("completed", *_FAILED)
"""What Status of an import task says when it does nothing any more. A failed import is "deleted", with a message."""


def object_key(run: str) -> str:
    """The key of a run's object."""
    return f"{PREFIX}{run}/disk.vmdk"


def split_object(resource: Resource) -> tuple[str, str]:
    """(bucket, key) of an object's id."""
    bucket, _, key = resource.id.partition("/")
    return bucket, key


def abort_uploads(s3: "S3Client", bucket: str, key: str) -> None:
    """Ends multipart uploads that a killed process has left: their parts are billed until someone does."""
    for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", []):
        if upload.get("Key") == key:
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])


class ObjectStep(Ec2Step):
    """The image as VMDK streamOptimized in the bucket, until it is imported."""

    name = "object"
    until = "snapshot"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._bucket = self._options.bucket or ""
        self._key = object_key(self._labels.run)

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"object s3://{self._bucket}/{self._key}, deleted when it is imported", "S3 requests"

    def find(self, made: Made) -> Resource | None:
        """Step.find(). An object has a name of its own: finish() looks whether it is whole."""
        return Resource("object", f"{self._bucket}/{self._key}", self._aws.region)

    def create(self, made: Made, token: str) -> Resource | None:
        """Never asked: find() always answers."""
        raise AssertionError

    @aws_words()
    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish(): uploads unless the whole object is there."""
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        s3 = self._aws.s3()
        if not self._is_there(s3):
            abort_uploads(s3, self._bucket, self._key)
            with tempfile.TemporaryDirectory(prefix="cvmboot-") as folder:
                file = Path(folder) / "disk.vmdk"
                self._write(file)
                with self._report.transfer("upload", file.stat().st_size) as bar:
                    try:
                        s3.upload_file(
                            str(file),
                            self._bucket,
                            self._key,
                            ExtraArgs={
                                "ChecksumAlgorithm": "SHA256",
                                "Metadata": {_DIGEST: self._source.facts.sha256},
                                "ServerSideEncryption": "AES256",
                            },
                            Callback=bar.advance,
                            Config=TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART),
                        )
                    except S3UploadFailedError as error:
                        raise Failed(
                            " ".join(str(error).split())[:300], where="S3", next_step="run the same command again"
                        ) from None
        return {"sha256": self._source.facts.sha256}

    def _is_there(self, s3: "S3Client") -> bool:
        from botocore.exceptions import ClientError

        try:
            head = s3.head_object(Bucket=self._bucket, Key=self._key)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey"):
                return False
            raise
        return head["Metadata"].get(_DIGEST) == self._source.facts.sha256

    def _write(self, file: Path) -> None:
        from images.containers.writers import FORMATS
        from images.errors import ImageError

        try:
            FORMATS["vmdk"].check_size(self._source.size)
            with file.open("w+b") as output:
                FORMATS["vmdk"].write(self._source.device, output)
                output.flush()
                os.fsync(output.fileno())
            self._source.check()
        except ImageError as error:
            raise CloudError(str(error), where=str(file)) from None
        except OSError as error:
            raise CloudError(
                error.strerror or str(error), where=str(file), next_step="make room there, or set TMPDIR"
            ) from None


def find_task(ec2: "EC2Client", run: str) -> "ImportSnapshotTaskTypeDef | None":
    """The import task of a run that has not failed; None if there is none."""
    pages = ec2.get_paginator("describe_import_snapshot_tasks").paginate()
    for page in pages:
        for task in page["ImportSnapshotTasks"]:
            status = task.get("SnapshotTaskDetail", {}).get("Status", "")
            if read_tags(task.get("Tags", [])).get(RUN) == run and status not in _FAILED:
                return task
    return None


class ImportStep(Ec2Step):
    """ImportSnapshot, and the wait for its task. AWS forgets tasks after a while: nothing needs it when the snapshot is there."""

    name = "import"
    until = "snapshot"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"import of that object in {self._aws.region}, by the role vmimport", "none"

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        task = find_task(self._aws.ec2(), self._labels.run)
        return Resource("import-task", task["ImportTaskId"], self._aws.region) if task else None

    @aws_words()
    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        source = made["object"].resource
        assert source is not None
        bucket, key = split_object(source)
        encryption: dict[str, Any] = {"Encrypted": True} if self._options.encrypt else {}
        if self._options.kms_key:
            encryption["KmsKeyId"] = self._options.kms_key
        answer = self._aws.ec2().import_snapshot(
            ClientToken=token,
            Description=f"{self._labels.name}, cvmboot run {self._labels.run}",
            DiskContainer={"Format": "VMDK", "UserBucket": {"S3Bucket": bucket, "S3Key": key}},
            TagSpecifications=specifications(self._labels, "import-snapshot-task"),
            **encryption,
        )
        return Resource("import-task", answer["ImportTaskId"], self._aws.region)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists(): a task that has failed is of no use, so that running again tries again."""
        from botocore.exceptions import ClientError

        try:
            tasks = self._aws.ec2().describe_import_snapshot_tasks(ImportTaskIds=[resource.id])["ImportSnapshotTasks"]
        except ClientError as error:
            if code_of(error).startswith("InvalidConversionTaskId"):
                return None
            raise
        status = tasks[0].get("SnapshotTaskDetail", {}).get("Status") if tasks else None
        return None if status is None else status not in _FAILED

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        task, told = resource.id, ""

        @aws_words()
        def look() -> str | None:
            nonlocal told
            found = self._aws.ec2().describe_import_snapshot_tasks(ImportTaskIds=[task])["ImportSnapshotTasks"]
            if not found:
                raise Gone(f"import task {task} does not exist", where=self._aws.region)
            detail = found[0]["SnapshotTaskDetail"]
            status, message = detail.get("Status", ""), detail.get("StatusMessage", "")
            progress = f"{status} {message} {detail.get('Progress', '')}".strip()
            if progress != told:
                told = progress
                self._report.say(f"  {progress} %" if detail.get("Progress") else f"  {progress}")
            if status in TASK_ENDED and status != "completed":
                raise Failed(
                    f"the import ended as {status!r}: {message or 'no reason given'}",
                    where=self._aws.region,
                    next_step="see whether the role vmimport may read the bucket, or use --via ebs, which needs neither",
                )
            return detail.get("SnapshotId") if status == "completed" else None

        snapshot = self._patience.wait_for(f"import task {task}", look, self._aws.region)
        return {"snapshot": snapshot, "size_gib": gibibytes(self._source.size)}


class ImportedStep(Ec2Step):
    """The snapshot that an import has made gets our tags: ImportSnapshot tags its task only."""

    name = "snapshot"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"imported snapshot in {self._aws.region}", "its stored blocks, per GB and month"

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        found = find_snapshot(self._aws.ec2(), self._labels.run)
        return Resource("snapshot", found, self._aws.region) if found else None

    @aws_words()
    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        snapshot = str(made["import"].facts["snapshot"])
        self._aws.ec2().create_tags(Resources=[snapshot], Tags=tags_of(self._labels))
        return Resource("snapshot", snapshot, self._aws.region)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists()."""
        return None if look_at(self._aws.ec2(), resource.id) is None else True

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        wait_completed(self._aws.ec2(), resource.id, resource.place, self._patience)
        return {"size_gib": made["import"].facts["size_gib"]}
