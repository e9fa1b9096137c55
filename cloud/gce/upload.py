"""The archive becomes an object: in parts that are sent side by side and then composed.

A part is an object. A process that dies leaves whole parts behind, which the next one finds by name, size and CRC32C: nothing
secret has to be kept for that, and at most the parts that were under way are sent again.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cloud.errors import Failed, Gone, NameTaken, Unfit
from cloud.gce.archive import Archive, archive_of
from cloud.gce.bucket import PREFIX, delete_blob, list_blobs
from cloud.gce.options import labels_of
from cloud.gce.resumable import Sender
from cloud.gce.session import Gce
from cloud.labels import RUN, Labels
from cloud.progress import Report, size_text
from cloud.resource import Resource
from cloud.source import Source
from cloud.steps import Made, Note, Step

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Bucket

KIND = "object"
FOLDER = "cvmboot/"
LEAST_PART = 8 << 20
MOST_PARTS = 32
"""Cloud Storage composes so many objects in one request."""
_AT_ONCE = 4
_DIGEST = "cvmboot-disk-sha256"


class UploadStep(Step):
    """One object, tar.gz of the disk."""

    name = "upload"
    until = "image"

    def __init__(self, gce: Gce, labels: Labels, source: Source, report: Report, bucket: str | None) -> None:
        self._gce, self._labels, self._source, self._report = gce, labels, source, report
        self._bucket = bucket or f"{PREFIX}{labels.run}"
        self._folder = f"{FOLDER}{labels.run}/"
        self._object = f"{self._folder}{labels.name}.tar.gz"

    def describe(self) -> tuple[str, str]:
        """Step.describe()."""
        disk = size_text(self._source.size)
        return f"gs://{self._bucket}/{self._object}: a disk of {disk}, compressed, until the image is made", "cents"

    def find(self, made: Made) -> Resource | None:
        """Step.find()."""
        return self._resource() if self._blob() is not None else None

    def create(self, made: Made, token: str) -> Resource:
        """Step.create(): nothing is sent yet."""
        return self._resource()

    def exists(self, resource: Resource) -> bool:
        """Step.exists()."""
        return self._blob() is not None

    def finish(self, resource: Resource | None, made: Made, note: Note) -> dict[str, Any]:
        """Step.finish(): sends what is missing."""
        blob = self._blob()
        if blob is None:
            with archive_of(self._source, self._report) as archive:
                blob = self._send(archive)
        self._remove_parts()
        return {"bytes": int(blob.size or 0), "crc32c": blob.crc32c, "generation": int(blob.generation or 0)}

    def _resource(self) -> Resource:
        return Resource(KIND, f"{self._bucket}/{self._object}", self._gce.place)

    def _blob(self) -> "Blob | None":
        """The whole object, if it is there: objects appear at once or not at all. NameTaken if it is of something else."""
        blob = self._gce.storage.bucket(self._bucket).blob(self._object)
        try:
            self._gce.store(blob.reload)
        except Gone:
            return None
        metadata = blob.metadata or {}
        if (metadata.get(RUN), metadata.get(_DIGEST)) != (self._labels.run, self._source.facts.sha256):
            raise NameTaken(
                f"gs://{self._bucket}/{self._object} is not of this disk", next_step="delete it, then run this again"
            )
        return blob

    def _new_blob(self, bucket: "Bucket", name: str) -> "Blob":
        blob = bucket.blob(name)
        labels = labels_of(self._labels, self._gce.zone)
        blob.metadata = {**labels, _DIGEST: self._source.facts.sha256}
        return blob

    def _send(self, archive: Archive) -> "Blob":
        bucket = self._gce.storage.bucket(self._bucket)
        sender = Sender(self._gce, archive)
        parts = list(_parts(archive.size))
        blob = self._new_blob(bucket, self._object)
        with self._report.transfer("upload", archive.size) as bar:
            if len(parts) == 1:
                sender.send(blob, 0, archive.size, bar)
            else:
                names = [self._part(index) for index in range(len(parts))]
                there = {one.name: one for one in self._gce.store(list_blobs, bucket, prefix=f"{self._folder}part-")}
                missing = []
                for name, (start, end) in zip(names, parts, strict=True):
                    one = there.get(name)
                    if one is not None and (one.size, one.crc32c) == (end - start, archive.crc32c(start, end)):
                        bar.advance(end - start)
                        continue
                    if one is not None:
                        delete_blob(self._gce, one)
                    missing.append((self._new_blob(bucket, name), start, end))
                _side_by_side(sender, missing, bar)
                blob.content_type = "application/gzip"
                self._compose(blob, [bucket.blob(name) for name in names])
        blob = self._blob() or blob
        wanted = archive.crc32c(0, archive.size)
        if (blob.size, blob.crc32c) != (archive.size, wanted):
            delete_blob(self._gce, blob)
            self._remove_parts()
            raise Failed(
                f"{blob.size} bytes of CRC32C {blob.crc32c} arrived, wanted {archive.size} of {wanted}",
                where=f"gs://{self._bucket}/{self._object}",
                next_step="run the same command again: it is sent anew",
            )
        return blob

    def _compose(self, blob: "Blob", parts: "list[Blob]") -> None:
        try:
            self._gce.store(blob.compose, parts, if_generation_match=0)
        except Unfit:
            if self._blob() is None:  # else a first try went through without an answer
                raise

    def _part(self, index: int) -> str:
        return f"{self._folder}part-{index:02}"

    def _remove_parts(self) -> None:
        bucket = self._gce.storage.bucket(self._bucket)
        for blob in self._gce.store(list_blobs, bucket, prefix=f"{self._folder}part-"):
            delete_blob(self._gce, blob)


def _parts(size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each part: at most MOST_PARTS, and none smaller than LEAST_PART but the last."""
    unit = max(LEAST_PART, -(-size // MOST_PARTS))
    for start in range(0, max(size, 1), unit):
        yield start, min(start + unit, size)


def _side_by_side(sender: Sender, missing: "list[tuple[Blob, int, int]]", bar: Any) -> None:
    """Sends several parts at once; after a failure, or Ctrl-C, the others end too, and the first failure is raised."""
    with ThreadPoolExecutor(_AT_ONCE, "upload") as pool:
        running = [pool.submit(sender.send, blob, start, end, bar) for blob, start, end in missing]
        try:
            for each in running:
                each.result()
        except BaseException:
            sender.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def delete_object(gce: Gce, name: str) -> None:
    """Deletes the object "bucket/name", and the parts beside it; not an error if they are gone, or their bucket is."""
    bucket_name, _, path = name.partition("/")
    bucket = gce.storage.bucket(bucket_name)
    try:
        found = gce.store(list_blobs, bucket, prefix=path.rpartition("/")[0] + "/")
    except Gone:
        return
    for blob in found:
        delete_blob(gce, blob)
