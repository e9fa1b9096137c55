"""The step that makes a snapshot by the EBS direct APIs."""

import time
from typing import TYPE_CHECKING, Any

from cloud.ec2.ebs_upload import BLOCK, Indexes, Upload
from cloud.ec2.refusals import aws_words, code_of
from cloud.ec2.step import Ec2Step
from cloud.ec2.tags import filters, tags_of
from cloud.errors import Failed, Gone, TimedOut
from cloud.resource import Resource
from cloud.source import GIB
from cloud.steps import Made, Note
from cloud.wait import Patience

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import SnapshotTypeDef

COMPLETED, ERROR = "completed", "error"
ABANDONED_MINUTES = 60
"""EBS gives a snapshot up into which nothing was put for so long: the longest break after which an upload can go on."""
_NOTE_SECONDS = 2.0
_FRESH_SECONDS = 120


def gibibytes(size: int) -> int:
    """The size of a volume that holds `size` bytes: EBS counts in GiB."""
    return max(1, -(-size // GIB))


def look_at(ec2: "EC2Client", snapshot: str) -> "SnapshotTypeDef | None":
    """A snapshot as EC2 shows it; None if it is not there."""
    from botocore.exceptions import ClientError

    try:
        return ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]
    except ClientError as error:
        if code_of(error) == "InvalidSnapshot.NotFound":
            return None
        raise


def find_snapshot(ec2: "EC2Client", run: str) -> str:
    """The snapshot of a run in a region, "" if there is none. One that failed does not count."""
    pages = ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=filters(run))
    found = [each["SnapshotId"] for page in pages for each in page["Snapshots"] if each["State"] != ERROR]
    return found[0] if found else ""


def wait_completed(ec2: "EC2Client", snapshot: str, where: str, patience: Patience) -> None:
    """Until it is completed. Failed if EBS gave it up, Gone if it is deleted, TimedOut."""

    @aws_words()
    def look() -> bool | None:
        seen = look_at(ec2, snapshot)
        if seen is None:
            raise Gone(f"snapshot {snapshot} does not exist", where=where)
        if seen["State"] == ERROR:
            raise Failed(
                f"snapshot {snapshot} ended in an error: {seen.get('StateMessage') or 'no reason given'}",
                where=where,
                next_step="run the same command again: a new one is made",
            )
        return True if seen["State"] == COMPLETED else None

    patience.wait_for(f"snapshot {snapshot} to be completed", look, where)


class SnapshotStep(Ec2Step):
    """StartSnapshot, PutSnapshotBlock, CompleteSnapshot. No bucket, no role."""

    name = "snapshot"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        encrypted = ", encrypted" if self._options.encrypt else ""
        what = f"snapshot of {gibibytes(self._source.size)} GiB in {self._aws.region}, by EBS direct{encrypted}"
        return what, "its stored blocks, per GB and month; PutSnapshotBlock requests"

    @aws_words()
    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        found = find_snapshot(self._aws.ec2(), self._labels.run)
        return Resource("snapshot", found, self._aws.region) if found else None

    @aws_words()
    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        encryption: dict[str, Any] = {"Encrypted": True} if self._options.encrypt else {}
        if self._options.kms_key:
            encryption["KmsKeyArn"] = self._options.kms_key
        answer = self._aws.ebs().start_snapshot(
            VolumeSize=gibibytes(self._source.size),
            Description=f"{self._labels.name}, cvmboot run {self._labels.run}",
            Tags=tags_of(self._labels),
            ClientToken=token,
            Timeout=ABANDONED_MINUTES,
            **encryption,
        )
        if answer["BlockSize"] != BLOCK:
            raise Failed(
                f"EBS answers with blocks of {answer['BlockSize']} bytes, wanted 524288", where=self._aws.region
            )
        return Resource("snapshot", answer["SnapshotId"], self._aws.region)

    @aws_words()
    def exists(self, resource: Resource) -> bool | None:
        """Step.exists(). A snapshot that EBS gave up is deleted here: nobody can use it."""
        seen = look_at(self._aws.ec2(), resource.id)
        if seen is not None and seen["State"] == ERROR:
            self._aws.ec2().delete_snapshot(SnapshotId=resource.id)
            return False
        return None if seen is None else True

    @aws_words()
    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish()."""
        assert resource is not None
        ec2, where = self._aws.ec2(), self._aws.region
        facts = dict(made[self.name].facts)
        try:
            seen = self._patience.wait_for("", lambda: look_at(ec2, resource.id), where, _FRESH_SECONDS)
        except TimedOut:
            raise Gone(f"snapshot {resource.id} does not exist", where=where) from None
        if seen["State"] != COMPLETED and not facts.get("sealed"):
            facts = self._fill(resource, facts, note)
        wait_completed(ec2, resource.id, where, self._patience)
        return {"blocks": facts.get("blocks"), "size_gib": gibibytes(self._source.size)}

    def _fill(self, resource: Resource, facts: dict[str, Any], note: Note) -> dict[str, Any]:
        sent = Indexes(str(facts.get("sent", "")))
        upload = Upload(self._aws.ebs(), resource.id, self._source, self._patience, sent)
        told = time.monotonic()
        try:
            most = self._source.most_blocks(BLOCK) * BLOCK
            with self._report.transfer("upload", most) as bar:

                def advance(count: int) -> None:
                    nonlocal told
                    bar.advance(count)
                    if time.monotonic() - told > _NOTE_SECONDS:
                        told = time.monotonic()
                        note({"sent": str(sent)})

                count, checksum = upload.put_all(advance)
                bar.advance(most - count * BLOCK)  # what might have held data, and held zeros
            self._source.check()
        finally:
            note({"sent": str(sent)})
        was_sealing = bool(facts.get("sealing"))
        note({"sent": str(sent), "sealing": True})
        try:
            upload.complete(count, checksum)
        except Failed:
            if not was_sealing:
                raise
            # An earlier try has sealed it and died before it could note that: EBS then refuses to seal it again.
        facts = {"sealed": True, "blocks": count}
        note(facts)
        return facts
