"""The bucket that holds the archive until it is an image: made for one run, closed to the world, gone with all in it."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cloud.errors import CloudError, Gone, NameTaken
from cloud.gce.options import labels_of
from cloud.gce.session import Gce
from cloud.labels import RUN, Labels
from cloud.resource import Resource
from cloud.steps import Made, Step

if TYPE_CHECKING:
    from google.cloud.storage import Bucket

KIND = "bucket"
PREFIX = "cvmboot-"
_FORGOTTEN_DAYS = 7
"""Cloud Storage itself deletes what nobody came back for."""


class BucketStep(Step):
    """One bucket of the run, in the zone's region."""

    name = KIND
    until = "image"

    def __init__(self, gce: Gce, labels: Labels) -> None:
        self._gce, self._labels = gce, labels
        self._bucket = f"{PREFIX}{labels.run}"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        return f"bucket {self._bucket} in {self._gce.region}, private, until the image is made", "cents"

    def find(self, made: Made) -> Resource | None:
        """Step.find(): among the project's own buckets. Anyone in the world may have one of this name."""
        for bucket in self._gce.store(_list, self._gce.storage, prefix=self._bucket):
            if bucket.name == self._bucket:
                if bucket.labels.get(RUN) != self._labels.run:
                    raise _taken(self._bucket)
                return self._resource()
        return None

    def create(self, made: Made, token: str) -> Resource:
        """Step.create()."""
        bucket = self._gce.storage.bucket(self._bucket)
        bucket.labels = labels_of(self._labels, self._gce.zone)
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        bucket.soft_delete_policy.retention_duration_seconds = 0
        bucket.add_lifecycle_delete_rule(age=_FORGOTTEN_DAYS)
        try:
            self._gce.store(self._gce.storage.create_bucket, bucket, location=self._gce.region)
        except NameTaken:
            # A first try may have gone through without an answer.
            if self.find(made) is None:
                raise _taken(self._bucket) from None
        return self._resource()

    def exists(self, resource: Resource) -> bool:
        """Step.exists()."""
        return self.find({}) is not None

    def _resource(self) -> Resource:
        return Resource(KIND, self._bucket, self._gce.place)


def _taken(name: str) -> CloudError:
    return NameTaken(f"bucket {name} is not ours", next_step="deploy again with another --name, or with --bucket")


def _list(storage: Any, *, prefix: str, timeout: Any, retry: Any) -> "list[Bucket]":
    return list(storage.list_buckets(prefix=prefix, timeout=timeout, retry=retry))


def buckets(gce: Gce) -> "list[Bucket]":
    """The project's buckets that may be ours: by name; look at their labels."""
    found: list[Bucket] = gce.store(_list, gce.storage, prefix=PREFIX)
    return found


def delete_bucket(gce: Gce, name: str) -> None:
    """Deletes a bucket and all in it; not an error if it is gone."""
    bucket = gce.storage.bucket(name)
    with suppress(Gone):
        for blob in gce.store(list_blobs, bucket):
            delete_blob(gce, blob)
        gce.store(bucket.delete)


def list_blobs(bucket: "Bucket", *, timeout: Any, retry: Any, prefix: str | None = None) -> list[Any]:
    """For Gce.store(): all objects of a bucket whose names begin with `prefix`."""
    return list(bucket.list_blobs(prefix=prefix, timeout=timeout, retry=retry))


def delete_blob(gce: Gce, blob: Any) -> None:
    """Deletes an object; not an error if it is gone."""
    with suppress(Gone):
        gce.store(blob.delete)
